r"""From a row of logits to five numbers, and from those to every statistic.

The row is split into the target and the rest. With m the largest logit of the rest, and
:math:`r_j = e^{z_j - m} / S` the distribution over the rest (:math:`S = \sum_{j \ne y} e^{z_j - m}`),

======================= ============================================== ===============================
number                  value                                          gradient in z
======================= ============================================== ===============================
``target``              :math:`z_y - m`                                1 at y
``log_sum``             :math:`\log S`                                 :math:`r_j`
``rest_entropy``        :math:`-\sum r_j \log r_j`                     :math:`-r_j (\log r_j + H_r)`
``rest_collision``      :math:`\sum r_j^2`                             :math:`2 r_j (r_j - \sum r^2)`
``mean``                mean of :math:`z_j - m` over finite logits     :math:`1 / V`, also at y
======================= ============================================== ===============================

Everything else is arithmetic of these: with :math:`g` = ``target - log_sum``, :math:`p_y = \sigma(g)` and
:math:`1 - p_y = \sigma(-g)`, so :math:`\log p_y` near 1 and :math:`\log(1 - p_y)` near 0 are both exact, and the
gradient at the target, :math:`p_y - 1`, is never a difference. One backward formula serves every objective.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from sftloss.statistics.tokens import DETACHED

_NEEDS = {
    "entropy": "rest_entropy",
    "collision": "rest_collision",
    "off_target_sq": "rest_collision",
    "mean_logprob": "mean",
}
FREE = ("target_logprob", "logsumexp", "other_logprob", "is_top1", "max_logprob")
"""Statistics that cost nothing beyond the cross-entropy itself."""


@dataclass(frozen=True)
class Rows:
    """The five numbers of each row (three of them only where asked for) and the constant m they are centred at."""

    m: Tensor
    target: Tensor
    log_sum: Tensor
    rest_entropy: Tensor | None = None
    rest_collision: Tensor | None = None
    mean: Tensor | None = None

    def leaves(self) -> Rows:
        """The same numbers as leaves of a new, tiny graph."""
        fresh = {
            name: value.detach().requires_grad_()
            for name, value in vars(self).items()
            if name != "m" and value is not None
        }
        return replace(self, **fresh)

    def map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        return Rows(*(None if value is None else function(value) for value in vars(self).values()))  # type: ignore[arg-type]


@dataclass(frozen=True)
class RowGradient:
    """The gradient of a scalar in each of the five numbers; None is zero."""

    target: Tensor
    log_sum: Tensor
    rest_entropy: Tensor | None = None
    rest_collision: Tensor | None = None
    mean: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> RowGradient:
        return RowGradient(*(None if value is None else function(value) for value in vars(self).values()))  # type: ignore[arg-type]

    @property
    def is_plain(self) -> bool:
        """Whether the gradient is a multiple of r off the target, as for every function of log p and logsumexp."""
        return self.rest_entropy is None and self.rest_collision is None and self.mean is None


@dataclass(frozen=True)
class Formula:
    """Of each row, with e = exp(z - m), off the target: dz = inverse e (scale - entropy (z - m) + squared e) + each."""

    m: Tensor
    inverse: Tensor
    scale: Tensor
    target: Tensor  # dz at the target
    entropy: Tensor | None
    squared: Tensor | None
    each: Tensor | None

    @classmethod
    def of(cls, rows: Rows, grad: RowGradient, vocab_size: int | Tensor) -> Formula:
        """From the numbers of each whole row and the gradient in them; `vocab_size` counts the finite logits."""
        # S is at least 1, but where the target is the only finite logit: no gradient goes elsewhere
        inverse = torch.where(rows.log_sum < -1, 0.0, torch.exp(-rows.log_sum))
        scale = grad.log_sum
        if grad.rest_entropy is not None:
            scale = scale - grad.rest_entropy * (have(rows.rest_entropy) - rows.log_sum)
        if grad.rest_collision is not None:
            scale = scale - 2 * grad.rest_collision * have(rows.rest_collision)
        each = None if grad.mean is None else grad.mean / vocab_size
        return cls(
            m=rows.m,
            inverse=inverse,
            scale=scale,
            target=grad.target if each is None else grad.target + each,
            entropy=grad.rest_entropy,
            squared=None if grad.rest_collision is None else 2 * grad.rest_collision * inverse,
            each=each,
        )

    @property
    def is_plain(self) -> bool:
        """Whether z - m does not occur: dz is a multiple of e, but for `each`."""
        return self.entropy is None and self.squared is None

    def of_rows(self, rows: slice) -> Formula:
        return Formula(*(None if value is None else value[rows] for value in vars(self).values()))  # type: ignore[arg-type]


def needs(fields: Collection[str]) -> set[str]:
    """Which of the three optional numbers the named statistics are made of."""
    return {_NEEDS[name] for name in fields if name in _NEEDS}


def have(value: Tensor | None) -> Tensor:
    """A number that was asked for; `needs` is what keeps this from failing."""
    assert value is not None
    return value


def lowest(dtype: torch.dtype) -> float:
    """The m of a row with no finite logit beside the target: differences with it stay finite."""
    return torch.finfo(dtype).min / 2


def statistics_of(rows: Rows, fields: Collection[str]) -> dict[str, Tensor]:
    """Every named statistic from the five numbers, differentiable in them; `is_top1` and its like carry no graph."""
    gap = rows.target - rows.log_sum
    target_logprob, other_logprob = F.logsigmoid(gap), F.logsigmoid(-gap)
    # autograd takes the slope of a sigmoid s as s (1 - s), which has lost its digits where s is near 1
    less = torch.sigmoid(torch.where(gap > 0, -gap, gap))
    p, q = torch.where(gap > 0, 1 - less, less), torch.where(gap > 0, less, 1 - less)
    # The log-sum of the row measured from m. Each branch adds numbers of one sign where it is chosen.
    total = torch.where(gap > 0, rows.target - target_logprob, rows.log_sum - other_logprob)
    out: dict[str, Tensor] = {}
    for name in fields:
        if name == "target_logprob":
            out[name] = target_logprob
        elif name == "other_logprob":
            out[name] = other_logprob
        elif name == "logsumexp":
            out[name] = rows.m + total
        elif name == "entropy":
            # H = H(p, q) + q H_r; the binary entropy is even in the gap, and |gap| * sigmoid(-|gap|) is 0 far out
            far = gap.abs().clamp(max=1e4)
            out[name] = F.softplus(-far) + far * torch.sigmoid(-far) + q * have(rows.rest_entropy)
        elif name == "mean_logprob":
            out[name] = have(rows.mean) - total
        elif name == "collision":
            out[name] = p.square() + q.square() * have(rows.rest_collision)
        elif name == "off_target_sq":
            out[name] = q.square() * have(rows.rest_collision)
        elif name == "is_top1":
            out[name] = rows.target >= 0
        elif name == "max_logprob":
            out[name] = torch.maximum(target_logprob, other_logprob - rows.log_sum)
        else:
            raise ValueError(f"token_statistics: there is no statistic {name!r}.")
    return {name: value.detach() if name in DETACHED else value for name, value in out.items()}


def row_gradient(outputs: list[Tensor], upstream: list[Tensor], leaves: Rows) -> RowGradient:
    """Pull gradients back from functions of the statistics to the five numbers (a graph of a few vectors)."""
    names = [name for name, value in vars(leaves).items() if name != "m" and value is not None]
    pairs = [(out, up) for out, up in zip(outputs, upstream, strict=True) if out.requires_grad]
    if not pairs:
        zero = torch.zeros_like(leaves.target)
        return RowGradient(zero, zero)
    grads = torch.autograd.grad(
        [out for out, _ in pairs],
        [getattr(leaves, name) for name in names],
        [up for _, up in pairs],
        allow_unused=True,
    )
    found = dict(zip(names, grads, strict=True))
    for name in ("target", "log_sum"):
        if found[name] is None:
            found[name] = torch.zeros_like(leaves.target)
    return RowGradient(**found)

"""Five numbers of each row of logits, every statistic made of them, and one gradient formula for every objective.

The README beside this room derives them. The row is split into the target and the rest. With the gap
g = ``target - log_sum``, p_y = sigmoid(g) and 1 - p_y = sigmoid(-g), so log p_y near 1 and log(1 - p_y) near 0 are both
exact, and the gradient at the target, p_y - 1, is never a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from sftloss.statistics.tokens import DETACHED, further_of, split_field

FAR = -1e4  # exp(-1e4) is 0 in float64 too; keeps 0 * (-inf) out of the entropy
FREE = ("target_logprob", "logsumexp", "other_logprob", "is_top1", "max_logprob")
"""Statistics that cost nothing beyond the cross-entropy itself."""
_Record = TypeVar("_Record", bound="RowNumbers | RowGradient | GradientFormula | Sums")


CONSTANTS = ("m", "rate", "top", "above", "ids")


@dataclass(frozen=True)
class RowNumbers:
    """The five numbers of each row (three only where needed), centred at m, the largest logit of the rest.

    Those after `mean` serve the statistics of `FURTHER`. `CONSTANTS` have no gradient.
    """

    m: Tensor
    target: Tensor  # z_y - m
    log_sum: Tensor  # log S, with S the sum of exp(z - m) over the rest
    rest_entropy: Tensor | None = None  # of r = exp(z - m) / S
    rest_collision: Tensor | None = None  # sum of r^2
    mean: Tensor | None = None  # of z - m over all finite logits
    rate: Tensor | None = None  # 1 / second temperature
    tempered: Tensor | None = None  # log of the sum of exp(rate (z - m)) over the rest
    top: Tensor | None = None  # the largest z - m of the rest, (tokens, k)
    above: Tensor | None = None  # how many logits of the rest exceed the target's
    ids: Tensor | None = None  # the candidates, (tokens, K)
    candidates: Tensor | None = None  # their z - m, -inf where an id is not in the vocabulary

    def leaves(self) -> RowNumbers:
        """Return the same numbers as leaves of a new, small graph; `CONSTANTS` stay what they are."""
        fixed = {name: getattr(self, name) for name in CONSTANTS}
        without: dict[str, Any] = dict.fromkeys(CONSTANTS)
        return replace(map_record(lambda value: value.detach().requires_grad_(), replace(self, **without)), **fixed)


@dataclass(frozen=True)
class RowGradient:
    """The gradient of a scalar in each of the numbers; None is zero."""

    target: Tensor
    log_sum: Tensor
    rest_entropy: Tensor | None = None
    rest_collision: Tensor | None = None
    mean: Tensor | None = None
    tempered: Tensor | None = None
    candidates: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the gradient is a multiple of r off the target, as for every function of log p and logsumexp."""
        return self.mean is None and self.candidates is None and not self.needs_shifted

    @property
    def needs_shifted(self) -> bool:
        """Whether it is made from z - m beside exp(z - m)."""
        return any(value is not None for value in (self.rest_entropy, self.rest_collision, self.tempered))


@dataclass
class Sums:
    """Running sums over the vocabulary read so far, centred at the running maximum m of the rest."""

    m: Tensor
    exp: Tensor
    target: Tensor  # the target's logit, -inf until its block has been read
    exp_z: Tensor | None  # sum exp(z - m) (z - m)
    exp_sq: Tensor | None  # sum exp(z - m)^2
    z: Tensor | None  # sum of finite z - m
    count: Tensor | None  # how many logits that sum holds
    rate: Tensor | None = None  # 1 / second temperature
    tempered: Tensor | None = None  # sum exp(rate (z - m))
    top: Tensor | None = None  # the largest logits, (tokens, k)
    own: Tensor | None = None  # the target's logit, multiplied before the first block is read
    above: Tensor | None = None  # how many logits exceed it
    ids: Tensor | None = None  # the candidates, (tokens, K)
    candidates: Tensor | None = None  # their logits, -inf until their block has been read

    @classmethod
    def start(
        cls, fields: Collection[str], tokens: int, like: Tensor, dtype: torch.dtype, ids: Tensor | None = None
    ) -> Sums:
        """The sums that the named statistics are made of, before the first block; `ids` are the candidates.

        Raises:
            KeyError: If candidates are read and there are none.
            ValueError: If two temperatures are read.
        """

        def full(value: float = 0.0, *columns: int) -> Tensor:
            return like.new_full((tokens, *columns), value, dtype=dtype)

        users = (("entropy",), ("collision", "off_target_sq"), ("mean_logprob",), ("mean_logprob",))
        optional = [None if set(names).isdisjoint(fields) else full() for names in users]
        sums, further = cls(full(lowest(dtype)), full(), full(float("-inf")), *optional), further_of(fields)
        if further.temperature is not None:
            sums.rate, sums.tempered = full(1 / further.temperature), full()
        if further.top:
            sums.top = full(float("-inf"), further.top)
        if further.is_ranked:
            sums.own, sums.above = full(float("-inf")), full()
        if further.has_candidates:
            if ids is None:
                raise KeyError(
                    "candidate_logprob reads 'candidate_ids', (tokens, K) ids, which the batch does not hold."
                )
            if ids.ndim != 2 or ids.is_floating_point():
                kind = f"{ids.dtype} of shape {tuple(ids.shape)}"
                raise ValueError(f"sftloss: candidate_ids must be (tokens, K) integer ids, got {kind}.")
            sums.ids, sums.candidates = ids.long(), full(float("-inf"), ids.shape[1])
        return sums

    def numbers(self, vocab_size: int | Tensor) -> RowNumbers:
        """Finish the sums. A row whose only finite logit is the target's is centred there, with S = tiny."""
        tiny = torch.finfo(self.exp.dtype).tiny
        total = self.exp.clamp(min=tiny)
        m = torch.where((self.exp == 0) & (self.target > float("-inf")), self.target, self.m)
        target, log_sum = self.target - m, total.log()
        return RowNumbers(
            m=m,
            target=target,
            log_sum=log_sum,
            rest_entropy=None if self.exp_z is None else log_sum - self.exp_z / total,
            rest_collision=None if self.exp_sq is None else self.exp_sq / total / total,
            mean=None if self.z is None else (self.z + torch.where(target > float("-inf"), target, 0.0)) / vocab_size,
            rate=self.rate,
            tempered=None if self.tempered is None else self.tempered.clamp(min=tiny).log(),
            top=None if self.top is None else self.top - m[:, None],
            above=self.above,
            ids=self.ids,
            candidates=None if self.candidates is None else self.candidates - m[:, None],
        )


@dataclass(frozen=True)
class GradientFormula:
    """Off the target, with e = exp(z - m), dz = inverse e (scale - entropy (z - m) + squared e) + constant + t.

    t is ``tempered exp(rate (z - m))``. The candidates' gradient is added where they are.
    """

    m: Tensor
    inverse: Tensor
    scale: Tensor
    target: Tensor  # dz at the target
    entropy: Tensor | None
    squared: Tensor | None
    constant: Tensor | None
    rate: Tensor | None = None
    tempered: Tensor | None = None

    @classmethod
    def of(cls, numbers: RowNumbers, grad: RowGradient, vocab_size: int | Tensor) -> GradientFormula:
        """The formula from the numbers of whole rows and the gradient in them; `vocab_size` counts finite logits."""
        inverse = _inverse(numbers.log_sum)
        scale = grad.log_sum
        if grad.rest_entropy is not None:
            scale = scale - grad.rest_entropy * (present(numbers.rest_entropy) - numbers.log_sum)
        if grad.rest_collision is not None:
            scale = scale - 2 * grad.rest_collision * present(numbers.rest_collision)
        squared = None if grad.rest_collision is None else 2 * grad.rest_collision * inverse
        constant = None if grad.mean is None else grad.mean / vocab_size
        target = grad.target if constant is None else grad.target + constant
        tempered = None if grad.tempered is None else grad.tempered * _inverse(present(numbers.tempered))
        if tempered is not None:
            tempered = tempered * present(numbers.rate)
        return cls(numbers.m, inverse, scale, target, grad.rest_entropy, squared, constant, numbers.rate, tempered)


def _inverse(log_sum: Tensor) -> Tensor:
    # S is at least 1, except where the target is the only finite logit: no gradient goes elsewhere there
    return torch.where(log_sum < -1, 0.0, torch.exp(-log_sum))


def needs_shifted_logits(fields: Collection[str]) -> bool:
    """Whether the gradient of one of these statistics is made from z - m beside exp(z - m)."""
    return not {"entropy", "collision"}.isdisjoint(fields) or further_of(fields).temperature is not None


def map_record(function: Callable[[Tensor], Tensor], record: _Record) -> _Record:
    """Apply a function to every tensor of a record; what is None stays None."""
    changed: dict[str, Any] = {name: function(value) for name, value in vars(record).items() if value is not None}
    return replace(record, **changed)


def sliced(record: _Record, rows: slice) -> _Record:
    """Return some rows of a record, as views."""
    return map_record(lambda value: value[rows], record)


def present(value: Tensor | None) -> Tensor:
    """Return a number that the named statistics are made of, which was therefore computed."""
    assert value is not None
    return value


def lowest(dtype: torch.dtype) -> float:
    """Return the m of a row with no finite logit beside the target: differences with it stay finite."""
    return torch.finfo(dtype).min / 2


def statistics_of(numbers: RowNumbers, fields: Collection[str]) -> dict[str, Tensor]:
    """Return every named statistic, differentiable in the numbers; `is_top1` and its like carry no graph."""
    gap = numbers.target - numbers.log_sum
    target_logprob, other_logprob = F.logsigmoid(gap), F.logsigmoid(-gap)
    # autograd takes the slope of a sigmoid s as s (1 - s), which has lost its digits where s is near 1
    less = torch.sigmoid(torch.where(gap > 0, -gap, gap))
    p, q = torch.where(gap > 0, 1 - less, less), torch.where(gap > 0, less, 1 - less)
    # the log-sum of the row measured from m; each branch adds numbers of one sign where it is chosen
    total = torch.where(gap > 0, numbers.target - target_logprob, numbers.log_sum - other_logprob)

    def entropy() -> Tensor:
        # H = H(p, q) + q H_r; the binary entropy is even in the gap, and |gap| * sigmoid(-|gap|) is 0 far out
        far = gap.abs().clamp(max=-FAR)
        return F.softplus(-far) + far * torch.sigmoid(-far) + q * present(numbers.rest_entropy)

    formulas: dict[str, Callable[[], Tensor]] = {
        "target_logprob": lambda: target_logprob,
        "other_logprob": lambda: other_logprob,
        "logsumexp": lambda: numbers.m + total,
        "entropy": entropy,
        "mean_logprob": lambda: present(numbers.mean) - total,
        "collision": lambda: p.square() + q.square() * present(numbers.rest_collision),
        "off_target_sq": lambda: q.square() * present(numbers.rest_collision),
        "is_top1": lambda: numbers.target >= 0,
        "max_logprob": lambda: torch.maximum(target_logprob, other_logprob - numbers.log_sum),
    }
    values = {name: formulas[name]() if name in formulas else _further(numbers, total, name) for name in fields}
    return {name: value.detach() if name in DETACHED else value for name, value in values.items()}


def _further(numbers: RowNumbers, total: Tensor, field: str) -> Tensor:
    """Return a statistic of `FURTHER`; `total` is the log-sum of the row measured from m."""
    name, number = split_field(field)
    if name == "tempered_logprob":
        return F.logsigmoid(numbers.target * present(numbers.rate) - present(numbers.tempered))
    if name == "candidate_logprob":
        return (present(numbers.candidates) - total[:, None]).clamp(min=FAR)
    if name == "rank":
        # near a tie the count may err by one, in no case about the first place
        return torch.where(numbers.target >= 0, 1.0, 1 + present(numbers.above).clamp(min=1))
    every = torch.cat([present(numbers.top), numbers.target[:, None]], dim=1).detach()
    largest = every.topk(min(int(number), every.shape[1]), dim=1).values
    if name == "top_mass":
        return (largest - total.detach()[:, None]).logsumexp(dim=1).clamp(max=0).exp()
    # measured from the largest, no sum has two signs: exact where one token has nearly all of the mass
    logs = largest[:, 1:] - largest[:, :1]
    exp = logs.exp()
    mass = exp.sum(dim=1)
    return mass.log1p() - (exp * logs.clamp(min=FAR)).sum(dim=1) / (1 + mass)


def row_gradient(outputs: Iterable[Tensor], upstream: Iterable[Tensor | None], leaves: RowNumbers) -> RowGradient:
    """Pull gradients back from functions of the statistics to the five numbers (a graph of a few vectors)."""
    numbers = {name: value for name, value in vars(leaves).items() if name not in CONSTANTS and value is not None}
    gradients: dict[str, Tensor | None] = dict.fromkeys(numbers)
    pairs = [(out, up) for out, up in zip(outputs, upstream, strict=True) if out.requires_grad and up is not None]
    if pairs:
        outs, ups = zip(*pairs, strict=True)
        of_numbers = torch.autograd.grad(outs, list(numbers.values()), ups, allow_unused=True)
        gradients = dict(zip(numbers, of_numbers, strict=True))
    for name in ("target", "log_sum"):
        if gradients[name] is None:
            gradients[name] = torch.zeros_like(leaves.target)
    return RowGradient(**gradients)  # type: ignore[arg-type]

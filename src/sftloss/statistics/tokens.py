"""Statistics of each token, and what counts as a target."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -100
"""The target of a token that is left out of the loss."""

DIFFERENTIABLE = ("target_logprob", "logsumexp", "entropy", "mean_logprob", "collision", "other_logprob")
DETACHED = ("off_target_sq", "is_top1", "max_logprob")
FIELDS = DIFFERENTIABLE + DETACHED
FURTHER = ("top_mass", "top_entropy", "tempered_logprob", "rank", "candidate_logprob")
"""Statistics that are computed only where an objective reads them or a caller names them.

A field is spelled like a call, ``"top_entropy(20)"``, so that a list of names says all there is to compute.
"""

CANDIDATE_IDS = "candidate_ids"
"""The extra that holds the candidates of each token, ``(tokens, K)`` ids."""

_SPELLING = re.compile(r"(top_mass|top_entropy|tempered_logprob)\(([^()]+)\)|rank|candidate_logprob")
_PLAIN = (*FIELDS, *FURTHER[3:])
_ALL = (*FIELDS, *(name if name in _PLAIN else f"{name}(number)" for name in FURTHER))


@dataclass(frozen=True)
class Filtered:
    """What gradient filtering left out of one call (`Plan(tolerance=...)`); on a shard, of its columns.

    Attributes:
        kept: Share of the vocabulary columns that took part in the gradient products, mean over the tokens; 1 where
            filtering did not pay.
        dropped: Mass of the logit gradients that was left out and replaced, over the mass of the coefficients (in two
            passes, of the gradient in the statistics). For cross-entropy this is the mean probability of the tokens
            left out.
        error: Estimated relative error of the gradients (Frobenius norm), the largest over the hidden states and the
            tensors of the head.
    """

    kept: float
    dropped: float
    error: float


@dataclass(frozen=True)
class TokenStats:
    r"""Statistics of the next-token distribution p, one value a token, in nats.

    ================== =========================================== ==============
    field              value                                       gradient in z
    ================== =========================================== ==============
    ``target_logprob`` :math:`\log p_y`                            yes
    ``logsumexp``      :math:`\log \sum_j e^{z_j}`                 yes
    ``entropy``        :math:`-\sum_j p_j \log p_j`                yes
    ``mean_logprob``   mean of :math:`\log p_j` over finite logits yes
    ``collision``      :math:`\sum_j p_j^2`                        yes
    ``other_logprob``  :math:`\log(1 - p_y)`, exact near p = 1     yes
    ``off_target_sq``  :math:`\sum_{j \ne y} p_j^2`                no
    ``is_top1``        whether no other token has a larger logit   no
    ``max_logprob``    :math:`\max_j \log p_j`                     no
    ================== =========================================== ==============

    Five more are computed only where they are read:

    ========================= ================================================ =====
    ``rank``                  1 + how many tokens have a larger logit          no
    ``top_mass(k)``           sum of the k largest :math:`p_j`                 no
    ``top_entropy(k)``        entropy of these k, renormalized to sum 1        no
    ``tempered_logprob(t)``   :math:`\log p_y` of the softmax of z / t         yes
    ``candidate_logprob``     :math:`\log p_c` of the batch's candidates       yes
    ========================= ================================================ =====

    Attributes:
        fields: The computed statistics by name, each of shape ``(tokens,)``, ``candidate_logprob`` ``(tokens, K)``.
        vocab_size: Number of finite logits of a row: an int, or a tensor that broadcasts over the tokens.
        extras: A caller's own tensors, first axis ``tokens``, such as the log-probability of a reference model.
        filter_reports: What gradient filtering left out, the latest last; empty where the gradients are exact.
    """

    fields: Mapping[str, Tensor]
    vocab_size: int | Tensor = 0
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    filter_reports: Sequence[Filtered] = ()

    @property
    def filtered(self) -> Filtered | None:
        """What gradient filtering left out; None where the gradients are exact. Two passes filter in backward."""
        return self.filter_reports[-1] if self.filter_reports else None

    def top_mass(self, k: int) -> Tensor:
        r"""Probability of the k likeliest tokens together; no gradient flows.

        The k largest logits of each row are kept while blocks of the vocabulary are read: exact, and about as costly
        as ``entropy``. With fewer than k finite logits it is 1.

        Args:
            k: How many tokens, ``>= 1``.
        """
        return self._named(f"top_mass({k})")

    def top_entropy(self, k: int) -> Tensor:
        r"""Entropy of the k likeliest tokens, whose probabilities are renormalized to a sum of one; no gradient flows.

        .. math:: -\sum_{j \le k} q_j \log q_j, \qquad q_j = p_{(j)} / \sum_{i \le k} p_{(i)}

        In nats, between 0 and log k; as costly as :meth:`top_mass`.

        Args:
            k: How many tokens, ``>= 1``.
        """
        return self._named(f"top_entropy({k})")

    def tempered_logprob(self, temperature: float) -> Tensor:
        r"""Log-probability of the target at a second temperature, exact near 1 too.

        .. math:: z_y / t - \log \sum_j e^{z_j / t}

        Gradient:
            :math:`([j = y] - p^t_j) / t` in :math:`z_j`, with :math:`p^t = \operatorname{softmax}(z / t)`. It costs one
            exponential more of each logit in each direction.

        Args:
            temperature: The t above, dimensionless, ``> 0``. One loss reads one temperature.
        """
        exact = float(temperature)  # all of its digits, but 2 for 2.0
        return self._named(f"tempered_logprob({int(exact) if exact.is_integer() else exact})")

    def _named(self, field: str) -> Tensor:
        check_fields("TokenStats", (field,))
        return self._computed(field)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("__") or name not in _PLAIN:
            raise AttributeError(
                f"TokenStats has no statistic {name!r}; choose from {', '.join(_ALL)}. Whole logits: see map_logits."
            )
        return self._computed(name)

    def _computed(self, name: str) -> Tensor:
        try:
            return self.fields[name]
        except KeyError as error:
            if error.args != (name,):  # not computed for want of something else
                raise
            raise AttributeError(
                f"TokenStats: {name!r} was not computed, only {', '.join(self.fields)}. Ask for it with fields=, "
                "or in weighted_loss with plan=Plan(fields=(...))."
            ) from None


Objective = Callable[[TokenStats], Tensor]


@dataclass(frozen=True)
class Counted:
    """The tokens that count: those at `index`, or all of them."""

    index: Tensor | None
    total: int

    @classmethod
    def of(cls, is_counted: Tensor, *, known: int | None = None) -> Counted:
        """Find the tokens that count. Without their `known` number, a GPU is waited for once.

        A wrong number raises; on a GPU later, when the device gets there. Devices other than CPU and CUDA are waited
        for in any case, because they may lack the operation that takes the number.
        """
        total = is_counted.shape[0]
        if known is None or is_counted.device.type not in ("cpu", "cuda"):
            index = torch.nonzero(is_counted)[:, 0]
        else:
            problem = f"Plan: counted={known} is not the number of tokens with a target and a coefficient."
            torch._assert_async(is_counted.sum() == known, problem)
            index = torch.nonzero_static(is_counted, size=known)[:, 0]
        return cls(None if index.shape[0] == total else index, total)

    def __len__(self) -> int:
        return self.total if self.index is None else self.index.shape[0]

    def take(self, value: Tensor, piece: slice = slice(None)) -> Tensor:
        """Return a piece of the tokens that count."""
        return value[piece] if self.index is None else value[self.index[piece]]

    def put(self, value: Tensor) -> Tensor:
        """Return the values of the tokens that count in their places, zero elsewhere."""
        if self.index is None:
            return value
        return value.new_zeros(self.total, *value.shape[1:]).index_copy_(0, self.index, value)


class Further(NamedTuple):
    """What some fields need beyond the five numbers of a row.

    Attributes:
        top: How many of the largest logits, 0 for none.
        temperature: The second temperature, or None.
        is_ranked: Whether the tokens above the target are counted.
        has_candidates: Whether the logits of candidate ids are picked.
    """

    top: int = 0
    temperature: float | None = None
    is_ranked: bool = False
    has_candidates: bool = False


def split_field(field: str) -> tuple[str, float]:
    """Return the name and the number of a field; the number is 0 where it takes none.

    Example:
        >>> split_field("top_entropy(20)")
        ('top_entropy', 20.0)
    """
    name, _, number = field.rstrip(")").partition("(")
    return name, float(number) if number else 0.0


def is_further(field: str) -> bool:
    """Whether a field is one of these, with a number that it can take."""
    if not _SPELLING.fullmatch(field):
        return False
    try:
        name, number = split_field(field)
    except ValueError:
        return False
    return number >= 1 and number.is_integer() if name.startswith("top_") else name in FURTHER[3:] or 0 < number < 1e6


def further_of(fields: Collection[str]) -> Further:
    """Return what the named statistics need together.

    Raises:
        ValueError: If they name two temperatures: a call computes one.
    """
    parts = [split_field(field) for field in fields if is_further(field)]
    temperatures = {number for name, number in parts if name == "tempered_logprob"}
    if len(temperatures) > 1:
        both = " and ".join(f"{number:g}" for number in sorted(temperatures))
        raise ValueError(f"sftloss: one loss reads temperatures {both}; a call computes one second temperature.")
    names = {name for name, _ in parts}
    return Further(
        top=max((int(number) for name, number in parts if name.startswith("top_")), default=0),
        temperature=next(iter(temperatures), None),
        is_ranked="rank" in names,
        has_candidates="candidate_logprob" in names,
    )


def check_type(caller: str, name: str, value: object, kind: type, cure: str) -> None:
    """Refuse an argument of another type in one sentence, as a ``TypeError``."""
    if not isinstance(value, kind):
        raise TypeError(f"{caller}: {name} must be a {kind.__name__}, got {type(value).__name__}. {cure}")


def check_fields(caller: str, fields: Collection[str]) -> None:
    """Refuse the name of a statistic that does not exist."""
    unknown = sorted(name for name in set(fields) - set(FIELDS) if not is_further(name))
    if unknown:
        raise ValueError(f"{caller}: there is no statistic {unknown[0]!r}; choose from {', '.join(_ALL)}.")


def check_ids(caller: str, targets: Tensor, tokens: int, vocab: int) -> None:
    """Check type, shape, dtype and range of the targets, without waiting for a device."""
    check_type(caller, "targets", targets, Tensor, "Give torch.tensor([...]), one token id for each row.")
    if targets.shape != (tokens,):
        raise ValueError(
            f"{caller}: there are {tokens} tokens, targets have shape {tuple(targets.shape)}. "
            "Flatten both, and shift first: hidden[:, :-1] predicts targets[:, 1:]."
        )
    if targets.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{caller}: targets must be integer token ids, got {targets.dtype}.")
    if targets.is_cuda or tokens == 0:
        return  # looking at the values would wait for the device; there, and there alone, the gather itself asserts
    is_outside = (targets != IGNORED) & ((targets < 0) | (targets >= vocab))
    if is_outside.any():
        first = int(torch.nonzero(is_outside)[0, 0])
        raise ValueError(
            f"{caller}: target {int(targets[first])} at token {first} is outside the vocabulary of {vocab}. "
            f"Use {IGNORED} for tokens to ignore."
        )

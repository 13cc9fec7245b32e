"""What several objectives need: a log-probability that is finite, a batch tensor by name, a check of a number."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.statistics import TokenStats


def finite(logprob: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return log-probabilities with -inf (a token that the logits rule out) replaced by the lowest number.

    A weight of 0 times -inf would be NaN.
    """
    return logprob.clamp(min=torch.finfo(logprob.dtype).min)


def read_extra(stats: TokenStats, objective: str, name: str) -> Float[Tensor, " tokens"]:
    """Return a batch tensor of one number a token, or several, in the dtype of the statistics and held fixed.

    Raises:
        KeyError: If the batch does not hold it.
    """
    if name not in stats.extras:
        raise KeyError(f"{objective} reads {name!r} of each token, which the batch does not hold.")
    return stats.extras[name].detach().to(stats.target_logprob.dtype)


def read_of_logits(stats: TokenStats, objective: str, name: str) -> Float[Tensor, " tokens"]:
    """Return a loss that was computed of whole logits beforehand, with its gradient.

    Raises:
        KeyError: If it was not.
    """
    if name not in stats.extras:
        raise KeyError(f"{objective} is computed of whole logits, which weighted_loss and sftloss train do.")
    return stats.extras[name]


def candidates_and_rest(
    logprob: Float[Tensor, "tokens k"], reference: Float[Tensor, "tokens k"]
) -> tuple[Float[Tensor, "tokens k1"], Float[Tensor, "tokens k1"]]:
    """Return log-probabilities of K candidates and of all other tokens together: the model's and a reference's.

    Where there is no candidate, both are the lowest number. A rest below the precision of the dtype counts as that, and
    a reference whose candidates sum to more than 1 is scaled to 1.
    """
    none, tiny = torch.finfo(logprob.dtype).min, torch.finfo(logprob.dtype).eps
    is_there = logprob > -1e4
    log_r = torch.where(is_there, reference, none)
    log_r = log_r - log_r.exp().sum(dim=1, keepdim=True).clamp(min=1).log()
    pairs = []
    for values in (torch.where(is_there, logprob, none), torch.where(is_there, log_r, none)):
        rest = (1 - values.exp().sum(dim=1, keepdim=True)).clamp(min=tiny).log()
        pairs.append(torch.cat([values, rest], dim=1))
    return pairs[0], pairs[1]


def divergence(log_p: Float[Tensor, "tokens k1"], log_q: Float[Tensor, "tokens k1"]) -> Float[Tensor, " tokens"]:
    """Return KL(p, q) of distributions over the same few groups of tokens, in nats."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def where_counted(stats: TokenStats, losses: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return the losses, 0 at ignored tokens: only there log p and log(1 - p) are both 0."""
    is_ignored = (stats.target_logprob == 0) & (stats.other_logprob == 0)
    return torch.where(is_ignored, 0.0, losses)


def complement(logprob: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return 1 - exp(x), value and gradient exact at both ends; autograd takes that of expm1 from a rounded value."""
    return torch.where(logprob > -0.5, -torch.expm1(logprob), 1 - logprob.exp())


def log_of_rest(logprob: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return log(1 - p) from log p, exact at both ends; a large negative number, with no gradient, where p is 1.

    An ignored token has log p = 0 and, as a statistic, log(1 - p) = 0 too; here it counts as certain.
    """
    tiny = torch.finfo(logprob.dtype).tiny
    rest = -torch.expm1(logprob)
    return torch.where(logprob > -0.5, rest.clamp(min=tiny).log(), torch.log1p(-logprob.clamp(max=-0.5).exp()))

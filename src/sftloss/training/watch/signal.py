"""The gradient of each token's loss in its logits: the unit in which shares of the training signal are counted."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.statistics import Objective, TokenStats

_SPREAD = ("entropy", "collision", "mean_logprob")
"""Statistics whose gradient is not the same multiple of p at every token id off the target."""


def logit_signal(objective: Objective, stats: TokenStats) -> Float[Tensor, " tokens"] | None:
    r""":math:`\lVert \partial f / \partial z \rVert_1` of each token, from its statistics alone.

    With :math:`a, b, e` the derivatives of f in log p, the logsumexp and log(1 - p), and :math:`q = 1 - p`,

    .. math:: \lVert \partial f / \partial z \rVert_1 = |a q + (b - e) p| + |q (b - a - e) + e|

    because off the target every logit's gradient is one multiple of its probability. For cross-entropy it is
    :math:`2 (1 - p)`.

    Returns:
        ``(tokens,)``; None where the objective differentiates the entropy, the collision or the mean
        log-probability: then the logits themselves would be needed.

    Example:
        >>> from sftloss.statistics import TokenStats
        >>> stats = TokenStats({"target_logprob": torch.tensor([-1.0]), "other_logprob": torch.tensor([-0.4587])}, 4)
        >>> logit_signal(lambda stats: -stats.target_logprob, stats)
        tensor([1.2642])
    """
    with torch.enable_grad():
        leaves = {
            name: value.detach().requires_grad_(value.is_floating_point()) for name, value in stats.fields.items()
        }
        losses = objective(TokenStats(leaves, stats.vocab_size, stats.extras))
        names = [name for name, value in leaves.items() if value.requires_grad]
        if not losses.requires_grad:
            return torch.zeros_like(stats.target_logprob)
        gradients = torch.autograd.grad(losses.sum(), [leaves[name] for name in names], allow_unused=True)
    grad = {name: value for name, value in zip(names, gradients, strict=True) if value is not None}
    if any(name in grad for name in _SPREAD):
        return None
    zero = torch.zeros_like(stats.target_logprob)
    a, b, e = (grad.get(name, zero) for name in ("target_logprob", "logsumexp", "other_logprob"))
    p, q = stats.target_logprob.exp(), stats.other_logprob.exp()
    return (a * q + (b - e) * p).abs() + (q * (b - a - e) + e).abs()

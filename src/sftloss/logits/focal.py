"""Focal loss as a module."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sftloss.logits.core import REDUCTIONS, TokenObjective, Total, per_token_losses
from sftloss.objectives import cross_entropy, focal
from sftloss.statistics import IGNORED, TokenStats
from sftloss.weights import coefficients


class FocalLoss(nn.Module):
    r"""Cross-entropy that fades as the target becomes certain, averaged over the trained tokens.

    .. math:: L = \frac{\alpha}{N} \sum_t -(1 - p_t)^\gamma \log p_t

    N counts the trained tokens; ignored tokens are not in it. The gradient is finite for every ``gamma``, also
    for ``gamma < 1`` where p reaches 1.

    Args:
        alpha: Factor on the loss, dimensionless. It is one number for all targets, so it only scales the learning
            rate. It is not the class balance of the paper.
        gamma: Focusing exponent, dimensionless, ``>= 0``. 0 is cross-entropy.
        ignore_index: Target that is not trained. -100 is never trained either.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one loss per token.
        detach_gate: Treat :math:`(1-p)^\gamma` as a constant weight. The paper differentiates it.

    Example:
        >>> FocalLoss(gamma=2.0)(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, -100]))
        tensor(0.0018)

    Source:
        Lin et al., *Focal Loss for Dense Object Detection*, 2017 (arXiv:1708.02002).
    """

    def __init__(
        self,
        alpha: float = 1.0,
        gamma: float = 2.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        *,
        detach_gate: bool = False,
    ) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"FocalLoss: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}.")
        self.alpha = alpha
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.objective = focal_objective(gamma, detach_gate=detach_gate)

    def total(self, targets: Int[Tensor, "*tokens"]) -> Float[Tensor, ""]:
        """Return the number of trained tokens. Its sum over the step's micro-batches and ranks is ``total``."""
        return self._trained(targets).sum()

    def _trained(self, targets: Tensor) -> Tensor:
        return (targets != self.ignore_index) & (targets != IGNORED)

    def forward(
        self,
        logits: Float[Tensor, "*tokens vocab"],
        targets: Int[Tensor, "*tokens"],
        *,
        total: Total | None = None,
    ) -> Tensor:
        """Return the loss in nats, in float32 or better.

        Args:
            logits: ``(tokens, vocab)`` or ``(batch, tokens, vocab)``, any floating dtype and strides.
            targets: The same shape without ``vocab``, **aligned**: row t of the logits predicts target t.
            total: N of the whole optimizer step: the sum of :meth:`total` over all micro-batches and ranks.

        Raises:
            ValueError: If shapes do not agree, or ``total`` is given with a reduction other than ``"mean"``.
        """
        if logits.shape[:-1] != targets.shape:
            raise ValueError(
                f"FocalLoss: logits have shape {tuple(logits.shape)}, targets {tuple(targets.shape)}. "
                "Shift first: logits[:, :-1] predicts input_ids[:, 1:]."
            )
        if self.reduction != "mean" and total is not None:
            raise ValueError(
                f'FocalLoss: total is used only with reduction="mean", got reduction="{self.reduction}". Omit it.'
            )
        trained = self._trained(targets)
        losses = self.alpha * per_token_losses(logits, targets, trained, self.objective)
        if self.reduction == "none":
            return losses
        if self.reduction == "sum":
            return losses.sum()
        return (coefficients(trained.to(losses.dtype), self.total(targets) if total is None else total) * losses).sum()

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, gamma={self.gamma}, reduction={self.reduction!r}"


def focal_objective(gamma: float, *, detach_gate: bool = False) -> TokenObjective:
    """Return the focal loss of a token; ``detach_gate`` treats the factor (1-p)^gamma as a constant."""
    if gamma < 0:
        raise ValueError(f"FocalLoss: gamma must be >= 0, got {gamma}.")
    function = partial(_gated, gamma=gamma) if detach_gate else partial(focal, gamma=gamma)
    return TokenObjective(function, ("target_logprob", "other_logprob"))


def _gated(stats: TokenStats, *, gamma: float) -> Tensor:
    return torch.exp(gamma * stats.other_logprob.detach()) * cross_entropy(stats)

"""A loss with one weight for instruction tokens and one for response tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sftloss.logits.core import (
    Reduction,
    Total,
    ce_objective,
    check_logits,
    flat_segments,
    per_token_losses,
    trained_mask,
)
from sftloss.weights import length_weights, segment_lengths

INSTRUCTION_WEIGHTINGS = ("tokens", "segments")


class InstructionResponseLoss(nn.Module):
    r"""Cross-entropy with one weight for instruction tokens and one for response tokens.

    .. math::
        \text{tokens: } u_t = w_t \, T^{-\alpha},\; T = \sum_{t \in s} w_t \qquad
        \text{segments: } u_t = w_t \, n_t^{-\alpha} \qquad L = \frac{\sum_t u_t \ell_t}{\sum_t u_t}

    Here :math:`w_t` is the weight of the instruction or of the response, and :math:`n_t` the number of tokens in the
    part (instruction or response) that token t belongs to.

    ``weighting="tokens"`` weights tokens: an instruction token counts 0.1 of a response token, at any lengths. This
    is the prompt-loss weight of the literature. ``weighting="segments"`` weights the *mean* of each part. Then the
    ratio of an instruction token to a response token depends on the lengths: for a weight of 0.1 it is 0.90 with 10
    instruction and 90 response tokens, and 0.011 with 90 and 10. Both divide by the sum of the weights, so a change
    of a weight does not change the learning rate.

    While ``response_weight > 0``, a sequence without a response token (cut off or ignored) is left out. It has no
    answer to learn, and its instruction would otherwise count as a whole example.

    Args:
        instruction_weight: Weight of instruction tokens, dimensionless, ``>= 0``.
        response_weight: Weight of response tokens, dimensionless, ``>= 0``.
        length_normalize: Whether to use ``alpha``. If False, the exponent is 0.
        alpha: Length exponent: 1 gives every sequence the same weight, 0 every weighted token.
        weighting: ``"tokens"`` or ``"segments"``.
        normalizer: What the mean divides by: ``"weights"``, ``"sequences"`` or ``"tokens"``.
        ignore_index: Target that is not trained. -100 is never trained either.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one loss per row, ``(batch,)``.
        label_smoothing: Weight of the uniform distribution, in [0, 1).

    Raises:
        ValueError: If a weight is negative or both are 0, or a name is unknown.

    Example:
        >>> loss = InstructionResponseLoss(instruction_weight=0.1)
        >>> instruction = torch.tensor([[True, True, False]])
        >>> loss(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]), instruction, ~instruction)
        tensor(1.3863)

    Source:
        Huerta-Enochian and Ko, *Instruction Fine-Tuning: Does Prompt Loss Matter?*, 2024 (arXiv:2401.13586), for
        token weights.
    """

    def __init__(
        self,
        instruction_weight: float = 0.1,
        response_weight: float = 1.0,
        length_normalize: bool = True,
        alpha: float = 1.0,
        *,
        weighting: str = "tokens",
        normalizer: str = "weights",
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not (instruction_weight >= 0 and response_weight >= 0 and instruction_weight + response_weight > 0):
            raise ValueError(
                f"InstructionResponseLoss: weights must be >= 0 and not both 0, got {instruction_weight} and "
                f"{response_weight}."
            )
        if weighting not in INSTRUCTION_WEIGHTINGS:
            raise ValueError(f"InstructionResponseLoss: weighting must be 'tokens' or 'segments', got {weighting!r}.")
        self.instruction_weight = instruction_weight
        self.response_weight = response_weight
        self.length_normalize = length_normalize
        self.alpha = alpha
        self.weighting = weighting
        self.ignore_index = ignore_index
        self.reduction = Reduction("InstructionResponseLoss", reduction, normalizer)
        self.objective = ce_objective(label_smoothing)

    def weights(
        self, targets: Tensor, instruction_mask: Tensor, response_mask: Tensor, *, segments: Tensor | None = None
    ) -> Float[Tensor, "batch tokens"]:
        """Return the weight u of each token, 0 where it is not trained."""
        trained = trained_mask("InstructionResponseLoss", targets, self.ignore_index).reshape(-1)
        ids = flat_segments(targets, segments)
        response = _mask("response_mask", response_mask, targets) & trained
        instruction = _mask("instruction_mask", instruction_mask, targets) & trained
        if targets.device.type == "cpu" and bool((instruction & response).any()):
            raise ValueError("InstructionResponseLoss: a token is in both instruction_mask and response_mask.")
        instruction = (
            instruction & ~response
        )  # on a GPU the check would wait for the device, so an overlap counts as response
        if self.response_weight > 0:
            instruction = instruction & (segment_lengths(response.float(), ids) > 0)
        weights = self.instruction_weight * instruction.float() + self.response_weight * response.float()
        alpha = self.alpha if self.length_normalize else 0.0
        if self.weighting == "tokens":
            return length_weights(weights, ids, alpha=alpha).reshape(targets.shape)
        # each part is a segment of its own; its length is its number of tokens
        parts = torch.where(ids < 0, -1, 2 * ids + response.long())
        factor = length_weights((instruction | response).float(), parts, alpha=alpha)
        return (weights * factor).reshape(targets.shape)

    def total(
        self, targets: Tensor, instruction_mask: Tensor, response_mask: Tensor, *, segments: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Return this micro-batch's share of the normalizer. Its sum over the step is ``total`` of forward."""
        weights = self.weights(targets, instruction_mask, response_mask, segments=segments)
        return self.reduction.total(weights, segments)

    def forward(
        self,
        logits: Float[Tensor, "batch tokens vocab"],
        targets: Int[Tensor, "batch tokens"],
        instruction_mask: Bool[Tensor, "batch tokens"] | Float[Tensor, "batch tokens"],
        response_mask: Bool[Tensor, "batch tokens"] | Float[Tensor, "batch tokens"],
        *,
        segments: Int[Tensor, "batch tokens"] | None = None,
        total: Total | None = None,
    ) -> Tensor:
        """Return the loss in nats, in float32 or better.

        Args:
            logits: ``(batch, tokens, vocab)``, any floating dtype and strides.
            targets: ``(batch, tokens)``, **aligned**: ``logits[:, t]`` predicts ``targets[:, t]``.
            instruction_mask: ``(batch, tokens)``, True or non-zero where the *target* is instruction. Shift it as
                the targets are shifted. Ignored targets do not count.
            response_mask: The same for the response. The two masks must not overlap.
            segments: ``(batch, tokens)``, the sequence id of each token where rows are packed; negative is padding.
            total: The normalizer of the whole optimizer step: the sum of :meth:`total` over all micro-batches and
                ranks. (Where gradients are averaged over ranks, multiply the loss by the number of ranks.)

        Raises:
            ValueError: If shapes do not agree, the masks overlap (checked on the CPU only), or ``total`` is given
                with a reduction other than ``"mean"``.
        """
        check_logits("InstructionResponseLoss", logits, targets)
        weights = self.weights(targets, instruction_mask, response_mask, segments=segments)
        losses = per_token_losses(logits, targets, weights != 0, self.objective)
        return self.reduction(losses, weights, segments, total)

    def extra_repr(self) -> str:
        return (
            f"instruction_weight={self.instruction_weight}, response_weight={self.response_weight}, "
            f"alpha={self.alpha if self.length_normalize else 0.0}, weighting={self.weighting!r}"
        )


def _mask(name: str, mask: Tensor, targets: Tensor) -> Bool[Tensor, " tokens"]:
    if mask.shape != targets.shape:
        raise ValueError(
            f"InstructionResponseLoss: {name} has shape {tuple(mask.shape)}, targets {tuple(targets.shape)}. "
            "Shift the masks as the targets: mask[:, 1:]."
        )
    return mask.to(targets.device).reshape(-1) != 0

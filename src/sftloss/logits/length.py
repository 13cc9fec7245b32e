"""Losses that weight a sequence by its length."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sftloss.logits.core import (
    Reduction,
    TokenObjective,
    Total,
    ce_objective,
    check_logits,
    flat_segments,
    per_token_losses,
    trained_mask,
)
from sftloss.logits.focal import focal_objective
from sftloss.weights import adaptive_length_weights, length_weights


class _LengthLoss(nn.Module):
    """Shared part of the two losses, which differ in the weights of a trained token."""

    ignore_index: int
    objective: TokenObjective
    reduction: Reduction
    scale: float = 1.0

    def _token_weights(self, targets: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        """Return the weight u of each token ``(tokens,)``; targets and mask are ``(batch, tokens)``."""
        raise NotImplementedError

    def weights(
        self, targets: Tensor, lengths: Tensor | None = None, *, segments: Tensor | None = None
    ) -> Float[Tensor, "batch tokens"]:
        """Return the weight u of each token, 0 where it is not trained."""
        mask = trained_mask(self.reduction.name, targets, self.ignore_index, lengths)
        return self._token_weights(targets, mask, flat_segments(targets, segments)).reshape(targets.shape)

    def total(
        self, targets: Tensor, lengths: Tensor | None = None, *, segments: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """Return this micro-batch's share of the normalizer. Its sum over the step is ``total`` of forward."""
        return self.reduction.total(self.weights(targets, lengths, segments=segments), segments)

    def forward(
        self,
        logits: Float[Tensor, "batch tokens vocab"],
        targets: Int[Tensor, "batch tokens"],
        lengths: Int[Tensor, " batch"] | None = None,
        *,
        segments: Int[Tensor, "batch tokens"] | None = None,
        total: Total | None = None,
    ) -> Tensor:
        """Return the loss in nats, in float32 or better.

        Args:
            logits: ``(batch, tokens, vocab)``, any floating dtype, any strides; ``-inf`` columns are legal.
            targets: ``(batch, tokens)``, **aligned**: ``logits[:, t]`` predicts ``targets[:, t]``.
            lengths: ``(batch,)``, number of tokens of each row that are not padding. Ignored targets stay ignored.
            segments: ``(batch, tokens)``, the sequence id of each token where rows are packed; negative is padding.
            total: N of the whole optimizer step: the sum of :meth:`total` over all micro-batches and ranks. It makes
                gradient accumulation exact. (Where gradients are averaged over ranks, multiply the loss by the number
                of ranks.)

        Raises:
            ValueError: If shapes do not agree, or ``total`` is given with a reduction other than ``"mean"``.
        """
        check_logits(self.reduction.name, logits, targets)
        weights = self.weights(targets, lengths, segments=segments)
        losses = per_token_losses(logits, targets, weights != 0, self.objective)
        return self.scale * self.reduction(losses, weights, segments, total)


class LengthNormalizedLoss(_LengthLoss):
    r"""Cross-entropy of each sequence over a power of its length, averaged over sequences.

    .. math:: L = \frac{1}{N} \sum_{s} \frac{1}{T_s^\alpha} \sum_{t \in s} -\log p(y_t)

    T is the number of *trained targets* of the sequence. N is the number of sequences that have at least one.

    The mean is over sequences, so for ``alpha < 1`` the loss, and with it the effective learning rate, grows as
    :math:`T^{1-\alpha}`. ``normalizer="weights"`` divides by :math:`\sum_s T_s^{1-\alpha}` instead: then the loss has
    the scale of one token's loss for every alpha. At ``alpha = 1`` both are the same.

    ``alpha > 0`` favours *shorter* output where one prompt has answers of several lengths. See
    :func:`sftloss.weights.length_weights`.

    Args:
        alpha: Length exponent, dimensionless. 0 sums over tokens, 1 gives every sequence the same weight.
        ignore_index: Target that is not trained. -100 is never trained either.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one loss per row, ``(batch,)``.
        label_smoothing: Weight of the uniform distribution, in [0, 1), as in ``torch.nn.CrossEntropyLoss``.
        normalizer: What the mean divides by: ``"sequences"``, ``"weights"`` or ``"tokens"``.

    Example:
        >>> loss = LengthNormalizedLoss(alpha=1.0)
        >>> loss(torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]]))
        tensor(1.3863)

    Source:
        Wu et al., *Google's Neural Machine Translation System*, 2016, section 7 (arXiv:1609.08144), has the exponent
        in beam search. Its effect in training: own derivation, see :func:`sftloss.weights.length_weights`.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        normalizer: str = "sequences",
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.reduction = Reduction("LengthNormalizedLoss", reduction, normalizer)
        self.objective = ce_objective(label_smoothing)

    def _token_weights(self, targets: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        return length_weights(mask.float().reshape(-1), segments, alpha=self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, label_smoothing={self.label_smoothing}, normalizer={self.reduction.normalizer!r}"


class AdaptiveLengthLoss(_LengthLoss):
    r"""Length-normalized loss that weights a sequence by its distance from a target length.

    .. math:: L = \frac{1}{Z} \sum_s \frac{f(n_s)}{T_s^{\alpha}} \sum_{t \in s} \ell_t, \qquad
              f(n) = e^{-\lambda |n - n^*| / n^*}, \qquad Z = \sum_s f(n_s) T_s^{1-\alpha}

    The default ``direction="down"`` trains less on answers of another length. ``direction="up"`` has the factor
    :math:`1 + \lambda |n - n^*| / n^*`, which trains *more* on them: it multiplies the likelihood of a fixed answer, so
    it is no penalty on the length that the model writes.

    Args:
        target_length: Wanted number of trained tokens, ``> 0``.
        length_penalty: :math:`\lambda`, dimensionless, ``>= 0``.
        base_loss: ``"ce"`` or ``"focal"``.
        direction: ``"down"`` or ``"up"``, see above.
        exponent: :math:`\alpha`, as in :class:`LengthNormalizedLoss`.
        normalizer: What the mean divides by: ``"weights"`` (Z above), ``"sequences"`` or ``"tokens"``.
        **kwargs: Options of the base loss. Both take ``ignore_index`` and ``reduction``. ``"ce"`` takes
            ``label_smoothing`` and ``weight`` (one factor per vocabulary entry, for the tokens that have it as
            target). ``"focal"`` takes ``alpha`` and ``gamma``.

    Raises:
        ValueError: If a value is out of range or ``base_loss`` unknown.
        TypeError: If the base loss has no such option.

    Example:
        >>> loss = AdaptiveLengthLoss(target_length=2.0, base_loss="focal", gamma=0.0)
        >>> loss(torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]]))
        tensor(1.3863)

    Source:
        Own derivation, see :func:`sftloss.weights.adaptive_length_weights`.
    """

    weight: Tensor | None

    def __init__(
        self,
        target_length: float = 50.0,
        length_penalty: float = 0.1,
        base_loss: str = "ce",
        *,
        direction: str = "down",
        exponent: float = 1.0,
        normalizer: str = "weights",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.target_length = target_length
        self.length_penalty = length_penalty
        self.base_loss = base_loss
        self.direction = direction
        self.exponent = exponent
        self.ignore_index = kwargs.pop("ignore_index", -100)
        self.reduction = Reduction("AdaptiveLengthLoss", kwargs.pop("reduction", "mean"), normalizer)
        self.register_buffer("weight", kwargs.pop("weight", None) if base_loss == "ce" else None)
        self.scale, self.objective = _base(base_loss, kwargs)
        # raises on invalid numbers now, not in the first training step
        self._adapted(torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    def _adapted(self, flat: Tensor, segments: Tensor) -> Tensor:
        exponent = length_weights(flat, segments, alpha=self.exponent)
        return adaptive_length_weights(
            exponent,
            segments,
            target_length=self.target_length,
            penalty=self.length_penalty,
            direction=self.direction,
        )

    def _token_weights(self, targets: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
        base = mask.float()
        if self.weight is not None:
            base = base * self.weight.detach().to(targets.device)[torch.where(mask, targets, 0)].float()
        return self._adapted(base.reshape(-1), segments)

    def extra_repr(self) -> str:
        return f"target_length={self.target_length}, length_penalty={self.length_penalty}, direction={self.direction!r}"


def _base(name: str, arguments: dict[str, Any]) -> tuple[float, TokenObjective]:
    """Return scale and objective of a base loss; raise on arguments it does not have."""
    arguments = dict(arguments)
    scale = 1.0
    if name == "ce":
        objective = ce_objective(arguments.pop("label_smoothing", 0.0))
    elif name == "focal":
        scale = arguments.pop("alpha", 1.0)
        objective = focal_objective(arguments.pop("gamma", 2.0))
    else:
        raise ValueError(f"AdaptiveLengthLoss: base_loss must be 'ce' or 'focal', got {name!r}.")
    if arguments:
        raise TypeError(
            f"AdaptiveLengthLoss: base_loss={name!r} has no option {', '.join(map(repr, sorted(arguments)))}."
        )
    return scale, objective

"""Losses whose examples count by their length."""

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
    token_losses,
    trained_mask,
)
from sftloss.logits.focal import focal_objective
from sftloss.weights import adaptive_length_weights, length_weights


class LengthNormalizedLoss(nn.Module):
    r"""Cross-entropy of each sequence over a power of its length, averaged over sequences.

    .. math:: L = \frac{1}{N} \sum_{s} \frac{1}{T_s^\alpha} \sum_{t \in s} -\log p(y_t)

    T counts the *trained targets* of the sequence and N the sequences that have one. This is the tutorial's formula
    (with the minus sign its section 3.2 lost), kept to the letter: the mean is over sequences, so at
    ``alpha < 1`` the loss, and with it the learning rate, grows as :math:`T^{1-\alpha}`.
    ``normalizer="weights"`` divides by :math:`\sum_s T_s^{1-\alpha}` instead and keeps the scale of a token's loss
    for every alpha; the two are one at ``alpha = 1``.

    ``alpha > 0`` teaches *shorter* output where length varies for a given prompt; the tutorial has it the wrong
    way round. See :func:`sftloss.weights.length_weights`.

    Args:
        alpha: Length exponent, dimensionless. 0 sums over tokens, 1 gives every sequence the same weight.
        ignore_index: Target that is not trained; -100 never is.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one loss a row, ``(batch,)``.
        label_smoothing: Weight of the uniform distribution, in [0, 1), as in ``torch.nn.CrossEntropyLoss``.
        normalizer: What the mean divides by: ``"sequences"``, ``"weights"`` or ``"tokens"``.

    Example:
        >>> loss = LengthNormalizedLoss(alpha=1.0)
        >>> loss(torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]]))
        tensor(1.3863)

    Source:
        The tutorial, section 3.2.
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

    def weights(
        self, targets: Tensor, lengths: Tensor | None = None, *, segments: Tensor | None = None
    ) -> Float[Tensor, "batch tokens"]:
        """Weight u of each token: :math:`T^{-\\alpha}` where it is trained, else 0."""
        mask = trained_mask("LengthNormalizedLoss", targets, self.ignore_index, lengths)
        flat = length_weights(mask.float().reshape(-1), flat_segments(targets, segments), alpha=self.alpha)
        return flat.reshape(targets.shape)

    def total(
        self, targets: Tensor, lengths: Tensor | None = None, *, segments: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """This micro-batch's part of the step's normalizer; the sum over the step is forward's ``total``."""
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
        """The loss, in nats, float32 or better.

        Args:
            logits: ``(batch, tokens, vocab)``, any floating dtype, any strides; ``-inf`` columns are legal.
            targets: ``(batch, tokens)``, **aligned**: ``logits[:, t]`` predicts ``targets[:, t]``.
            lengths: ``(batch,)``, tokens of each row that are not padding. They narrow the ignored targets and
                never replace them.
            segments: ``(batch, tokens)``, the sequence of each token where rows are packed; negative is padding.
            total: N of the whole optimizer step, the sum of :meth:`total` over all micro-batches and ranks; makes
                accumulation exact. (Where gradients are averaged over ranks, multiply the loss by their number.)

        Raises:
            ValueError: If shapes do not agree, or ``total`` is given and nothing is averaged.
        """
        check_logits("LengthNormalizedLoss", logits, targets)
        weights = self.weights(targets, lengths, segments=segments)
        losses = token_losses(logits, targets, weights != 0, self.objective)
        return self.reduction(losses, weights, segments, total)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, label_smoothing={self.label_smoothing}, normalizer={self.reduction.normalizer!r}"


class AdaptiveLengthLoss(nn.Module):
    r"""Length-normalized loss whose sequences count by how near their length is to a target length.

    .. math:: L = \frac{1}{Z} \sum_s \frac{f(n_s)}{T_s^{\alpha}} \sum_{t \in s} \ell_t, \qquad
              f(n) = e^{-\lambda |n - n^*| / n^*}, \qquad Z = \sum_s f(n_s) T_s^{1-\alpha}

    This follows what is right, not the letter. The tutorial's factor :math:`1 + \lambda |n - n^*| / n^*` multiplies
    the likelihood of a fixed answer, so it holds no gradient about length and makes the model imitate answers of the
    wrong length harder; and it multiplies plain sums, which add the scaling with length it means to adapt. The
    letter is ``direction="up", exponent=0.0, normalizer="sequences"``.

    Args:
        target_length: Wanted number of trained tokens, ``> 0``.
        length_penalty: :math:`\lambda`, dimensionless, ``>= 0``.
        base_loss: ``"ce"`` or ``"focal"``.
        direction: ``"down"`` weakens sequences of another length, ``"up"`` is the tutorial's factor.
        exponent: :math:`\alpha`, as in :class:`LengthNormalizedLoss`.
        normalizer: What the mean divides by: ``"weights"`` (Z above), ``"sequences"`` or ``"tokens"``.
        **kwargs: Of the base loss; each is used, an unknown one is refused. Both: ``ignore_index``, ``reduction``.
            ce: ``label_smoothing``; ``weight``, one factor a vocabulary entry, multiplying the weight of the tokens
            whose target it is. focal: ``alpha``, ``gamma``.

    Raises:
        ValueError: If a value is out of range or ``base_loss`` unknown.
        TypeError: If a keyword is not one of the base loss's.

    Example:
        >>> loss = AdaptiveLengthLoss(target_length=2.0, base_loss="focal", gamma=0.0)
        >>> loss(torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]]))
        tensor(1.3863)

    Source:
        The tutorial, section 3.2; the factor by own derivation (:func:`sftloss.weights.adaptive_length_weights`).
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
        self._adapted(torch.zeros(0), torch.zeros(0, dtype=torch.int64))  # refuses bad numbers now, not in training

    def _adapted(self, flat: Tensor, segments: Tensor) -> Tensor:
        exponent = length_weights(flat, segments, alpha=self.exponent)
        return adaptive_length_weights(
            exponent,
            segments,
            target_length=self.target_length,
            penalty=self.length_penalty,
            direction=self.direction,
        )

    def weights(
        self, targets: Tensor, lengths: Tensor | None = None, *, segments: Tensor | None = None
    ) -> Float[Tensor, "batch tokens"]:
        """Weight u of each token, 0 where it is not trained."""
        mask = trained_mask("AdaptiveLengthLoss", targets, self.ignore_index, lengths)
        base = mask.float()
        if self.weight is not None:
            base = base * self.weight.detach().to(targets.device)[torch.where(mask, targets, 0)].float()
        return self._adapted(base.reshape(-1), flat_segments(targets, segments)).reshape(targets.shape)

    def total(
        self, targets: Tensor, lengths: Tensor | None = None, *, segments: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """This micro-batch's part of the step's normalizer; the sum over the step is forward's ``total``."""
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
        """The loss, in nats, float32 or better. Arguments and errors as :meth:`LengthNormalizedLoss.forward`."""
        check_logits("AdaptiveLengthLoss", logits, targets)
        weights = self.weights(targets, lengths, segments=segments)
        losses = token_losses(logits, targets, weights != 0, self.objective)
        return self.scale * self.reduction(losses, weights, segments, total)

    def extra_repr(self) -> str:
        return f"target_length={self.target_length}, length_penalty={self.length_penalty}, direction={self.direction!r}"


def _base(name: str, arguments: dict[str, Any]) -> tuple[float, TokenObjective]:
    """Scale and objective of a base loss; uses up the arguments it knows and refuses what is left."""
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
        raise TypeError(f"AdaptiveLengthLoss: base_loss={name!r} takes no {', '.join(map(repr, sorted(arguments)))}.")
    return scale, objective

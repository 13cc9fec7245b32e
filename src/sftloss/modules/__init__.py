"""The tutorial's losses as modules, for people who hold logits ``(batch, tokens, vocab)`` and aligned targets.

``logits[:, t]`` predicts ``targets[:, t]``: nothing is shifted here. Every module computes in float32 or better and
never divides by an empty row. Under gradient accumulation, give each call the number of the whole step::

    total = sum(loss.total(targets) for _, targets in micro_batches)
    for logits, targets in micro_batches:
        loss(logits, targets, total=total).backward()
"""

from __future__ import annotations

from sftloss.modules._focal import FocalLoss
from sftloss.modules._instruction import InstructionResponseLoss
from sftloss.modules._length import AdaptiveLengthLoss, LengthNormalizedLoss

__all__ = ["AdaptiveLengthLoss", "FocalLoss", "InstructionResponseLoss", "LengthNormalizedLoss"]

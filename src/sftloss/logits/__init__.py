"""Losses and an analyzer for people who hold logits ``(batch, tokens, vocab)`` and aligned targets.

``logits[:, t]`` predicts ``targets[:, t]``: nothing is shifted here. Every module computes in float32 or better and
never divides by an empty row. Under gradient accumulation, give each call the number of the whole step::

    total = sum(loss.total(targets) for _, targets in micro_batches)
    for logits, targets in micro_batches:
        loss(logits, targets, total=total).backward()

The analyzer is for a handful of tensors in a notebook; for a data set and a model use ``sftloss.analyze``. One example
is one observation, and its length T is the number of *targets* (a sequence of n tokens has n - 1), so that noise shows
no trend with length. What cannot be computed is None and has a reason. Nothing is printed unless asked for, and
nothing is ranked: a loss that divides by T is not better for having no correlation with T.
"""

from __future__ import annotations

from sftloss.logits.analyzer import LossFunctionAnalyzer
from sftloss.logits.focal import FocalLoss
from sftloss.logits.generated import comprehensive_loss_analysis, generate_test_data
from sftloss.logits.instruction import InstructionResponseLoss
from sftloss.logits.length import AdaptiveLengthLoss, LengthNormalizedLoss
from sftloss.logits.summary import summary

__all__ = [
    "AdaptiveLengthLoss",
    "FocalLoss",
    "InstructionResponseLoss",
    "LengthNormalizedLoss",
    "LossFunctionAnalyzer",
    "comprehensive_loss_analysis",
    "generate_test_data",
    "summary",
]

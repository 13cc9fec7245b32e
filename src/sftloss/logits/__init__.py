"""Losses and an analyzer for logits ``(batch, tokens, vocab)`` with aligned targets, and five demonstrations.

``logits[:, t]`` predicts ``targets[:, t]``: these modules do not shift. Every module computes in float32 or better and
never divides by an empty row. Under gradient accumulation, pass the normalizer of the whole step to each call::

    total = sum(loss.total(targets) for _, targets in micro_batches)
    for logits, targets in micro_batches:
        loss(logits, targets, total=total).backward()

The analyzer is for a few tensors in a notebook; for a model and a data set use ``sftloss.analyze``. Its length T is
the number of *targets* (a sequence of n tokens has n - 1 of them). A value that cannot be computed is None and has a
reason. The analyzer ranks no losses and prints only on request.

``python -m sftloss.logits`` prints the demonstrations (``--lang zh`` in Chinese); ``docs/chapter.md`` explains them.
"""

from __future__ import annotations

from sftloss.logits.analyzer import LossFunctionAnalyzer
from sftloss.logits.demonstrations import (
    compare_focal_vs_standard_loss,
    comprehensive_loss_analysis,
    demonstrate_gradient_magnitude,
    generate_test_data,
    test_instruction_response_loss,
)
from sftloss.logits.focal import FocalLoss
from sftloss.logits.instruction import InstructionResponseLoss
from sftloss.logits.length import AdaptiveLengthLoss, LengthNormalizedLoss
from sftloss.logits.summary import length_summary
from sftloss.logits.trained import analyze_length_normalization_effects, demonstrate_multitask_loss
from sftloss.logits.words import Demonstration
from sftloss.tasks import MultiTaskLoss

__all__ = [
    "AdaptiveLengthLoss",
    "Demonstration",
    "FocalLoss",
    "InstructionResponseLoss",
    "LengthNormalizedLoss",
    "LossFunctionAnalyzer",
    "MultiTaskLoss",
    "analyze_length_normalization_effects",
    "compare_focal_vs_standard_loss",
    "comprehensive_loss_analysis",
    "demonstrate_gradient_magnitude",
    "demonstrate_multitask_loss",
    "generate_test_data",
    "length_summary",
    "test_instruction_response_loss",
]

"""The accumulation law for a whole trainer: its own batching, its own loss, its own backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from sftloss.testing.accumulation import flat_gradient, judge
from sftloss.testing.report import AccumulationReport


def check_trainer(
    make_trainer: Callable[[int, int], Any], *, rows: int = 8, tolerance: float = 1e-3
) -> AccumulationReport:
    """Check a transformers `Trainer`, or anything made from it, against the law, by the gradients its optimizer gets.

    Each trainer is run for one optimizer step; the gradient is read just before the optimizer uses it.

    Args:
        make_trainer: ``make_trainer(batch_size, accumulation)`` returns a new trainer on a new model with the same
            weights, whose first ``batch_size * accumulation`` rows are always the same, of different lengths, in
            any order (give it `rows` of them). Its arguments need ``max_grad_norm=0.0``, because clipping hides
            a wrong scale, no dropout, and ``max_steps=1``.
        rows: Rows of the step, usually a power of two.
        tolerance: Relative error that counts as rounding.

    Raises:
        ValueError: If a trainer clips gradients or runs more or fewer than one step.

    Example:
        >>> print(check_trainer(lambda size, k: MyTrainer(model=fresh(), args=args(size, k), ...)))  # doctest: +SKIP
    """
    whole = _gradient(make_trainer(rows, 1))
    cuts = [size for size in (1, 2, rows // 2) if rows % size == 0 and size < rows]
    splits = tuple(
        judge(_gradient(make_trainer(size, rows // size)), whole, (size,) * (rows // size))
        for size in dict.fromkeys(cuts)
    )
    return AccumulationReport(all(split.error <= tolerance for split in splits), splits, tolerance)


def _gradient(trainer: Any) -> Tensor:
    """The gradient in the trainer's one step."""
    if trainer.args.max_grad_norm:
        raise ValueError("check_trainer: set max_grad_norm=0.0, clipping hides a gradient of the wrong size.")
    gradients: list[Tensor] = []
    hook = register_optimizer_step_pre_hook(lambda *_: gradients.append(flat_gradient(trainer.model)))
    try:
        trainer.train()
    finally:
        hook.remove()
    if len(gradients) != 1:
        raise ValueError(f"check_trainer: the trainer made {len(gradients)} optimizer steps, set max_steps=1.")
    return gradients[0]

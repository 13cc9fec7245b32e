"""The accumulation law for a loss: the same gradient, however a step is cut into micro-batches."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sftloss.testing.report import AccumulationReport, SplitResult

_ITEMS = ("num_items_in_batch", "num_items", "normalizer", "total")


def check_accumulation(
    compute_loss: Callable[..., Tensor],
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    items: Callable[[Mapping[str, Any]], Any] | None = None,
    tolerance: float | None = None,
) -> AccumulationReport:
    """Check a loss against the law: k micro-batches have the gradient of one batch.

    The batch is cut row by row, in pairs, in two halves and unevenly, and each cut is run the way training loops
    do:

    - ``compute_loss(model, batch)`` is one micro-batch's loss; k of them are summed and divided by k.
    - ``compute_loss(model, batch, num_items_in_batch)`` gets the step's number of items and is summed. The
      parameter may also be called num_items, normalizer or total.

    Give rows with different numbers of labels, or every normalization is right. Dropout is off during the check.

    Args:
        compute_loss: The loss, as above.
        model: The model; its parameters' gradients are restored afterwards.
        batch: At least two rows, mapping names to tensors with one entry a row; `labels` with -100 where ignored.
        items: What a micro-batch adds to the step's number of items; by default its labels, shifted as transformers
            does, that are not -100. Used by the second form only.
        tolerance: Relative error that counts as rounding; by default 1e-8 for float64 parameters, 1e-3 for float32
            and 0.1 below.

    Returns:
        The report; `is_exact`, `worst_error`, and `sentence` in words.

    Raises:
        ValueError: If the batch has fewer than two rows, or no gradient reaches the model, or every row has the same
            number of labels, so that nothing could be found.

    Example:
        >>> report = check_accumulation(mean_loss, model, batch)           # doctest: +SKIP
        >>> print(report)                                                  # doctest: +SKIP
        Mean of means: each micro-batch is divided by its own count, and the means are averaged; ...
    """
    rows = row_count(batch)
    check_ragged(batch)
    parameters = inspect.signature(compute_loss).parameters
    takes_items = next((name for name in _ITEMS if name in parameters), None)
    with borrowed(model):
        run = _Runner(compute_loss, model, takes_items, items or labels_of)
        tolerance = tolerance_of(model) if tolerance is None else tolerance
        whole = run.gradient([batch])
        if not float(whole.norm()) > 0:
            raise ValueError("check_accumulation: the whole batch has no finite, non-zero gradient in the model.")
        splits = []
        for sizes in sizes_of(rows):
            parts = cut_rows(batch, sizes)
            means = torch.stack([run.gradient([part]) for part in parts]).mean(dim=0)
            splits.append(judge(run.gradient(parts), whole, sizes, means))
        masked, uses_items, is_divided_twice = None, None, False
        if takes_items:
            halved = run.gradient([batch], scale=2)
            uses_items = _distance(2 * halved, whole) <= tolerance
            is_divided_twice = _distance(4 * halved, whole) <= tolerance
        if takes_items and items is None:
            masked = _distance(run.gradient([batch, _without_labels(batch)]), whole)
            masked = masked if run.is_finite else float("inf")
    is_exact = all(split.error <= tolerance for split in splits) and not (masked or 0.0) > tolerance
    is_exact &= not is_divided_twice
    return AccumulationReport(is_exact, tuple(splits), tolerance, masked, uses_items, is_divided_twice)


def assert_accumulation(
    compute_loss: Callable[..., Tensor], model: nn.Module, batch: Mapping[str, Any], **more: Any
) -> None:
    """:func:`check_accumulation` for a test suite.

    Raises:
        AssertionError: If the loss breaks the law; the message is the report's sentence.
    """
    report = check_accumulation(compute_loss, model, batch, **more)
    if not report.is_exact:
        raise AssertionError(report.sentence)


def labels_of(batch: Mapping[str, Any]) -> Tensor:
    """Number of labels that are not ignored, shifted as transformers counts them."""
    return (_labels(batch) != -100).sum()


def cut_rows(batch: Mapping[str, Any], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """The batch in micro-batches of so many rows."""
    rows, parts, start = row_count(batch), [], 0
    for size in sizes:
        piece = slice(start, start + size)
        start += size
        is_per_row = {n: isinstance(value, (Tensor, list, tuple)) and len(value) == rows for n, value in batch.items()}
        parts.append({name: value[piece] if is_per_row[name] else value for name, value in batch.items()})
    return parts


@dataclass
class _Runner:
    """Gradients the way a training loop makes them."""

    compute_loss: Callable[..., Tensor]
    model: nn.Module
    items_name: str | None
    count: Callable[[Mapping[str, Any]], Any]
    is_finite: bool = True

    def gradient(self, parts: Sequence[Mapping[str, Any]], scale: int = 1) -> Tensor:
        """The gradient accumulated over the micro-batches of one step, flat, in float64."""
        options: dict[str, Any] = {}
        if self.items_name is not None:
            options[self.items_name] = scale * torch.as_tensor(sum(self.count(part) for part in parts))
        self.model.zero_grad(set_to_none=True)
        for part in parts:
            loss = self.compute_loss(self.model, dict(part), **options)
            self.is_finite &= bool(torch.isfinite(loss.detach()).all())
            torch.autograd.backward(loss if self.items_name is not None else loss / len(parts))
        return flat_gradient(self.model)


def flat_gradient(model: nn.Module) -> Tensor:
    """Every parameter's gradient, one after another, in float64; 0 where there is none."""
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    return torch.cat([gradient.detach().double().flatten().cpu() for gradient in gradients])


def judge(
    gradient: Tensor, whole: Tensor, sizes: Sequence[int], means: Tensor | None = None, *, is_over_ranks: bool = False
) -> SplitResult:
    """Compare an accumulated gradient with that of the whole batch, and with the mean of the parts' own gradients."""
    size = float(whole.norm())
    along = float(gradient @ whole) / size**2
    norm = float(gradient.norm())
    cosine = along * size / norm if norm else 0.0
    distance = float("inf") if means is None else _nearest(gradient, means)
    return SplitResult(tuple(sizes), _distance(gradient, whole), along, cosine, distance, is_over_ranks)


def _nearest(gradient: Tensor, means: Tensor) -> float:
    """Relative distance to the mean of means times the best factor; a window's sum of means is k times their mean."""
    size = float(means.norm())
    if not size > 0:
        return float("inf")
    factor = float(gradient @ means) / size**2
    return _distance(gradient, factor * means) if factor > 0 else float("inf")


def _distance(ours: Tensor, truth: Tensor) -> float:
    distance = float((ours - truth).norm() / truth.norm())
    return distance if distance == distance else float("inf")


def sizes_of(rows: int) -> list[tuple[int, ...]]:
    """Row by row, pairs, halves, and one row against the others: each kind once."""
    cuts = [(1,) * rows, (rows // 2, rows - rows // 2), (1, rows - 1)]
    if rows > 2:
        cuts.append((2,) * (rows // 2) + (1,) * (rows % 2))
    return list(dict.fromkeys(cuts))


def row_count(batch: Mapping[str, Any]) -> int:
    """Number of rows, at least two."""
    rows = len(batch["labels"]) if "labels" in batch else len(batch.get("shift_labels", ()))
    if rows < 2:
        raise ValueError("check_accumulation: give a batch of at least two rows, with labels.")
    return rows


def check_ragged(batch: Mapping[str, Any]) -> None:
    """Refuse rows with equal numbers of labels."""
    counts = (_labels(batch) != -100).flatten(1).sum(dim=1)
    if bool((counts == counts[0]).all()):
        raise ValueError(
            f"check_accumulation: every row has {int(counts[0])} labels, so a mean of means equals the mean; give rows "
            "of different lengths."
        )


def tolerance_of(model: nn.Module) -> float:
    """The relative error of rounding; it grows with the root of some thousand terms and the depth of the model."""
    bits = {torch.float64: 1e-8, torch.float32: 1e-3}
    return max(bits.get(p.dtype, 0.1) for p in model.parameters() if p.requires_grad)


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """No dropout inside; gradients and modes are restored afterwards."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    training = [module for module in model.modules() if module.training]
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.training = False
    try:
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module in training:
            module.training = True


def _labels(batch: Mapping[str, Any]) -> Tensor:
    labels: Tensor = batch["labels"][..., 1:] if batch.get("shift_labels") is None else batch["shift_labels"]
    return labels


def _without_labels(batch: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in ("labels", "shift_labels") if name in batch]
    return {**batch, **{name: torch.full_like(batch[name], -100) for name in names}}

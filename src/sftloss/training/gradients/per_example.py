"""The gradient norm of each example in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sftloss.decoder.head import is_partitioned, without_dropout
from sftloss.decoder.ports import unwrapped
from sftloss.errors import ModelError
from sftloss.objectives.terms import losses_of_logits
from sftloss.statistics import Objective
from sftloss.training.attach import attach, attachment_of
from sftloss.training.attachment import Attachment
from sftloss.training.batch.tokens import read_tokens
from sftloss.training.gradients.coverage import Coverage, Followed, followed, group_of
from sftloss.training.gradients.layout import Layout
from sftloss.training.gradients.norms import Norms, Question, norms_by_hooks, norms_by_loop, rows_of
from sftloss.training.loss import Loss, as_loss

_Wrong = dict[str, str]
"""By name of a parameter that the hooks cannot follow, why not."""
_VERIFIED: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], _Wrong]] = WeakKeyDictionary()
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
_LOW_TOLERANCE = 0.05


@dataclass(frozen=True)
class ExampleGradients:
    """Norms of the examples' gradients under one loss; a row, or a document of a packed row, is an example.

    Attributes:
        norms: Norm of each example's gradient, ``(examples,)``, float64, in nats over the weights' unit. The gradient
            is that of the example's part of the batch's loss, so it has the loss's normalization.
        by_layer: The norms of each layer group, such as ``"transformer.h.0"``; the squares of an example add up to
            the square of its norm.
        losses: Part of each example in the batch's loss, ``(examples,)``, float64, in nats.
        rows: Row of each example, ``(examples,)``.
        coverage: Share of the trained weights that the norms hold, and whether a loop was needed.
    """

    norms: Float[Tensor, " examples"]
    by_layer: Mapping[str, Float[Tensor, " examples"]]
    losses: Float[Tensor, " examples"]
    rows: Int[Tensor, " examples"]
    coverage: Coverage

    def scaled(self, factors: Float[Tensor, " examples"]) -> ExampleGradients:
        """Return the norms where each example's loss is multiplied by a factor, which needs no further pass.

        Example:
            A token mean over 30 tokens in two examples, and the mean over the examples instead:

            >>> lengths = torch.tensor([10.0, 20.0])
            >>> of_examples = of_tokens.scaled(30 / (2 * lengths))                     # doctest: +SKIP
        """
        factors = factors.to(self.norms)
        by_layer = {name: value * factors.abs() for name, value in self.by_layer.items()}
        return replace(self, norms=self.norms * factors.abs(), by_layer=by_layer, losses=self.losses * factors)


def per_example_gradients(
    model: nn.Module,
    batch: Mapping[str, Any],
    loss: Loss | str | Objective | None = None,
    *,
    uncovered: str = "loop",
) -> ExampleGradients:
    r"""Exact gradient norm of each example, :math:`\lVert \nabla_\theta \sum_{i \in e} c_i f(s_i) \rVert_2`.

    One forward and one backward pass over the batch, in which no gradient of a parameter is formed and no logits are
    held. ``.grad`` stays as it is. The first call for a model also checks two examples against their own backward
    passes.

    Args:
        model: A causal language model, alone or in its wrappers, with a loss attached or not.
        batch: What the model is trained with: ``input_ids``, ``labels``, ``attention_mask`` or packed
            ``position_ids``, and what the loss reads (:func:`sftloss.training.read_tokens`).
        loss: The loss, or just its objective; by default the attached one, or else cross-entropy.
        uncovered: What to do where hooks cannot follow a trained weight (experts in one tensor, a raw parameter):
            ``"loop"`` runs one backward pass an example for these weights, ``"leave_out"`` returns the norms of the
            others. The coverage of the result has the names in both cases.

    Returns:
        The norms, in total and by layer group, the losses, and the coverage.

    Raises:
        ModelError: If the loss cannot be attached to the model, or its parameters are sharded.
        ValueError: If `uncovered` is neither, nothing is trained, the loss is computed of whole logits, or the batch
            cannot be read.

    Gradient:
        None flows through the result. What the model adds to its loss itself (a router loss) mixes examples and is
        left out. Under DDP each rank gets its own examples.

    Example:
        >>> gradients = sftloss.per_example_gradients(model, batch, "cross_entropy")   # doctest: +SKIP
        >>> gradients.norms, str(gradients.coverage)                                   # doctest: +SKIP

    Source:
        Goodfellow 2015 (arXiv:1510.01799); Li et al. 2021 (arXiv:2110.05679); the cheaper form of each layer as in
        Bu et al. 2022 (arXiv:2205.10683). The term between tied embeddings is our derivation.
    """
    if uncovered not in ("loop", "leave_out"):
        raise ValueError(f"per_example_gradients: uncovered must be 'loop' or 'leave_out', got {uncovered!r}.")
    refuse_sharded(model)
    with attached(model, loss) as attachment, torch.enable_grad():
        question = question_of(attachment, batch, attachment.loss if loss is None else as_loss(loss))
        return example_gradients(attachment, question, has_loop=uncovered == "loop")[0]


def example_gradients(
    attachment: Attachment, question: Question, *, has_loop: bool = True, has_whole: bool = False
) -> tuple[ExampleGradients, dict[str, Tensor]]:
    """The norms of a batch, and with `has_whole` the gradient of all its examples together, from the same pass."""
    layers = followed(attachment.model, attachment.port.head_layer(attachment.model))
    if not layers.sizes:
        raise ValueError(
            "per_example_gradients: no parameter of the model requires a gradient; those of a wrapper around it, such "
            "as the prompts of prompt tuning, cannot be followed."
        )
    reason = _named(layers.uncovered)
    reason = _leave_out(layers, _verify(attachment, layers, question)) or reason
    norms = norms_by_hooks(attachment, layers, question, has_whole=has_whole)
    if norms.uncovered:
        wrong = dict.fromkeys(norms.uncovered, f"{norms.uncovered[0]} is not read token by token")
        _VERIFIED[attachment.model].setdefault(tuple(layers.sizes), {}).update(wrong)
        reason = _leave_out(layers, wrong)
        norms = norms_by_hooks(attachment, layers, question)._replace(whole=norms.whole)
    if not layers.uncovered or not has_loop:
        return _result(norms, question, layers.coverage()), norms.whole
    rest = norms_by_loop(attachment, question, names=layers.uncovered)
    return _result(_together(norms, rest), question, layers.coverage(reason)), norms.whole


def _named(uncovered: Sequence[str]) -> str:
    names = ", ".join(uncovered[:3]) + ", ..." * (len(uncovered) > 3)
    return f"hooks cannot follow {names}" if uncovered else ""


def _leave_out(layers: Followed, wrong: _Wrong) -> str:
    """Follow these parameters no longer; the first reason."""
    layers.leave_out(wrong)
    return next(iter(wrong.values()), "")


def _together(hooks: Norms, loop: Norms) -> Norms:
    """Squares of the parameters that either of them has."""
    squares = dict(hooks.squares)
    for group, values in loop.squares.items():
        squares[group] = squares[group] + values if group in squares else values
    return Norms(squares, loop.losses, [])


@contextmanager
def attached(model: nn.Module, loss: Loss | str | Objective | None) -> Iterator[Attachment]:
    """The loss at work in the model, or one that is attached for the time being."""
    attachment = attachment_of(model)
    if attachment is not None:
        yield attachment
        return
    attachment = attach(unwrapped(model)[-1], Loss() if loss is None else as_loss(loss))
    try:
        yield attachment
    finally:
        attachment.detach()


def question_of(attachment: Attachment, batch: Mapping[str, Any], loss: Loss) -> Question:
    """Read coefficients and examples of a batch.

    Raises:
        ValueError: If the loss is computed of whole logits, or the batch cannot be read.
    """
    if losses_of_logits(loss.function):
        raise ValueError(
            f"sftloss: {loss.objective} is computed of whole logits, and the gradient of each example is "
            "not; use an objective of token statistics."
        )
    tokens = read_tokens(loss, batch)
    step = attachment.step_of(batch, tokens, loss)
    device = attachment.port.input_device(attachment.model)
    return Question(batch, loss, step.coefficients(tokens).to(device), Layout.of(tokens, batch, device))


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model of which this process holds a part of the weights only.

    Raises:
        ModelError: If FSDP, tensor parallelism or DeepSpeed shards it.
    """
    causes = {
        "DeepSpeed ZeRO-3": is_partitioned(model),
        "FSDP": any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()),
        "FSDP2 or tensor parallelism": any(isinstance(p, DTensor) for p in model.parameters()),
    }
    for cause, is_there in causes.items():
        if is_there:
            raise ModelError(
                f"the model's parameters are sharded ({cause}), and gradients by example need whole ones",
                cure="load the model on one device",
            )


def _verify(attachment: Attachment, layers: Followed, question: Question) -> _Wrong:
    """Compare two examples with their own backward passes, once for a model and its trained parameters.

    A kernel that passes a layer's module by is found here. Dropout is off, because it draws anew in each pass.

    Returns:
        The parameters whose gradient differs.
    """
    model, key = attachment.model, tuple(layers.sizes)
    known = _VERIFIED.setdefault(model, {})
    if key in known:
        return known[key]
    layout = question.layout
    trained = layout.sum((question.coefficients != 0).double())
    sizes = layout.sum(torch.ones_like(question.coefficients))
    order = torch.where(trained > 0, sizes, float("inf")).argsort()
    chosen = [int(i) for i in order[:2] if trained[i] > 0]
    names = [name for name in layers.sizes if name not in layers.uncovered]
    if not chosen or not names:
        return {}
    rows = sorted({int(layout.rows[i]) for i in chosen})
    part = _part(question, rows)
    examples = [i for i in range(part.layout.count) if trained[_in_rows(layout, rows)[i]] > 0][:2]
    with without_dropout(model, has_checkpoints=True):
        ours, theirs = norms_by_hooks(attachment, layers, part), norms_by_loop(attachment, part, examples, names)
    wrong = dict.fromkeys(ours.uncovered, f"{[*ours.uncovered, ''][0]} is not read token by token")
    dtype = next(p.dtype for p in model.parameters() if p.requires_grad)
    total = sum(theirs.squares.values()).sqrt()  # type: ignore[union-attr]
    for group, squares in theirs.squares.items():
        mine = ours.squares.get(group, torch.zeros_like(squares)).clamp(min=0).sqrt()
        error = ((mine - squares.sqrt()).abs() / total.clamp(min=torch.finfo(torch.float64).tiny))[examples]
        if not bool((error <= _tolerance(squares.device, dtype)).all()):
            reason = f"the gradient of {group} is not that of its layers' inputs and outputs"
            wrong |= {name: wrong.get(name, reason) for name in names if group_of(name) == group}
    known[key] = wrong
    return wrong


def _tolerance(device: torch.device, dtype: torch.dtype) -> float:
    """Of a norm; a pass in lower precision errs by its own rounding."""
    is_rounded = torch.is_autocast_enabled(device.type)
    return _LOW_TOLERANCE if is_rounded else _TOLERANCE.get(dtype, _LOW_TOLERANCE)


def _in_rows(layout: Layout, rows: Sequence[int]) -> list[int]:
    return [i for row in rows for i in range(layout.count) if int(layout.rows[i]) == row]


def _part(question: Question, rows: list[int]) -> Question:
    """Some rows of a question."""
    count, columns = question.layout.shape
    batch = rows_of(question.batch, rows, count)
    device = question.coefficients.device
    c = question.coefficients.view(count, columns)[rows].reshape(-1)
    layout = Layout.of(read_tokens(question.loss, batch), batch, device)
    return Question(batch, question.loss, c, layout)


def _result(norms: Norms, question: Question, coverage: Coverage) -> ExampleGradients:
    squares = {name: value.clamp(min=0) for name, value in norms.squares.items()}
    total = sum(squares.values(), torch.zeros_like(norms.losses, dtype=torch.float64))
    by_layer = {name: value.sqrt() for name, value in squares.items()}
    return ExampleGradients(total.sqrt(), by_layer, norms.losses, question.layout.rows, coverage)

"""How much each example and token helps an update: its share of the loss's decrease along the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

from sftloss.decoder.head import without_dropout
from sftloss.statistics import Objective, from_logits
from sftloss.statistics.checks import read_objective
from sftloss.statistics.products.logits import compute_dtype, project
from sftloss.training.attachment import Attachment, Opened
from sftloss.training.gradients.direction import Update, gradient_of, inner_product, update_of
from sftloss.training.gradients.norms import Question, replaced
from sftloss.training.gradients.per_example import attached, question_of, refuse_sharded
from sftloss.training.loss import Loss, as_loss
from sftloss.training.step import Step, local_total

_STEP = 2e-4  # of the parameters' norm: the length of a finite step, at most
_CHANGE = 0.04  # nats a token: the change of the loss along it, at most; curvature then counts for less than 1e-3
_CHUNK_BYTES = 1 << 26  # of logits at a time in forward mode


@dataclass(frozen=True)
class AdditiveShares:
    """Shares <g_i, u> / <G, u> of a batch's examples and tokens in the update direction u.

    Attributes:
        examples: By batch, the share of each example, ``(examples,)``; all of them add up to 1. A negative share is of
            an example that pushes against the step. Where `decrease` is below 0 it is the other way round.
        tokens: By batch, the share of each token, ``(tokens,)``.
        decrease: <G, u>: first-order decrease of the loss for a unit step along u, in nats. It is below 0 where the
            step raises the loss, for example when momentum points away from the gradient of these batches.
        method: ``"forward mode"`` or ``"finite difference"``.
        error: Relative difference between the sum of <g_i, u> and <G, u> from the gradient itself.
    """

    examples: Sequence[Float[Tensor, " examples"]]
    tokens: Sequence[Float[Tensor, " tokens"]]
    decrease: float
    method: str
    error: float

    @property
    def negative(self) -> float:
        """Share of examples that push against the step: those with <g_i, u> below 0, whatever the sign of <G, u>."""
        return float((torch.cat([*self.examples]) * self.decrease < 0).double().mean())


def additive_shares(
    model: nn.Module,
    batches: Sequence[Mapping[str, Any]],
    loss: Loss | str | Objective | None = None,
    *,
    optimizer: str | torch.optim.Optimizer = "sgd",
) -> AdditiveShares:
    r"""Share of each example and token in an update: :math:`\langle g_i, u\rangle / \langle G, u\rangle`.

    G is the gradient of the whole loss over all batches, which takes one ordinary pass. The products take one pass in
    forward mode, with the model's eager attention. Where an operation has no forward mode they take a finite
    difference of two forward passes; see `error`. Dropout is off in all of them.

    Args:
        model: A causal language model, with a loss attached or not. Given back as it was.
        batches: The micro-batches of one step.
        loss: The loss; by default the attached one, or else cross-entropy.
        optimizer: ``"sgd"``: u is G. ``"adam"``: u is the first step of Adam, G over its absolute value. An optimizer:
            u is the step that it would take now, with its moments, without weight decay and up to the learning rate.

    Returns:
        The shares, which add up to 1.

    Raises:
        ModelError: If the model's parameters are sharded.
        ValueError: If the optimizer is neither, or the gradient is zero.

    Example:
        >>> shares = additive_shares(model, [batch], "cross_entropy")                # doctest: +SKIP
        >>> shares.examples[0], shares.negative                                      # doctest: +SKIP

    Source:
        Pruthi et al., *Estimating Training Data Influence by Tracing Gradient Descent*, 2020 (arXiv:2002.08484).
    """
    if isinstance(batches, Mapping):
        raise ValueError("additive_shares: batches must be the list of a step's micro-batches; give [batch] for one.")
    refuse_sharded(model)
    with attached(model, loss) as attachment, torch.enable_grad():
        chosen = attachment.loss if loss is None else as_loss(loss)
        steps = as_one_step(attachment, batches, chosen)
        with without_dropout(attachment.model):
            gradient = gradient_of(attachment, steps, chosen)
            update = update_of(attachment.model, gradient, optimizer)
            questions = [question_of(attachment, batch, chosen) for batch in steps]
            return shares_along(attachment, questions, update)


def as_one_step(attachment: Attachment, batches: Sequence[Mapping[str, Any]], loss: Loss) -> list[dict[str, Any]]:
    """The batches with the normalizer of all of them, unless they name one.

    Unlike :func:`sftloss.training.step_total` it begins no step of a task weighting and adds nothing over ranks.
    """
    if all(batch.get("num_items_in_batch") is not None for batch in batches):
        return [dict(batch) for batch in batches]
    factors = loss.task_factor.outside_of_a_step(attachment.model.training)
    step = Step(local_total(loss, batches, factors), factors)
    return [{**batch, "num_items_in_batch": step} for batch in batches]


def shares_along(attachment: Attachment, questions: Sequence[Question], update: Update) -> AdditiveShares:
    """Shares of the examples of some batches that make up one step."""
    expected = update.decrease
    if expected == 0:
        raise ValueError("additive_shares: the gradient is zero, so there are no shares.")
    products, method = [], ""
    step = finite_step(attachment.model, update, sum(float(one.coefficients.abs().sum()) for one in questions))
    for question in questions:
        slopes, method = token_slopes(attachment, question, update.direction, step)
        products.append(slopes * question.coefficients)
    total = float(torch.cat(products).sum())
    if total == 0:
        raise ValueError("additive_shares: the products with the update add up to 0, so there are no shares.")
    tokens = [product / total for product in products]
    examples = [question.layout.sum(share) for question, share in zip(questions, tokens, strict=True)]
    return AdditiveShares(examples, tokens, expected, method, abs(total - expected) / abs(expected))


def finite_step(model: nn.Module, update: Update, mass: float) -> float:
    """How far along an update the two points of a finite difference lie from the weights.

    Args:
        model: The model.
        update: The update.
        mass: Sum of the coefficients' sizes over the tokens of the update.
    """
    named = dict(model.named_parameters())
    size = sum(float(named[name].detach().double().square().sum()) for name in update.direction) ** 0.5
    step = _STEP * size / inner_product(update.direction, update.direction) ** 0.5
    dtype, slope = next(iter(named.values())).dtype, abs(update.decrease)
    if slope and torch.finfo(dtype).eps <= torch.finfo(torch.float32).eps:  # lower precision has no shorter step
        step = min(step, _CHANGE * mass / slope)
    ratio = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps
    return float(step * ratio ** (1 / 3))


def token_slopes(
    attachment: Attachment, question: Question, direction: Mapping[str, Tensor], step: float, *, is_fast: bool = False
) -> tuple[Float[Tensor, " tokens"], str]:
    """Derivative of each token's objective along an update, ``(tokens,)`` in float64, and how it was made.

    Args:
        attachment, question: The batch and its loss.
        direction: u by name of the parameter.
        step: Of :func:`finite_step`.
        is_fast: Whether a finite difference is taken where the weights' dtype allows one. Its two forward passes take
            half of the time of one in forward mode.
    """
    is_counted, dtype = question.coefficients != 0, next(attachment.model.parameters()).dtype
    if not is_fast or torch.finfo(dtype).eps > torch.finfo(torch.float32).eps:
        try:
            with _eager_attention(attachment.model):
                return _forward_mode(attachment, question, direction, is_counted), "forward mode"
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError, ValueError):  # an operation of the model has no forward mode
            pass
    return _finite_difference(attachment, question, direction, is_counted, step), "finite difference"


@contextmanager
def _eager_attention(model: Any) -> Iterator[None]:
    """The same attention in plain operations, which have a forward mode."""
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if before in (None, "eager") or not hasattr(model, "set_attn_implementation"):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _forward_mode(
    attachment: Attachment, question: Question, update: Mapping[str, Tensor], is_counted: Tensor
) -> Tensor:
    with torch.no_grad(), forward_ad.dual_level(), replaced(attachment.model, _dual(update)):
        opened = attachment.open(question.batch, question.loss)

        def of(at: Tensor) -> tuple[Tensor, Tensor | None]:
            z, tangent = forward_ad.unpack_dual(opened.head.logits(opened.states[at]))
            return z, tangent

        return _slopes(question, opened, is_counted, of)


def _finite_difference(
    attachment: Attachment, question: Question, update: Mapping[str, Tensor], is_counted: Tensor, step: float
) -> Tensor:
    """The same with the logits' central difference between two points on the line along `update`.

    A difference of the losses themselves would follow what an objective holds fixed, such as the factor of `dft`.
    """
    named = dict(attachment.model.named_parameters())
    ends = []
    for sign in (1.0, -1.0):
        moved = {name: (named[name].detach() + sign * step * u).to(named[name].dtype) for name, u in update.items()}
        with torch.no_grad(), replaced(attachment.model, lambda name, p, moved=moved: moved.get(name, p)):  # type: ignore[misc]
            ends.append(attachment.open(question.batch, question.loss))
    pairs = {name: (value, ends[1].tokens.extras[name]) for name, value in ends[0].tokens.extras.items()}
    extras = {name: (a + b) / 2 if a.is_floating_point() else a for name, (a, b) in pairs.items()}
    middle = ends[0]._replace(tokens=replace(ends[0].tokens, extras=extras))  # values of sequences move too

    def of(at: Tensor) -> tuple[Tensor, Tensor]:
        ahead, behind = (_logits(end, at) for end in ends)
        # a column outside the vocabulary is -inf at both ends
        return (ahead + behind) / 2, torch.where(ahead == behind, 0.0, (ahead - behind) / (2 * step))

    return _slopes(question, middle, is_counted, of)


def _logits(opened: Opened, at: Tensor) -> Tensor:
    """Logits of some tokens in float32 or better."""
    states = opened.states[at].to(compute_dtype(opened.states))
    out = states.new_empty(len(at), opened.head.vocab)
    project(states, opened.head, slice(0, opened.head.vocab), out)
    return out


def _slopes(
    question: Question, opened: Opened, is_counted: Tensor, of: Callable[[Tensor], tuple[Tensor, Tensor | None]]
) -> Tensor:
    """<d f / d z, tangent> of each token, where `of` gives logits z and their tangent of some tokens at a time."""
    tokens, device, objective = opened.tokens, opened.states.device, question.loss.function
    every = is_counted.to(device).nonzero()[:, 0]
    extras = {name: value.to(device) for name, value in tokens.extras.items()}
    fields = tuple(sorted(read_objective(objective, extras).fields))
    pieces = []
    for at in every.split(max(1, _CHUNK_BYTES // (4 * opened.head.vocab))):
        z, tangent = of(at)
        mine = {name: value[at] for name, value in extras.items()}
        with torch.enable_grad():
            leaf = z.detach().to(torch.promote_types(z.dtype, torch.float32)).requires_grad_()
            losses = objective(from_logits(leaf, tokens.targets.to(device)[at], fields=fields, extras=mine))
            (dz,) = torch.autograd.grad(losses.sum(), leaf)
        pieces.append((dz * (0.0 if tangent is None else tangent)).sum(1, dtype=torch.float64))
    out = question.coefficients.new_zeros(is_counted.shape, dtype=torch.float64)
    return out.index_copy_(0, every.to(out.device), torch.cat(pieces).to(out.device)) if len(every) else out


def _dual(update: Mapping[str, Tensor]) -> Callable[[str, Tensor], Tensor]:
    def make(name: str, p: Tensor) -> Tensor:
        return forward_ad.make_dual(p.detach(), update[name].to(p.dtype)) if name in update else p

    return make

"""loss = sum of coefficients times an objective of the token statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.objectives import cross_entropy
from sftloss.objectives import objective as objective_of
from sftloss.objectives.terms import losses_of_logits
from sftloss.statistics import IGNORED, Head, Objective, Plan, TokenStats, map_logits, token_statistics
from sftloss.statistics.backends.backend import backend_of
from sftloss.statistics.checks import check_inputs, checked_plan, not_traced, read_objective
from sftloss.statistics.one_pass import LossCall, OnePass
from sftloss.statistics.products.logits import sum_dtype
from sftloss.statistics.tokens import Counted, check_type


@not_traced
def weighted_loss(
    hidden: Float[Tensor, "tokens hidden"],
    head: Head,
    targets: Int[Tensor, " tokens"],
    coefficients: Float[Tensor, " tokens"],
    objective: Objective | str = cross_entropy,
    *,
    extras: Mapping[str, Tensor] | None = None,
    plan: Plan | None = None,
) -> tuple[Tensor, TokenStats]:
    r"""Any objective, fused with the output head: the logits are never held.

    .. math:: L = \sum_i c_i \, f(s_i)

    Args:
        hidden: ``(tokens, hidden)``, the states whose logits predict `targets`.
        head: The output head; a frozen one costs no gradient product.
        targets: ``(tokens,)``, already shifted; ``-100`` is ignored.
        coefficients: ``(tokens,)``, weight over the step's normalizer (:mod:`sftloss.weights`). Tokens with
            coefficient 0 are dropped before any product, unless the coefficients require a gradient.
        objective: Function of the statistics that returns one loss a token, in nats; or an expression such as
            ``"cross_entropy + 1e-4 * z_loss"``.
        extras: Your own tensors, first axis ``tokens``, read by the objective as ``stats.extras[...]``.
        plan: How the work is cut. Every plan gives the same numbers unless it filters gradients.

    Returns:
        The loss, a scalar in float32 or better, and the detached statistics of the same pass, ``(tokens,)`` each;
        0 at dropped tokens. With nothing to learn the loss is 0 and still connected to the graph.

    Raises:
        TypeError: If an argument is of another type, such as a layer given as the head.
        ValueError: If shapes, dtypes, devices or ids cannot be right, the objective mixes tokens undeclared, or
            ``Plan(mode="one_pass")`` is given where two passes are needed.

    Gradient:
        Exact, in `hidden`, every tensor of `head`, and the objective's parameters, `extras` and `coefficients` where
        one of these requires a gradient (then in two passes). In one pass the head's gradient is held from forward to
        backward, in float32. Second derivatives raise.

    Example:
        >>> hidden, head = torch.zeros(2, 3, requires_grad=True), Head(torch.zeros(4, 3))
        >>> loss, stats = weighted_loss(hidden, head, torch.tensor([1, 2]), torch.tensor([0.5, 0.5]))
        >>> loss
        tensor(1.3863, grad_fn=<OnePassBackward>)
    """
    caller = "weighted_loss"
    check_inputs(caller, hidden, head, targets)
    plan, extras = checked_plan(caller, plan), extras or {}
    for name, value in {"coefficients": coefficients, **{f"extras[{n!r}]": v for n, v in extras.items()}}.items():
        check_type(caller, name, value, Tensor, f"Give one for each token, such as torch.ones({targets.shape[0]}).")
        if value.shape[:1] != targets.shape or (name == "coefficients" and value.ndim != 1):
            raise ValueError(f"{caller}: {name} has shape {tuple(value.shape)}, there are {targets.shape[0]} targets.")
    if isinstance(objective, str):
        objective = objective_of(objective)
    if not callable(objective):
        example = "a function of TokenStats or an expression such as 'cross_entropy'"
        raise TypeError(f"{caller}: objective must be {example}, got {objective!r}.")
    of_logits = _of_logits(hidden, head, targets, objective, plan)
    read = {**extras, **of_logits}
    reading = read_objective(objective, read)
    learns = reading.learns or (coefficients.requires_grad and torch.is_grad_enabled())
    call = LossCall(
        backend_of(hidden, head), targets, coefficients, objective, read, tuple(sorted(reading.fields)), plan
    )
    if plan.mode == "two_pass" or learns or reading.mixes_tokens:  # the last two need a graph over all tokens
        if plan.mode == "one_pass":
            why = "its parameters, extras or coefficients require a gradient" if learns else "it mixes tokens"
            raise ValueError(f"{caller}: this objective needs two passes, because {why}. Use Plan(mode='auto').")
        loss, stats = _two_passes(hidden, call)
        return loss, replace(stats, extras={n: v.detach() for n, v in read.items()} if of_logits else extras)
    loss, *values = OnePass.apply(hidden, head.weight, head.bias, head.low_rank, call)
    fields = dict(zip(call.returned, values, strict=True))
    return loss, TokenStats(fields, call.backend.vocab_size, read, call.filtered)


def _of_logits(hidden: Tensor, head: Head, targets: Tensor, objective: Objective, plan: Plan) -> dict[str, Tensor]:
    """Return what the objective reads of whole logits, one number a token with its gradient; mostly nothing."""
    if not (losses := losses_of_logits(objective)):
        return {}
    counted = Counted.of(targets != IGNORED)
    source, aligned, plan = (counted.take(hidden), head), (counted.take(targets),), Plan(tokens=plan.tokens)
    values = {name: map_logits(loss, source, rows=aligned, plan=plan) for name, loss in losses.items()}
    return {name: counted.put(value) for name, value in values.items()}


def _two_passes(hidden: Tensor, call: LossCall) -> tuple[Tensor, TokenStats]:
    # a coefficient that learns has the token's loss as its gradient, at 0 too
    is_counted, plan = call.is_counted, call.plan
    if call.coefficients.requires_grad:
        is_counted, plan = call.targets != IGNORED, replace(plan, counted=None)
    targets = torch.where(is_counted, call.targets, IGNORED)
    stats = token_statistics(hidden, call.backend.head, targets, fields=call.returned, extras=call.extras, plan=plan)
    losses = call.objective(stats)
    # a dropped token's loss and coefficient may be anything: where keeps them out of value and gradient
    coefficients = torch.where(is_counted, call.coefficients, 0.0)
    terms = torch.where(is_counted, losses, 0.0).to(sum_dtype(losses.device)) * coefficients
    # the sum over no token connects a loss that reads no statistic to the graph
    loss = terms.sum().to(losses.dtype) + stats.target_logprob[:0].sum()
    detached = {name: value.detach() for name, value in stats.fields.items()}
    return loss, replace(stats, fields=detached)

"""loss = sum of coefficients times an objective of the token statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.objectives import cross_entropy
from sftloss.statistics import Head, Plan, TokenStats, token_statistics
from sftloss.statistics.boundary import not_traced
from sftloss.statistics.engine import check_inputs
from sftloss.statistics.one_pass import OnePass, Work
from sftloss.statistics.probe import mixes_tokens, read_objective


@not_traced
def weighted_loss(
    hidden: Float[Tensor, "tokens hidden"],
    head: Head,
    targets: Int[Tensor, " tokens"],
    coefficients: Float[Tensor, " tokens"],
    objective: Callable[[TokenStats], Tensor] = cross_entropy,
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
        coefficients: ``(tokens,)``, weight over the step's normalizer (:mod:`sftloss.weights`), known beforehand and
            not differentiated. Rows with coefficient 0 are dropped before any product.
        objective: Statistics to one loss a token, in nats.
        extras: Your own tensors, first axis ``tokens``, read by the objective as ``stats.extras[...]``.
        plan: How the work is cut; every plan gives the same numbers unless it filters gradients.

    Returns:
        The loss, a scalar in float32 or better, and the detached statistics of the same pass, ``(tokens,)`` each;
        0 at dropped rows. With nothing to learn the loss is 0 and still connected to the graph.

    Raises:
        ValueError: If shapes, dtypes, devices or ids cannot be right, the objective mixes tokens undeclared, or one
            pass is asked for where it mixes tokens or learns.

    Gradient:
        Exact, in `hidden`, every tensor of `head`, and whatever `objective` and `extras` have that wants one (then in
        two passes). In one pass the head's gradient is held from forward to backward, in float32. Second derivatives
        raise.

    Example:
        >>> hidden, head = torch.zeros(2, 3, requires_grad=True), Head(torch.zeros(4, 3))
        >>> loss, stats = weighted_loss(hidden, head, torch.tensor([1, 2]), torch.tensor([0.5, 0.5]))
        >>> loss
        tensor(1.3863, grad_fn=<OnePassBackward>)
    """
    check_inputs("weighted_loss", hidden, head, targets)
    if coefficients.shape != targets.shape:
        raise ValueError(
            f"weighted_loss: coefficients have shape {tuple(coefficients.shape)}, targets {tuple(targets.shape)}. "
            "Give one coefficient a token."
        )
    extras, plan = extras or {}, plan or Plan()
    for name, value in extras.items():
        if value.shape[:1] != targets.shape:
            raise ValueError(f"weighted_loss: extras[{name!r}] has {value.shape[0]} rows, targets {targets.shape[0]}.")
    coefficients = coefficients.detach()
    reading = read_objective(objective, extras, targets.shape[0])
    fields = tuple(sorted(reading.fields))
    is_whole = mixes_tokens(objective) or reading.learns  # its own graph over all tokens is needed
    if is_whole and plan.mode == "one_pass":
        why = "has parameters or extras that want a gradient" if reading.learns else "mixes tokens"
        raise ValueError(f"weighted_loss: this objective {why}; use Plan(mode='two_pass') or 'auto'.")
    if is_whole or plan.mode == "two_pass":
        return _two_passes(hidden, head, targets, coefficients, objective, (extras, fields, plan))
    work = Work(targets, coefficients, objective, extras, fields, head.scale, head.softcap, plan, head.shard)
    loss, *values = OnePass.apply(hidden, head.weight, head.bias, head.low_rank, work)
    return loss, TokenStats(dict(zip(work.returned, values, strict=True)), head.vocab, extras)


def _two_passes(hidden, head, targets, coefficients, objective, rest):  # type: ignore[no-untyped-def]
    extras, fields, plan = rest
    counted = torch.where(coefficients != 0, targets, -100)
    stats = token_statistics(hidden, head, counted, fields=(*fields, *plan.fields), plan=plan)
    losses = objective(TokenStats(stats.fields, stats.vocab_size, extras))
    # a dropped row's objective may be anything at statistics of 0; where keeps it out of value and gradient
    terms = torch.where(counted != -100, losses, 0.0).double() * coefficients
    detached = {name: value.detach() for name, value in stats.fields.items()}
    return terms.sum().to(losses.dtype), TokenStats(detached, stats.vocab_size, extras)

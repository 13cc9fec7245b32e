"""Checks at the entrance of a fused loss: its arguments, its objective, and what autograd asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable, without a second of imports before the first call

from sftloss.statistics.definition import from_logits
from sftloss.statistics.head import Head
from sftloss.statistics.plan import Plan
from sftloss.statistics.tokens import Objective, TokenStats, check_ids, check_type

# keeps torch.compile out of a function: the graph ends before the call and goes on behind it
not_traced = _disable_dynamo
_LOGITS = ((2.0, 0.5, -1.0, 0.0), (0.0, 3.0, 0.2, -2.0), (-0.5, 0.1, 0.3, 0.9), (1.0, -1.5, 0.7, 4.0))


def check_inputs(caller: str, hidden: Tensor, head: Head, targets: Tensor) -> None:
    """Check types, shapes, dtypes and devices, without waiting for a device."""
    check_type(caller, "hidden", hidden, Tensor, "Give the hidden states, a (tokens, hidden) matrix.")
    wrap = "Head(weight)" if isinstance(head, Tensor) else "Head(linear.weight, linear.bias)"
    check_type(caller, "head", head, Head, f"Write {wrap}.")
    if hidden.ndim != 2 or not hidden.is_floating_point():
        raise ValueError(
            f"{caller}: hidden must be a floating (tokens, hidden) matrix, got {hidden.dtype} {tuple(hidden.shape)}. "
            "Flatten batch and time: hidden.reshape(-1, hidden.shape[-1])."
        )
    if hidden.shape[1] != head.width:
        adapter = "" if head.low_rank is None else f" plus {head.low_rank.shape[1]} columns for its adapter"
        shape = f"(vocab {head.vocab}, hidden {head.weight.shape[1]})"
        raise ValueError(f"{caller}: hidden is {hidden.shape[1]} wide, head.weight is {shape}{adapter}.")
    check_ids(caller, targets, hidden.shape[0], head.vocab)
    for name, other in (("head.weight", head.weight), ("head.low_rank", head.low_rank), ("targets", targets)):
        if other is not None and other.device != hidden.device:
            raise ValueError(f"{caller}: hidden is on {hidden.device}, {name} on {other.device}. Move them together.")


def checked_plan(caller: str, plan: Plan | None) -> Plan:
    """Return the plan, or the default one for None; refuse another type."""
    plan = Plan() if plan is None else plan
    check_type(caller, "plan", plan, Plan, f"Write Plan(mode={plan!r})." if isinstance(plan, str) else "Write Plan().")
    return plan


class _Recorder(dict[str, Tensor]):
    """A dict that records which entries are read; those that `values` computes when they are read too."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__(values)
        self.values_read, self.read = values, set[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return self.values_read[name]


class Reading(NamedTuple):
    """What one call of an objective showed."""

    fields: set[str]  # the statistics it reads
    learns: bool  # whether one of its parameters or extras wants a gradient
    mixes_tokens: bool  # whether it is marked so


def read_objective(objective: Objective, extras: Mapping[str, Tensor]) -> Reading:
    """Call the objective on four made-up tokens whose statistics want no gradient.

    Raises:
        ValueError: If the objective does not return one number a token, or if it mixes tokens without the mark
            ``objective.mixes_tokens = True``: computed chunk by chunk it would be silently wrong.
    """
    mixes_tokens = bool(getattr(objective, "mixes_tokens", False))
    device = next((value.device for value in extras.values()), torch.device("cpu"))
    four = torch.arange(4, device=device)
    samples = {}  # four rows of each extra, zeros on its graph where it has none
    for name, value in extras.items():
        rows = torch.cat([value[:4], value.new_zeros(1, *value.shape[1:])])
        samples[name] = rows[four % max(len(value[:4]), 1)]
    stats = from_logits(torch.tensor(_LOGITS, device=device), four % 3, extras=samples)
    recorder = _Recorder(stats.fields)
    whole = objective(TokenStats(recorder, 4, samples))
    with torch.no_grad():
        if not isinstance(whole, Tensor) or whole.shape != (4,):
            result = tuple(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
            shape = "one loss a token, shape (tokens,)"
            raise ValueError(f"weighted_loss: the objective must return {shape}; 4 tokens gave {result}.")
        if not mixes_tokens:
            halves = [objective(_rows_of(stats.fields, samples, rows)) for rows in (slice(0, 2), slice(2, 4))]
            if not torch.allclose(whole, torch.cat(halves), rtol=1e-4, atol=1e-6, equal_nan=True):
                raise ValueError(
                    "weighted_loss: the objective's value for a token depends on the other tokens, so chunks would "
                    "change it. Set objective.mixes_tokens = True to have it computed over all tokens at once."
                )
    return Reading(recorder.read, whole.requires_grad, mixes_tokens)


def _rows_of(fields: Mapping[str, Tensor], extras: Mapping[str, Tensor], rows: slice) -> TokenStats:
    return TokenStats({n: value[rows] for n, value in fields.items()}, 4, {n: v[rows] for n, v in extras.items()})


def refuse_second_order(caller: str) -> None:
    """Raise in a backward pass that was called with ``create_graph=True``, because it cannot be differentiated.

    ``once_differentiable`` raises only where the upstream gradient has a graph of its own. A gradient penalty made
    from ``loss.backward(create_graph=True)`` would become a constant without an error.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{caller}: has no second derivatives, and backward was called with create_graph=True. Leave it out, or "
            "take the objective of from_logits(logits, targets), which has them."
        )

"""The laws of an objective for anyone's own: finite, tokenwise, and the same in every mode of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from sftloss.loss import weighted_loss
from sftloss.objectives import cross_entropy, extras_of, sequence_values_of
from sftloss.objectives import objective as objective_of
from sftloss.objectives.terms import refuse_further_arguments
from sftloss.statistics import Head, Objective, Plan, TokenStats, from_logits
from sftloss.statistics.checks import read_objective
from sftloss.words import percent

Extras = Callable[[int], Mapping[str, Tensor]]
LAWS = {
    "tokenwise": "one number a token, which depends on no other token",
    "finite": "value and gradient are finite at extreme logits",
    "exact": "float32 keeps the digits of the gradient that matter, from p = 1e-26 to 1 - 1e-26",
    "fused": "one pass and two passes have the loss and the gradients of the definition",
    "neutral": "the neutral setting is cross-entropy",
    "gate": "the gradient is that of cross-entropy times the given gate",
}
"""What each law asks of an objective. The last two are checked where a neutral setting or a gate is given."""


@dataclass(frozen=True)
class ObjectiveReport:
    """Which laws an objective obeys.

    Attributes:
        broken: By law, what was seen; empty where all hold.
        checked: The laws that were checked.
        reads: The token statistics that it reads.
        is_detached: Whether part of it is held fixed: its gradient is then not the derivative of its value.
    """

    broken: Mapping[str, str]
    checked: tuple[str, ...]
    reads: tuple[str, ...]
    is_detached: bool

    @property
    def is_lawful(self) -> bool:
        """Whether every law that was checked holds."""
        return not self.broken

    def __str__(self) -> str:
        lines = [f"{name}: {self.broken.get(name, 'holds')} ({LAWS[name]})" for name in self.checked]
        fixed = "Part of it is held fixed: the gradient is not the derivative of the value."
        lines.append(f"It reads {', '.join(self.reads) or 'no statistic'}.{' ' + fixed if self.is_detached else ''}")
        return "\n".join(lines)


def check_objective(
    objective: Objective | str,
    *,
    extras: Extras | None = None,
    neutral: Objective | str | None = None,
    gate: Callable[[Tensor], Tensor] | None = None,
) -> ObjectiveReport:
    """Hold an objective to the laws that those of this package are held to.

    Args:
        objective: Function of :class:`TokenStats`, an expression, or an import path ``my_module:my_loss``.
        extras: Returns what it reads of a batch for n tokens, as ``lambda n: {"reference_logprob": -torch.rand(n)}``.
            By default, what its record declares is drawn at random (:func:`random_extras`).
        neutral: The objective at the setting at which it is cross-entropy.
        gate: The factor on cross-entropy's gradient as a function of the target's probability, from your paper. Only
            this finds a stop-gradient that is missing: the value does not show it.

    Returns:
        The report; its ``str`` has a line for each law.

    Raises:
        KeyError: If it reads a batch tensor that `extras` does not give.
        ValueError: If it needs more than token statistics, as ``my_loss(logits, labels)``.

    Example:
        >>> print(check_objective(lambda stats: -stats.target_logprob, gate=lambda p: torch.ones_like(p)))
        tokenwise: holds (one number a token, which depends on no other token)
        finite: holds (value and gradient are finite at extreme logits)
        exact: holds (float32 keeps the digits of the gradient that matter, from p = 1e-26 to 1 - 1e-26)
        fused: holds (one pass and two passes have the loss and the gradients of the definition)
        gate: holds (the gradient is that of cross-entropy times the given gate)
        It reads target_logprob.
    """
    function = objective_of(objective) if isinstance(objective, str) else objective
    try:
        refuse_further_arguments(function)
    except ValueError as error:
        raise ValueError(f"check_objective: {error}") from None
    # random ones are drawn once, so that two passes read the same
    made = cache(extras or (lambda tokens: random_extras(function, tokens)))
    laws: dict[str, Callable[[], str]] = {}
    try:
        reading = read_objective(function, made(4))
    except KeyError as error:
        cure = "give them for n tokens: extras=lambda n: {'NAME': torch.rand(n)}."
        raise KeyError(f"check_objective: it reads what extras does not hold ({error.args[0]}); {cure}") from None
    except ValueError as error:
        return ObjectiveReport({"tokenwise": str(error)}, ("tokenwise",), (), False)
    laws["tokenwise"] = lambda: "its mark mixes_tokens is set" if reading.mixes_tokens else ""
    laws["finite"] = lambda: _not_finite(function, made)
    laws["exact"] = lambda: _inexact(function, made)
    laws["fused"] = lambda: _unlike_definition(function, made)
    if neutral is not None:
        at_neutral = objective_of(neutral) if isinstance(neutral, str) else neutral
        laws["neutral"] = lambda: _differs(at_neutral(_rows(made)[1]), cross_entropy(_rows(made)[1]), "its value")
    if gate is not None:
        laws["gate"] = lambda: _off_gate(function, made, gate)
    broken = {name: law() for name, law in laws.items()}
    return ObjectiveReport(
        {name: text for name, text in broken.items() if text},
        tuple(laws),
        tuple(sorted(reading.fields)),
        _is_detached(function, made),
    )


def random_extras(objective: Objective, tokens: int) -> dict[str, Tensor]:
    """Return the batch tensors that an objective's record declares, drawn at random, the same at every call.

    Log-probabilities lie between -4 and 0, marks (``is_...``) are 0 or 1, candidates are three of the first three ids.
    """
    generator = torch.Generator("cpu").manual_seed(11)
    extras = {}
    for name in (*extras_of(objective), *sequence_values_of(objective)):
        size = (tokens, 3) if "candidate" in name else (tokens,)
        drawn = torch.rand(size, generator=generator, dtype=torch.float64, device="cpu")
        extras[name] = (drawn < 0.5).double() if name.startswith("is_") else -4 * drawn
        if name.endswith("_tokens"):
            extras[name] = (40 * drawn).round()
        if name == "candidate_is_target":  # here and there the first
            extras[name] = torch.arange(3) < (drawn[:, :1] < 0.3)
        if name == "candidate_ids":  # each once in a row, and here and there none
            extras[name] = torch.where(drawn < 0.1, -100, drawn.argsort(dim=1))
    return extras


def assert_objective(objective: Objective | str, **more: object) -> None:
    """:func:`check_objective` for a test suite.

    Raises:
        AssertionError: If it breaks a law; the message is the report.
    """
    report = check_objective(objective, **more)  # type: ignore[arg-type]
    if not report.is_lawful:
        raise AssertionError(str(report))


def _rows(made: Extras, moved: Tensor | float = 0.0) -> tuple[Tensor, TokenStats]:
    """Logits of 24 tokens that require a gradient, moved by a tensor, and their statistics, in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(24, 7, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, 7, (24,), generator=generator)
    targets[::2] = logits.argmax(dim=1)[::2]  # some objectives train likely targets only
    logits = (logits + moved).requires_grad_()
    return logits, from_logits(logits, targets, extras=made(24))


def _with_gap(gap: float, made: Extras, dtype: torch.dtype = torch.float32) -> tuple[Tensor, TokenStats]:
    logits = torch.tensor([[gap, 0.0, -1.0, float("-inf")]], dtype=dtype, requires_grad=True)
    return logits, from_logits(logits, torch.tensor([0]), extras=made(1))


def _gradient(losses: Tensor, logits: Tensor) -> Tensor:
    if not losses.requires_grad:
        return torch.zeros_like(logits)
    (gradient,) = torch.autograd.grad(losses.sum(), logits, allow_unused=True, materialize_grads=True)
    return gradient


def _not_finite(function: Objective, made: Extras) -> str:
    for gap in (0.0, 20.0, 60.0, 1e4, -20.0, -60.0, -1e4):
        logits, stats = _with_gap(gap, made)
        losses = function(stats)
        for name, value in (("value", losses), ("gradient", _gradient(losses, logits))):
            if not torch.isfinite(value).all():
                return f"broken, its {name} is {value.flatten()[0].item()} where the target's logit is {gap:g} above"
    return ""


def _inexact(function: Objective, made: Extras) -> str:
    for gap in (4.0, 12.0, 17.0, 30.0, 60.0, -4.0, -17.0, -60.0):
        (low, stats), (high, exact) = _with_gap(gap, made), _with_gap(gap, made, torch.float64)
        got = _gradient(function(stats), low)[0, 0].double()
        true = _gradient(function(exact), high)[0, 0]
        # a few dozen roundings of float32, or a millionth of what cross-entropy has there
        if not (got - true).abs() <= 1e-3 * true.abs() + 1e-6 * exact.other_logprob.exp().item():
            return f"broken, at a gap of {gap:g} its gradient is {got:.3g} in float32 and {true:.3g} in float64"
    return ""


def _unlike_definition(function: Objective, made: Extras) -> str:
    generator = torch.Generator().manual_seed(1)
    tokens, weight = (torch.randn(size, 5, dtype=torch.float64, generator=generator) for size in (24, 11))
    hidden, head = tokens.requires_grad_(), Head(weight.requires_grad_())
    targets = torch.randint(0, 11, (24,), generator=generator)
    coefficients = torch.randn(24, dtype=torch.float64, generator=generator)
    losses = function(from_logits(head.logits(hidden), targets, extras=made(24)))
    true = [(coefficients * losses).sum()]
    names = ("loss", "gradient of the hidden states", "gradient of the head")
    true += torch.autograd.grad(true[0], (hidden, weight), allow_unused=True, materialize_grads=True)
    for mode, plan in (("one pass", Plan("one_pass", tokens=5)), ("two passes", Plan("two_pass", columns=4))):
        plan = replace(plan, mode="two_pass") if getattr(function, "mixes_tokens", False) else plan
        loss = weighted_loss(hidden, head, targets, coefficients, function, extras=made(24), plan=plan)[0]
        got = [loss, *torch.autograd.grad(loss, (hidden, weight))]
        for name, a, b in zip(names, got, true, strict=True):
            if text := _differs(a, b, f"in {mode} the {name}"):
                return text
    return ""


def _off_gate(function: Objective, made: Extras, gate: Callable[[Tensor], Tensor]) -> str:
    logits, stats = _rows(made)
    plain = _gradient(cross_entropy(stats), logits)
    logits, stats = _rows(made)
    p = stats.target_logprob.detach().exp()
    return _differs(_gradient(function(stats), logits), gate(p)[:, None] * plain, "its gradient")


def _is_detached(function: Objective, made: Extras) -> bool:
    """Whether the gradient along a random direction is not the slope of the value."""
    logits, stats = _rows(made)
    direction = torch.randn(logits.shape, dtype=logits.dtype, generator=torch.Generator().manual_seed(2))
    slope = (_gradient(function(stats), logits) * direction).sum(dim=1)
    ends = [function(_rows(made, sign * 1e-6 * direction)[1]) for sign in (1, -1)]
    return not torch.allclose((ends[0] - ends[1]) / 2e-6, slope, rtol=1e-4, atol=1e-6)


def _differs(got: Tensor, true: Tensor, what: str) -> str:
    error = (got - true).abs().max().item() / max(true.abs().max().item(), 1e-30)
    return "" if error <= 1e-9 else f"broken, {what} is off by {percent(error)} of the largest value"

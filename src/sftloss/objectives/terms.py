"""Sums of named objectives: values that are equal, hashed, pickled and saved by what they print."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import mention
from sftloss.objectives.record import OBJECTIVES, ObjectiveRecord, are_stored, objective_record
from sftloss.registry import function_named, plug_ins
from sftloss.statistics import TokenStats, from_logits
from sftloss.words import listed

HyperValue = float | str | bool | None

KNOWN_AS = {
    **dict.fromkeys(("ce", "nll", "sft"), "cross_entropy"),
    "asft": "dft + 0.05 * kl_anchor",
    "confidence_penalty": "cross_entropy + 0.1 * entropy_bonus",
    "mae": "2 * gce(q=1)",
    "nce": "normalized_ce",
    "ntl": "number_token",
    "sce": "symmetric_ce",
    "slm": "rho_1",
    "wit": "--preset wit, beside any loss",
    "instruction_modelling": "--preset instruction-modelling, beside any loss",
}
"""Other names under which objectives and weights are known, in lower case, and what to write."""

OBJECTIVE_GROUP = "sftloss.objectives"
"""The entry points by which installed packages add objectives."""

_TAKES = (
    "An objective takes token statistics and hyper-parameters; a function of logits is computed by sftloss.map_logits, "
    'see "A loss of logits" in docs/objectives.md.'
)


@dataclass(frozen=True)
class Term:
    """One summand: a coefficient times a named objective with its hyper-parameters.

    Attributes:
        coefficient: Dimensionless factor, finite, not 0.
        name: Key of ``OBJECTIVES``, a plug-in's name, or the import path ``module:name`` of a function.
        hyper_parameters: ``(name, value)`` pairs as written, in the order of the objective's signature.
    """

    coefficient: float
    name: str
    hyper_parameters: tuple[tuple[str, HyperValue], ...] = ()

    def __call__(self, stats: TokenStats) -> Float[Tensor, " tokens"]:
        loss = objective_function(self.name)(stats, **dict(self.hyper_parameters))
        return loss if self.coefficient == 1 else self.coefficient * loss

    def spelling(self) -> str:
        """Return the objective without its coefficient: ``"focal(gamma=2)"``."""
        arguments = ", ".join(f"{name}={_show(value)}" for name, value in self.hyper_parameters)
        return f"{self.name}({arguments})" if arguments else self.name


@dataclass(frozen=True)
class ObjectiveSum:
    """A sum of objectives, itself an objective. Equal, hashed and pickled by value; ``str`` is the expression.

    Attributes:
        terms: The summands, in the order written; like terms are one.
    """

    terms: tuple[Term, ...]

    def __call__(self, stats: TokenStats) -> Float[Tensor, " tokens"]:
        first, *rest = (term(stats) for term in self.terms)
        return sum(rest, start=first)

    def __str__(self) -> str:
        text = ""
        for term in self.terms:
            minus, size = term.coefficient < 0, abs(term.coefficient)
            sign = (" - " if minus else " + ") if text else ("-" if minus else "")
            text += sign + ("" if size == 1 else f"{_show(size)} * ") + term.spelling()
        return text

    __repr__ = __str__


def extras_of(*objectives: Callable[..., Tensor]) -> tuple[str, ...]:
    """Return the names of the batch tensors that objectives declare to read as ``stats.extras``, each once.

    Example:
        >>> from sftloss.objectives import focal
        >>> extras_of(focal)
        ()
    """
    return tuple(dict.fromkeys(name for record in _records(objectives) for name in record.extras))


def stored_extras_of(*objectives: Callable[..., Tensor]) -> tuple[str, ...]:
    """Return those names of :func:`extras_of` that ``sftloss reference`` stores.

    Example:
        >>> from sftloss.objectives import idk, prift
        >>> stored_extras_of(idk, prift)
        ('reference_logprob',)
    """
    records = [record for record in _records(objectives) if are_stored(record.extras)]
    return tuple(dict.fromkeys(name for record in records for name in record.extras))


def sequence_values_of(*objectives: Callable[..., Tensor]) -> tuple[str, ...]:
    """Return the names of the values of whole sequences that objectives declare to read, each once.

    Example:
        >>> from sftloss.objectives import iw_sft_sequence
        >>> sequence_values_of(iw_sft_sequence)
        ('mean_log_ratio',)
    """
    return tuple(dict.fromkeys(name for record in _records(objectives) for name in record.sequence_values))


def losses_of_logits(objective: Callable[..., Tensor]) -> dict[str, Callable[..., Tensor]]:
    """Return the losses of ``(logits, targets)`` that an objective reads as ``stats.extras``, by name.

    Example:
        >>> from sftloss.objectives import objective
        >>> list(losses_of_logits(objective("dft + gem(kind='log_sigmoid')")))
        ['gem_log_sigmoid(0.7)']
    """
    if isinstance(objective, ObjectiveSum):
        parts = [(objective_function(term.name), dict(term.hyper_parameters)) for term in objective.terms]
    else:
        parts = [(objective.func, objective.keywords) if isinstance(objective, partial) else (objective, {})]
    records = [(objective_record("", function), hyper_parameters) for function, hyper_parameters in parts]
    return {name: loss for record, hyper in records for name, loss in record.of_logits(**hyper).items()}


def _records(objectives: Iterable[Callable[..., Tensor]]) -> Iterator[ObjectiveRecord]:
    """Yield the record of each objective, and of each term of a sum."""
    for objective in objectives:
        if isinstance(objective, ObjectiveSum):
            yield from (objective_record("", objective_function(term.name)) for term in objective.terms)
        else:
            yield objective_record("", objective.func if isinstance(objective, partial) else objective)


def objective_function(name: str) -> Callable[..., Tensor]:
    """Return the objective of this name; only a name with a colon, or a plug-in's own, imports anything.

    Raises:
        ValueError: If there is none.
    """
    try:
        return function_named(name, OBJECTIVES, OBJECTIVE_GROUP, "objective", " (see: sftloss losses)")
    except ValueError as error:
        if spelling := KNOWN_AS.get(name.lower().replace("-", "_")):
            raise ValueError(f"objective: {name!r} is written {spelling}.") from None
        raise ValueError(f"objective: {error}") from error.__cause__


def refuse_further_arguments(function: Callable[..., Tensor], hyper_parameters: Collection[str] = ()) -> None:
    """Refuse a function that needs more than token statistics and these hyper-parameters, as ``f(logits, labels)``.

    Raises:
        ValueError: Naming what it needs, and what to use for a function of logits.
    """
    try:
        _, *parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables of C have no signature
        return
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind in positional]
    missing = [name for name in needed if name not in hyper_parameters]
    if missing:
        name = getattr(function, "__name__", repr(function))
        raise ValueError(f"{name} needs {', '.join(missing)} beside its first argument. {_TAKES}")


def with_known_extras(objective: ObjectiveSum, *, has_reference: bool, trains: bool = False) -> ObjectiveSum:
    """Return the objective.

    Args:
        objective: What is to be computed by a command.
        has_reference: Whether stored values of a reference model are at hand.
        trains: Whether the command trains, and so makes batch tensors of the rows.

    Raises:
        ValueError: If it reads batch tensors that the command does not have, or is to be trained and has no loss.
    """
    every = list(_records([objective]))
    if trains and all(record.is_term for record in every):
        raise ValueError(
            f"objective: {objective} is a term to add, and no loss to train on alone; write {every[0].examples[0]!r}."
        )
    records = [record for record in every if record.extras]
    stored = [record for record in records if are_stored(record.extras)]
    others = [record for record in records if record not in stored and not (trains and record.made)]
    reads = f"objective: {objective} reads {listed(extras_of(objective))} of each token"
    if any(not record.made for record in others):
        raise ValueError(
            f"{reads}, which no command computes yet; train in Python with sftloss.Loss and put it into the batches."
        )
    if others:
        raise ValueError(
            f"{reads}, which sftloss train and sftloss compare make of the rows, and this command does not."
        )
    if losses_of_logits(objective) and not trains:
        raise ValueError(
            f"objective: {objective} is computed of whole logits, which sftloss train and sftloss compare do and this "
            "command does not."
        )
    if stored and not has_reference:
        raise ValueError(f"{reads}; give {mention('reference')}, {_folders(stored_extras_of(objective))}.")
    return objective


def _folders(extras: Collection[str]) -> str:
    """Return which folders hold these values of a reference model, and the options by which they are written."""
    options = []
    for model, name in (("reference", ""), ("old", " --name old")):
        if own := [extra for extra in extras if extra.startswith(f"{model}_")]:
            top = " --top-k 20" if any("candidate" in extra for extra in own) else ""
            options.append(f"sftloss reference{name}{top}")
    return f"the folder that {options[0]} writes" if len(options) == 1 else f"the folders that {listed(options)} write"


def plug_in_names() -> tuple[str, ...]:
    """Return the names of the objectives that installed packages add. Nothing is imported."""
    return tuple(name for name in plug_ins(OBJECTIVE_GROUP) if name not in OBJECTIVES)


def check_term(term: Term) -> None:
    """Evaluate a term on four made-up tokens, whole and in halves.

    Raises:
        ValueError: If it refuses its hyper-parameters, fails, does not return one number a token, or mixes tokens.
    """
    function, spelling = objective_function(term.name), shortened(term.spelling())
    logits = torch.tensor(_LOGITS, device="cpu")
    stats = from_logits(logits, torch.arange(4, device="cpu") % 3)
    try:
        refuse_further_arguments(function, dict(term.hyper_parameters))
        whole = term(stats)
        halves = [term(_rows(stats, piece)) for piece in (slice(0, 2), slice(2, 4))]
    except KeyError:
        return  # it reads extras, which only the batches of a run have; weighted_loss checks it there
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"objective: in {spelling}, {error}") from None
    except Exception as error:  # whatever a user's own function raises
        reason = f"objective: {spelling} raised {type(error).__name__}: {str(error).rstrip('.')}."
        raise ValueError(f"{reason} {_TAKES}" if isinstance(error, AttributeError) else reason) from error
    if not isinstance(whole, Tensor) or whole.shape != (4,):
        shape = tuple(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
        raise ValueError(f"objective: {spelling} must return one loss a token, shape (tokens,); 4 tokens gave {shape}.")
    is_same = torch.allclose(whole, torch.cat(halves), rtol=1e-4, atol=1e-6, equal_nan=True)
    if getattr(function, "mixes_tokens", False) or not is_same:
        raise ValueError(
            f"objective: {spelling} mixes tokens (a token's loss depends on the other tokens), so its value would "
            "depend on how a step is cut into micro-batches; an expression takes tokenwise objectives only."
        )


_LOGITS = ((2.0, 0.5, -1.0, 0.0), (0.0, 3.0, 0.2, -2.0), (-0.5, 0.1, 0.3, 0.9), (1.0, -1.5, 0.7, 4.0))


def _rows(stats: TokenStats, piece: slice) -> TokenStats:
    vocab_size = stats.vocab_size[piece] if isinstance(stats.vocab_size, Tensor) else stats.vocab_size
    return TokenStats({name: value[piece] for name, value in stats.fields.items()}, vocab_size)


def _show(value: HyperValue) -> str:
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e6 else repr(value)
    return repr(value)


def shortened(text: str) -> str:
    """Return text in quotes, at most 60 characters of it."""
    return repr(text if len(text) <= 60 else text[:57] + "...")

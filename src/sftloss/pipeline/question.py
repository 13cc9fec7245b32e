"""From words, as options give them, to the values that an analysis takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sftloss.errors import ConfigError, mention

if TYPE_CHECKING:
    from sftloss.weights import Normalization
    from sftloss.weights.normalization import Batches


def read_objectives(
    losses: Sequence[str], *, has_reference: bool = False, trains: bool = False
) -> Mapping[str, Callable[..., Any]]:
    """Objectives by their normal spelling, the first one first, each once.

    Args:
        losses: The objectives as expressions.
        has_reference: Whether stored values of a reference model are at hand, which some objectives read.
        trains: Whether the command trains, and so makes what other objectives read of the rows.

    Raises:
        ConfigError: If there is none, or one cannot be read; the message names the place.
    """
    from sftloss.objectives import objective, with_known_extras

    if not losses:
        raise ConfigError("empty", option="losses", cure="name at least one objective (see: sftloss losses)")
    by_name = {}
    for text in [losses] if isinstance(losses, str) else losses:
        try:
            read = with_known_extras(objective(text), has_reference=has_reference, trains=trains)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error).removeprefix("objective: "), option="losses") from None
        by_name[str(read)] = read
    return by_name


def read_normalization(text: str) -> Normalization:
    """What :func:`sftloss.weights.normalization` reads, with an error that an option can show.

    Raises:
        ConfigError: If it cannot be read.
    """
    from sftloss.weights import normalization

    try:
        return normalization(text)
    except ValueError as error:
        raise ConfigError(str(error).removeprefix("normalization: "), option="normalization") from None


def step_normalizations(
    batch_size: int | None, grad_accum: int | None, batches: Batches = "random"
) -> tuple[Normalization, ...]:
    """What a training step with these sizes may do: token means of micro-batches, and of the whole step.

    Raises:
        ConfigError: If `grad_accum` is given without `batch_size`.
    """
    from sftloss.weights import micro_batch_mean

    if batch_size is None:
        if grad_accum is not None:
            problem = f"needs {mention('batch_size')}, the sequences in a micro-batch"
            raise ConfigError(problem, option="grad_accum")
        return ()
    sizes = (batch_size, batch_size * (grad_accum or 1))
    return tuple(micro_batch_mean(size, batches) for size in dict.fromkeys(sizes))


def read_role_weights(texts: Mapping[str, str]) -> tuple[tuple[str, float], ...] | None:
    """``{"prompt": "0.1", "response": "1"}`` as weights by role; None, the data's own, where nothing is named.

    Raises:
        ConfigError: If a weight is no number >= 0, or a role is unknown.
    """
    from sftloss.roles import ROLES

    weights = []
    for role, text in texts.items():
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if role not in ROLES or not 0 <= weight < math.inf:
            cure = f"give weights >= 0 of {', '.join(ROLES)}, as prompt=0.1,response=1"
            raise ConfigError(repr(f"{role}={text}"[:60]), option="roles", cure=cure)
        weights.append((role, weight))
    return tuple(weights) or None

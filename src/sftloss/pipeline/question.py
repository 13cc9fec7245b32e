"""From words to the values that the analysis takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sftloss.errors import ConfigError, mention

if TYPE_CHECKING:
    from sftloss.weights import Normalization


def objectives(losses: Sequence[str]) -> Mapping[str, Callable[..., Any]]:
    """Objectives by their normal spelling, the first one first, each once.

    Raises:
        ConfigError: If there is none, or one cannot be read; the message says where.
    """
    from sftloss.objectives import objective

    if isinstance(losses, str):
        losses = [losses]
    if not losses:
        raise ConfigError("empty", option="losses", cure="name at least one objective (see: sftloss losses)")
    found = {}
    for text in losses:
        try:
            read = objective(text)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error), option="losses") from None
        found[str(read)] = read
    return found


def normalization(text: str) -> Normalization:
    """What :func:`sftloss.weights.normalization` reads, for a flag.

    Raises:
        ConfigError: If it cannot be read.
    """
    from sftloss import weights

    try:
        return weights.normalization(text)
    except ValueError as error:
        raise ConfigError(str(error).removeprefix("normalization: "), option="normalization") from None


def normalizations_of_a_step(batch_size: int | None, grad_accum: int | None) -> tuple[Normalization, ...]:
    """What a training step with these sizes may do: token means of micro-batches, and of the whole step.

    Raises:
        ConfigError: If `grad_accum` is given without `batch_size`.
    """
    from sftloss.weights import micro_batch_mean

    if batch_size is None:
        if grad_accum is not None:
            raise ConfigError(f"{mention('grad_accum')} needs {mention('batch_size')}, the examples per micro-batch")
        return ()
    sizes = (batch_size, batch_size * (grad_accum or 1))
    return tuple(micro_batch_mean(size) for size in dict.fromkeys(sizes))


def role_weights(texts: Mapping[str, str]) -> tuple[tuple[str, float], ...] | None:
    """``{"prompt": "0.1", "response": "1"}`` as weights by role; None, the data's own, where nothing is named.

    Raises:
        ConfigError: If a weight is no number >= 0, or a role is unknown.
    """
    from sftloss.roles import ROLES

    found = []
    for role, text in texts.items():
        try:
            weight = float(text)
        except ValueError:
            weight = math.nan
        if role not in ROLES or not 0 <= weight < math.inf:
            told = f"{role}={text}"[:60]
            raise ConfigError(
                f"{told!r}",
                option="roles",
                cure=f"give weights of at least 0 for {', '.join(ROLES)}, such as prompt=0.1,response=1",
            )
        found.append((role, weight))
    return tuple(found) or None

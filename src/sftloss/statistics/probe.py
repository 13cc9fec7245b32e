"""Ask an objective, on four made-up tokens: what do you read, do you look at one token at a time, do you learn?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sftloss.statistics.definition import from_logits
from sftloss.statistics.tokens import TokenStats

Objective = Callable[[TokenStats], Tensor]

_LOGITS = ((2.0, 0.5, -1.0, 0.0), (0.0, 3.0, 0.2, -2.0), (-0.5, 0.1, 0.3, 0.9), (1.0, -1.5, 0.7, 4.0))


class _Recorder(dict[str, Tensor]):
    """A dict that remembers which entries were read."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


@dataclass(frozen=True)
class Reading:
    """What an objective is made of.

    Attributes:
        fields: The statistics it reads, so that nothing else is computed.
        learns: Whether something beside the statistics wants a gradient from it: a parameter of its own, an extra.
    """

    fields: set[str]
    learns: bool


def read_objective(objective: Objective, extras: Mapping[str, Tensor], tokens: int) -> Reading:
    """Evaluate the objective where its statistics want no gradient.

    Raises:
        ValueError: If the objective does not return one number a token, or mixes tokens without saying so
            (``objective.mixes_tokens = True``): computed chunk by chunk it would be silently wrong.
    """
    device = next((value.device for value in extras.values()), torch.device("cpu"))
    like = [torch.arange(4, device=device) % max(tokens, 1)] if tokens else []
    samples = {name: value[like[0]] if like else value for name, value in extras.items()}
    stats = from_logits(torch.tensor(_LOGITS, device=device), torch.arange(4, device=device) % 3)
    recorder = _Recorder(stats.fields)
    whole = objective(replace(stats, fields=recorder, extras=samples))
    with torch.no_grad():
        if not isinstance(whole, Tensor) or whole.shape != (4,):
            got = tuple(whole.shape) if isinstance(whole, Tensor) else type(whole).__name__
            raise ValueError(
                f"weighted_loss: the objective must return one loss a token, shape (tokens,); 4 tokens gave {got}."
            )
        if not mixes_tokens(objective):
            halves = [objective(_part(stats, samples, piece)) for piece in (slice(0, 2), slice(2, 4))]
            if not torch.allclose(whole, torch.cat(halves), rtol=1e-4, atol=1e-6, equal_nan=True):
                raise ValueError(
                    "weighted_loss: the objective's value for a token depends on the other tokens, so chunks would "
                    "change it. Set objective.mixes_tokens = True to have it computed over all tokens at once."
                )
    return Reading(recorder.read, learns=whole.requires_grad)


def mixes_tokens(objective: Objective) -> bool:
    return bool(getattr(objective, "mixes_tokens", False))


def _part(stats: TokenStats, extras: Mapping[str, Tensor], piece: slice) -> TokenStats:
    count = stats.vocab_size
    return TokenStats(
        {name: value[piece] for name, value in stats.fields.items()},
        count[piece] if isinstance(count, Tensor) else count,
        {name: value[piece] for name, value in extras.items()},
    )

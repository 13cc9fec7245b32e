"""Spikes in the run's history: at which step, and the rows behind each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftloss.ranks import gather_over_ranks
from sftloss.training import Pass
from sftloss.training.watch.rows import say_largest
from sftloss.training.watch.spikes import SpikeWatch


class NotedSpikes(SpikeWatch):
    """A watch that also keeps what it told, until a line of the log is written.

    Attributes:
        step: The optimizer step now under way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self._notes: list[dict[str, Any]] = []

    def look(self, seen: Pass) -> bool:
        begins = super().look(seen)
        if begins:
            self._notes.append({"step": self.step, "spike": say_largest(seen)})
        return begins

    def take(self) -> list[dict[str, Any]]:
        """What every rank has kept, by step; to be asked for on every rank."""
        mine, self._notes = self._notes, []
        return sorted(sum(gather_over_ranks(mine), []), key=lambda note: note["step"])

    def state_dict(self) -> dict[str, Any]:
        return {"notes": self._notes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._notes = list(state["notes"])

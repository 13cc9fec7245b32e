"""What a run gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        folder: Where its results are: ``model/``, ``history.jsonl``, ``train.json``, ``checkpoints/``; None where the
            recipe names no output.
        model: The trained model, its own forward back in place, in evaluation mode.
        history: What was logged, in order, each with its `step`; losses in nats.
        metrics: The last evaluation, or with `keep_best` that of the step handed out: ``loss`` (the one trained),
            ``cross_entropy``, ``entropy``, ``token_accuracy``, ``trained_tokens``, and ``tasks`` and ``languages``:
            name to the same. Empty without held-out rows.
        steps: Optimizer steps in all.
        facts: What `train.json` says: versions, command, data, ranks, and under ``tokens`` how many the passes were
            given (``seen``, all but padding) and how many of them had a weight (``trained``); where tasks are
            weighted, under ``tasks`` their last weights, losses and shares; with `keep_best` under ``best`` the step
            handed out and its held-out loss.
    """

    folder: Path | None
    model: Any
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    steps: int
    facts: Mapping[str, Any] = field(default_factory=dict)


class Interrupted(KeyboardInterrupt):
    """A run was told to stop, finished its step and saved a checkpoint, if it has an output.

    Attributes:
        step: The step it stopped after.
        signal: Number of the signal, 2 for Ctrl-C.
        checkpoint: Folder of the checkpoint, or None.
    """

    def __init__(self, step: int, signal: int, checkpoint: Path | None) -> None:
        where = "nothing was saved" if checkpoint is None else f"{checkpoint} is complete, --resume goes on from it"
        super().__init__(f"stopped after step {step}; {where}.")
        self.step, self.signal, self.checkpoint = step, signal, checkpoint

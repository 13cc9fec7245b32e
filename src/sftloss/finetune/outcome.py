"""The result of a run: the model, its log, and the facts that train.json holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftloss.errors import Spell, as_argument, mention, spelled
from sftloss.finetune.recipe import Recipe
from sftloss.finetune.rows import DataSet
from sftloss.models import weights_note


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
        facts: The content of `train.json`: versions, command, data with its account of rows, ranks, and under
            ``tokens`` how many the passes were given (``seen``, all but padding) and how many of them had a weight
            (``trained``); under ``filter`` what a tolerance left out (``kept``, ``dropped`` and ``error`` of
            ``TokenStats.filtered``), None without one; where tasks are weighted, under ``tasks`` their last weights,
            losses and shares; with `keep_best` under ``best`` the step handed out and its held-out loss.
    """

    folder: Path | None
    model: Any
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    steps: int
    facts: Mapping[str, Any] = field(default_factory=dict)


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, finished its step and saved a checkpoint, if it has an output.

    Attributes:
        step: The step it stopped after.
        signal: Number of the signal, 2 for Ctrl-C.
        checkpoint: Folder of the checkpoint, or None.
    """

    def __init__(self, step: int, signal: int, checkpoint: Path | None) -> None:
        super().__init__(step, signal, checkpoint)
        self.step, self.signal, self.checkpoint = step, signal, checkpoint

    def __str__(self) -> str:
        return self.message(as_argument)

    def message(self, spell: Spell) -> str:
        """What happened and how to continue, the option written by `spell`."""
        cure = spelled(f"{self.checkpoint} is complete, {mention('resume', True)} continues from it", spell)
        return f"stopped after step {self.step}; {'nothing was saved' if self.checkpoint is None else cure}."


def identity(recipe: Recipe, data: DataSet, held_out: DataSet | None, ranks: int) -> dict[str, Any]:
    """What decides the trained weights, besides the versions."""
    return {
        "recipe": recipe.identity(),
        "data": data.digest(),
        "held_out": None if held_out is None else held_out.digest(),
        "ranks": ranks,
    }


def model_facts(model: Any) -> dict[str, Any]:
    config = model.config
    return {
        "name": str(getattr(config, "_name_or_path", "")) or None,
        "weights": weights_note(model),
        "commit": getattr(config, "_commit_hash", None),
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
    }

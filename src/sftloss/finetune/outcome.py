"""The result of a run: the model, its log, the facts that train.json holds, and the model card made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftloss.errors import Spell, as_argument, mention, spelled
from sftloss.finetune.recipe import Recipe
from sftloss.finetune.rows import DataSet
from sftloss.models import DEMO, SMOLLM2, weights_note
from sftloss.version import __version__

_IN_A_FOLDER = re.compile(r"(?<![\w.])[~.]{0,2}/(?:[^\s,()/]+/)*")


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


def model_card(facts: Mapping[str, Any]) -> str:
    """The content of `README.md` beside the trained weights: what was trained on what, in the Hub's format.

    Folders of this machine are named by their last part only.

    Args:
        facts: The content of `train.json`.
    """
    from huggingface_hub import ModelCardData

    recipe, model, held_out = facts["recipe"], facts["model"], facts["held_out"]
    is_adapter = recipe["lora"] is not None
    name = recipe["model"] or model["name"]
    base = _public(name or model["class"])
    tags = ["sft", "sftloss", *(["lora"] if is_adapter else [])]
    is_of_hub = base == name and not Path(base).exists() and base not in (DEMO, SMOLLM2)
    data = ModelCardData(
        base_model=base if is_of_hub else None,
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=tags,
    )
    rows = {
        "loss": f"`{recipe['loss']}`",
        "normalization": f"`{recipe['normalization']}`, divided by `{recipe['normalizer']}`",
        "roles": _pairs(recipe["roles"]),
        "tasks": recipe["tasks"] and _IN_A_FOLDER.sub("", recipe["tasks"]),
        "tolerance": recipe["tolerance"] or None,
        "adapters": _pairs(recipe["lora"]),
        "trained": f"{model['trained_parameters']:,} of {model['parameters']:,} parameters, {model['dtype']}",
        "data": _data_line(facts["data"]),
        "held out": None if held_out is None else _data_line(held_out),
        "steps": f"{facts['steps']}, each of {recipe['batch_size']} x {recipe['grad_accum']} rows on each rank",
        "ranks": facts["ranks"],
        "trained tokens": f"{facts['tokens']['trained']:,}",
        "optimizer": f"{recipe['optimizer']}, learning rate {recipe['learning_rate']:g}, {recipe['schedule']}, "
        f"seed {recipe['seed']}",
        "held-out cross-entropy": _in_nats(facts["metrics"].get("cross_entropy")),
        "held-out loss": _in_nats(facts["metrics"].get("loss")),
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    }
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items() if value is not None]
    table = "\n".join(["| | |", "|---|---|", *lines])
    digest = "The digest is the SHA-256 of the tokens, weights and roles that were trained on."
    heading = f"# {base}, fine-tuned\n\nTrained with `sftloss train`, sftloss {__version__}."
    return f"---\n{data.to_yaml()}\n---\n\n{heading}\n\n## Training\n\n{table}\n\n{digest}\n"


def _public(name: str) -> str:
    """A name on the Hub as it is; of a path on this machine the last part."""
    path = Path(name).expanduser()
    return path.resolve().name if path.is_absolute() or path.exists() or name.count("/") > 1 else name


def _data_line(data: Mapping[str, Any]) -> str:
    counts = f"{data['examples']:,} examples, {data['trained_tokens']:,} trained tokens"
    return f"{_public(data['source'])}: {counts}, digest `{data['digest']}`"


def _pairs(values: Mapping[str, Any] | None) -> str | None:
    return None if values is None else ", ".join(f"{name} {value}" for name, value in values.items())


def _in_nats(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g} nats"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")

"""`sftloss train`: fine-tune a model on a data file under any loss."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from sftloss.cli.language import language_of
from sftloss.cli.options import (
    EVAL_DATA_FLAG,
    EVAL_SHARE_FLAG,
    JSON_FLAG,
    OUTPUT,
    TRAINING,
    DataOptions,
    DeviceOptions,
    FolderOptions,
    LossOptions,
    ModelOptions,
    TrainingOptions,
    Verbosity,
    recipe_fields,
)
from sftloss.config import command_line, option, part, to_yaml, values_of
from sftloss.errors import as_flag, spelled
from sftloss.files import write_atomic
from sftloss.models import without_collecting
from sftloss.words import counted, percent

if TYPE_CHECKING:
    from sftloss.finetune import Recipe

_RESULTS = ("model", "history.jsonl", "train.json", "curve.html", "checkpoints", ".next")
_METRICS = {
    "loss": ("loss", ".4f"), "cross-entropy": ("cross_entropy", ".4f"), "accuracy": ("token_accuracy", ".1%"),
    "tokens": ("trained_tokens", ",.0f"),
}  # fmt: skip
_TASKS = {
    "weight": ("weight", ".3f"), "loss": ("current_loss", ".4f"), "trend": ("loss_trend", ""),
    "share of tokens": ("token_share", ".1%"), "effective share": ("effective_share", ".1%"),
}  # fmt: skip
_UNITS = (("GB", 2**30), ("MB", 2**20), ("kB", 2**10))


@dataclass(frozen=True)
class TrainOptions:
    """Flags and YAML keys of `sftloss train`: the fields of `sftloss.finetune.Recipe`."""

    model: ModelOptions = part(ModelOptions())
    data: DataOptions = part(DataOptions())
    eval_data: str | None = option(None, EVAL_DATA_FLAG)
    eval_share: float = option(0.0, EVAL_SHARE_FLAG)
    loss: LossOptions = part(LossOptions())
    training: TrainingOptions = part(TrainingOptions())
    seed: int = option(
        0, "Seed of the row order, the held-out rows, new adapters and dropout.", panel=TRAINING, minimum=0
    )
    device: DeviceOptions = part(DeviceOptions())
    eval_every: int | None = option(
        None, "Optimizer steps between evaluations (default: one before and one after training).", panel=OUTPUT,
        minimum=1,
    )  # fmt: skip
    eval_batch_size: int | None = option(
        None, "Examples per evaluation batch (default: as --batch-size).", panel=OUTPUT, minimum=1
    )
    save_every: int = option(500, "Optimizer steps between checkpoints.", panel=OUTPUT, minimum=1)
    logging_every: int = option(10, "Optimizer steps between log lines.", panel=OUTPUT, minimum=1)
    watch_gradients: int | None = option(
        None, "Optimizer steps between two looks at the gradient norm of each example, logged by task and length; 125 "
        "costs less than 1 % of the time.", panel=OUTPUT, minimum=1, metavar="N",
    )  # fmt: skip
    keep: int | None = option(2, "Number of newest checkpoints to keep.", panel=OUTPUT, minimum=1)
    keep_best: bool = option(
        False, "Save a checkpoint at every evaluation and end with the one of lowest held-out loss.", panel=OUTPUT
    )
    report_to: tuple[str, ...] = option(
        (), "Experiment tracker: tensorboard, wandb or trackio.", panel=OUTPUT, metavar="NAME"
    )
    run_name: str | None = option(None, "Name of the run in the experiment trackers.", panel=OUTPUT)
    folder: FolderOptions = part(FolderOptions("sftloss-train"), writes={"output": _RESULTS})
    resume: bool = option(
        False, "Continue from the newest checkpoint in the output folder, or start where there is none.", panel=OUTPUT
    )
    resume_from: str | None = option(
        None, "Continue from this checkpoint in the output folder, e.g. checkpoint-200.", panel=OUTPUT,
        metavar="checkpoint-N",
    )  # fmt: skip
    dry_run: bool = option(
        False, "Show the options, the first example, counts and memory, and train nothing.", panel=OUTPUT
    )
    json: str | None = option(None, JSON_FLAG)


def train(options: TrainOptions, verbosity: Verbosity) -> int:
    """Fine-tune a model on a data file under any loss. A killed run continues with --resume.

    Ctrl-C and SIGTERM finish the current step, save a checkpoint and exit with 130 and 143.

    Example: sftloss train --model MODEL --data train.jsonl --eval-share 0.1 --loss dft
    """
    with without_collecting():
        from sftloss.cli.show import hide_progress_bars, print_note
        from sftloss.finetune import Interrupted, fine_tune, plan
        from sftloss.finetune.callbacks import LogLines
        from sftloss.ranks import launched_as

    lang, recipe, (rank, ranks) = language_of(options.folder.lang), recipe_of(options), launched_as()
    hide_progress_bars()
    verbosity = verbosity if rank == 0 else replace(verbosity, quiet=True)
    if options.dry_run:
        if rank == 0:
            _print_plan(plan(recipe, ranks=ranks), options)
        return 0
    note = partial(print_note, verbosity=verbosity)
    try:
        outcome = fine_tune(recipe, callbacks=[LogLines(note)], on_rows=partial(_print_rows, verbosity=verbosity))
    except Interrupted as stop:
        note(stop.message(as_flag))
        return 128 + stop.signal
    if rank == 0:
        _print_outcome(outcome, options, lang, verbosity)
    return 0


def recipe_of(options: TrainOptions) -> Recipe:
    """The options as the recipe that `fine_tune` takes."""
    from sftloss.finetune import Recipe

    return Recipe(**recipe_fields(values_of(options)), command=str(command_line("train", options)))


def _print_rows(accounts: Sequence[Mapping[str, Any]], verbosity: Verbosity) -> None:
    """What became of the rows of each source."""
    from sftloss.cli.show import print_note
    from sftloss.finetune.rows import account_lines

    for line in (line for account in accounts for line in account_lines(account)):
        print_note(spelled(line, as_flag), verbosity)


def _print_outcome(outcome: Any, options: TrainOptions, lang: str, verbosity: Verbosity) -> None:
    """The curve as a page; the evaluation and the task weights as tables, or everything as JSON."""
    from sftloss.cli.show import print_note, print_text
    from sftloss.pipeline import training_curve
    from sftloss.report.language import translated

    training_curve(outcome.history, outcome.facts, lang).to_html(outcome.folder / "curve.html")
    if options.json is not None:
        text = (outcome.folder / "train.json").read_text(encoding="utf-8")
        if options.json == "-":
            print_text(text)
            return
        write_atomic(options.json, text)
    metrics, tasks = outcome.metrics, outcome.facts["tasks"]
    if metrics:
        rows = {translated("all examples", lang): metrics, **metrics.get("tasks", {}), **metrics.get("languages", {})}
        _print_table(lang, "held out", _METRICS, rows)
    if tasks is not None:
        _print_table(lang, "task", _TASKS, tasks["by_task"])
        conflicts = tasks["conflicts"]
        if conflicts is not None and conflicts["steps"]:
            rate, cosine = conflicts["conflict_rate"], conflicts["mean_cosine"]
            line = f"gradients of two tasks conflicted in {percent(rate)} of the pairs, mean cosine {cosine:+.3f}"
            typer.echo(translated(line, lang))
    if filtered := outcome.facts["filter"]:
        kept, dropped, error = filtered.values()
        line = (
            f"the head's gradient products took {percent(kept)} of the vocabulary columns; {percent(dropped)} of their "
            f"mass was replaced, and they err by {error:.2g} (measured)"
        )
        typer.echo(translated(line, lang))
    best = outcome.facts["best"]
    chosen = "" if best is None else f": step {best['step']}, which has the lowest held-out loss, {best['loss']:.4g}"
    steps = counted(outcome.steps, "step")
    print_note(f"wrote {outcome.folder}/model and {outcome.folder}/curve.html after {steps}{chosen}", verbosity)


def _print_table(
    lang: str, head: str, columns: Mapping[str, tuple[str, str]], rows: Mapping[str, Mapping[str, Any]]
) -> None:
    """A table with a line for each row: its name, and for each column the value of a key in a format."""
    from rich.table import Table
    from rich.text import Text

    from sftloss.cli.show import stdout_console
    from sftloss.report.language import translated
    from sftloss.report.text import clean

    table = Table(*(translated(text, lang) for text in (head, *columns)))
    for name, row in rows.items():
        values = ((row.get(key), spec) for key, spec in columns.values())
        cells = ("" if value is None else translated(format(value, spec), lang) for value, spec in values)
        table.add_row(Text(clean(name)), *cells)
    stdout_console().print(table)


def _print_plan(plan: Any, options: TrainOptions) -> None:
    """Options, the first example in colors, counts and memory; with ``--json -`` the last two alone."""
    from sftloss.cli.show import print_text, stdout_console
    from sftloss.finetune import strip_of
    from sftloss.finetune.rows import account_lines
    from sftloss.report.terminal import render_mask
    from sftloss.report.text import clean, clean_block

    memory = {**plan.memory, "total": plan.total}
    if options.json == "-":
        facts = {"counts": plan.counts, "rows": plan.accounts, "tasks": plan.tasks, "memory": memory}
        print_text(json.dumps(facts, indent=2))
        return
    console = stdout_console()
    console.print(to_yaml(options), markup=False)
    render_mask([strip_of(plan.first, plan.tokenizer)], console)
    lines = ["", *(spelled(line, as_flag) for account in plan.accounts for line in account_lines(account)), ""]
    lines += [f"{name.replace('_', ' '):<16}{count:>16,}" for name, count in plan.counts.items()]
    for name, task in plan.tasks.items():
        share = task["trained_tokens"] / plan.counts["trained_tokens"]
        lines.append(f"task {clean(name):<11}{task['examples']:>16,}  rows, {percent(share)} of the trained tokens")
    lines.append("\nMemory per process without sharding (activations are an estimate)")
    lines += [f"{name:<16}{_size(size):>16}" for name, size in memory.items() if name != "logits_not_held"]
    lines.append(f"{'logits':<16}{'none':>16}  ({_size(plan.memory['logits_not_held'])} for a loss from logits)")
    console.print(clean_block("\n".join(lines)), markup=False)


def _size(count: float) -> str:
    for unit, size in _UNITS:
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} B"

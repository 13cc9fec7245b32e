"""`sftloss train`: fine-tune a model on a data file under any loss."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, replace
from typing import Any

from sftloss.cli.options.options import Manner
from sftloss.cli.options.train import TrainOptions
from sftloss.config import command_line, to_yaml
from sftloss.errors import ConfigError
from sftloss.files import write_atomic

_UNITS = (("GB", 2**30), ("MB", 2**20), ("kB", 2**10))


def train(options: TrainOptions, manner: Manner) -> int:
    """Fine-tune a model on a data file under any loss. Killed at any time, it goes on with --resume; Ctrl-C and SIGTERM
    finish the step, save a checkpoint and exit with 130 and 143."""
    from sftloss.cli.show import check_targets, hush_bars, note
    from sftloss.finetune import Interrupted, fine_tune, plan
    from sftloss.ranks import launched_as

    recipe, (rank, ranks) = recipe_of(options), launched_as()
    hush_bars()
    manner = manner if rank == 0 else replace(manner, quiet=True)
    if options.dry_run:
        if rank == 0:
            _show_plan(plan(recipe, ranks=ranks), options)
        return 0
    if rank == 0:
        check_targets(options.json, replace=options.overwrite or options.resume)
    try:
        outcome = fine_tune(recipe, callbacks=[] if manner.quiet else [_lines(manner)])
    except Interrupted as stop:
        note(str(stop), manner)
        return 128 + stop.signal
    if rank == 0:
        _show(outcome, options, manner)
    return 0


def recipe_of(options: TrainOptions) -> Any:
    """The options as the recipe that `fine_tune` takes."""
    from sftloss.finetune import Lora, Recipe

    names = {f.name for f in fields(Recipe)} & {f.name for f in fields(TrainOptions)}
    given: dict[str, Any] = {name: getattr(options, name) for name in names}
    given["roles"] = {role: _number("roles", weight) for role, weight in options.roles.items()} or None
    given["columns"] = options.columns or None
    if options.normalizer.replace(".", "", 1).isdigit():
        given["normalizer"] = float(options.normalizer)
    if options.lora_r is not None:
        given["lora"] = Lora(options.lora_r, options.lora_alpha, options.lora_dropout, options.lora_targets)
    elif options.lora_alpha is not None or options.lora_dropout or options.lora_targets:
        raise ConfigError("--lora-r is missing: the rank of the adapters, as --lora-r 16.")
    return Recipe(**given, command=str(command_line("train", options)))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--{name}: expected a number, got {text[:40]!r}.") from None


def _lines(manner: Manner) -> Any:
    """One line on stderr for each of the log."""
    from transformers import TrainerCallback

    from sftloss.cli.show import note

    class Lines(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            told = {name: logs[name] for name in ("loss", "eval_loss") if name in logs}
            for prefix in ("", "eval_"):
                for name in ("cross_entropy", "token_accuracy", "spikes"):
                    if prefix + name in logs:
                        told[prefix + name] = logs[prefix + name]
            if told and state.is_world_process_zero:
                note(f"step {state.global_step}/{state.max_steps}  {_said(told)}", manner)

    return Lines()


def _said(values: dict[str, float]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())


def _show(outcome: Any, options: TrainOptions, manner: Manner) -> None:
    """The evaluation as a table, or everything as JSON."""
    from sftloss.cli.show import note

    if options.json is not None:
        text = (outcome.folder / "train.json").read_text(encoding="utf-8")
        if options.json == "-":
            sys.stdout.write(text)
            return
        write_atomic(options.json, text)
    _show_metrics(outcome.metrics)
    _show_tasks(outcome.facts["tasks"])
    best = outcome.facts["best"]
    chosen = "" if best is None else f": step {best['step']}, whose held-out loss is the lowest, {best['loss']:.4g}"
    note(f"wrote {outcome.folder}/model after {outcome.steps} steps{chosen}", manner)


def _show_metrics(metrics: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    if not metrics:
        return
    table = Table("held out", "loss", "cross-entropy", "accuracy", "tokens")
    rows = [("all", metrics), *metrics.get("tasks", {}).items(), *metrics.get("languages", {}).items()]
    for name, row in rows:
        loss = "" if "loss" not in row else f"{row['loss']:.4f}"
        numbers = (f"{row['cross_entropy']:.4f}", f"{row['token_accuracy']:.1%}", f"{row['trained_tokens']:,.0f}")
        table.add_row(name, loss, *numbers)
    Console(highlight=False).print(table)


def _show_tasks(facts: Any) -> None:
    """Where the weights of the tasks ended."""
    from rich.console import Console
    from rich.table import Table

    if facts is None:
        return
    table = Table("task", "weight", "loss", "trend", "share of tokens", "effective share")
    for name, row in facts["by_task"].items():
        shares = (_percent(row["token_share"]), _percent(row["effective_share"]))
        loss = "" if row["current_loss"] is None else f"{row['current_loss']:.4f}"
        table.add_row(name, f"{row['weight']:.3f}", loss, row["loss_trend"], *shares)
    console = Console(highlight=False)
    console.print(table)
    conflicts = facts["conflicts"]
    if conflicts is not None and conflicts["steps"]:
        rate, cosine = _percent(conflicts["conflict_rate"]), conflicts["mean_cosine"]
        console.print(f"gradients of two tasks conflicted in {rate} of the pairs, mean cosine {cosine:+.3f}")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _show_plan(plan: Any, options: TrainOptions) -> None:
    """Options, the first example coloured, counts and memory; with ``--json -`` the last two alone."""
    if options.json is not None:
        told = {"counts": dict(plan.counts), "tasks": plan.tasks, "memory": {**plan.memory, "total": plan.total}}
        text = json.dumps(told, indent=2)
        if options.json == "-":
            sys.stdout.write(text + "\n")
            return
    from rich.console import Console

    from sftloss.finetune import strip_of
    from sftloss.report.terminal.mask import render_mask

    console = Console(soft_wrap=False, highlight=False)
    console.print(to_yaml(options), markup=False)
    render_mask([strip_of(plan.first, plan.tokenizer)], console)
    console.print()
    for name, count in plan.counts.items():
        console.print(f"{name.replace('_', ' '):<16}{count:>16,}", markup=False)
    for name, told in plan.tasks.items():
        share = told["trained_tokens"] / plan.counts["trained_tokens"]
        console.print(f"task {name:<11}{told['examples']:>16,}  rows, {share:.1%} of the trained tokens", markup=False)
    console.print("\nMemory of each process, before anything is split over them; activations are a rule of thumb")
    for name, size in {**plan.memory, "total": plan.total}.items():
        if name != "logits_not_held":
            console.print(f"{name:<16}{_size(size):>16}", markup=False)
    console.print(f"{'logits':<16}{'none':>16}  ({_size(plan.memory['logits_not_held'])} with a loss from logits)")


def _size(count: float) -> str:
    for unit, size in _UNITS:
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} B"

"""`sftloss inspect`: what is trained on, and is the mask right?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sftloss.cli.exit import DATA
from sftloss.cli.options import (
    OUTPUT,
    DataOptions,
    FolderOptions,
    ModelOptions,
    ShowOptions,
    StepOptions,
    Verbosity,
)
from sftloss.config import command_line, option, part, to_yaml
from sftloss.errors import ConfigError, mention

if TYPE_CHECKING:
    from sftloss.report import Report


@dataclass(frozen=True)
class InspectFlags:
    """Flags and YAML keys of `sftloss inspect`."""

    model: ModelOptions = part(ModelOptions(), optional=("model",))
    data: DataOptions = part(DataOptions())
    step: StepOptions = part(StepOptions())
    examples: int = option(3, "Number of examples shown token by token.", panel=OUTPUT, minimum=0)
    dry_run: bool = option(False, "Show the options and what would be trained, and write nothing.", panel=OUTPUT)
    folder: FolderOptions = part(FolderOptions())
    show: ShowOptions = part(ShowOptions())


def inspect(options: InspectFlags, verbosity: Verbosity) -> int:
    """Show what is trained on. The mask audit: it reads the tokenizer and the data, no weights.

    Example: sftloss inspect --model MODEL --data train.jsonl
    """
    from sftloss.analysis.mask.inspect import InspectOptions
    from sftloss.cli.show import print_note, print_report, progress_bar, verdict
    from sftloss.data import load_tokenizer
    from sftloss.pipeline import Run, inspect

    name, show, folder = options.model.tokenizer or options.model.model, options.show, options.folder
    if not name:
        cure = f"give {mention('model')} or {mention('tokenizer')}"
        raise ConfigError("missing", option="tokenizer", cure=cure)
    if options.dry_run:
        show, folder = (
            replace(show, json="-" if show.json == "-" else None, markdown=None),
            replace(folder, output=None),
        )
    question = InspectOptions(options.examples, options.step.batch_size, options.step.grad_accum)
    given = "tokenizer" if options.model.tokenizer else "model"
    with progress_bar("reading", verbosity) as progress:
        command = command_line("inspect", options)
        run = Run(**options.data.reading, **folder.place, progress=progress, command=command)
        tokenizer = load_tokenizer(name, revision=options.model.revision, option=given)
        report = inspect(options.data.data, tokenizer, question=question, run=run)
    if "-" in (show.json, show.markdown):
        print_report(report, json=show.json, markdown=show.markdown)
    else:
        _print(report, options, show)
    if folder.output is not None:
        print_note(f"wrote {folder.output}/report.html", verbosity)
    has_examples = any(section.id == "trained" for section in report.document.sections)
    return verdict(report, options.show.fail_on) if has_examples else DATA


def _print(report: Report, options: InspectFlags, show: ShowOptions) -> None:
    """The report for a person, with its examples in colors at the end."""
    from sftloss.cli.show import stdout_console
    from sftloss.report import render_terminal
    from sftloss.report.terminal import render_mask

    if show.json is not None:
        report.to_json(Path(show.json))
    if show.markdown is not None:
        report.to_markdown(Path(show.markdown))
    console, document = stdout_console(), report.document
    strips = [strip for section in document.sections for strip in section.strips]
    sections = tuple(replace(section, strips=()) for section in document.sections)
    if options.dry_run:
        console.print(to_yaml(options), markup=False)
        sections = tuple(section for section in sections if section.id == "totals")
    render_terminal(replace(document, sections=sections), console)
    render_mask(strips[: options.examples] if options.dry_run else strips, console, document.language)

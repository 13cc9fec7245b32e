"""`sftloss inspect`: what is trained on, and is the mask right?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sftloss.cli.exit import DATA
from sftloss.cli.options.options import Manner
from sftloss.config import command_line, option, to_yaml
from sftloss.errors import ConfigError

if TYPE_CHECKING:
    from sftloss.report import Report

_IN, _RUN, _OUT = "What to inspect", "How to inspect", "Where results go"


@dataclass(frozen=True)
class InspectFlags:
    """Flags and YAML keys of `sftloss inspect`."""

    model: str | None = option(None, "The model whose tokenizer is used; no weights are read.", panel=_IN, short="-m")
    tokenizer: str | None = option(None, "Where the tokenizer is, if not with the model.", panel=_IN)
    data: str = option(
        "", "A JSON, JSON lines or Parquet file, a folder of them, or a hub name.", panel=_IN, required=True, short="-d"
    )
    columns: dict[str, str] = option(
        {}, "What the data's own columns are: prompt, response, task, ...", panel=_IN, metavar="prompt=Q,response=A"
    )
    format: str | None = option(
        None,
        "messages, sharegpt, alpaca, text, tokens or two columns as prompt/response; found out for each row if not "
        "given.",
        panel=_IN,
    )
    max_length: int | None = option(None, "Tokens kept of each example.", panel=_RUN, minimum=2)
    max_examples: int | None = option(None, "Rows read, from the start; all if not given.", panel=_RUN, minimum=1)
    on_error: str = option(
        "report",
        "What an unusable row does: report and skip make it a finding, raise ends at the first.",
        panel=_IN,
        choices=("report", "skip", "raise"),
    )
    examples: int = option(3, "Examples shown token by token.", panel=_RUN, minimum=0)
    template: str | None = option(None, "A file with a chat template, in place of the tokenizer's.", panel=_RUN)
    batch_size: int | None = option(None, "Examples in a micro-batch, to count steps.", panel=_RUN, minimum=1)
    grad_accum: int | None = option(None, "Micro-batches in a step, to count steps.", panel=_RUN, minimum=1)
    dry_run: bool = option(False, "Show the options and what training would see; write nothing.", panel=_RUN)
    output: str | None = option(None, "Folder for report.html and report.json.", panel=_OUT, short="-o", metavar="DIR")
    overwrite: bool = option(False, "Replace an earlier report in that folder.", panel=_OUT)
    json: str | None = option(None, "Also write the JSON here; '-' prints JSON alone.", panel=_OUT, metavar="FILE|-")
    markdown: str | None = option(None, "Also write Markdown here, as for a pull request.", panel=_OUT, metavar="FILE")
    fail_on: str = option(
        "never", "Exit with 1 on a finding this severe or worse.", panel=_OUT, choices=("error", "warning", "never")
    )


_OF_RUN = ("columns", "format", "on_error", "max_examples", "max_length", "overwrite")


def inspect(options: InspectFlags, manner: Manner) -> int:
    """Show what is trained on. The mask audit: tokenizer only, no model is run.

    Example: sftloss inspect --model MODEL --data train.jsonl
    """
    from sftloss.analysis.mask.inspect import InspectOptions
    from sftloss.cli.show import check_targets, note, progress, show, verdict
    from sftloss.data import load_tokenizer
    from sftloss.pipeline import Run, inspect

    if options.model is None and options.tokenizer is None:
        raise ConfigError("--tokenizer is missing: give --model or --tokenizer, or 'tokenizer:' in the -c file.")
    json, markdown, output = options.json, options.markdown, options.output
    if options.dry_run:
        json, markdown, output = "-" if json == "-" else None, None, None
    check_targets(json, markdown, replace=options.overwrite)
    template = None if options.template is None else _template(options.template)
    question = InspectOptions(template, options.examples, options.batch_size, options.grad_accum)
    kept = {name: getattr(options, name) for name in _OF_RUN}
    with progress("reading", manner) as tell:
        run = Run(**kept, output=output, progress=tell, command=command_line("inspect", options))
        tokenizer = load_tokenizer(options.tokenizer or options.model or "")
        report = inspect(options.data, tokenizer, question=question, run=run)
    if json == "-":
        show(report, json=json, markdown=markdown)
    else:
        _show(report, options, json, markdown)
    if output is not None:
        note(f"wrote {output}/report.html", manner)
    has_examples = any(section.id == "trained" for section in report.document.sections)
    return verdict(report, options.fail_on) if has_examples else DATA


def _template(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--template: {path} cannot be read ({type(error).__name__}); give a text file.") from error


def _show(report: Report, options: InspectFlags, json: str | None, markdown: str | None) -> None:
    """The report for a person, with its examples coloured at the end."""
    from rich.console import Console

    from sftloss.report import render_terminal
    from sftloss.report.terminal.mask import render_mask

    if json is not None:
        report.to_json(Path(json))
    if markdown is not None:
        report.to_markdown(Path(markdown))
    console = Console(soft_wrap=False, highlight=False)
    document = report.document
    strips = [strip for section in document.sections for strip in section.strips]
    sections = tuple(replace(section, strips=()) for section in document.sections)
    if options.dry_run:
        console.print(to_yaml(options), markup=False)
        sections = tuple(section for section in sections if section.id == "totals")
    render_terminal(replace(document, sections=sections), console)
    render_mask(strips[: options.examples] if options.dry_run else strips, console)

"""`sftloss report`: several runs side by side. `sftloss schema`: the JSON Schema of report.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sftloss.cli.options import OUTPUT, Verbosity
from sftloss.config import option
from sftloss.errors import ConfigError, DataError

if TYPE_CHECKING:
    from sftloss.document import Document


@dataclass(frozen=True)
class ReportOptions:
    """Flags and YAML keys of `sftloss report`."""

    run: tuple[str, ...] = option(
        (), "Two or more folders of earlier runs, or their report.json files.", required=True, metavar="RUN",
        is_positional=True, reads=True,
    )  # fmt: skip
    label: tuple[str, ...] = option(
        (), "Name of a run, in the order of the runs (default: its folder).", metavar="NAME"
    )
    output: str = option("comparison.html", "File of the page.", panel=OUTPUT, short="-o", metavar="FILE", writes=("",))
    overwrite: bool = option(False, "Replace an earlier page.", panel=OUTPUT)


@dataclass(frozen=True)
class SchemaOptions:
    """`sftloss schema` has no flags of its own."""


def report(options: ReportOptions, verbosity: Verbosity) -> None:
    """Show several runs side by side. One page from their report.json files; no model or data is needed.

    Example: sftloss report run-a run-b --label "token mean" --label dft
    """
    from sftloss.cli.show import check_targets, print_note
    from sftloss.files import write_atomic
    from sftloss.report import render_comparison

    if len(options.run) < 2:
        raise ConfigError("a comparison needs at least two runs", cure="for example: sftloss report before after")
    if options.label and len(options.label) != len(options.run):
        problem = f"{len(options.label)} labels for {len(options.run)} runs"
        raise ConfigError(problem, option="label", cure="give one for each run")
    check_targets(options.output, replace=options.overwrite)
    files = [Path(name) / "report.json" if Path(name).is_dir() else Path(name) for name in options.run]
    labels = options.label or tuple(_label(Path(name)) for name in options.run)
    write_atomic(options.output, render_comparison([_document(file) for file in files], labels))
    print_note(f"wrote {options.output}", verbosity)


def schema(options: SchemaOptions, verbosity: Verbosity) -> None:
    """Print the JSON Schema of report.json. Its version is the report's `schema_version`."""
    from sftloss.report import schema

    typer.echo(json.dumps(schema(), indent=2, sort_keys=True))


def _label(run: Path) -> str:
    return run.resolve().name if run.suffix != ".json" else run.resolve().parent.name


def _document(file: Path) -> Document:
    from sftloss.report import from_json

    try:
        return from_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist", cure="name a folder that sftloss analyze wrote") from None
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not a report.json of this version ({error})") from None

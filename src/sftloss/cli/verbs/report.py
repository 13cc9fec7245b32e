"""`sftloss report`: what changed between runs? And `sftloss schema`: what does report.json look like?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import typer

from sftloss.cli.options.options import Manner
from sftloss.config import option
from sftloss.errors import ConfigError


@dataclass(frozen=True)
class ReportOptions:
    """Flags and YAML keys of `sftloss report`."""

    run: tuple[str, ...] = option(
        (),
        "Folders of earlier runs, or their report.json; two or more.",
        required=True,
        metavar="RUN",
        is_positional=True,
    )
    label: tuple[str, ...] = option((), "What to call each run, in order; folder names if not given.", metavar="NAME")
    output: str = option("comparison.html", "The page.", short="-o", metavar="FILE")
    overwrite: bool = option(False, "Replace the page if it is there.")


@dataclass(frozen=True)
class SchemaOptions:
    """`sftloss schema` has no flags of its own."""


def report(options: ReportOptions, manner: Manner) -> None:
    """Show several runs side by side. One page from their report.json; no model, no data.

    Example: sftloss report run-a run-b --label "token mean" --label dft
    """
    from sftloss.cli.show import note
    from sftloss.files import write_atomic
    from sftloss.report import render_comparison

    if len(options.run) < 2:
        raise ConfigError("name at least two runs, as in: sftloss report before after.")
    if options.label and len(options.label) != len(options.run):
        raise ConfigError(f"{len(options.run)} runs and {len(options.label)} labels; give one --label a run.")
    page = Path(options.output)
    if page.exists() and not options.overwrite:
        raise ConfigError(f"{page} is there already; choose another --output, or say --overwrite.")
    files = [Path(name) / "report.json" if Path(name).is_dir() else Path(name) for name in options.run]
    labels = options.label or tuple(_label(Path(name)) for name in options.run)
    write_atomic(page, render_comparison([_document(file) for file in files], labels))
    note(f"wrote {page}", manner)


def schema(options: SchemaOptions, manner: Manner) -> None:
    """Print the JSON Schema of report.json. Its version is the report's `schema_version`."""
    from sftloss.report import schema

    typer.echo(json.dumps(schema(), indent=2, sort_keys=True))


def _label(run: Path) -> str:
    return run.resolve().name if run.suffix != ".json" else run.resolve().parent.name


def _document(file: Path):  # type: ignore[no-untyped-def]
    from sftloss.errors import DataError
    from sftloss.report import from_json

    try:
        return from_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} is not there; name a folder that sftloss analyze wrote.") from None
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is no report.json of this version ({error}).") from None

"""`sftloss report`: several runs side by side. `sftloss schema`: the JSON Schema of report.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sftloss.cli.options import JSON_FLAG, MARKDOWN_FLAG, FolderOptions, Verbosity
from sftloss.config import option, part
from sftloss.errors import ConfigError, DataError, mention

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
    folder: FolderOptions = part(FolderOptions("sftloss-comparison"))
    json: str | None = option(None, JSON_FLAG)
    markdown: str | None = option(None, MARKDOWN_FLAG)


@dataclass(frozen=True)
class SchemaOptions:
    """`sftloss schema` has no flags of its own."""


def report(options: ReportOptions, verbosity: Verbosity) -> None:
    """Show several runs side by side, and the differences of each from the first; no model or data is needed.

    Where both folders hold the measured table of the same rows, differences are paired example by example.
    Where a run's report is in Chinese, so is the comparison.

    Example: sftloss report run-a run-b --label "token mean" --label dft
    """
    from sftloss.cli.show import print_note, print_report
    from sftloss.files import write_all_atomic
    from sftloss.pipeline import Run, side_by_side
    from sftloss.pipeline.folder import DATA, PAGE, folder
    from sftloss.report import Report, render_comparison
    from sftloss.report.language import in_language

    if len(options.run) < 2:
        raise ConfigError("a comparison needs at least two runs", cure="for example: sftloss report before after")
    if options.label and len(options.label) != len(options.run):
        problem = f"{len(options.label)} labels for {len(options.run)} runs"
        raise ConfigError(problem, option="label", cure="give one for each run")
    folders = [Path(name) if Path(name).is_dir() else None for name in options.run]
    files = [Path(name) / "report.json" if Path(name).is_dir() else Path(name) for name in options.run]
    labels = options.label or _labels([Path(name).resolve() for name in options.run])
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise ConfigError(f"two runs are called {twice!r}", option="label", cure="give each run its own name")
    place, documents = options.folder.place, [read_document(file) for file in files]
    if chinese := [label for label, document in zip(labels, documents, strict=True) if document.language == "zh"]:
        if options.folder.lang == "en":
            cure = f"give {mention('lang', 'zh')}, or leave it out"
            raise ConfigError(f"the report of {chinese[0]} is in Chinese", option="lang", cure=cure)
        place["lang"] = "zh"
    run = Run(**place)
    documents = [in_language(document, run.lang) for document in documents]
    with folder(run, resumes=False) as results:
        differences = Report(in_language(side_by_side(documents, labels, folders), run.lang))
        if results.root is not None:
            page = render_comparison(documents, labels, differences.document)
            write_all_atomic({results.root / DATA: differences.to_json(), results.root / PAGE: page})
    print_report(differences, json=options.json, markdown=options.markdown)
    print_note(f"wrote {options.folder.output}/report.html", verbosity)


def schema(options: SchemaOptions, verbosity: Verbosity) -> None:
    """Print the JSON Schema of report.json. Its version is the report's `schema_version`."""
    from sftloss.report import schema

    typer.echo(json.dumps(schema(), indent=2, sort_keys=True))


def _labels(runs: Sequence[Path]) -> tuple[str, ...]:
    """The folders' names, with as many of the folders above them as it takes to tell them apart."""
    folders = [run.parent if run.suffix == ".json" else run for run in runs]
    for size in range(1, max(len(folder.parts) for folder in folders)):
        names = tuple("/".join(folder.parts[-size:]) for folder in folders)
        if len(set(names)) == len(names):
            return names
    return tuple(map(str, runs))


def read_document(file: Path) -> Document:
    from sftloss.report import from_json

    try:
        return from_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist", cure="name a folder that sftloss analyze wrote") from None
    except (DataError, UnicodeDecodeError) as error:
        problem, cure = getattr(error, "problem", error), getattr(error, "cure", None)
        raise DataError(f"{file} is not a report.json of this version: {problem}", cure=cure) from None

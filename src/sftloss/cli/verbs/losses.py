"""`sftloss losses`: the objectives that --loss can name, and each of them in detail."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from sftloss.cli.options import Verbosity
from sftloss.cli.show import print_note
from sftloss.config import option
from sftloss.errors import ConfigError

if TYPE_CHECKING:
    from sftloss.objectives import Description


@dataclass(frozen=True)
class LossesOptions:
    """Flags of `sftloss losses`."""

    name: str | None = option(
        None,
        "Objective to describe in full, e.g. focal or my_module:my_loss, or the arXiv id of a paper.",
        is_positional=True,
    )
    json: bool = option(False, "Print the objectives as JSON.")


def losses(options: LossesOptions, verbosity: Verbosity) -> None:
    """List the objectives that --loss can name, with their hyper-parameters; give a NAME for its description."""
    paper = (options.name or "").removeprefix("arXiv:")
    if paper.replace(".", "", 1).isdigit():
        _show_paper(paper, as_json=options.json)
        return
    entries = _all(verbosity) if options.name is None else [_one(options.name)]
    if options.json:
        typer.echo(json.dumps([_row(entry) for entry in entries], indent=2, default=str))
    elif options.name is not None:
        typer.echo(_in_full(entries[0]))
    else:
        from sftloss.objectives.record import are_stored

        width = max(len(entry.signature) for entry in entries)
        for entry in entries:
            typer.echo(f"{entry.signature:<{width}}  {entry.text()['summary']}")
        stored = [entry.name for entry in entries if entry.record.extras and are_stored(entry.record.extras)]
        made = [entry.name for entry in entries if entry.record.made]
        typer.echo(
            "\nWith --reference, since they read values of a reference model (see: sftloss reference --help): "
            f"{', '.join(stored)}."
        )
        typer.echo(f"\nIn training only, since batches are made for them: {', '.join(made)}.")
        typer.echo('Objectives add: --loss "cross_entropy + 1e-4 * z_loss". Your own: --loss my_module:my_loss')


def _show_paper(paper: str, *, as_json: bool) -> None:
    """Print what to write for the losses of a paper."""
    from sftloss.objectives import descriptions, published_losses
    from sftloss.objectives.record import PublishedLoss
    from sftloss.weights import WEIGHT_PAPERS

    losses = [loss for loss in published_losses(descriptions()) if loss.paper == paper]
    if paper in WEIGHT_PAPERS:
        losses.append(PublishedLoss(paper, *WEIGHT_PAPERS[paper]))
    if not losses:
        raise ConfigError(f"no objective is from arXiv:{paper}", cure="docs/objectives.md lists the papers")
    rows = [loss._asdict() for loss in losses]
    typer.echo(json.dumps(rows, indent=2) if as_json else "\n".join(f"{r['expression']}  {r['name']}" for r in rows))


def _all(verbosity: Verbosity) -> list[Description]:
    from sftloss.objectives import OBJECTIVES, description, objective_function, plug_in_names

    entries = [description(name, function) for name, function in OBJECTIVES.items()]
    for name in plug_in_names():
        try:
            entries.append(description(name, objective_function(name)))
        except ValueError as error:
            print_note(str(error), verbosity)
    return entries


def _one(name: str) -> Description:
    from sftloss.objectives import description, objective_function

    try:
        return description(name, objective_function(name))
    except ValueError as error:
        raise ConfigError(str(error).removeprefix("objective: ")) from None


def _row(entry: Description) -> dict[str, Any]:
    parts = {"signature": entry.signature, "hyper_parameters": entry.hyper_parameters, "neutral": entry.neutral}
    return {"name": entry.name, **parts, **asdict(entry.record), **entry.text()}


def _in_full(entry: Description) -> str:
    from sftloss.objectives.record import are_stored

    summary, *parts = entry.text().items()
    parts += [("equals cross-entropy at", entry.neutral or "nowhere")]
    written = '--loss "{}"' if are_stored(entry.record.extras) or entry.record.made else 'sftloss.Loss("{}")'
    parts += [("example", written.format(example)) for example in entry.record.examples]
    width = min(shutil.get_terminal_size().columns, 110)
    paragraphs = [f"{title}: {text}" for title, text in parts if text]
    wrapped = [textwrap.fill(paragraph, width, subsequent_indent="    ") for paragraph in paragraphs]
    return "\n".join([entry.signature, textwrap.fill(summary[1], width), "", *wrapped])

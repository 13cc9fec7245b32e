"""`sftloss losses`: which objectives are there, and what may each be told?"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass

import typer

from sftloss.cli.options.options import Manner
from sftloss.config import option


@dataclass(frozen=True)
class LossesOptions:
    """Flags of `sftloss losses`."""

    json: bool = option(False, "Print JSON.")


def losses(options: LossesOptions, manner: Manner) -> None:
    """List what --loss can name. With hyper-parameters and their defaults."""
    from sftloss.objectives import OBJECTIVES

    rows = [_row(name, function) for name, function in sorted(OBJECTIVES.items())]
    if options.json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(row["signature"]) for row in rows)
    for row in rows:
        typer.echo(f"{row['signature']:<{width}}  {row['summary']}")
    typer.echo('\nThey add: --loss "cross_entropy + 1e-4 * z_loss"')


def _row(name: str, function: object) -> dict[str, str]:
    parameters = list(inspect.signature(function).parameters.values())[1:]  # type: ignore[arg-type]
    told = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters)
    summary = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
    return {"name": name, "signature": f"{name}({told})" if told else name, "summary": summary}

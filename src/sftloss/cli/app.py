"""The verbs, by name. A new one is a file with a docstring, a record of options and ten lines, and a row here."""

from __future__ import annotations

from collections.abc import Callable

import typer

from sftloss.cli.command import Sectioned, command
from sftloss.cli.usage import Verbs
from sftloss.cli.verbs.analyze import AnalyzeOptions, analyze
from sftloss.cli.verbs.compare import CompareOptions, compare
from sftloss.cli.verbs.demo import DemoOptions, demo
from sftloss.cli.verbs.env import EnvOptions, env
from sftloss.cli.verbs.inspect import InspectFlags, inspect
from sftloss.cli.verbs.lengths import LengthsOptions, lengths
from sftloss.cli.verbs.losses import LossesOptions, losses
from sftloss.cli.verbs.reference import ReferenceOptions, reference
from sftloss.cli.verbs.report import ReportOptions, SchemaOptions, report, schema
from sftloss.cli.verbs.study import VERBS as STUDIES
from sftloss.cli.verbs.study import StudyOptions
from sftloss.cli.verbs.train import TrainOptions, train

app = typer.Typer(
    name="sftloss",
    cls=Verbs,
    help="Shows what a fine-tuning loss trains on, and which loss fits the data.",
    epilog="First steps: sftloss demo, then sftloss inspect --model MODEL --data train.jsonl.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(is_asked: bool) -> None:
    if is_asked:
        from sftloss.version import __version__

        typer.echo(f"sftloss {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Shows what a fine-tuning loss trains on, and which loss fits the data."""


_COMMANDS: dict[Callable[..., int | None], type] = {
    analyze: AnalyzeOptions, compare: CompareOptions, demo: DemoOptions, inspect: InspectFlags, train: TrainOptions,
    reference: ReferenceOptions, report: ReportOptions, lengths: LengthsOptions, losses: LossesOptions,
    schema: SchemaOptions, env: EnvOptions,
}  # fmt: skip
SCHEMAS: dict[str, type] = {verb.__name__: options for verb, options in _COMMANDS.items()}
"""The options of each verb, by its name."""

for _verb, _options in _COMMANDS.items():
    app.command(_verb.__name__, cls=Sectioned)(command(_options)(_verb))

study = typer.Typer(cls=Verbs, help="Run a study. Fixed comparisons that test claims about losses on trained models.",
                    no_args_is_help=True, rich_markup_mode=None)  # fmt: skip
for _name, _study in STUDIES.items():
    study.command(_name, cls=Sectioned)(command(StudyOptions)(_study))
app.add_typer(study, name="study")

"""`sftloss study`: claims about losses, asked of trained models."""

from __future__ import annotations

from dataclasses import dataclass

from sftloss.cli.options import Verbosity
from sftloss.config import option


@dataclass(frozen=True)
class StudyOptions:
    """Flags of every study; what is trained is fixed."""

    output: str | None = option(
        None, "Folder of arms, report, result and page; finished arms are kept.", short="-o", metavar="DIR"
    )
    devices: str | None = option(None, "One process each, as cuda:0,cuda:1.", metavar="LIST")
    workers: int = option(1, "Processes on each device.", minimum=1)
    json: str | None = option(None, "Also write the JSON here; '-' prints JSON alone.", metavar="FILE|-")


def length(options: StudyOptions, verbosity: Verbosity) -> None:
    """Does dividing by the length teach shorter answers? Exponents 0, 0.5 and 1."""
    _run("length", options, verbosity)


def focal(options: StudyOptions, verbosity: Verbosity) -> None:
    """Does focal loss help? Against cross-entropy, with wrong answers among the training rows."""
    _run("focal", options, verbosity)


def instruction_response(options: StudyOptions, verbosity: Verbosity) -> None:
    """Should the instruction be trained too? Weights 0, 0.1 and 1 of the prompt."""
    _run("instruction-response", options, verbosity)


def multitask(options: StudyOptions, verbosity: Verbosity) -> None:
    """Do task weights that move help? Every strategy against equal weights, task by task."""
    _run("multitask", options, verbosity)


VERBS = {"length": length, "focal": focal, "instruction-response": instruction_response, "multitask": multitask}


def _run(name: str, options: StudyOptions, verbosity: Verbosity) -> None:
    from sftloss.cli.show import check_targets, hide_progress_bars
    from sftloss.cli.verbs.compare import running, show_brief, told
    from sftloss.experiments import run_study

    check_targets(options.json, replace=True)
    hide_progress_bars()
    output = options.output or f"sftloss-study-{name}"
    devices = tuple(filter(None, (options.devices or "").split(",")))
    execution = running(verbosity, devices=devices, workers=options.workers)
    report = run_study(name, output=output, execution=execution)
    show_brief(report, json=options.json)
    told(output, verbosity)

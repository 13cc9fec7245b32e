"""`sftloss study`: fixed comparisons that test claims about losses on trained models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sftloss.cli.options import JSON_FLAG, OUTPUT, Verbosity
from sftloss.cli.verbs.compare import COMPARE_RESULTS, ExecutionOptions, execution_of, print_brief
from sftloss.config import option, part


@dataclass(frozen=True)
class StudyOptions:
    """Flags of every study; what is trained is fixed."""

    output: str | None = option(
        None, "Folder of the trainings, the report, the result and its page; finished trainings in it are kept "
        "(default: sftloss-study-NAME).", panel=OUTPUT, short="-o", metavar="DIR", writes=COMPARE_RESULTS,
    )  # fmt: skip
    execution: ExecutionOptions = part(ExecutionOptions())
    json: str | None = option(None, JSON_FLAG)


_QUESTIONS = {
    "length": "Does dividing by the length teach shorter answers? Trains with exponents 0, 0.5 and 1 of the length.",
    "focal": "Does focal loss help? Compares it with cross-entropy; some training answers are wrong on purpose.",
    "instruction-response": "Should the instruction be trained too? Trains with prompt weights 0, 0.1 and 1.",
    "multitask": "Do task weights that move help? Compares every strategy with equal weights, task by task.",
}


def _verb(name: str) -> Callable[[StudyOptions, Verbosity], None]:
    def run(options: StudyOptions, verbosity: Verbosity) -> None:
        from sftloss.cli.show import hide_progress_bars, print_note
        from sftloss.experiments import run_study

        hide_progress_bars()
        output = options.output or f"sftloss-study-{name}"
        report = run_study(name, output=output, execution=execution_of(options.execution, verbosity))
        print_brief(report, json=options.json)
        print_note(f"wrote {output}/report.html", verbosity)

    run.__doc__ = _QUESTIONS[name]
    return run


VERBS = {name: _verb(name) for name in _QUESTIONS}
"""The command of each study."""

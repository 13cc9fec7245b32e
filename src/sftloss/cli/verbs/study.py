"""`sftloss study`: fixed comparisons that test claims about losses on trained models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sftloss.cli.exit import FINDINGS
from sftloss.cli.options import JSON_FLAG, OUTPUT, Verbosity
from sftloss.cli.verbs.compare import COMPARE_RESULTS, ExecutionOptions, execution_of, print_brief
from sftloss.cli.verbs.report import read_document
from sftloss.config import option, part

if TYPE_CHECKING:
    from sftloss.experiments import Execution


@dataclass(frozen=True)
class StudyOptions:
    """Flags of every study; what is trained is fixed."""

    output: str | None = option(
        None, "Folder of the trainings, the report, the result and its page; finished trainings in it are kept "
        "(default: sftloss-study-NAME).", panel=OUTPUT, short="-o", metavar="DIR", writes=COMPARE_RESULTS,
    )  # fmt: skip
    execution: ExecutionOptions = part(ExecutionOptions())
    check: str | None = option(
        None, "Result of this study (NAME.json). The study is trained at reduced size with other seeds, and its "
        "directions are compared with those of the result; the exit code is 1 where one disagrees.", metavar="FILE",
        reads=True,
    )  # fmt: skip
    json: str | None = option(None, JSON_FLAG)


_QUESTIONS = {
    "length": "Does dividing by the length teach shorter answers? Trains with exponents 0, 0.5 and 1 of the length.",
    "length-by-step": "When does the length of answers move, and for which prompts? Measures answers during training.",
    "focal": "Does focal loss help? Compares it with cross-entropy; some training answers are wrong on purpose.",
    "instruction-response": "Should the instruction be trained too? Trains with prompt weights 0, 0.1 and 1.",
    "multitask": "Do task weights that move help? Compares every strategy with equal weights, task by task.",
    "real_data": "What do focal loss and the example mean do on real rows? examples/compare_real.py writes the rows.",
}


def _verb(name: str) -> Callable[[StudyOptions, Verbosity], int]:
    def run(options: StudyOptions, verbosity: Verbosity) -> int:
        from sftloss.cli.show import hide_progress_bars, print_note
        from sftloss.experiments import run_study

        hide_progress_bars()
        execution = execution_of(options.execution, verbosity)
        if options.check is not None:
            return _check(name, options, execution)
        output = options.output or f"sftloss-study-{name}"
        report = run_study(name, output=output, execution=execution)
        print_brief(report, json=options.json)
        print_note(f"wrote {output}/report.html", verbosity)
        return 0

    run.__doc__ = _QUESTIONS[name]
    return run


def _check(name: str, options: StudyOptions, execution: Execution) -> int:
    """Print each direction beside the recorded one; 1 where one disagrees."""
    from sftloss.cli.show import print_text
    from sftloss.experiments import check_study

    record = read_document(Path(options.check or ""))
    directions = check_study(name, record, output=options.output, execution=execution)
    print_text("".join(f"{direction}\n" for direction in directions))
    return 0 if all(direction.agrees for direction in directions) else FINDINGS


VERBS = {name: _verb(name) for name in _QUESTIONS}
"""The command of each study."""

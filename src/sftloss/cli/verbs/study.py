"""`sftloss study`: fixed comparisons that test claims about losses on trained models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sftloss.cli.exit import FINDINGS
from sftloss.cli.language import LANG_FLAG, language_of
from sftloss.cli.options import DATA, JSON_FLAG, MODEL, OUTPUT, REFERENCE_FLAG, Verbosity
from sftloss.cli.verbs.compare import COMPARE_RESULTS, ExecutionOptions, execution_of, print_brief
from sftloss.cli.verbs.report import read_document
from sftloss.config import option, part
from sftloss.errors import ConfigError, mention
from sftloss.models import SMOLLM2

if TYPE_CHECKING:
    from sftloss.experiments import Execution, Study


@dataclass(frozen=True)
class StudyOptions:
    """Flags of every study; what is trained is fixed."""

    model: str | None = option(
        None, "Pretrained model to train on --data. Without it a study trains small models from scratch on its own "
        "rows.", panel=MODEL, choices=(SMOLLM2,),
    )  # fmt: skip
    data: str | None = option(
        None, "Data to train the pretrained model on; one row in ten judges.", panel=DATA, metavar="FILE|DIR|NAME",
        reads=True,
    )  # fmt: skip
    forget_data: str | None = option(
        None, "Other data; the report shows how far training moved the pretrained model on it.", panel=DATA,
        metavar="FILE|DIR|NAME", reads=True,
    )  # fmt: skip
    eval_data: str | None = option(
        None, "Rows that judge the arms, in place of one row in ten.", panel=DATA, metavar="FILE|DIR|NAME", reads=True,
    )  # fmt: skip
    reference: tuple[str, ...] = option((), REFERENCE_FLAG)
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
    lang: str | None = option(None, LANG_FLAG)
    json: str | None = option(None, JSON_FLAG)


_QUESTIONS = {
    "length": "Does dividing by the length make answers shorter? Trains with exponents 0, 0.5 and 1 of the length.",
    "length-by-step": "When does the length of answers move, and for which prompts? Measures answers during training.",
    "focal": "Does focal loss help? Compares it with cross-entropy; some training answers are wrong on purpose.",
    "instruction-response": "Should the instruction be trained too? Trains with prompt weights 0, 0.1 and 1.",
    "objectives": "Which objective suits a pretrained model? Compares eight of them; needs --model smollm2.",
    "forgetting": "Do anchors to the untrained model lower forgetting? KL anchors and ASFT; needs --model smollm2.",
    "diversity": "Do losses keep samples different? Compares GEM and an entropy bonus; needs --model smollm2.",
    "languages": "How should languages share a training? By tokens, equally or by bytes; needs --model smollm2.",
    "rewards": "What to do with wrong answers? Left out, pushed down, or a negative weight; needs --model smollm2.",
    "hallucination": "Do losses make a model invent less? EAFT, IDK, unlikelihood; needs --model smollm2.",
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
        study = _study(name, options)
        output = options.output or f"sftloss-study-{study.name}"
        report = run_study(study, output=output, execution=execution, lang=language_of(options.lang))
        print_brief(report, json=options.json)
        print_note(f"wrote {output}/report.html", verbosity)
        return 0

    run.__doc__ = _QUESTIONS[name]
    return run


def _study(name: str, options: StudyOptions) -> Study:
    from sftloss.experiments import STUDIES, pretrained_study, study_named
    from sftloss.experiments.pretrained import PRETRAINED

    if options.model is None and name in STUDIES:
        _refuse_data(options, f"or give {mention('model', SMOLLM2)} too" if name in PRETRAINED else "")
        return study_named(name)
    if options.model is None or (options.data is None and name in PRETRAINED):
        raise ConfigError(f"the study {name} needs {mention('model', SMOLLM2)} and {mention('data', 'FILE')}")
    return pretrained_study(
        name, options.data or "", options.forget_data, eval_data=options.eval_data, reference=options.reference
    )


def _refuse_data(options: StudyOptions, other_cure: str = "") -> None:
    """Refuse options about data, which only trainings of a pretrained model read."""
    for option_name in ("data", "forget_data", "eval_data", "reference"):
        if getattr(options, option_name):
            cure = ", ".join(filter(None, ("leave it out", other_cure)))
            raise ConfigError("a study from scratch has its own rows", option=option_name, cure=cure)


def _check(name: str, options: StudyOptions, execution: Execution) -> int:
    """Print each direction beside the recorded one; 1 where one disagrees."""
    from sftloss.cli.show import print_text
    from sftloss.experiments import check_study

    record = read_document(Path(options.check or ""))
    if record.language != "en":
        cure = f"give the {name}.json that the study wrote"
        raise ConfigError(f"{options.check} is not in English", option="check", cure=cure)
    directions = check_study(_study(name, options), record, output=options.output, execution=execution)
    nothing = "the result shows no difference, so there is no direction to compare"
    print_text("\n".join(map(str, directions)) or nothing)
    return 0 if all(direction.agrees for direction in directions) else FINDINGS


VERBS = {name: _verb(name) for name in _QUESTIONS}
"""The command of each study."""

"""Compare losses by training: from an experiment to its report."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sftloss.document import Command
from sftloss.errors import ConfigError
from sftloss.experiments.experiment import Experiment, Trial
from sftloss.experiments.pages.describe import experiment_document
from sftloss.experiments.run.results import RATES, SHARED, read_answers
from sftloss.experiments.run.runner import Execution, run_arms
from sftloss.files import OptionPath, check_outputs, locked
from sftloss.models import read_places
from sftloss.report import Report
from sftloss.report.language import in_language

PAGE, DATA, TEXT = "report.html", "report.json", "report.md"


def compare(
    experiment: Experiment,
    *,
    output: str | Path | None = None,
    execution: Execution | None = None,
    command: Command | None = None,
    lang: str = "en",
) -> Report:
    """Train every arm of an experiment, evaluate all arms alike, and report which differences the data supports.

    Finished trainings in `output` are not repeated. A run that was killed is continued by the same call and ends with
    the same results. Seeds and arms may be added to a folder; any other change is refused.

    Args:
        experiment: The training recipe, the arms and the seeds.
        output: Folder of the trainings, ``report.html``, ``report.json`` and ``report.md``. None: nothing is kept.
        execution: Devices, processes, progress.
        command: The command line that asked for it, shown in the report.
        lang: Language of the report, ``"en"`` or ``"zh"``.

    Returns:
        The report: verdicts with intervals, then what they rest on.

    Raises:
        ConfigError: If the experiment cannot be used, the folder is another experiment's, another process writes there,
            or an input is in it.
        DataError, ModelError: As :func:`sftloss.finetune.fine_tune` raises them.

    Example:
        >>> experiment = Experiment(losses=("cross_entropy", "focal(gamma=2)"))   # doctest: +SKIP
        >>> print(compare(experiment, output="out").document.headlines[0])        # doctest: +SKIP
    """
    experiment.arms()  # refuse before a folder is made
    if output is None:
        with tempfile.TemporaryDirectory(prefix="sftloss-") as temporary:
            return _report(experiment, Path(temporary), execution or Execution(), command, lang)
    folder, recipe = Path(output).expanduser(), experiment.recipe
    names = {name: getattr(recipe, name) or "" for name in ("model", "tokenizer", "data", "eval_data")}
    inputs = [place for name, value in (names | {"forget_data": experiment.forget_data or ""}).items()
              for place in read_places(name, value)]  # fmt: skip
    check_outputs(inputs, [OptionPath("output", folder / name) for name in (PAGE, DATA, TEXT, SHARED, RATES, "arms")])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror})", option="output", cure="choose another"
        ) from None
    busy = ConfigError(f"{folder}: another run writes there now", option="output", cure="choose another")
    with locked(folder / ".lock", busy):
        report = _report(experiment, folder, execution or Execution(), command, lang)
        write_report(report, folder)
    return report


def write_report(report: Report, folder: Path) -> None:
    """Write the three forms of a report of a comparison."""
    report.to_json(folder / DATA)
    report.to_markdown(folder / TEXT)
    report.to_html(folder / PAGE)


def _report(experiment: Experiment, folder: Path, execution: Execution, command: Command | None, lang: str) -> Report:
    results = run_arms(experiment, folder, execution)
    answers = {arm: read_answers(folder, Trial(arm, experiment.seeds[0])) for arm in results.arms}
    return Report(in_language(experiment_document(experiment, results, answers, command=command), lang))

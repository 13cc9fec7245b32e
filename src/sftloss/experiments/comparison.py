"""A comparison from end to end."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sftloss.errors import ConfigError
from sftloss.experiments.pages.describe import describe
from sftloss.experiments.plan import Plan, Run
from sftloss.experiments.run.results import answers
from sftloss.experiments.run.runner import Manner, run_arms
from sftloss.report import Report

PAGE, DATA, TEXT = "report.html", "report.json", "report.md"


def compare(plan: Plan, *, output: str | Path | None = None, manner: Manner | None = None, command: str = "") -> Report:
    """Train every arm of a plan, evaluate all on common metrics, and say which differences the data supports.

    Arms that `output` holds finished are not trained again; a run that was killed goes on where it was and ends with
    the same results. New seeds and arms may be added to a folder; anything else that differs is refused.

    Args:
        plan: What is compared.
        output: Folder of the arms, ``report.html``, ``report.json`` and ``report.md``; None keeps nothing.
        manner: Devices, processes, progress.
        command: The command line that asks for it, for the report.

    Returns:
        The report.

    Raises:
        ConfigError: If the plan cannot be used or the folder is another plan's.
        DataError, ModelError: As training does.

    Example:
        >>> plan = Plan(losses=("cross_entropy", "focal(gamma=2)"), steps=200)   # doctest: +SKIP
        >>> print(compare(plan, output="out").document.headlines[0])             # doctest: +SKIP
    """
    plan.arms()
    if output is None:
        with tempfile.TemporaryDirectory(prefix="sftloss-") as temporary:
            return _report(plan, Path(temporary), manner or Manner(), command)
    folder = Path(output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another --output.") from None
    report = _report(plan, folder, manner or Manner(), command)
    report.to_json(folder / DATA)
    report.to_markdown(folder / TEXT)
    report.to_html(folder / PAGE)
    return report


def _report(plan: Plan, folder: Path, manner: Manner, command: str) -> Report:
    results = run_arms(plan, folder, manner)
    said = {arm: answers(folder, Run(arm, plan.seeds[0])) for arm in results.arms}
    return Report(describe(plan, results, said, command=command))

"""`sftloss demo`: a first report from nothing but this package."""

from __future__ import annotations

import os
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sftloss.cli.options import FolderOptions, ShowOptions, Verbosity
from sftloss.config import option, part
from sftloss.document import Command

if TYPE_CHECKING:
    from sftloss.report import Report


@dataclass(frozen=True)
class DemoOptions:
    """Flags of `sftloss demo`."""

    compare: bool = option(
        False, "Train a tiny model under two losses and two normalizations, five seeds each, and compare them."
    )
    open: bool = option(False, "Open the report in the browser.")
    folder: FolderOptions = part(FolderOptions())
    show: ShowOptions = part(ShowOptions())


def demo(options: DemoOptions, verbosity: Verbosity) -> int:
    """Analyze a tiny model on generated tasks. No network, no GPU, under a minute.

    The output folder is sftloss-demo, or sftloss-demo-compare with --compare.
    """
    from sftloss.cli.show import print_note, verdict

    output = options.folder.output or ("sftloss-demo-compare" if options.compare else "sftloss-demo")
    report = (_compare if options.compare else _analyze)(options, output, verbosity)
    print_note(f"wrote {output}/report.html", verbosity)
    if options.open:
        webbrowser.open((Path(output) / "report.html").resolve().as_uri())
    return verdict(report, options.show.fail_on)


def _analyze(options: DemoOptions, output: str, verbosity: Verbosity) -> Report:
    from sftloss.cli.show import in_brief, print_report, progress_bar
    from sftloss.pipeline import Run, demo

    with progress_bar("measuring", verbosity, "tokens") as progress:
        command = Command("demo", inputs=())
        report = demo(Run(**options.folder.place | {"output": output}, progress=progress, command=command))
    show = options.show
    print_report(report, json=show.json, markdown=show.markdown, brief=in_brief(report) if show.brief else None)
    return report


def _compare(options: DemoOptions, output: str, verbosity: Verbosity) -> Report:
    from sftloss.cli.show import hide_progress_bars
    from sftloss.cli.verbs.compare import ExecutionOptions, execution_of, print_brief
    from sftloss.experiments import compare
    from sftloss.experiments.studies import DEMO

    hide_progress_bars()
    # results do not depend on it: every process computes on one core
    execution = execution_of(ExecutionOptions(workers=min(2, os.cpu_count() or 1)), verbosity)
    command = Command("demo", (("--compare", ""),), inputs=())
    report = compare(DEMO, output=output, execution=execution, command=command, lang=options.folder.place["lang"])
    print_brief(report, json=options.show.json, markdown=options.show.markdown)
    return report

"""`sftloss demo`: a first report from nothing but this package."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path

from sftloss.cli.options.options import Manner
from sftloss.config import option
from sftloss.document import Command


@dataclass(frozen=True)
class DemoOptions:
    """Flags of `sftloss demo`."""

    compare: bool = option(False, "Train a tiny model in four ways with five seeds each, and compare them.")
    open: bool = option(False, "Open the page in the browser.")
    output: str = option(
        "sftloss-demo", "Folder for report.html, report.json and the table.", short="-o", metavar="DIR"
    )
    overwrite: bool = option(False, "Replace an earlier report in that folder.")
    json: str | None = option(None, "Also write the JSON here; '-' prints JSON alone.", metavar="FILE|-")


def demo(options: DemoOptions, manner: Manner) -> None:
    """Analyze a tiny model on generated tasks. No network, no GPU, under a minute."""
    if options.compare:
        _compare(options, manner)
        return
    from sftloss.cli.show import check_targets, note, progress, show
    from sftloss.pipeline import Run, demo

    check_targets(options.json, replace=options.overwrite)
    with progress("measuring", manner) as tell:
        where = Run(
            output=options.output, overwrite=options.overwrite, progress=tell, command=Command("demo", inputs=())
        )
        report = demo(where)
    show(report, json=options.json)
    page = Path(options.output) / "report.html"
    note(f"wrote {page}", manner)
    if options.open:
        webbrowser.open(page.resolve().as_uri())


def _compare(options: DemoOptions, manner: Manner) -> None:
    import os

    from sftloss.cli.show import check_targets, hush_bars
    from sftloss.cli.verbs.compare import running, show_brief, told
    from sftloss.experiments import compare
    from sftloss.experiments.studies import DEMO

    check_targets(options.json, replace=options.overwrite)
    hush_bars()
    output = options.output if options.output != DemoOptions.output else f"{DemoOptions.output}-compare"
    # results do not depend on it: every process computes on one core
    workers = min(2, os.cpu_count() or 1)
    execution = running(manner, workers=workers)
    report = compare(DEMO, output=output, execution=execution, command="sftloss demo --compare")
    show_brief(report, json=options.json)
    told(output, manner)
    if options.open:
        webbrowser.open((Path(output) / "report.html").resolve().as_uri())

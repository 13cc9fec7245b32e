"""`sftloss demo`: a first report from nothing but this package."""

from __future__ import annotations

import webbrowser
from dataclasses import dataclass
from pathlib import Path

from sftloss.cli._options import Manner
from sftloss.config import option


@dataclass(frozen=True)
class DemoOptions:
    """Flags of `sftloss demo`."""

    open: bool = option(False, "Open the page in the browser.")
    output: str = option(
        "sftloss-demo", "Folder for report.html, report.json and the table.", short="-o", metavar="DIR"
    )
    overwrite: bool = option(False, "Replace an earlier report in that folder.")
    json: str | None = option(None, "Also write the JSON here; '-' prints JSON alone.", metavar="FILE|-")


def demo(options: DemoOptions, manner: Manner) -> None:
    """Analyze a tiny model on generated tasks. No network, no GPU, under a minute."""
    from sftloss.cli._show import check_targets, note, progress, show
    from sftloss.pipeline import Run, demo

    check_targets(options.json, replace=options.overwrite)
    with progress("measuring", manner) as tell:
        where = Run(output=options.output, overwrite=options.overwrite, progress=tell, command="sftloss demo")
        report = demo(where)
    show(report, json=options.json)
    page = Path(options.output) / "report.html"
    note(f"wrote {page}", manner)
    if options.open:
        webbrowser.open(page.resolve().as_uri())

"""A report in hand: the document, the tables behind it, and every way to show them."""

from __future__ import annotations

import html
import io
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module

from sftloss.document import Document, Severity, by_severity
from sftloss.files import write_atomic
from sftloss.report.format import count_line
from sftloss.report.json import to_json
from sftloss.report.markdown import render_markdown
from sftloss.report.page.html import render_html

Path = str | os.PathLike[str]


def _written(text: str, path: Path | None) -> str:
    if path is not None:
        write_atomic(path, text)
    return text


@dataclass(frozen=True, repr=False)
class Report:
    """What an analysis found.

    Attributes:
        document: The findings and sections, as plain values.
        frames: Data frames by name (polars), made by the analysis; may be empty.

    Example:
        >>> report = Report(Document("Tiny", ("All is well.",), (), ()))
        >>> report
        Report('Tiny', no findings, 0 sections)
        >>> print(report.to_markdown().splitlines()[0])
        # Tiny
    """

    document: Document
    frames: Mapping[str, typing.Any] = field(default_factory=dict)

    def to_html(self, path: Path | None = None) -> str:
        """The page; also written to `path`, whole or not at all."""
        return _written(render_html(self.document), path)

    def to_json(self, path: Path | None = None) -> str:
        """The JSON of :func:`sftloss.report.schema`; also written to `path`, whole or not at all."""
        return _written(to_json(self.document), path)

    def to_markdown(self, path: Path | None = None) -> str:
        """Markdown for a pull request; also written to `path`, whole or not at all."""
        return _written(render_markdown(self.document), path)

    def log_to(self, run: typing.Any, name: str = "sftloss") -> None:
        """Log the report to an open run of W&B or trackio: the page, the number of findings, and the value of each.

        Args:
            run: What ``wandb.init`` or ``trackio.init`` returned.
            name: What the names of the logged values begin with.

        Raises:
            TypeError: If the run is of another tracker.

        Example:
            >>> report.log_to(wandb.init(project="sft"))   # doctest: +SKIP
        """
        package = type(run).__module__.partition(".")[0]
        if package not in ("wandb", "trackio"):
            raise TypeError(f"log_to: run must be one of wandb or trackio, got {type(run).__qualname__} of {package}.")
        tracker = import_module(package)
        page = tracker.Html(io.StringIO(self.to_html())) if package == "wandb" else tracker.Markdown(self.to_markdown())
        findings = by_severity(self.document.findings)
        counts = {f"{name}/{level}s": sum(f.severity == level for f in findings) for level in typing.get_args(Severity)}
        values = {f"{name}/{f.id}": f.value for f in reversed(findings) if f.value is not None}  # the most severe stays
        run.log({f"{name}/report": page, **counts, **values})

    def _repr_html_(self) -> str:
        # a frame of its own: the page's styles stay out of the notebook, and nothing in it may run
        page = html.escape(render_html(self.document), quote=True)
        return (
            f'<iframe title="sftloss report" sandbox srcdoc="{page}" style="width:100%;height:44rem;border:0"></iframe>'
        )

    def __str__(self) -> str:
        from rich.console import Console

        from sftloss.report.terminal import render_terminal

        console = Console(file=io.StringIO(), width=100, color_system=None, force_terminal=False, legacy_windows=False)
        render_terminal(self.document, console)
        return typing.cast(io.StringIO, console.file).getvalue()

    def __repr__(self) -> str:
        document = self.document
        return f"Report({document.title!r}, {count_line(document.findings)}, {len(document.sections)} sections)"

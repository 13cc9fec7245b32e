"""The report in hand, and files that are old or new but never half."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.report._html import Page

from sftloss.document import Document
from sftloss.report import Report, render_html, to_json, write_text_atomic


def test_report_writes_what_it_returns(calm: Document, tmp_path: Path):
    report = Report(calm)
    for name, write in (("html", report.to_html), ("json", report.to_json), ("md", report.to_markdown)):
        path = tmp_path / f"report.{name}"
        assert write(path).encode() == path.read_bytes()
    assert report.to_html() == render_html(calm) and report.to_json() == to_json(calm)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_report_in_a_notebook_is_a_sandboxed_frame(hostile: Document):
    (frame,) = Page(Report(hostile)._repr_html_()).tags
    assert frame[0] == "iframe" and frame[1]["sandbox"] is None
    assert frame[1]["srcdoc"] == render_html(hostile)


def test_report_prints_as_the_terminal_shows_it(calm: Document):
    shown = str(Report(calm))
    assert "Error MASK003" in shown and "\x1b" not in shown
    assert repr(Report(calm)) == "Report('Signal report english', 1 error, 1 warning, 1 note, 3 sections)"


def test_write_text_atomic_keeps_the_old_file_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_text_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_text_atomic_writes_equal_bytes_and_ordinary_permissions(tmp_path: Path):
    path = write_text_atomic(tmp_path / "a.txt", "eins\nzwei\n长\n")
    assert path.read_bytes() == "eins\nzwei\n长\n".encode()
    plain = tmp_path / "b.txt"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_write_text_atomic_replaces_a_link_and_not_its_target(tmp_path: Path):
    target = tmp_path / "precious"
    target.write_text("keep", encoding="utf-8")
    link = tmp_path / "report.html"
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("this system lets nobody make links")
    write_text_atomic(link, "new")
    assert target.read_text(encoding="utf-8") == "keep" and link.read_text(encoding="utf-8") == "new"


def test_report_loads_drawing_and_templates_only_when_asked():
    loaded = (
        "import sys, sftloss.report; print([m for m in ('matplotlib', 'jinja2', 'rich', 'polars') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The folder of a report: the earlier one stays until the next is whole, and two runs never share it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.cli.tools import MODEL, ROWS, run, write_rows

from sftloss.errors import ConfigError
from sftloss.pipeline import Run
from sftloss.pipeline.folder import folder


@pytest.fixture
def measured(tmp_path: Path) -> list[object]:
    """The command line of an analysis that has run."""
    words: list[object] = ["analyze", "-m", MODEL, "-d", write_rows(tmp_path / "d.jsonl"), "-o", tmp_path / "out"]
    assert run(*words).exit_code == 0
    return words


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_an_analysis_that_fails_leaves_the_report_it_would_have_replaced(
    measured: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(tmp_path / "out")
    monkeypatch.setattr("sftloss.analysis.table.measure.batch_tokens", lambda *a: 1 / 0)
    assert run(*measured, "--overwrite").exit_code == 5
    assert contents(tmp_path / "out") == before


def test_a_table_that_cannot_take_its_place_leaves_the_earlier_one(
    measured: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, replace = contents(tmp_path / "out" / "table"), os.replace

    def fails(source: Path, target: Path) -> None:
        if Path(source).name == ".table.next":
            raise OSError("no")
        replace(source, target)

    write_rows(tmp_path / "d.jsonl", ROWS[:3])
    monkeypatch.setattr("os.replace", fails)
    assert run(*measured, "--overwrite").exit_code == 5
    assert contents(tmp_path / "out" / "table") == before


def test_an_analysis_that_was_killed_while_it_replaced_another_is_continued(
    measured: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next table is whole, and the process was killed before it took the place of the earlier one."""
    write_rows(tmp_path / "d.jsonl", ROWS[:3])
    with monkeypatch.context() as patch:
        patch.setattr("sftloss.pipeline.folder.ReportFolder.write", lambda *a: 1 / 0)
        assert run(*measured, "--overwrite").exit_code == 5
    assert (tmp_path / "out" / ".table.next").is_dir()
    monkeypatch.setattr("sftloss.analysis.table.measure.batch_tokens", lambda *a: 1 / 0)
    assert run(*measured, "--resume").exit_code == 0
    assert not (tmp_path / "out" / ".table.next").exists() and not (tmp_path / "out" / ".lock").exists()
    assert "3 of 3" in (tmp_path / "out" / "report.json").read_text()


@pytest.mark.parametrize("word", ["--overwrite", "--resume"])
def test_a_second_analysis_into_a_folder_is_refused_while_the_first_runs(
    measured: list[object], tmp_path: Path, word: str
) -> None:
    before = contents(tmp_path / "out")
    with folder(Run(output=tmp_path / "out", resume=True)):
        result = run(*measured, word)
        assert result.exit_code == 2 and "another run writes there now" in result.stderr
        assert {name: raw for name, raw in contents(tmp_path / "out").items() if name != ".lock"} == before


def test_data_in_what_would_be_written_is_refused_in_python_too(tmp_path: Path) -> None:
    import sftloss

    (tmp_path / "table").mkdir()
    data = write_rows(tmp_path / "table" / "d.jsonl")
    message = r"table would replace .*d.jsonl, which is read \(data\)"
    with pytest.raises(ConfigError, match=message), folder(Run(output=tmp_path, overwrite=True), data):
        pass
    report = write_rows(tmp_path / "report.json")
    with pytest.raises(ConfigError, match="which is read"):
        sftloss.lengths(str(report), run=Run(output=tmp_path, overwrite=True))
    assert report.stat().st_size > 0

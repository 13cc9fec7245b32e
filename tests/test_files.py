"""Files and folders on disk: whole or not there, locked, identified by content."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sftloss.errors import ConfigError
from sftloss.files import cached_folder, file_digest, locked, put_folder, write_all_atomic, write_atomic
from sftloss.version import package_versions


def test_write_atomic_keeps_the_old_file_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_reported_with_the_name_that_the_user_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    source = tmp_path / ".place.new"
    source.mkdir()
    (source / "part").write_text("half")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space") as error:
        put_folder(source, tmp_path / "place")
    assert error.value.filename == str(tmp_path / "place" / "part") and not (tmp_path / "place").exists()


def test_write_atomic_writes_equal_bytes_and_ordinary_permissions(tmp_path: Path):
    path = write_atomic(tmp_path / "a.txt", "eins\nzwei\n长\n")
    assert path.read_bytes() == "eins\nzwei\n长\n".encode()
    plain = tmp_path / "b.txt"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_write_atomic_replaces_a_link_and_not_its_target(tmp_path: Path):
    target = tmp_path / "precious"
    target.write_text("keep", encoding="utf-8")
    link = tmp_path / "report.html"
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("this system lets nobody make links")
    write_atomic(link, "new")
    assert target.read_text(encoding="utf-8") == "keep" and link.read_text(encoding="utf-8") == "new"


def test_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    assert write_atomic(tmp_path / "a", b"\xff\r\n").read_bytes() == b"\xff\r\n"


def test_no_file_of_several_is_replaced_before_all_are_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError, match="No such file") as caught:
        write_all_atomic({tmp_path / "a": "new", tmp_path / "none" / "b": "new"})
    assert caught.value.filename == str(tmp_path / "none" / "b")
    assert (tmp_path / "a").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a"]


def folder(path: Path, text: str) -> Path:
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "file").write_text(text)
    return path


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        put_folder(folder(tmp_path / "written", text), tmp_path / "place")
        assert (tmp_path / "place" / "inner" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_folder_that_cannot_be_put_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = folder(tmp_path / "written", "new"), folder(tmp_path / "place", "old")
    replace = os.replace

    def refuse(a: Path, b: Path) -> None:
        if Path(a) == source:
            raise PermissionError(13, "Permission denied")
        replace(a, b)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        put_folder(source, target)
    assert (target / "inner" / "file").read_text() == "old"


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "lock"
    code = f"from pathlib import Path; from sftloss.files import locked\nwith locked(Path({str(path)!r}), 'x'):"
    code += " print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None and holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="busy"), locked(path, "busy"):
            pass
        holder.kill()
    with locked(path, "busy"):
        pass


def _write_two(folder: Path) -> None:
    (folder / "a").write_text("first")
    (folder / "b").write_text("second")


def test_a_cached_folder_is_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(folder: Path) -> None:
        calls.append(folder)
        _write_two(folder)

    for _ in range(2):
        assert cached_folder(tmp_path / "deep" / "kept", make, ("a", "b")) == tmp_path / "deep" / "kept"
    assert len(calls) == 1 and calls[0].parent == tmp_path / "deep"
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["kept"]


def test_a_cached_folder_that_fails_to_be_made_is_not_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "a").write_text("first")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        cached_folder(tmp_path / "kept", fail, ("a", "b"))
    assert not list(tmp_path.iterdir())


def test_a_cached_folder_that_lost_a_file_is_made_again(tmp_path: Path) -> None:
    folder = cached_folder(tmp_path / "kept", _write_two, ("a", "b"))
    (folder / "b").unlink()
    assert (cached_folder(folder, _write_two, ("a", "b")) / "b").read_text() == "second"


MAKE_SLOWLY = """
import sys, time
from pathlib import Path
from sftloss.files import cached_folder
def make(folder):
    (folder / "a").write_text("first")
    with Path({calls!r}).open("a") as file:
        file.write("made ")
    print("making", flush=True)
    time.sleep({seconds})
    (folder / "b").write_text("second")
cached_folder(Path({folder!r}), make, ("a", "b"))
"""


def _making(tmp_path: Path, seconds: float) -> subprocess.Popen[str]:
    code = MAKE_SLOWLY.format(calls=str(tmp_path / "calls"), folder=str(tmp_path / "kept"), seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_killed_process_leaves_no_half_of_a_cached_folder(tmp_path: Path) -> None:
    with _making(tmp_path, 600) as process:
        assert process.stdout is not None and process.stdout.readline() == "making\n"
        process.kill()
    (rest,) = tmp_path.glob(".kept.*.new")
    assert not (tmp_path / "kept").exists() and (rest / "a").exists()
    os.utime(rest, (0, 0))  # a rest of another day is removed, a recent one may be in use
    assert (cached_folder(tmp_path / "kept", _write_two, ("a", "b")) / "b").read_text() == "second"
    assert not rest.exists()


def test_two_processes_make_a_cached_folder_once(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    processes = [_making(tmp_path, 0.5) for _ in range(2)]
    for process in processes:
        with process:
            assert process.stdout is not None
            process.stdout.read()
        assert process.returncode == 0
    assert (tmp_path / "calls").read_text() == "made " and (tmp_path / "kept" / "b").read_text() == "second"


def test_callers_agree_on_the_digest_of_a_file(tmp_path: Path) -> None:
    """The table's manifest, a checkpoint's manifest and a comparison's plan name the same content alike."""
    pytest.importorskip("polars")
    from sftloss.analysis import file_identity
    from sftloss.experiments.experiment import _content

    path = tmp_path / "data.jsonl"
    path.write_bytes(b"x" * (3 << 20))
    digest = file_digest(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_identity([path]) == [{"bytes": 3 << 20, "digest": digest}]
    assert _content(str(path)) == [["data.jsonl", digest[:16]]]


def test_versions_are_of_what_is_installed() -> None:
    versions = package_versions("sftloss", "python", "torch", "no-such-package")
    assert list(versions) == ["sftloss", "python", "torch"] and versions["python"].startswith("3.")

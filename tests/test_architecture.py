"""The house rules that a reviewer would otherwise have to remember."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.paths import ROOT

import sftloss

SOURCE = ROOT / "src" / "sftloss"
FILES = sorted(SOURCE.rglob("*.py"))
# what is public: the names in `__all__` of a room, and of the few modules beside the rooms
PUBLIC = sorted(
    [
        "sftloss",
        *(m.name for m in pkgutil.walk_packages(sftloss.__path__, "sftloss.") if m.ispkg or m.name.count(".") < 2),
    ]
)


def modules_of(code: str) -> set[str]:
    """Modules that `code` loads in a new interpreter."""
    command = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split())


def loaded_by(code: str) -> set[str]:
    """Top-level packages that `code` loads in a new interpreter."""
    return {name.split(".")[0] for name in modules_of(code)}


def test_imports_point_one_way():
    """The layers of pyproject.toml, checked by import-linter over every import in the package."""
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if command is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_importing_the_package_loads_nothing():
    assert not loaded_by("import sftloss; sftloss.__version__; dir(sftloss)") & {"torch", "numpy", "transformers"}


def test_the_core_needs_torch_and_jaxtyping_only():
    loaded = loaded_by("import sftloss; sftloss.weighted_loss, sftloss.objective, sftloss.Head, sftloss.from_logits")
    assert "torch" in loaded
    assert not loaded & {"transformers", "polars", "matplotlib", "typer", "rich", "yaml", "datasets", "scipy", "pandas"}


def test_help_loads_neither_torch_nor_transformers():
    """Help must be instant; the two together take seconds. It loads 200 modules, nearly all of them Python's."""
    code = "from sftloss.cli.app import app\nfor words in (['--help'], ['analyze', '--help']):\n"
    modules = modules_of(f"{code}    try: app(words)\n    except SystemExit: pass")
    loaded = {name.split(".")[0] for name in modules}
    assert not loaded & {"torch", "transformers", "polars", "matplotlib", "numpy", "yaml", "jinja2", "rich"}
    assert len(modules) < 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "ours", "others"),
    [
        (
            "transformers.models.llama.modeling_llama, transformers.models.auto.modeling_auto",
            "sftloss.cli.app, sftloss.pipeline.analyze, sftloss.analysis.table.tokens",
            {"polars", "_polars_runtime_32"},
        ),
        ("transformers.trainer", "sftloss.cli.app, sftloss.finetune, sftloss.finetune.callbacks", set()),
    ],
    ids=["analyze", "train"],
)
def test_before_the_first_batch_little_is_loaded_beside_the_model(model, ours, others):
    """transformers loads about 3000 modules for a Llama, which takes seconds; ours are a tenth of that."""
    new = loaded_by(f"import {ours}") - loaded_by(f"import {model}") - set(sys.stdlib_module_names)
    assert new <= {"sftloss", "jaxtyping", "typer", "annotated_doc", "shellingham", *others}


_STOPPED = """
import sftloss.analysis.table.measure as measure
from sftloss.cli.app import app
class FirstBatch(BaseException): pass
def stop(*_): raise FirstBatch
measure.batch_tokens = stop
try: app(["analyze", "--model", "demo", "--data", "demo", "--output", {folder!r}, "--quiet"])
except FirstBatch: print("stopped")
"""


@pytest.mark.slow
def test_an_analysis_reaches_its_first_batch_without_what_only_other_work_needs(tmp_path):
    loaded = modules_of(_STOPPED.format(folder=str(tmp_path / "out")))
    assert "transformers.models.llama.modeling_llama" in loaded
    others = {"peft", "datasets", "pandas", "sklearn", "matplotlib", "torchvision", "rich", "pyarrow"}
    assert not loaded & {*others, "scipy.stats", "transformers.trainer", "torch._inductor.compile_fx"}
    assert not loaded & {"sftloss.finetune", "sftloss.training", "sftloss.tasks", "sftloss.experiments"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name):
    module = importlib.import_module(name)
    missing = [public for public in getattr(module, "__all__", []) if not hasattr(module, public)]
    assert not missing


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_sorted(name):
    """Constants, then classes, then functions, as isort and ruff sort them."""
    public = list(getattr(importlib.import_module(name), "__all__", []))
    assert public in (sorted(public), sorted(public, key=_kind_and_name))


def _kind_and_name(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_the_front_door_has_at_most_thirty_names_beside_the_rooms():
    assert 0 < len(set(sftloss.__all__) - set(sftloss._ROOMS)) <= 30


def test_every_room_and_name_resolves_after_one_import_and_nothing_else_shows():
    code = "import sftloss; print(all(hasattr(sftloss, n) for n in sftloss.__all__)); print(*dir(sftloss))"
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0] == "True"
    assert set(lines[1].split()) == {*sftloss.__all__, "__version__"}


def test_rooms_of_the_front_door_are_the_rooms_of_the_package():
    packages = {module.name for module in pkgutil.iter_modules(sftloss.__path__) if module.ispkg}
    assert set(sftloss._ROOMS) == packages - {"cli"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'crossentropy'"):
        _ = sftloss.crossentropy


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_has_a_docstring(name):
    module = importlib.import_module(name)
    values = [(public, getattr(module, public)) for public in getattr(module, "__all__", [])]
    without = [public for public, value in values if _is_ours(value) and not _documented(value)]
    assert (module.__doc__ or "").strip() and not without


def _is_ours(value: object) -> bool:
    is_code = inspect.isclass(value) or inspect.isfunction(value)
    return is_code and (getattr(value, "__module__", "") or "").startswith("sftloss")


def _documented(value: object) -> bool:
    """A dataclass without a docstring gets its signature as one, which says nothing."""
    text = inspect.getdoc(value) or ""
    return bool(text.strip()) and not text.startswith(f"{getattr(value, '__name__', '')}(")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_short(path):
    """A file past 350 lines holds two ideas."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """Modules of the package that a file imports anywhere in it, also under TYPE_CHECKING."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            longer = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules else node.module for name in longer.values()}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & modules


def circle_of(files: dict[str, Path]) -> list[str]:
    """Modules that import each other in a circle, from module name to file; empty where there is none."""
    try:
        graph = {name: imports_of(path, set(files)) - {name} for name, path in files.items()}
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_two_files_import_each_other_in_a_circle():
    dotted = {".".join(("sftloss", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in FILES}
    assert circle_of({name.removesuffix(".__init__"): path for name, path in dotted.items()}) == []


def test_a_circle_by_way_of_type_checking_is_found(tmp_path):
    """The negative control."""
    (tmp_path / "a.py").write_text("from b import x\n")
    (tmp_path / "b.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\n")
    (tmp_path / "c.py").write_text("import a\n")
    assert set(circle_of({name: tmp_path / f"{name}.py" for name in "abc"})) == {"a", "b"}


MOST_ENTRIES = 12
# one file an objective, one a strategy; data files beside the code
OPEN_ROOMS = {"objectives", "tasks/strategies"}


def entries(room: Path) -> list[str]:
    """What a reader of a room sees at one level: its files of code and its folders with code."""
    files = [path.name for path in room.glob("*.py") if path.name != "__init__.py"]
    return files + [path.name for path in room.iterdir() if path.is_dir() and any(path.rglob("*.py"))]


def test_no_room_shows_more_than_twelve_entries():
    rooms = [SOURCE, *(path for path in SOURCE.rglob("*") if path.is_dir() and (path / "__init__.py").exists())]
    names = {str(room.relative_to(SOURCE)): len(entries(room)) for room in rooms if room != SOURCE}
    crowded = {name: count for name, count in names.items() if count > MOST_ENTRIES and name not in OPEN_ROOMS}
    assert not crowded


def test_nothing_reads_pickles():
    """A pickle runs code when it is read, so no file of ours is one; of a user's only tensors are read."""
    text = {path: path.read_text(encoding="utf-8") for path in FILES}
    pickles = r"torch\.load\((?!.*weights_only=True\))|import pickle|allow_pickle=True|joblib"
    found = [str(p) for p, t in text.items() if re.search(pickles, t)]
    assert not found


def test_nothing_evaluates_text():
    """Expressions are read from an allow-list over the syntax tree; `eval` and `exec` have no place."""
    calls = [
        f"{path}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}
    ]
    assert not calls


def test_no_tracked_file_names_a_folder_of_somebodys_machine():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    own = re.compile(r"(?<![\w.])/(work|root|home)/\w")
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ".html", ""} and path.is_file():
            text = path.read_text(encoding="utf-8", errors="ignore")
            found += [f"{name}: {match.group()}" for match in own.finditer(text)]
    assert not found

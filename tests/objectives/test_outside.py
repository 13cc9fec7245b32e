"""Objectives from outside: a module that the user names, a plug-in, a function."""

from __future__ import annotations

import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from sftloss.errors import ConfigError
from sftloss.finetune import Recipe
from sftloss.finetune.fine_tune import loss_of
from sftloss.loss import weighted_loss
from sftloss.objectives import OBJECTIVES, cross_entropy, extras_of, focal, label_smoothing, objective, plug_in_names
from sftloss.pipeline.question import read_objectives
from sftloss.registry import plug_ins
from sftloss.statistics import Head, TokenStats, from_logits
from sftloss.training import Loss
from sftloss.training.batch.tokens import read_tokens

MODULE = '''
import torch

def gated(stats, *, gamma=2.0, floor=0.1, steps=3, is_hard=False, kind="soft", scale=None):
    """A loss of one's own."""
    assert type(steps) is int and type(is_hard) is bool
    return -stats.target_logprob * (gamma + floor * steps)

def positional(stats, power=1):
    return -stats.target_logprob * power

def needed(stats, *, gamma):
    return -gamma * stats.target_logprob

def preferred(stats):
    return -(stats.target_logprob - stats.extras["reference_logprob"])

def centred(stats):
    return stats.target_logprob.mean() - stats.target_logprob

def declared(stats):
    return -stats.target_logprob
declared.mixes_tokens = True

def total(stats):
    return -stats.target_logprob.sum()

def number(stats):
    return 1.0

def nothing():
    return 0

def broken(stats):
    raise RuntimeError("no luck")

class Losses:
    @staticmethod
    def plain(stats):
        return -stats.target_logprob

constant = 3
made_here = lambda stats: -stats.target_logprob
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the modules a user wrote; they are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_losses.py").write_text(MODULE)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "inner.py").write_text("from own_losses import gated as again\n")
    (tmp_path / "own_failing.py").write_text("raise OSError('disk')\n")
    (tmp_path / "own_lacking.py").write_text("import module_that_is_not_there\n")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def stats() -> TokenStats:
    generator = torch.Generator().manual_seed(0)
    return from_logits(torch.randn(6, 5, generator=generator, dtype=torch.float64), torch.arange(6) % 5)


@pytest.mark.parametrize(
    ("text", "normal", "factor"),
    [
        ("own_losses:gated", "own_losses:gated", 2.3),
        ("own_losses:gated(gamma=1)", "own_losses:gated(gamma=1)", 1.3),
        ("own_losses:gated(steps=10,gamma=1)", "own_losses:gated(gamma=1, steps=10)", 2.0),
        ("own_losses:gated(is_hard=True, kind='hard', scale=0.5)", None, 2.3),
        ("cross_entropy+0.1*own_losses:gated", "cross_entropy + 0.1 * own_losses:gated", 1.23),
        ("(own_losses:gated + own_losses:gated(gamma=2)) / 2", None, 2.3),
        ("-own_losses:positional(power=-2)", "-own_losses:positional(power=-2)", 2.0),
        ("own_losses:needed(gamma=3)", "own_losses:needed(gamma=3)", 3.0),
        ("own_package.inner:again", "own_package.inner:again", 2.3),
        ("own_losses:Losses.plain", "own_losses:Losses.plain", 1.0),
        ("own_losses:made_here", "own_losses:made_here", 1.0),
    ],
)
def test_a_module_that_the_user_names_is_read(here: Path, text: str, normal: str | None, factor: float) -> None:
    read = objective(text)
    assert normal is None or str(read) == normal
    assert objective(str(read)) == read == pickle.loads(pickle.dumps(read))
    assert_close(read(stats()), factor * cross_entropy(stats()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "own_lossess:gated",
            "there is no module 'own_lossess' in the working directory or among the installed packages.",
        ),
        ("own_losses.x:gated", "there is no module 'own_losses.x'"),
        ("own_losses:gatd", "'own_losses' has no name 'gatd' (did you mean 'gated'?)."),
        ("own_losses:constant", "own_losses:constant is no function (it is of type int)"),
        ("own_losses:centred", "'own_losses:centred' mixes tokens"),
        ("own_losses:declared", "'own_losses:declared' mixes tokens"),
        ("own_losses:total", "must return one loss a token, shape (tokens,); 4 tokens gave ()."),
        ("own_losses:number", "4 tokens gave float."),
        ("own_losses:nothing", "takes 0 positional arguments but 1 was given"),
        ("own_losses:broken", "'own_losses:broken' raised RuntimeError: no luck."),
        ("own_losses:needed", "missing 1 required keyword-only argument: 'gamma'"),
        ("own_losses:gated(gama=1)", "own_losses:gated has no hyper-parameter 'gama' (did you mean 'gamma'?)"),
        (
            "own_losses:gated(1)",
            "'own_losses:gated(1)' gives a value without its name; write own_losses:gated(gamma=...)",
        ),
        ("own_losses:gated(steps=1.5)", "own_losses:gated(steps=...) takes a whole number, got '1.5'."),
        ("own_losses[gated]", "character '['"),
        ("own_losses.gated", "is no part of an expression"),
        ("own_losses:", "character ':'"),
        ("own_losses: gated", "character ':'"),
        ("own_losses:gated dft", "cannot be read at character 18"),
        ("own_failing:gated", "importing 'own_failing' raised OSError: disk."),
        (
            "own_lacking:gated",
            "the module 'own_lacking' cannot be imported: No module named 'module_that_is_not_there'.",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(here: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        objective(text)
    assert str(caught.value).startswith("objective: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_objective_that_reads_extras_is_checked_where_they_are(here: Path) -> None:
    read = objective("own_losses:preferred")
    extras = {"reference_logprob": torch.zeros(6, dtype=torch.float64)}
    assert_close(read(TokenStats(stats().fields, 5, extras)), cross_entropy(stats()))


def test_objective_that_reads_the_batch_says_so_and_names_what_is_missing() -> None:
    assert extras_of(objective("cross_entropy + 0.1 * k3_anchor + psft")) == ("reference_logprob", "old_logprob")
    assert Loss("prift").extras == ("reference_logprob",) and Loss("dft", extras=("mine",)).extras == ("mine",)
    with pytest.raises(KeyError, match="prift reads 'reference_logprob' of each token, which the batch does not"):
        weighted_loss(torch.zeros(2, 3), Head(torch.zeros(4, 3)), torch.tensor([1, 2]), torch.ones(2), "prift")
    batch = {"labels": torch.tensor([[-100, 1, 2]])}
    with pytest.raises(ValueError, match="the loss reads 'reference_logprob' of each token, which the batch does not"):
        read_tokens(Loss("prift"), batch)
    tokens = read_tokens(Loss("prift"), batch | {"reference_logprob": torch.tensor([[0.0, -1.0, -2.0]])})
    assert tokens.extras["reference_logprob"].tolist() == [-1.0, -2.0, 0.0], "aligned as the targets are"


def test_commands_refuse_an_objective_that_reads_the_batch_in_one_sentence() -> None:
    message = "reads reference_logprob of each token; give reference, the folder that sftloss reference writes"
    with pytest.raises(ConfigError, match=message):
        read_objectives(["dft + 0.05 * k3_anchor"])
    with pytest.raises(ConfigError, match=message):
        loss_of(Recipe(loss="prift"))
    with pytest.raises(ConfigError, match="which sftloss train and sftloss compare make of the rows, and this command"):
        read_objectives(["unlikelihood"])
    assert loss_of(Recipe(loss="unlikelihood")).extras == ("is_negative",)
    with pytest.raises(ConfigError, match="the folder that sftloss reference --top-k 20 writes"):
        read_objectives(["kl_anchor + dft"])
    with pytest.raises(ConfigError, match="the folders that sftloss reference and sftloss reference --name old write"):
        read_objectives(["token_cleaning"])
    with pytest.raises(
        ConfigError, match="is computed of whole logits, which sftloss train and sftloss compare do and"
    ):
        read_objectives(["gem(kind='log_sigmoid')"])
    with pytest.raises(ConfigError, match="is computed of whole logits, and the gradient of each example is not"):
        loss_of(Recipe(loss="gem(kind='log_sigmoid')", watch_gradients=10))
    assert loss_of(Recipe(loss="gem(kind='log_sigmoid')")).extras == ()
    with pytest.raises(ConfigError, match="z_loss is a term to add, and no loss to train on alone; write 'cross_entr"):
        loss_of(Recipe(loss="z_loss"))


def test_a_name_without_a_colon_imports_no_module(here: Path) -> None:
    (here / "own_trap.py").write_text("raise SystemExit('imported')\n")
    for text in ("own_trap", "own_trap.loss", "own_trap(gamma=2)", "cross_entropy + own_trap"):
        with pytest.raises(ValueError):
            objective(text)
    assert "own_trap" not in sys.modules


def test_the_path_of_modules_is_left_as_it_was(here: Path) -> None:
    before = list(sys.path)
    objective("own_losses:gated")
    with pytest.raises(ValueError):
        objective("own_failing:gated")
    assert sys.path == before


def test_a_function_prints_its_import_path_and_reads_back(here: Path) -> None:
    objective("own_losses:gated")
    import own_losses

    read = objective(own_losses.gated)
    assert str(read) == "own_losses:gated" and objective(str(read)) == read
    bound = objective(partial(own_losses.gated, gamma=1, steps=5))
    assert str(bound) == "own_losses:gated(gamma=1, steps=5)" and objective(str(bound)) == bound


def test_a_function_of_ours_prints_its_name() -> None:
    assert str(objective(focal)) == "focal"
    assert objective(partial(focal, gamma=2)) == objective("focal(gamma=2)")
    assert objective(partial(label_smoothing, convention="others")) == objective("label_smoothing(convention='others')")
    read = objective("dft + focal")
    assert objective(read) is read


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda stats: -stats.target_logprob, "cannot be imported by a name; define it at the top level of a module."),
        (partial(lambda stats: stats, 3), "binds a value without its name"),
        (partial(focal, gamma=None), "focal(gamma=...) takes a number, got 'None'."),
        (partial(focal, gamma=-1), "focal: gamma must be finite"),
        (partial(focal, gama=1), "has no hyper-parameter 'gama'"),
    ],
)
def test_a_function_that_could_not_be_read_back_is_refused(function: object, message: str) -> None:
    with pytest.raises(ValueError, match="^objective: ") as caught:
        objective(function)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.fixture
def installed(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three packages with entry points: one that works, one whose module is missing, one with a name of ours."""
    folder = here / "own_plug_in-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-plug-in\nVersion: 1.0\n")
    lines = ["gated = own_losses:gated", "lost = own_nowhere:loss", "focal = own_losses:gated"]
    (folder / "entry_points.txt").write_text("[sftloss.objectives]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(here))
    plug_ins.cache_clear()
    yield here
    plug_ins.cache_clear()


def test_a_plug_in_is_read_by_its_name(installed: Path) -> None:
    assert plug_in_names() == ("gated", "lost")
    assert "own_losses" not in sys.modules, "names alone import nothing"
    read = objective("cross_entropy + gated(gamma=1)")
    assert str(read) == "cross_entropy + gated(gamma=1)" and objective(str(read)) == read
    assert_close(read(stats()), 2.3 * cross_entropy(stats()))
    assert objective("focal")(stats()).equal(focal(stats())), "a plug-in replaces none of ours"


def test_a_plug_in_that_is_broken_is_refused_when_it_is_named(installed: Path) -> None:
    with pytest.raises(ValueError, match="^objective: 'lost' cannot be used: there is no module 'own_nowhere'"):
        objective("lost")
    with pytest.raises(ValueError, match="did you mean 'gated'"):
        objective("gatd")


def test_losses_lists_plug_ins_and_describes_any_objective(installed: Path) -> None:
    def losses(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "from sftloss.cli import main; main()"
        command = [sys.executable, "-c", code, "losses", *arguments]
        path = [str(installed), *sys.path]
        code = f"import sys; sys.path[:] = {path!r}; from sftloss.cli import main; main()"
        return subprocess.run([*command[:2], code, *command[3:]], capture_output=True, text=True, cwd=installed)

    listed = losses()
    assert listed.returncode == 0 and "gated(gamma=2" in listed.stdout and "A loss of one's own." in listed.stdout
    assert "lost" not in listed.stdout and "own_nowhere" in listed.stderr
    assert all(name in listed.stdout for name in OBJECTIVES)
    named = losses("own_losses:gated")
    assert named.returncode == 0 and named.stdout.startswith("own_losses:gated(gamma=2, floor=0.1, steps=3")

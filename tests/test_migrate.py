"""The pages for users of other trainers: their code runs, and the numbers they quote are measured again."""

from __future__ import annotations

import re

import pytest
import torch
from tests.paths import ROOT

PAGES = sorted((ROOT / "docs" / "migrate").glob("*.md"))
CODE = {page.stem: re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S) for page in PAGES}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the packages below TRL
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]


@pytest.mark.parametrize("name", [name for name, blocks in CODE.items() if blocks])  # how-to/trl.md has TRL's
def test_a_pages_code_runs_and_prints(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = CODE[name]
    exec(compile(block, f"{name}.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def text_of(name: str) -> str:
    return (ROOT / "docs" / "migrate" / f"{name}.md").read_text(encoding="utf-8")


def test_trls_loss_is_ours_and_its_logged_entropy_depends_on_the_accumulation(tmp_path):
    pytest.importorskip("trl")
    pytest.importorskip("datasets")
    from tests.training.cases import model_of, relative_error
    from tests.training.test_trl import sft

    said = text_of("trl")
    logged = {}
    for batch, accumulation in ((8, 1), (1, 8)):
        theirs, expected = sft(
            tmp_path, model_of(dtype=torch.float32), None, batch, accumulation, loss_type="dft", logging_steps=1
        )
        ours, steps = sft(tmp_path, model_of(dtype=torch.float32), "dft", batch, accumulation)
        assert relative_error(steps[0], expected[0]) < 1e-5  # two float32 orders of summation
        logged[batch] = theirs.state.log_history[0], ours.state.log_history[0]
        assert logged[batch][0]["loss"] == pytest.approx(logged[batch][1]["loss"], rel=1e-5)
        assert f"{logged[batch][1]['loss']:.7f}" in said
    for which, names in ((0, ("entropy", "mean_token_accuracy")), (1, ("entropy", "token_accuracy"))):
        whole, rows = logged[8][which], logged[1][which]
        entropies = f"{whole[names[0]]:.3f}; {rows[names[0]]:.3f}"
        accuracies = f"{100 * whole[names[1]]:.2f} %; {100 * rows[names[1]]:.2f} %"
        assert entropies in said.replace("**", "") and accuracies in said.replace("**", "")


def test_ms_swifts_normalizer_is_the_number_of_labels():
    from sftloss.training import Loss
    from sftloss.training.hosts.ms_swift import loss_of_logits

    scale = torch.tensor([0.5, 0.5, 0.5, 0.0])
    loss = loss_of_logits(Loss(), torch.zeros(1, 4, 10), torch.tensor([[-100, 3, 4, 5]]), scale=scale)
    assert f"{float(loss):.4f} instead of {2 * float(loss):.4f}" in text_of("ms_swift")

"""`sftloss analyze --signal` measures the gradients of a subset, and goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from sftloss import analyze, per_example_gradients
from sftloss.analysis import AnalysisOptions
from sftloss.data import Examples, batches
from sftloss.data.demo import demo_model, demo_tokenizer
from sftloss.decoder.head import without_dropout
from sftloss.errors import ConfigError
from sftloss.files import seal
from sftloss.finetune.checkpoint import saved_adam
from sftloss.pipeline import Run, check
from sftloss.pipeline import gradients as module
from sftloss.training import Loss, inputs_of
from sftloss.training.gradients.direction import Update, gradient_of, update_of
from sftloss.training.gradients.per_example import attached, question_of
from sftloss.training.gradients.shares import as_one_step, shares_along

ROWS = [
    {"prompt": f"copy: {word}", "completion": word, "task": "ab"[i % 2], "language": ["en", "de"][i % 3 == 0]}
    for i, word in enumerate(("fig", "plum", "red fox", "blue bird", "hen pig duck", "pear tree", "a", "b c d", "owl"))
]
OPTIONS = {"replicates": 20, "signal_examples": 6}
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


def test_norms_are_those_of_the_examples(tmp_path: Path) -> None:
    model, tokenizer = demo_model(), demo_tokenizer()
    question = AnalysisOptions(signal="grad", **OPTIONS)
    report = analyze(model, tokenizer, ROWS, question=question, run=Run(output=tmp_path / "out"))
    influential = report.frames["gradient-influential"]
    assert influential.height == 6
    (batch,) = batches(list(Examples(ROWS, tokenizer)), pad_id=0, batch_size=len(ROWS))
    norms = per_example_gradients(model, inputs_of(batch), Loss()).norms
    places = [str(example.origin).rsplit(" ", 1)[-1] for example in batch.examples]
    by_place = dict(zip(places, norms.tolist(), strict=True))
    mine = [by_place[origin.rsplit(" ", 1)[-1]] for origin in influential["origin"]]
    assert influential["norm"].to_list() == pytest.approx([one / sum(mine) for one in mine], rel=1e-5)
    assert not model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("signal", ["grad", pytest.param("additive", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_with_what_it_has(signal: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Killed in the middle of the norms, or of the shares, with the beginning of a line in the file."""
    model, tokenizer = demo_model(), demo_tokenizer()
    question = AnalysisOptions(signal=signal, **OPTIONS)  # type: ignore[arg-type]
    run = Run(output=tmp_path, tokens_per_batch=24)
    first = analyze(model, tokenizer, ROWS, losses=["cross_entropy", "dft"], question=question, run=run)
    name, kept = (module.NORMS, 4) if signal == "grad" else (module.SHARES, 5)
    path = tmp_path / "table" / name
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:kept]) + '\n{"exam', encoding="utf-8")
    measured: list[int] = []
    before = module.GradientSource._batches

    def counted(source: Any, chosen: Any, cell_of: Any) -> Any:
        for batch, numbers in before(source, chosen, cell_of):
            measured.extend(numbers)
            yield batch, numbers

    monkeypatch.setattr(module.GradientSource, "_batches", counted)
    again = analyze(
        model, tokenizer, ROWS, losses=["cross_entropy", "dft"], question=question, run=replace(run, resume=True)
    )
    # 6 examples, 2 losses: 3 norms were kept; of the shares 3, and their update is made again
    assert len(measured) == (9 if signal == "grad" else 6 + 3)
    assert again.frames["gradient-numbers"].equals(first.frames["gradient-numbers"])
    for table in ("gradient-influential", "gradient-deciles"):
        assert again.frames[table].equals(first.frames[table])
    assert path.read_text(encoding="utf-8").count("\n") >= len(lines)


def test_an_answer_marked_as_wrong_is_in_no_gradient() -> None:
    turns = [{"role": "user", "content": "copy: a"}, {"role": "assistant", "content": "a"}]
    wrong = {**turns[1], "content": "b", "is_negative": True}
    (batch,) = batches(Examples([{"messages": [*turns, turns[0], wrong]}], demo_tokenizer()), pad_id=0, batch_size=1)
    assert bool((batch.weights < 0).any())
    for weights in (None, (("prompt", 0.5), ("response", 1.0))):
        study: Any = SimpleNamespace(options=AnalysisOptions(role_weights=weights))
        inputs = module.inputs_by_role(batch, study)["token_weights"]
        assert bool((inputs[batch.weights < 0] == 0).all()) and bool((inputs[batch.weights > 0] == 1).all())


def test_a_cut_off_line_spoils_no_other(tmp_path: Path) -> None:
    path, head = tmp_path / module.NORMS, {"roles": None}
    assert module._Lines(path, head).entries == []
    lines = [json.dumps({"example": n, "norm": 1.0}) for n in range(3)]
    path.write_text("\n".join([json.dumps(head), *lines[:2], lines[2][:8]]), encoding="utf-8")
    file = module._Lines(path, head)
    assert [entry["example"] for entry in file.entries] == [0, 1]
    file.add([{"example": 2, "norm": 1.0}])
    assert [entry["example"] for entry in module._Lines(path, head).entries] == [0, 1, 2]
    assert module._Lines(path, {"roles": [["prompt", 1.0]]}).entries == []


def test_shares_add_up_to_one_and_groups_are_compared() -> None:
    question = AnalysisOptions(signal="additive", top=6, role_weights=(("response", 1.0), ("prompt", 0.1)), **OPTIONS)
    report = analyze(demo_model(), demo_tokenizer(), ROWS, losses=["cross_entropy", "dft"], question=question)
    assert report.frames["gradient-influential"]["share"].sum() == pytest.approx(1)
    assert report.frames["gradient-update-role"]["update"].sum() == pytest.approx(1)
    assert report.frames["gradient-numbers"]["trained"][:2].to_list() == [
        "cross_entropy, token mean",
        "dft, token mean",
    ]
    cosines = report.frames["gradient-cosines-task"]
    assert cosines["group"].to_list() == ["a", "b"] and cosines["c0"][0] == pytest.approx(1)
    section = next(one for one in report.document.sections if one.id == "gradient")
    assert "plain gradient descent under token mean, by finite difference. Their sum differs by" in section.notes[1]
    assert "rough" not in section.notes[1]
    assert "gradient noise scale" in section.lead and section.strips


def test_shares_of_an_update_by_adam() -> None:
    shares = {}
    for optimizer in ("sgd", "adam"):
        question = AnalysisOptions(signal="additive", optimizer=optimizer, top=6, **OPTIONS)  # type: ignore[arg-type]
        report = analyze(demo_model(), demo_tokenizer(), ROWS, question=question)
        table = report.frames["gradient-influential"].sort("origin")
        shares[optimizer] = table["share"].to_list()
        notes = next(one for one in report.document.sections if one.id == "gradient").notes
        assert {"sgd": "plain gradient descent", "adam": "Adam's first step"}[optimizer] in notes[1]
    assert shares["sgd"] != pytest.approx(shares["adam"], rel=1e-2)
    assert sum(shares["adam"]) == pytest.approx(1)


def seal_again(folder: Path, optimizer: Any, name: str = "adamw_torch") -> None:
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    (folder / "sftloss.json").unlink(missing_ok=True)
    seal(folder, {"recipe": {"lora": None, "optimizer": name, "max_grad_norm": 0.5}})


def checkpoint(folder: Path) -> Any:
    """A model loaded from a checkpoint as `sftloss train` writes it, and its optimizer after two steps."""
    pytest.importorskip("accelerate")  # the Trainer needs it
    model = demo_model()
    trainer = Trainer(model, TrainingArguments(output_dir=str(folder / "out"), use_cpu=True, report_to="none"))
    optimizer, generator = trainer.create_optimizer(), torch.Generator().manual_seed(0)
    for _ in range(2):
        for p in model.parameters():
            p.grad = 1e-3 * torch.randn(p.shape, generator=generator)
        optimizer.step()
    optimizer.zero_grad()
    model.save_pretrained(folder)
    seal_again(folder, optimizer)
    return AutoModelForCausalLM.from_pretrained(folder), model, optimizer


def test_shares_of_the_next_step_of_a_checkpoint(tmp_path: Path) -> None:
    """The moments belong to the right parameters, and the gradient is that of a mean, clipped as in the run."""
    loaded, model, optimizer = checkpoint(tmp_path)
    again = saved_adam(loaded).optimizer.state
    moments = {name: again[p]["exp_avg_sq"] for name, p in loaded.named_parameters()}
    assert saved_adam(loaded)._replace(max_grad_norm=0.0).scale(2.0, 0.5) == 2.0
    assert all(torch.equal(moments[name], optimizer.state[p]["exp_avg_sq"]) for name, p in model.named_parameters())

    question = AnalysisOptions(signal="additive", optimizer="checkpoint", top=9, replicates=20)
    report = analyze(loaded, demo_tokenizer(), ROWS, question=question)
    influential = report.frames["gradient-influential"]
    (batch,) = batches(list(Examples(ROWS, demo_tokenizer())), pad_id=0, batch_size=len(ROWS))
    places = [str(example.origin).rsplit(" ", 1)[-1] for example in batch.examples]
    with attached(model, Loss()) as attachment, without_dropout(model):
        steps = as_one_step(attachment, [inputs_of(batch)], Loss())
        gradient = gradient_of(attachment, steps, Loss())
        norm = sum(float(g.square().sum()) for g in gradient.values()) ** 0.5
        assert norm > 0.5
        update = update_of(model, {name: g * 0.5 / norm for name, g in gradient.items()}, optimizer)
        questions = [question_of(attachment, one, Loss()) for one in steps]
        shares = shares_along(attachment, questions, Update(gradient, update.direction)).examples[0].tolist()
    by_place = dict(zip(places, shares, strict=True))
    mine = [by_place[origin.rsplit(" ", 1)[-1]] for origin in influential["origin"]]
    assert influential["share"].to_list() == pytest.approx(mine, abs=1e-3)
    notes = next(one for one in report.document.sections if one.id == "gradient").notes
    assert "an update by the checkpoint's Adam under token mean" in notes[1]

    for name, p in model.named_parameters():  # momentum against the gradient
        optimizer.state[p]["exp_avg"].copy_(-gradient[name])
    seal_again(tmp_path, optimizer)
    with pytest.raises(ConfigError, match="the checkpoint's next step raises the loss"):
        analyze(loaded, demo_tokenizer(), ROWS, question=question)
    seal_again(tmp_path, optimizer, name="adafactor")
    with pytest.raises(ConfigError, match="was trained with adapters or without AdamW"):
        analyze(loaded, demo_tokenizer(), ROWS, question=question)
    (tmp_path / "optimizer.pt").unlink()
    with pytest.raises(ConfigError, match="is no checkpoint of sftloss train: it lacks optimizer.pt"):
        analyze(loaded, demo_tokenizer(), ROWS, question=question)


@pytest.mark.parametrize("rank", [0, 1])
def test_several_ranks_are_refused_on_each_of_them(rank: int) -> None:
    """Before they meet: a rank that goes on would wait for one that has left."""
    run, question = Run(output="out", shard=(rank, 2)), AnalysisOptions(signal="grad")
    with pytest.raises(ConfigError, match="measured by one process"):
        check([], losses=["cross_entropy"], question=question, run=run)

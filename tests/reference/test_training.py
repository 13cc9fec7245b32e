"""Stored values in training: no second forward, the same gradient however a step is laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from safetensors.torch import load_file  # noqa: E402
from tests.finetune.runs import FIELDS, finish, start  # noqa: E402
from tests.finetune.runs import here as trained_here  # noqa: E402

from sftloss.data import Examples  # noqa: E402
from sftloss.data.demo import demo_model, demo_tokenizer  # noqa: E402
from sftloss.errors import ConfigError, DataError  # noqa: E402
from sftloss.finetune import Recipe, fine_tune, plan  # noqa: E402
from sftloss.finetune.rows import Collator, DataSet, pack  # noqa: E402
from sftloss.pipeline import Run, store_reference  # noqa: E402
from sftloss.reference import Kept, References  # noqa: E402
from sftloss.training import Loss, attach, collate_rows  # noqa: E402
from sftloss.training.batch.tokens import read_tokens  # noqa: E402

LOSS = "cross_entropy + 0.5 * k3_anchor"
MAX_LENGTH = 40
ROWS = [{"prompt": f"copy: {'word ' * (n % 3 + 1)}", "completion": "word " * (2 * n + 1)} for n in range(6)]


def reference_model() -> Any:
    """A model beside the one in training."""
    model, generator = demo_model().float(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def references(tmp_path_factory: Any) -> References:
    folder = tmp_path_factory.mktemp("reference") / "ref"
    return store_reference(reference_model(), demo_tokenizer(), ROWS, run=Run(output=folder, max_length=MAX_LENGTH))


def gradient(rows: tuple[tuple[int, ...], ...], at_once: int, packed: bool, references: References) -> torch.Tensor:
    """The gradient of one step over these rows, cut into micro-batches of `at_once` rows."""
    examples = tuple(Examples(ROWS, demo_tokenizer(), max_length=MAX_LENGTH))
    assert any(example.truncated for example in examples)
    data, model = DataSet(examples, rows, "rows"), demo_model().double().train()
    loss = Loss(LOSS)
    attachment, collate = attach(model, loss), Collator(0, packed, references=references, extras=loss.extras)
    batches = [collate([data[i] for i in range(len(rows))[k : k + at_once]]) for k in range(0, len(rows), at_once)]
    step = attachment.step(batches)
    for batch in batches:
        model(**batch, num_items_in_batch=step).loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_gradient_does_not_depend_on_packing_or_accumulation(references: References) -> None:
    alone = tuple((i,) for i in range(len(ROWS)))
    whole = gradient(alone, len(ROWS), False, references)
    for at_once in (1, 4):
        # float64; sums in another order
        torch.testing.assert_close(gradient(alone, at_once, False, references), whole, rtol=1e-9, atol=1e-12)
    examples = list(Examples(ROWS, demo_tokenizer(), max_length=MAX_LENGTH))
    rows = pack(DataSet.of(examples, "rows"), 3 * MAX_LENGTH).rows
    assert len(rows) < len(ROWS)
    torch.testing.assert_close(gradient(rows, 2, True, references), whole, rtol=1e-9, atol=1e-12)


def test_the_loss_is_that_of_a_second_forward_pass(references: References) -> None:
    loss, model, other = Loss(LOSS), demo_model().float().train(), reference_model()
    examples = list(Examples(ROWS, demo_tokenizer(), max_length=MAX_LENGTH))
    batch = Collator(0, references=references, extras=loss.extras)([((i, e),) for i, e in enumerate(examples)])
    terms, weights = [], []
    for example in examples:
        ids, at = example.input_ids[None], example.input_ids[1:, None]
        log_p, log_r = (m(ids).logits[0, :-1].log_softmax(-1).gather(1, at)[:, 0] for m in (model, other))
        log_d = log_r - log_p
        assert log_d.max() < 5, "beyond it the anchor is a straight line"
        terms.append(-log_p + 0.5 * (log_d.exp() - 1 - log_d))
        weights.append(example.weights[1:])
    expected = (torch.cat(terms) * torch.cat(weights)).sum() / torch.cat(weights).sum()
    attach(model, loss)
    # float32
    torch.testing.assert_close(model(**batch).loss, expected, rtol=1e-4, atol=1e-5)


def recipe(folder: Path, **more: Any) -> Recipe:
    fields = {"model": "demo", "data": "demo", "max_examples": 60, "loss": LOSS, "max_steps": 1, "device": "cpu"}
    return Recipe(**{**fields, "reference": (str(folder),), **more})


@pytest.fixture(scope="module")
def of_demo(tmp_path_factory: Any) -> Path:
    folder = Path(tmp_path_factory.mktemp("reference") / "demo.reference")
    store_reference(reference_model(), demo_tokenizer(), "demo", run=Run(output=folder, max_examples=60))
    return folder


def test_a_recipe_reads_the_folder_and_holds_rows_out(of_demo: Path) -> None:
    outcome = fine_tune(recipe(of_demo, eval_share=0.25))
    assert outcome.metrics["loss"] > outcome.metrics["cross_entropy"], "the anchor is above 0"


def test_what_does_not_fit_is_refused_before_training(of_demo: Path, tmp_path: Path) -> None:
    for problem, more in {
        "give reference, the folder that sftloss reference writes": {"reference": ()},
        "is missing": {"reference": (str(tmp_path / "none"),)},
        "made with another max_length": {"max_length": 16},
        "has no old_logprob": {"loss": "psft"},
        "two terms of .* need different candidate_ids": {"loss": "unlikelihood_context + 0.1 * kl_anchor"},
    }.items():
        for run in (fine_tune, plan):
            with pytest.raises(ConfigError, match=problem):
                run(recipe(of_demo, **more))
    assert recipe(of_demo, reference="folder").reference == ("folder",)
    (tmp_path / "data.jsonl").write_text('{"prompt": "another", "completion": "row"}')
    with pytest.raises(DataError, match=r"data\.jsonl:1: this row has no values in .*\(made from demo\)"):
        plan(recipe(of_demo, data=str(tmp_path / "data.jsonl")))


def test_a_data_set_gets_the_values_as_columns(tmp_path: Path) -> None:
    """For Trainers and loops of one's own: columns of a data set, laid out as the labels are."""
    run, tokenizer = Run(output=tmp_path / "ref"), demo_tokenizer()
    references = store_reference(reference_model(), tokenizer, ROWS, kept=Kept(2), run=run)
    rows = [{"input_ids": example.input_ids.tolist()} for example in Examples(ROWS, tokenizer)]
    rows = [{**row, **{n: v.tolist() for n, v in references.columns(row["input_ids"]).items()}} for row in rows]
    for packed in (False, True):
        batch = collate_rows(rows, pad_id=0, packed=packed, extras=references.names)
        assert batch["candidate_ids"].shape == (*batch["labels"].shape, 2)
        tokens = read_tokens(Loss("k3_anchor", extras=references.names), batch)
        laid = Collator(0, packed, references=references, extras=references.names)(
            [tuple(enumerate(Examples(ROWS, tokenizer)))] if packed else [((0, e),) for e in Examples(ROWS, tokenizer)]
        )
        for name in references.names:
            is_target = tokens.targets >= 0
            assert torch.equal(
                tokens.extras[name][is_target], laid[name].flatten(0, 1)[is_target].to(tokens.extras[name])
            )


@pytest.mark.slow
def test_two_processes_end_where_one_ends(of_demo: Path, tmp_path: Path) -> None:
    more = {"loss": LOSS, "reference": [str(of_demo)], "dtype": "float64", "dropout": 0.0, "optimizer": "sgd"}
    more |= {"epochs": 1.0, "learning_rate": 0.05, "eval_share": 0.0, "eval_every": None, "normalization": "sqrt"}
    assert FIELDS["max_examples"] == 60
    finish(start(tmp_path / "two", ranks=2, batch_size=4, grad_accum=1, **more))
    trained_here(tmp_path / "one", batch_size=8, grad_accum=1, **more)
    two, one = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("two", "one"))
    # float64; ranks add in another order
    assert max(float((two[n] - one[n]).norm() / one[n].norm()) for n in one) < 1e-10

"""Any split of an optimizer step into micro-batches and packs has the loss and gradient of the whole."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.training.cases import chunks, definition, gradients, model_of, ragged_rows, relative_error, without

from sftloss.data import Batch
from sftloss.statistics import from_logits
from sftloss.training import Loss, TaskFactors, attach, collate_rows, inputs_of, step_total, weigh_batch

pytest.importorskip("transformers")

ROWS = ragged_rows()
LOSSES = {
    "cross_entropy": Loss(),
    "objective": Loss("focal(gamma=2) + 1e-2 * z_loss"),
    "alpha": Loss(normalization="sqrt"),
    "sequences": Loss(normalization="example-mean", normalizer="sequences"),
    "tokens": Loss(normalizer="tokens"),
    "constant": Loss(normalizer=100.0),
    "prompt": Loss(roles={"prompt": 0.2, "response": 1.0}),
    "task means": Loss(tasks=TaskFactors((1.0, 0.25))),
    "task factors": Loss(tasks=TaskFactors((1.0, 0.25), is_mean_per_task=False), normalization="sqrt"),
}


def run(model: Any, attachment: Any, micro_batches: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    step = attachment.step(micro_batches)
    total = 0.0
    for batch in micro_batches:
        loss = model(**batch, num_items_in_batch=step).loss
        loss.backward()
        total += float(loss.detach())
    return total, gradients(model)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_split_of_a_step_is_the_whole(loss: Loss) -> None:
    """8x1 = 2x4 = 1x8, an incomplete last window, packed, and a micro-batch with nothing to learn."""
    model = model_of()
    attachment = attach(model, loss)
    pad, pack = partial(collate_rows, pad_id=0), partial(collate_rows, pad_id=0, packed=True)
    value, truth = run(model, attachment, [pad(ROWS)])
    nothing = [{**row, "token_weights": torch.zeros_like(row["token_weights"])} for row in ROWS[:2]]
    splits = {
        "2x4": [pad(part) for part in chunks(ROWS, 2)],
        "1x8": [pad([row]) for row in ROWS],
        "3+3+2": [pad(part) for part in chunks(ROWS, 3)],
        "packed": [pack(ROWS)],
        "packed 5+3": [pack(part) for part in chunks(ROWS, 5)],
        "with nothing": [pad(ROWS[:5]), pad(nothing), pad(ROWS[5:])],
    }
    for name, micro_batches in splits.items():
        got, gradient = run(model, attachment, micro_batches)
        # float64, but for rotary angles and norms, which the model takes in float32 of equal inputs
        assert got == pytest.approx(value, abs=1e-10), name
        assert relative_error(gradient, truth) < 1e-10, name


@pytest.mark.parametrize("normalization", ["token-mean", "example-mean"])
def test_every_split_of_a_step_with_weighted_rows_is_the_whole(normalization: str) -> None:
    """A row's weight multiplies its tokens' in the loss and in Z; the length of an example does not count it."""
    rows = [{**row, "example_weights": weight} for row, weight in zip(ROWS, _ROW_WEIGHTS, strict=True)]
    model = model_of()
    attachment = attach(model, Loss(normalization=normalization))
    truth = definition(model, rows, lambda row: row["example_weights"] * _shares(row, normalization))
    truth.backward()
    of_truth = gradients(model)
    for micro_batches in ([rows], chunks(rows, 2), chunks(rows, 3), [[row] for row in rows]):
        got, gradient = run(model, attachment, [collate_rows(part, pad_id=0) for part in micro_batches])
        assert got == pytest.approx(float(truth.detach()), abs=1e-10)
        # as above: float64, but for numbers that the model takes in float32 of equal inputs
        assert relative_error(gradient, of_truth) < 1e-10
    got, gradient = run(model, attachment, [collate_rows(part, pad_id=0, packed=True) for part in chunks(rows, 5)])
    assert got == pytest.approx(float(truth.detach()), abs=1e-10) and relative_error(gradient, of_truth) < 1e-10


_ROW_WEIGHTS = (3.0, 0.5, 1.0, 0.0, 2.0, 0.25, 1.0, 4.0)


def _shares(row: dict[str, Any], normalization: str) -> torch.Tensor:
    """The weights of a row's targets by its token weights; divided by their sum where every example counts alike."""
    weights = row["token_weights"][1:].double() * (row["labels"][1:] != -100)
    return weights / weights.sum() if normalization == "example-mean" else weights


def test_mean_of_means_fails_this_law() -> None:
    """The negative control: without the step's total each micro-batch is its own mean."""
    model = model_of()
    attach(model, Loss())
    model(**collate_rows(ROWS, pad_id=0)).loss.backward()
    truth = gradients(model)
    for part in chunks(ROWS, 2):
        (model(**collate_rows(part, pad_id=0)).loss / 4).backward()
    assert relative_error(gradients(model), truth) > 0.01


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, 7)), packs=st.lists(st.booleans(), min_size=8, max_size=8), seed=st.integers(0, 99))
def test_drawn_splits_of_drawn_rows_are_the_whole(cuts: set[int], packs: list[bool], seed: int) -> None:
    rows = ragged_rows(seed=seed)
    model = _shared_model()
    value, truth = run(model, _shared[1], [collate_rows(rows, pad_id=0)])
    edges = [0, *sorted(cuts), 8]
    parts = [rows[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    split = [collate_rows(part, pad_id=0, packed=pack) for part, pack in zip(parts, packs, strict=False)]
    got, gradient = run(model, _shared[1], split)
    assert got == pytest.approx(value, abs=1e-10) and relative_error(gradient, truth) < 1e-10


_shared: list[Any] = []


def _shared_model() -> Any:
    if not _shared:
        model = model_of()
        _shared.extend([model, attach(model, Loss("dft", normalization=0.3))])
    return _shared[0]


def test_float32_splits_err_no_more_than_twice_the_whole() -> None:
    exact_model = model_of()
    exact = run(exact_model, attach(exact_model, Loss()), [collate_rows(ROWS, pad_id=0)])[1]
    model = model_of(dtype=torch.float32)
    attachment = attach(model, Loss())
    whole = relative_error(run(model, attachment, [collate_rows(ROWS, pad_id=0)])[1], exact)
    split = relative_error(run(model, attachment, [collate_rows([row], pad_id=0) for row in ROWS])[1], exact)
    # eight roundings of the accumulated gradient come on top
    assert split <= 2 * whole + 8 * torch.finfo(torch.float32).eps


def test_router_loss_of_a_step_is_the_mean_of_its_micro_batches() -> None:
    model = model_of("mixtral", router_aux_loss_coef=5.0)
    attachment = attach(model, Loss())
    parts = [collate_rows(part, pad_id=0) for part in chunks(without(ROWS, "token_weights", "tasks"), 2)]
    with torch.no_grad():
        step = attachment.step(parts)
        outs = [model(**part, num_items_in_batch=step) for part in parts]
    router = 5.0 * sum(float(out.aux_loss) for out in outs) / 4
    tokens = float(definition(model, ROWS).detach())
    # the router's own loss is taken in float32
    assert sum(float(out.loss) for out in outs) == pytest.approx(tokens + router, abs=1e-5)


def test_weights_are_those_of_the_definition() -> None:
    model = model_of()
    attach(model, Loss())
    truth = definition(model, ROWS, lambda row: row["token_weights"][1:])
    loss = model(**collate_rows(ROWS, pad_id=0)).loss
    assert float(loss.detach()) == pytest.approx(float(truth.detach()), abs=1e-10)


def test_prompt_weight_trains_the_prompts_tokens_and_no_padding() -> None:
    rows = without(ROWS, "token_weights")
    model = model_of()
    attach(model, Loss(roles={"prompt": 0.2, "response": 1.0}))
    loss = model(**collate_rows(rows, pad_id=0)).loss
    asked = [{**row, "labels": row["input_ids"]} for row in rows]
    masks = {row["row_ids"]: torch.where(row["labels"] == -100, 0.2, 1.0)[1:] for row in rows}
    truth = definition(model, asked, lambda row: masks[row["row_ids"]])
    # 0.2 is a float32 number here and there
    assert float(loss.detach()) == pytest.approx(float(truth.detach()), abs=1e-10)


def test_labels_alone_do_not_show_whose_words_a_token_is() -> None:
    rows = without(ROWS, "roles")
    with pytest.raises(ValueError, match=r"an ignored label may be a prompt.*roles = \(labels != -100\)"):
        step_total(Loss(roles={"prompt": 0.2, "response": 1.0}), [collate_rows(rows, pad_id=0)])


def test_alpha_one_by_sequences_is_the_mean_of_the_sequences_means() -> None:
    rows = without(ROWS, "token_weights")
    model = model_of()
    attach(model, Loss(normalization="example-mean", normalizer="sequences"))
    loss = float(model(**collate_rows(rows, pad_id=0)).loss.detach())
    truth = sum(float(definition(model, [row]).detach()) for row in rows) / len(rows)
    assert loss == pytest.approx(truth, abs=1e-10)


def test_packed_one_token_rows_are_sequences_of_their_own() -> None:
    """Position ids 0, 0: nothing decreases, and yet a sequence begins."""
    rows = [{"input_ids": [5]}, {"input_ids": [6]}, {"input_ids": [7, 8]}]
    step = step_total(Loss(normalizer="tokens"), [collate_rows(rows, pad_id=0, packed=True)])
    assert float(step.total) == 1


def test_batches_of_our_own_data_are_read_aligned() -> None:
    from sftloss.data import collate
    from sftloss.data.examples import Example, Origin

    examples = [
        Example(
            input_ids=row["input_ids"],
            roles=(row["labels"] != -100).to(torch.int8),
            weights=torch.where(row["labels"] != -100, row["token_weights"], 0.0),
            is_end=torch.zeros(len(row["labels"]), dtype=torch.bool),
            origin=Origin("data.jsonl", i, i + 1),
        )
        for i, row in enumerate(ROWS)
    ]
    padded: Batch = collate([[example] for example in examples], pad_id=0)
    packed: Batch = collate([examples[:5], examples[5:]], pad_id=0, packed=True)
    model = model_of()
    attachment = attach(model, Loss(normalization="sqrt"))
    value, truth = run(model, attachment, [collate_rows(without(ROWS, "tasks"), pad_id=0)])
    for batch in (padded, packed):
        got, gradient = run(model, attachment, [inputs_of(batch)])
        assert got == pytest.approx(value, abs=1e-10) and relative_error(gradient, truth) < 1e-10
    assert inputs_of(packed)["row_ids"][1] == ["data.jsonl:6", "data.jsonl:7", "data.jsonl:8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalizer": "means"}, "normalizer must be weights, sequences, tokens or a number"),
        ({"normalizer": 0.0}, "must be > 0"),
        ({"roles": {"assistant": 1.0}}, "roles takes a finite weight for prompt, response"),
        ({"normalization": float("nan")}, "nor an exponent"),
    ],
)
def test_loss_refuses_what_it_cannot_mean(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loss(**arguments)


@pytest.mark.parametrize(
    "text", ["pear", "pear(level='block', gamma=0.9)", "pear(level='sequence')", "0.5 * dft + iw_sft_sequence"]
)
def test_values_of_whole_sequences_are_the_same_in_every_split(text: str) -> None:
    """The loss is its definition on the logits of each row, padded, packed and in micro-batches."""
    rows = [{**row, "reference_logprob": -3 * torch.rand(len(row["input_ids"]))} for row in ROWS]
    pad = partial(collate_rows, pad_id=0, extras=("reference_logprob",))
    pack = partial(pad, packed=True)
    model, objective = model_of(), Loss(text).function
    attachment = attach(model, Loss(text, normalizer=7.0))
    expected = 0.0
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=row["input_ids"][None]).logits[0, :-1]
        targets, reference = row["labels"][1:], row["reference_logprob"][1:].double()
        logprob = from_logits(logits, targets).target_logprob
        ratio = torch.where(targets == -100, 0.0, logprob - reference)
        bounded = ratio.clamp(-0.08, 0.3)
        is_trained = (targets != -100).double()
        place = is_trained.cumsum(0) - is_trained
        after_block = is_trained * (place[None, :] // 4 > place[:, None] // 4)  # of each token the later blocks
        extras = {
            "reference_logprob": reference,
            "mean_log_ratio": (ratio.sum() / is_trained.sum()).expand_as(ratio),
            "whole_log_ratio": bounded.sum().expand_as(ratio),
            "later_log_ratio": bounded.flip(0).cumsum(0).flip(0) - bounded,
            "later_tokens": is_trained.flip(0).cumsum(0).flip(0) - is_trained,
            "later_block_log_ratio": after_block @ bounded,
            "later_block_tokens": after_block.sum(dim=1),
        }
        losses = objective(from_logits(logits, targets, extras=extras))
        expected += float((row["token_weights"][1:] * torch.where(targets == -100, 0.0, losses)).sum()) / 7
    for micro_batches in ([pad(rows)], [pad(part) for part in chunks(rows, 3)], [pack(rows)]):
        assert run(model, attachment, micro_batches)[0] == pytest.approx(expected, rel=1e-6)


def test_slices_of_sequences_have_no_values_of_whole_ones() -> None:
    rows = [{**row, "reference_logprob": torch.zeros(len(row["input_ids"]))} for row in ROWS]
    loss, model = Loss("pear"), model_of()
    attach(model, loss)
    with pytest.raises(ValueError, match="compares whole sequences, and this rank holds slices of them"):
        model(**weigh_batch(loss, collate_rows(rows, pad_id=0, extras=loss.extras)))


def test_objective_that_mixes_tokens_is_refused() -> None:
    def mixing(stats: Any) -> torch.Tensor:
        return -stats.target_logprob / stats.entropy.mean()

    mixing.mixes_tokens = True
    with pytest.raises(ValueError, match="mixes tokens"):
        Loss(mixing)


def test_count_of_labels_is_no_normalizer_of_a_weighted_loss() -> None:
    model = model_of()
    attach(model, Loss(normalization="sqrt"))
    with pytest.raises(ValueError, match="num_items_in_batch counts labels"):
        model(**collate_rows(ROWS, pad_id=0), num_items_in_batch=torch.tensor(40.0))


def test_missing_tasks_and_wrong_shapes_are_named() -> None:
    batch = collate_rows(without(ROWS, "tasks"), pad_id=0)
    with pytest.raises(ValueError, match="must hold tasks"):
        step_total(LOSSES["task means"], [batch])
    with pytest.raises(ValueError, match="token_weights has shape"):
        step_total(Loss(), [{**batch, "token_weights": batch["token_weights"][:, 1:]}])
    with pytest.raises(ValueError, match="at least one micro-batch"):
        step_total(Loss(), [])


@pytest.mark.parametrize(
    ("normalization", "alpha"), [("token-mean", 0.0), ("sqrt", 0.5), ("example-mean", 1.0), (0.3, 0.3)]
)
def test_normalizers_are_what_the_table_of_the_docs_says(normalization: Any, alpha: float) -> None:
    """docs/training.md, "What Z counts", row by row from the definition."""
    rows = [{**row, "example_weights": 0.5 + i} for i, row in enumerate(ROWS)]
    weights, factors = [], []
    for row in rows:
        w = torch.where(row["labels"] != -100, row["token_weights"], 0.0).double()[1:]
        weights.append(w * w.sum() ** -alpha)
        factors.append(row["example_weights"])
    counts = {
        "weights": sum(float(u.sum()) * e for u, e in zip(weights, factors, strict=True)),
        "tokens": sum(int((u != 0).sum()) for u in weights),
        "sequences": len(rows),
        7.5: 7.5,
    }
    for normalizer, expected in counts.items():
        loss = Loss(normalization=normalization, normalizer=normalizer)
        assert float(step_total(loss, [collate_rows(rows, pad_id=0)]).total) == pytest.approx(expected, rel=1e-6)
    if alpha == 1.0:
        plain = [{k: v for k, v in row.items() if k != "example_weights"} for row in rows]
        total = step_total(Loss(normalization=normalization), [collate_rows(plain, pad_id=0)]).total
        assert float(total) == pytest.approx(len(rows)), "the same as by sequences"

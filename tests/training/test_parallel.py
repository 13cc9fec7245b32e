"""Models and sequences cut over ranks have the gradient of one process; a launcher that starts one process fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.launching import torchrun
from tests.training.cases import ragged_rows

from sftloss.training import Loss, collate_rows, step_total, weigh_batch
from sftloss.training.batch.tokens import read_tokens

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
EXACT = [
    *("tp llama", "tp phi", "tp, constant normalizer", "tp, sequences", "torch's plan", "own logits", "trainer"),
    *("fsdp2 first", "fsdp2 first, head alone", "fsdp2 first, tied"),
    *(f"sequence slices, {name}" for name in ("weights", "sequences", "tasks", "roles", "balanced")),
]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("parallel") / "errors.json"
    return torchrun("training/parallel_ranks.py", request.param, out)


@pytest.mark.parametrize("case", EXACT)
def test_cut_model_or_sequence_has_the_gradient_of_one_process(case: str, found: dict[str, Any]) -> None:
    # its loss too; float64, ranks add in another order
    assert found[case] < 1e-10


@pytest.mark.parametrize("family", ["gemma2", "cohere"])
def test_tensor_parallel_cap_and_scale_are_the_models_own(family: str, found: dict[str, Any]) -> None:
    # these two take steps in float32 whatever the model's dtype
    assert found[f"tp {family}"] < 2e-6


def test_tensor_parallel_under_fsdp2_has_the_gradient_of_one_process(found: dict[str, Any]) -> None:
    if found["world"] != 4:
        pytest.skip("two by two needs four ranks")
    assert found["fsdp2 and tp"] < 1e-10


@pytest.mark.parametrize("case", ["mixed precision", "mixed precision, attached first"])
def test_mixed_precision_rounds_neither_weights_nor_normalizer(case: str, found: dict[str, Any]) -> None:
    # the same products in the same order
    assert found[case] < 1e-7
    assert found["mixed precision, rounded"] > 1e-4, "the negative control"


@pytest.mark.parametrize("control", ["copies forgotten", "sequence cut first"])
def test_wrong_count_of_ranks_or_shift_after_the_cut_fails_this_law(control: str, found: dict[str, Any]) -> None:
    """The negative controls."""
    assert found[control] > 0.1


def test_head_that_is_sharded_under_an_attached_loss_is_refused(found: dict[str, Any]) -> None:
    assert "make the model tensor-parallel first, then attach" in found["refused"]


@pytest.mark.parametrize("normalizer", ["weights", "sequences", "tokens"])
def test_slices_of_a_weighed_batch_add_up_to_its_normalizer(normalizer: str) -> None:
    loss = Loss(normalization="sqrt", normalizer=normalizer)
    batch = {k: v for k, v in collate_rows(ragged_rows(), pad_id=0).items() if k != "attention_mask"}
    whole, weighed = step_total(loss, [batch]).total, weigh_batch(loss, batch)
    for cut in (1, 3, 7):
        parts = [
            {k: v[:, columns] if torch.is_tensor(v) and v.dim() == 2 else v for k, v in weighed.items()}
            for columns in (slice(None, cut), slice(cut, None))
        ]
        # sums in another order
        torch.testing.assert_close(step_total(loss, parts).total, whole, rtol=1e-12, atol=0.0)


def test_weighed_batch_is_read_as_the_batch_it_was() -> None:
    loss = Loss(normalization="example-mean", roles={"prompt": 0.1, "response": 1.0})
    batch = collate_rows(ragged_rows(), pad_id=0)
    before, after = read_tokens(loss, batch), read_tokens(loss, weigh_batch(loss, batch))
    assert torch.equal(before.targets, after.targets)
    assert torch.equal(before.weights, after.weights)


def test_weights_without_their_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="use weigh_batch"):
        read_tokens(Loss(), {"labels": torch.ones(1, 2, dtype=torch.long), "loss_weights": torch.ones(1, 2)})

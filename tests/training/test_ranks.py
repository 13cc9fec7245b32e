"""Several processes have the loss and gradient of one; a launcher that silently starts one fails these tests."""

from __future__ import annotations

from typing import Any

import pytest
from tests.launching import torchrun

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")
EXACT = [
    *("ddp", "attach after ddp", "ddp, packed", "ddp, checkpointed", "ddp, masked rank", "ddp, router"),
    *("fsdp2", "fsdp2, head alone", "fsdp2, packed, checkpointed", "fsdp2, masked rank"),
    *(f"LoRA on the head, {how}" for how in ("ddp", "fsdp2", "attached, then fsdp2")),
    "LoRA on the head alone in fsdp2",
    *("accelerate", "trainer", "trainer, last window"),
]
WINDOWS = (1, 2, 4)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Errors by case and collectives by window, from one torchrun."""
    out = tmp_path_factory.mktemp("ranks") / "found.json"
    return torchrun("training/ranks.py", request.param, out, ACCELERATE_USE_CPU="true")


@pytest.mark.parametrize("case", EXACT)
def test_ranks_have_the_gradient_of_one_process_on_the_whole_batch(case: str, found: dict[str, Any]) -> None:
    loss, gradient, *_ = found[case]
    # float64, ranks add in another order; but a router's loss is float32 whatever the model is
    most = 2e-6 if "router" in case else 1e-10
    assert loss < most
    assert gradient < most


@pytest.mark.parametrize("case", EXACT)
def test_float32_ranks_err_at_most_twice_what_the_plain_formula_does(case: str, found: dict[str, Any]) -> None:
    *_, loss, gradient = found[case]
    # in epsilons: the sum of two micro-batches on each rank rounds once for each of them
    assert max(loss, gradient) <= 2 * found["world"]


def test_mean_of_means_over_ranks_fails_this_law(found: dict[str, Any]) -> None:
    """The negative control."""
    loss, gradient, *narrow = found["mean of means"]
    assert loss > 0.01 and gradient > 0.01
    assert min(narrow) > 1e4


def test_gradients_added_in_float16_fail_the_float32_law(found: dict[str, Any]) -> None:
    """The negative control of its precision."""
    assert found["added in float16"][-1] > 100


def test_router_loss_multiplied_by_the_ranks_fails_this_law(found: dict[str, Any]) -> None:
    """The negative control of `ddp, router`: transformers#48690."""
    loss, gradient, *_ = found["router times world"]
    assert loss > 0.01 and gradient > 0.01


def test_ranks_log_what_one_process_logs(found: dict[str, Any]) -> None:
    # float64; ranks add in another order
    assert found["log"] < 1e-10


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_step_of_any_window_takes_one_all_reduce_of_one_number(engine: str, found: dict[str, Any]) -> None:
    assert found["added"][engine] == [{"allreduce_ 1": 1}] * len(WINDOWS)


def test_trainer_takes_one_all_reduce_of_one_number_a_step(found: dict[str, Any]) -> None:
    # an epoch of four micro-batches a rank; one more at the end of training, for train_loss
    assert found["trainer added"]["ours"] == [{"allreduce_ 1": 4 // window + 1} for window in WINDOWS]


def test_step_counted_in_each_micro_batch_fails_this_law(found: dict[str, Any]) -> None:
    """The negative control."""
    assert found["added"]["control"] == [{"allreduce_ 1": window} for window in WINDOWS]
    # beside the count of the whole window
    assert found["trainer added"]["control"] == [{"allreduce_ 1": 4 + 4 // window + 1} for window in WINDOWS]

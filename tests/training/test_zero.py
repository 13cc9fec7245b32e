"""DeepSpeed's ZeRO on two processes has the gradient of one; runs where `pip install deepspeed` did (docs/scale.md)."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from tests.launching import torchrun

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Relative gradient errors by case, from one torchrun. The first time, DeepSpeed compiles for a minute or more."""
    out = tmp_path_factory.mktemp("zero") / "errors.json"
    return torchrun("training/zero_ranks.py", 2, out, timeout=400, DS_ACCELERATOR="cpu")


@pytest.mark.parametrize("case", ["loop, stage 2", "loop, stage 3", "attach after stage 3"])
def test_zero_has_the_gradient_of_one_process_on_the_whole_batch(case: str, errors: dict[str, float]) -> None:
    # DeepSpeed wants float32; compared with float64
    assert errors[case] < 1e-5


@pytest.mark.parametrize("stage", [2, 3])
def test_trainer_under_zero_moves_the_weights_as_one_process_does(stage: int, errors: dict[str, float]) -> None:
    # a difference of float32 weights, up to 30 times as large as the smallest gradients
    assert errors[f"trainer, stage {stage}"] < 1e-4


def test_mean_of_means_under_zero_fails_this_law(errors: dict[str, float]) -> None:
    """The negative control."""
    assert errors["mean of means"] > 0.01

"""Weights under the names of papers: presets, factors of languages, weights from rewards."""

from __future__ import annotations

import pytest
import torch

from sftloss import Loss
from sftloss.weights import byte_factors, preset, reward_weights, temperature_factors, unimax_factors

SIZES = {"en": 900.0, "de": 90.0, "sw": 10.0}


def shares(factors: dict[str, float]) -> list[float]:
    return [factors[name] * size / 1000 for name, size in SIZES.items()]


def test_presets_are_arguments_of_a_loss() -> None:
    wit = Loss("cross_entropy", **preset("wit").loss)
    assert wit.roles == {"prompt": 0.2, "response": 0.8} and wit.normalizer == "tokens"
    assert Loss(**preset("prompt-weight=0.1").loss).roles == {"prompt": 0.1, "response": 1.0}
    assert preset("think=0.3").think_weight == 0.3 and preset("think=0.3").loss == {}


@pytest.mark.parametrize("text", ["witt", "wit=1", "prompt-weight", "think=x", "think=-1", "prompt-weight=nan", ""])
def test_preset_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="preset: "):
        preset(text)


def test_temperature_moves_shares_from_those_of_the_data_to_equal_ones() -> None:
    assert shares(temperature_factors(SIZES, temperature=1)) == pytest.approx([0.9, 0.09, 0.01])
    roots = [size**0.5 for size in SIZES.values()]
    assert shares(temperature_factors(SIZES, temperature=2)) == pytest.approx([root / sum(roots) for root in roots])
    assert shares(temperature_factors(SIZES, temperature=1e9)) == pytest.approx([1 / 3] * 3)


def test_unimax_is_uniform_up_to_the_cap_on_epochs() -> None:
    assert shares(unimax_factors(SIZES, epochs=1e9)) == pytest.approx([1 / 3] * 3)
    # sw is capped at 40 tokens, de at 360, the rest of 1000 is left for en
    assert shares(unimax_factors(SIZES, epochs=4)) == pytest.approx([0.6, 0.36, 0.04])
    assert shares(unimax_factors(SIZES, epochs=1, budget=30)) == pytest.approx([1 / 3] * 3)


def test_byte_factors_give_each_language_its_share_of_the_text() -> None:
    factors = byte_factors({"en": 100, "my": 300}, {"en": 400, "my": 400})
    assert factors["en"] * 100 == factors["my"] * 300 == 200
    with pytest.raises(ValueError, match="the groups differ"):
        byte_factors({"en": 1}, {"de": 1})
    with pytest.raises(ValueError, match="every size must be above 0"):
        temperature_factors({"en": 0.0}, temperature=2)


def test_reward_weights_are_exponentials_that_are_bounded() -> None:
    rewards = torch.tensor([0.0, 1.0, 1e6])
    assert reward_weights(rewards, temperature=1.0).tolist() == pytest.approx([0, 0, 1])
    assert reward_weights(rewards, temperature=0.5, baseline=0.5).tolist() == pytest.approx(
        [0.36788, 2.71828, 20], rel=1e-4
    )
    with pytest.raises(ValueError, match="NaN"):
        reward_weights(torch.tensor([float("nan")]), temperature=1.0)

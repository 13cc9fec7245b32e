"""A head in shards over ranks is the whole head, by torchrun over gloo; a launcher that starts one process fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.launching import torchrun
from tests.objectives.rows import ENGINE_ROWS

from sftloss.statistics import Head, Shard

KINDS = ("plain", "bias", "padded", "scale", "softcap", "low_rank_and_all")
PLANS = ("one pass", "two passes")
EXACT = [
    *(f"{kind}, {plan}, {how}" for kind in KINDS for plan in PLANS for how in ("DTensor", "group")),
    *(f"{name}, {plan}" for name in ENGINE_ROWS for plan in PLANS),
    *(f"further, {plan}" for plan in PLANS),
    "statistics",
    "measured",
    "drawn",
]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("sharded") / "errors.json"
    return torchrun("statistics/sharded_ranks.py", request.param, out)


@pytest.mark.parametrize("case", EXACT)
def test_sharded_head_is_the_whole_head(case: str, found: dict[str, Any]) -> None:
    # float64; shards add in another order
    assert found[case] < 1e-12


def test_shards_merge_where_one_is_far_above_the_others(found: dict[str, Any]) -> None:
    # float32, both sides: its rounding of the 400s that separate the shards' logits
    assert found["far apart"] < 1e-4


def test_shards_that_do_not_speak_to_each_other_fail_this_law(found: dict[str, Any]) -> None:
    """The negative control."""
    assert found["not summed"] > 0.1


def test_chunk_costs_one_collective_and_a_call_one_more(found: dict[str, Any]) -> None:
    """Nine tokens in chunks of three in one pass; two passes merge the sums of all tokens at once."""
    calls = found["collectives"]
    assert calls["one pass"] == [*["all_gather"] * 3, "all_reduce"]
    assert calls["one pass, padded"] == ["all_reduce", *["all_gather"] * 3, "all_reduce"]
    assert calls["one pass, body frozen"] == ["all_gather"] * 3
    assert calls["two passes"] == ["all_gather", "all_reduce"]


@pytest.mark.parametrize("mode", ["one_pass", "two_pass"])
def test_each_shard_is_filtered_within_the_tolerance_of_the_whole(mode: str, found: dict[str, Any]) -> None:
    got = found["filtered"][mode]
    assert 0.1 < got["over the tolerance"] <= 1
    assert got["mass"] < 1e-10
    assert got["kept"] < 0.9
    assert 0 < got["reported"] <= 0.01


def test_ranks_with_different_batches_are_told_so(found: dict[str, Any]) -> None:
    assert "hold different targets at token 0" in found["same tokens"]


def test_shard_outside_its_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="5 rows from 6 does not lie in a vocabulary of 10"):
        Head(torch.zeros(5, 2), shard=Shard(6, 10))
    with pytest.raises(ValueError, match="0 rows"):
        Head(torch.zeros(0, 2), shard=Shard(6, 10))


def test_shard_of_an_ordinary_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="name start and vocab"):
        Shard.of(torch.zeros(5, 2))

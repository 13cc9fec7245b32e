"""What the objectives equal: each other, cross-entropy at their neutral setting, PyTorch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.objectives.rows import ENTRIES, made_up_extras
from torch.testing import assert_close

from sftloss.objectives import OBJECTIVES, Description, cross_entropy, dft, focal, label_smoothing, objective, poly_1
from sftloss.statistics import TokenStats, from_logits


def some_stats(vocab: int = 7, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, TokenStats]:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(20, vocab, generator=generator, dtype=dtype)
    targets = torch.randint(0, vocab, (20,), generator=generator)
    return logits, targets, from_logits(logits, targets)


def with_extras(name: str) -> TokenStats:
    logits, targets, stats = some_stats()
    return from_logits(logits, targets, extras=made_up_extras(OBJECTIVES[name], stats.target_logprob))


def test_cross_entropy_is_that_of_pytorch() -> None:
    logits, targets, stats = some_stats()
    assert_close(cross_entropy(stats), F.cross_entropy(logits, targets, reduction="none"))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0])
def test_label_smoothing_uniform_is_that_of_pytorch(epsilon: float) -> None:
    logits, targets, stats = some_stats()
    expected = F.cross_entropy(logits, targets, reduction="none", label_smoothing=epsilon)
    assert_close(label_smoothing(stats, epsilon=epsilon), expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5])
def test_label_smoothing_others_is_cross_entropy_against_the_written_out_target(epsilon: float) -> None:
    """fairseq, Megatron-LM and the tutorial: epsilon / (V - 1) for each of the others, none for the target."""
    logits, targets, stats = some_stats(vocab=7)
    soft = torch.full((20, 7), epsilon / 6, dtype=torch.float64).scatter(1, targets[:, None], 1 - epsilon)
    expected = F.cross_entropy(logits, soft, reduction="none")
    assert_close(label_smoothing(stats, epsilon=epsilon, convention="others"), expected)


@given(epsilon=st.floats(0, 1), vocab=st.integers(2, 40))
def test_label_smoothing_conventions_are_one_family(epsilon: float, vocab: int) -> None:
    """epsilon_others = epsilon_uniform (V - 1) / V."""
    *_, stats = some_stats(vocab)
    uniform = label_smoothing(stats, epsilon=epsilon)
    others = label_smoothing(stats, epsilon=epsilon * (vocab - 1) / vocab, convention="others")
    assert_close(uniform, others)


@pytest.mark.parametrize("convention", ["uniform", "others"])
def test_label_smoothing_takes_padded_vocabulary_as_absent(convention: str) -> None:
    logits, targets, stats = some_stats()
    padded = torch.cat([logits, torch.full((20, 5), float("-inf"), dtype=logits.dtype)], dim=1)
    there = label_smoothing(from_logits(padded, targets), convention=convention)
    assert_close(there, label_smoothing(stats, convention=convention))


@pytest.mark.parametrize("convention", ["uniform", "others"])
@pytest.mark.parametrize("count", [7, torch.tensor(7), torch.full((20,), 7)], ids=["int", "scalar", "per token"])
def test_label_smoothing_takes_the_vocabulary_as_a_number_or_a_tensor(convention: str, count: Any) -> None:
    *_, stats = some_stats(vocab=7)
    given_count = label_smoothing(TokenStats(stats.fields, vocab_size=count), convention=convention)
    assert given_count.dtype == torch.float64
    assert_close(given_count, label_smoothing(stats, convention=convention))


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES.values() if entry.neutral], ids=lambda entry: entry.name)
def test_objective_at_its_neutral_setting_is_cross_entropy(entry: Description) -> None:
    *_, stats = some_stats()
    assert_close(objective(entry.neutral)(with_extras(entry.name)), cross_entropy(stats))


def test_every_objective_has_a_neutral_setting_or_is_known_to_have_none() -> None:
    gates = {"dft", "deft", "infosft", "chord_phi", "luffy", "taylor_ce", "dice", "huberised_ce"}
    gates |= {"jensen_shannon", "agce", "flsd", "normalized_ce"}
    gates |= {"talr", "aul", "ael", "loss_truncation"}
    comparing = {"distillation", "brier", "spherical", "prift", "psft", "rho_1", "ss_token", "unlikelihood"}
    comparing |= {"token_cleaning", "eksft", "pear", "rank_tuner"}
    assert {name for name, entry in ENTRIES.items() if entry.neutral is None} == gates | comparing


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_gives_one_number_a_token_whatever_their_order(name: str) -> None:
    logits, targets, stats = some_stats()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    stats = with_extras(name)
    loss = OBJECTIVES[name](stats)
    assert loss.shape == (20,)
    moved = {extra: value[order] for extra, value in stats.extras.items()}
    assert_close(OBJECTIVES[name](from_logits(logits[order], targets[order], extras=moved)), loss[order])


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"entropy_bonus", "psft", "target_sft", "eksft"}))
def test_losses_are_never_negative(name: str) -> None:
    assert (OBJECTIVES[name](with_extras(name)) >= 0).all()


def test_dft_is_at_most_one_over_e() -> None:
    *_, stats = some_stats()
    assert dft(stats).max() <= 1 / math.e


def test_focal_alpha_is_a_plain_scale() -> None:
    *_, stats = some_stats()
    assert_close(focal(stats, alpha=0.25), 0.25 * focal(stats))


def test_poly_1_is_the_expansion_of_cross_entropy_with_its_first_coefficient_raised() -> None:
    *_, stats = some_stats()
    q = 1 - stats.target_logprob.exp()
    powers = torch.stack([q**k / k for k in range(1, 20000)]).sum(dim=0)
    near = q < 0.99  # the series converges slowly near q = 1: the rest beyond 20000 terms is 0 here
    assert_close(poly_1(stats, epsilon=1.5)[near], (powers + 1.5 * q)[near])


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("focal", {"gamma": -0.1}, "focal: gamma must be finite and >= 0, got -0.1."),
    ("focal", {"gamma": math.nan}, "focal: gamma must be"),
    ("focal", {"gamma": math.inf}, "focal: gamma must be"),
    ("focal", {"alpha": 0.0}, "focal: alpha must be finite and > 0, got 0.0."),
    ("focal", {"alpha": math.nan}, "focal: alpha must be"),
    ("poly_1", {"epsilon": -1.5}, "poly_1: epsilon must be finite and >= -1, got -1.5."),
    ("poly_1", {"epsilon": math.nan}, "poly_1: epsilon must be"),
    ("label_smoothing", {"epsilon": 1.5}, "label_smoothing: epsilon must be in [0, 1], got 1.5."),
    ("label_smoothing", {"epsilon": math.nan}, "label_smoothing: epsilon must be"),
    ("gce", {"q": -0.1}, "gce: q must be finite and >= 0, got -0.1."),
    ("gce", {"q": math.nan}, "gce: q must be"),
    ("profit", {"low": 1.5}, "profit: low must be finite and in [0, 1], got 1.5."),
    ("profit", {"low": 0.5, "high": 0.4}, "profit: high must be finite and in [0.5, 1], got 0.4."),
    ("gold", {"floor": 2.0}, "gold: floor must be finite and in [0, 1], got 2.0."),
    ("tailr", {"gamma": math.inf}, "tailr: gamma must be finite and in [0, 1], got inf."),
    ("infosft", {"threshold": 0.5}, "infosft: threshold must be finite and in (0.5, 1)"),
    ("luffy", {"gamma": 0.0}, "luffy: gamma must be finite and > 0, got 0.0."),
    ("mile", {"gamma": -1.0}, "mile: gamma must be finite and >= 0, got -1.0."),
    ("eaft", {"alpha": math.nan}, "eaft: alpha must be"),
    ("eaft", {"scale": "trl"}, "eaft: scale must be 'paper', 'llama_factory', 'axolotl', got 'trl'."),
    ("dco", {"samples": 0}, "dco: samples must be finite and >= 1, got 0."),
    ("inverse_focal", {"gamma": -1.0}, "inverse_focal: gamma must be"),
    ("exponentiated_ce", {"gamma": 0.5}, "exponentiated_ce: gamma must be finite and >= 1"),
    ("taylor_ce", {"terms": 0}, "taylor_ce: terms must be finite and >= 1"),
    ("dice", {"gamma": -1.0}, "dice: gamma must be"),
    ("huberised_ce", {"tau": 0.5}, "huberised_ce: tau must be finite and >= 1"),
    ("iw_sft", {"temperature": -1.0}, "iw_sft: temperature must be"),
    ("iw_sft", {"low": 2.0}, "iw_sft: low must be finite and in [0, 1], got 2.0."),
    ("iw_sft", {"high": 0.5}, "iw_sft: high must be finite and >= 1, got 0.5."),
    ("psft", {"high": 0.0}, "psft: high must be finite and > 0"),
    ("rho_1", {"threshold": math.inf}, "rho_1: threshold must be finite, got inf."),
    ("ss_token", {"threshold": math.nan}, "ss_token: threshold must be finite, got nan."),
    ("jensen_shannon", {"weight": 0.0}, "jensen_shannon: weight must be finite and in (0, 1)"),
    ("label_relaxation", {"alpha": 1.5}, "label_relaxation: alpha must be"),
    ("agce", {"a": 0.0}, "agce: a must be finite and > 0, got 0.0."),
    ("agce", {"q": math.nan}, "agce: q must be"),
    ("eaft_top", {"k": 1}, "eaft_top: k must be finite and >= 2"),
    ("eaft_top", {"k": 2.5}, "TokenStats: there is no statistic 'top_entropy(2.5)'"),
    ("eaft_top", {"scale": "trl"}, "eaft_top: scale must be 'paper', 'llama_factory', 'axolotl', got 'trl'."),
    ("sed_sft", {"threshold": 0.0}, "sed_sft: threshold must be finite and in (0, 1]"),
    ("gem", {"beta": 0.0}, "gem: beta must be finite and > 0"),
    ("target_sft", {"gamma": 1.1}, "target_sft: gamma must be"),
    ("unlikelihood_context", {"alpha": -1.0}, "unlikelihood_context: alpha must be"),
    ("number_token", {"convention": "l2"}, "number_token: convention must be 'package' or 'paper'"),
    ("idk", {"upper": 2.0}, "idk: upper must be finite and in [0, 1]"),
    ("talr", {"tau": 0.0}, "talr: tau must be finite and > 0"),
    ("symmetric_ce", {"log_zero": 1.0}, "symmetric_ce: log_zero must be finite and in [-1000, 0]"),
    ("loss_truncation", {"threshold": math.inf}, "loss_truncation: threshold must be"),
    ("aul", {"a": 1.0}, "aul: a must be finite and > 1"),
    ("ael", {"a": 0.0}, "ael: a must be finite and > 0"),
    ("kl_anchor", {"direction": "both"}, "kl_anchor: direction must be 'forward' or 'reverse', got 'both'."),
    ("gift", {"beta": -1.0}, "gift: beta must be finite and >= 0"),
    ("token_cleaning", {"threshold": math.nan}, "token_cleaning: threshold must be"),
    ("eksft", {"kl": 0.0}, "eksft: kl must be finite and > 0"),
    ("eksft", {"kl_weight": -1.0}, "eksft: kl_weight must be"),
    ("label_smoothing", {"convention": "torch"}, "label_smoothing: convention must be 'uniform' or 'others'"),
]


@pytest.mark.parametrize(("name", "hyper", "message"), BAD)
def test_objective_refuses_a_hyper_parameter_out_of_range(name: str, hyper: dict[str, Any], message: str) -> None:
    *_, stats = some_stats()
    with pytest.raises(ValueError) as caught:
        OBJECTIVES[name](stats, **hyper)
    assert str(caught.value).startswith(message)

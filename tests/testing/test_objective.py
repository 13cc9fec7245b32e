"""The law check for a user's own objective: it passes ours and names what is wrong with broken ones."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.objectives.rows import ENTRIES, made_up_extras
from torch import Tensor

from sftloss.objectives import OBJECTIVES, dft, focal
from sftloss.statistics import TokenStats
from sftloss.testing import assert_objective, check_objective


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "eaft_top", "gem", "idk", "psft", "z_loss"])
def test_objectives_of_the_package_are_lawful(name: str) -> None:
    function = OBJECTIVES[name]
    report = check_objective(function, extras=lambda n: made_up_extras(function, torch.zeros(n, dtype=torch.float64)))
    assert report.is_lawful, str(report)
    assert report.is_detached == ENTRIES[name].record.is_detached


def test_declared_extras_are_drawn_and_others_are_asked_for() -> None:
    assert check_objective("prift").is_lawful
    with pytest.raises(KeyError, match=r"\(mine\); give them for n tokens: extras=lambda n: "):
        check_objective(lambda stats: -stats.extras["mine"] * stats.target_logprob)


def leaky(stats: TokenStats) -> Tensor:
    return -stats.target_logprob.exp() * stats.target_logprob


def blunt(stats: TokenStats) -> Tensor:
    """1 - exp(log p) has lost its digits near p = 1, and its square root has an infinite slope."""
    return -((1 - stats.target_logprob.exp()) ** 0.5) * stats.target_logprob


BROKEN = {
    "tokenwise": (lambda s: s.target_logprob - s.target_logprob.mean(), {}, "depends on the other tokens"),
    "finite": (blunt, {}, "its gradient is -inf where the target's logit is 20 above"),
    "exact": (blunt, {}, "at a gap of 17 its gradient is"),
    "gate": (leaky, {"gate": lambda p: p}, "its gradient is off by"),
    "neutral": (dft, {"neutral": partial(focal, gamma=1.0)}, "its value is off by"),
}


@pytest.mark.parametrize("law", BROKEN)
def test_broken_objective_is_told_which_law_it_breaks(law: str) -> None:
    function, more, message = BROKEN[law]
    report = check_objective(function, **more)  # type: ignore[arg-type]
    assert not report.is_lawful and message in report.broken[law], str(report)
    with pytest.raises(AssertionError, match=law):
        assert_objective(function, **more)


def test_stop_gradient_is_noticed_and_the_gate_of_the_paper_holds() -> None:
    report = check_objective("dft", gate=lambda p: p)
    assert report.is_lawful and report.is_detached and report.reads == ("target_logprob",)
    assert not check_objective(leaky).is_detached
    assert check_objective("focal(gamma=2)", neutral="focal(gamma=0)").is_lawful


def test_random_extras_are_the_same_in_every_pass() -> None:
    """Drawn anew they would differ between a mode and its definition, and a lawful objective would look broken."""
    report = check_objective("k2_anchor", extras=lambda n: {"reference_logprob": -torch.rand(n)})
    assert report.is_lawful, str(report)


def test_a_loss_of_logits_is_refused_in_one_sentence() -> None:
    def of_logits(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.sum(dim=-1)

    with pytest.raises(ValueError, match="check_objective: of_logits needs labels beside its first argument"):
        check_objective(of_logits)

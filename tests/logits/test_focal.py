"""FocalLoss with the chapter's call form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sftloss.logits import FocalLoss


def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 5, (8,), generator=generator)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_its_formula(gamma):
    logits, targets = batch()
    ce = F.cross_entropy(logits, targets, reduction="none")
    expected = 0.25 * (1 - (-ce).exp()) ** gamma * ce
    for reduction, value in (("none", expected), ("sum", expected.sum()), ("mean", expected.mean())):
        assert_close(FocalLoss(0.25, gamma, reduction=reduction)(logits, targets), value, rtol=1e-10, atol=1e-14)


def test_focal_loss_mean_is_over_the_trained_tokens():
    """In the chapter, dividing by the ignored tokens too halved the loss of a half-ignored batch."""
    logits, targets = batch()
    half = torch.where(torch.arange(8) < 4, targets, -100)
    assert_close(FocalLoss()(logits, half), FocalLoss()(logits[:4], targets[:4]), rtol=1e-12, atol=0)
    assert int(FocalLoss().total(half)) == 4
    assert FocalLoss(reduction="none")(logits, half)[4:].tolist() == [0, 0, 0, 0]


def test_focal_loss_takes_rows_as_it_takes_tokens():
    logits, targets = batch()
    assert torch.equal(FocalLoss()(logits.view(2, 4, 5), targets.view(2, 4)), FocalLoss()(logits, targets))


def test_focal_loss_gradient_is_the_papers_and_the_gate_is_a_weight_on_request():
    """Lin et al., appendix B: (1-p)^g - g p (1-p)^(g-1) log p times CE's."""
    logits, targets = batch()
    logits.requires_grad_()
    p = logits.softmax(-1)
    py = p.gather(1, targets[:, None]).detach()
    ce = (p - F.one_hot(targets, 5)).detach()
    paper = ((1 - py) ** 2 - 2 * py * (1 - py) * py.log()) * ce
    for detach_gate, expected in ((False, paper), (True, (1 - py) ** 2 * ce)):
        loss = FocalLoss(gamma=2.0, reduction="sum", detach_gate=detach_gate)(logits, targets)
        assert_close(torch.autograd.grad(loss, logits)[0], expected, rtol=1e-9, atol=1e-12)


def test_focal_loss_with_a_detached_gate_is_finite_where_no_other_token_is_possible():
    logits = torch.tensor([[0.0, float("-inf")]], requires_grad=True)
    for gamma in (0.0, 0.5):
        loss = FocalLoss(gamma=gamma, detach_gate=True)(logits, torch.tensor([0]))
        # not 0: an empty sum over the other tokens is held at the smallest normal number
        assert loss < 1e-37 and bool(torch.isfinite(torch.autograd.grad(loss, logits)[0]).all())


def test_focal_loss_refuses_what_makes_no_sense():
    logits, targets = batch()
    with pytest.raises(ValueError, match="gamma"):
        FocalLoss(gamma=-1.0)
    with pytest.raises(ValueError, match="reduction"):
        FocalLoss(reduction="avg")
    with pytest.raises(ValueError, match="total is used only"):
        FocalLoss(reduction="sum")(logits, targets, total=3)

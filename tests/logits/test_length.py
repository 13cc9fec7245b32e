"""LengthNormalizedLoss and AdaptiveLengthLoss: their formulas, and what the chapter's versions did instead."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sftloss.logits import AdaptiveLengthLoss, LengthNormalizedLoss

VOCAB = 11


def batch(lengths=(3, 8), columns=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(lengths), columns, VOCAB, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCAB, (len(lengths), columns), generator=generator)
    return logits, torch.where(torch.arange(columns) < torch.tensor(lengths)[:, None], targets, -100)


def token_ce(logits, targets, **keywords):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", **keywords).view(targets.shape)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_length_normalized_loss_is_its_formula(alpha):
    """With the minus sign that the chapter lost. T is the number of trained targets."""
    logits, targets = batch()
    sequences = token_ce(logits, targets).sum(1) / torch.tensor([3.0, 8.0]) ** alpha
    # the weights T^-alpha are float32
    for reduction, expected in (("none", sequences), ("sum", sequences.sum()), ("mean", sequences.mean())):
        got = LengthNormalizedLoss(alpha, reduction=reduction)(logits, targets)
        assert_close(got, expected, rtol=1e-6, atol=0)


def test_length_normalized_loss_by_weights_keeps_the_scale_of_a_token_at_every_alpha():
    logits, targets = torch.zeros(2, 8, VOCAB), batch()[1]
    for alpha in (0.0, 0.5, 1.0):
        loss = LengthNormalizedLoss(alpha, normalizer="weights")(logits, targets)
        assert_close(loss, torch.tensor(float(VOCAB)).log())
    # at alpha = 0 it is the token mean that frameworks call the loss
    logits, targets = batch()
    got = LengthNormalizedLoss(0.0, normalizer="weights")(logits, targets)
    assert_close(got, F.cross_entropy(logits.flatten(0, 1), targets.flatten()), rtol=1e-12, atol=0)


def test_length_normalized_loss_gradient_is_p_minus_y_over_length():
    logits, targets = batch()
    logits.requires_grad_()
    loss = LengthNormalizedLoss(1.0, reduction="sum")(logits, targets)
    (slope,) = torch.autograd.grad(loss, logits)
    one_hot = F.one_hot(targets.clamp(min=0), VOCAB)
    share = (targets != -100) / torch.tensor([[3.0], [8.0]])
    # the weights 1/3 and 1/8 are float32
    assert_close(slope, (logits.detach().softmax(-1) - one_hot) * share[..., None].double(), rtol=1e-6, atol=1e-9)


def test_length_normalized_loss_divides_by_the_label_mask_within_the_lengths():
    """In the chapter, `lengths` replaced the ignored targets, and halved the loss of a half-masked row."""
    logits, targets = batch((8, 8))
    targets[:, :4] = -100  # a prompt
    loss = LengthNormalizedLoss(1.0, reduction="none")
    expected = token_ce(logits, targets)[:, 4:]
    assert_close(loss(logits, targets, torch.tensor([8, 8])), expected.mean(1), rtol=1e-6, atol=0)
    assert_close(loss(logits, targets, torch.tensor([8, 6]))[1], expected[1, :2].mean(), rtol=1e-6, atol=0)


def test_length_normalized_loss_of_nothing_but_noise_does_not_depend_on_length():
    """In the chapter, a sum over T - 1 targets divided by T made r = 0.54 of pure noise."""
    lengths = tuple(range(2, 60))
    logits, targets = torch.zeros(len(lengths), 60, VOCAB), batch(lengths, 60)[1]
    losses = LengthNormalizedLoss(1.0, reduction="none")(logits, targets)
    assert_close(losses, torch.tensor(float(VOCAB)).log().expand(len(lengths)))


@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_length_normalized_loss_smooths_as_torch_does(smoothing):
    """The chapter gives each other token eps / (V - 1), from a dense target."""
    logits, targets = batch((8, 8))
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing)
    assert_close(LengthNormalizedLoss(label_smoothing=smoothing)(logits, targets), expected, rtol=1e-6, atol=0)


def test_length_normalized_loss_takes_any_ignore_index():
    logits, targets = batch()
    other = torch.where(targets == -100, 0, targets % (VOCAB - 1) + 1)
    both = torch.where(other == 0, -100, other)
    assert torch.equal(LengthNormalizedLoss(ignore_index=0)(logits, other), LengthNormalizedLoss()(logits, both))
    other[0, 0] = both[0, 0] = -100  # never trained, whatever the ignore_index
    assert torch.equal(LengthNormalizedLoss(ignore_index=0)(logits, other), LengthNormalizedLoss()(logits, both))


@pytest.mark.parametrize(
    "make",
    [
        lambda: LengthNormalizedLoss(reduction="avg"),
        lambda: LengthNormalizedLoss(normalizer="constant"),
        lambda: LengthNormalizedLoss(reduction="sum")(*batch(), total=3),
        lambda: LengthNormalizedLoss()(*batch(), torch.tensor([1, 2, 3])),
        lambda: LengthNormalizedLoss()(batch()[0][0], batch()[1]),
        lambda: LengthNormalizedLoss(reduction="none")(*batch(), segments=torch.zeros(2, 8, dtype=torch.int64)),
    ],
)
def test_length_normalized_loss_refuses_what_makes_no_sense(make):
    with pytest.raises(ValueError, match="LengthNormalizedLoss: "):
        make()


def test_adaptive_length_loss_trains_less_on_the_wrong_length():
    """In the chapter, the gradient of a sequence of another length grows."""
    logits, targets = batch((4, 8))
    logits.requires_grad_()
    norms = {}
    for direction in ("down", "up"):
        for penalty in (0.0, 2.0):
            loss = AdaptiveLengthLoss(4.0, penalty, direction=direction, reduction="sum")(logits, targets)
            norms[direction, penalty] = torch.autograd.grad(loss, logits)[0].flatten(1).norm(dim=1)
    # 8 tokens, target 4: deviation 1, so exp(-2) and 1 + 2; factors are float32
    assert_close(
        norms["down", 2.0] / norms["down", 0.0],
        torch.tensor([1.0, -2.0]).double().exp().where(torch.tensor([False, True]), torch.ones(2).double()),
        rtol=1e-6,
        atol=0,
    )
    assert_close(norms["up", 2.0] / norms["up", 0.0], torch.tensor([1.0, 3.0]).double(), rtol=1e-6, atol=0)


def test_adaptive_length_loss_is_a_weighted_mean_of_sequence_means():
    """The chapter multiplies plain sums, which grow with length; and its penalty changes the learning rate."""
    logits, targets = batch((4, 8))
    means = token_ce(logits, targets).sum(1) / torch.tensor([4.0, 8.0])
    factor = torch.tensor([1.0, torch.tensor(-0.1).exp()], dtype=torch.float64)
    got = AdaptiveLengthLoss(4.0, 0.1)(logits, targets)
    assert_close(got, (factor * means).sum() / factor.sum(), rtol=1e-6, atol=0)
    assert_close(AdaptiveLengthLoss(4.0, 9.0)(torch.zeros_like(logits), targets), torch.tensor(11.0).double().log())


def test_adaptive_length_loss_has_the_chapters_formula_by_name():
    logits, targets = batch((4, 8))
    letter = (token_ce(logits, targets).sum(1) * torch.tensor([1.0, 1.1])).mean()
    got = AdaptiveLengthLoss(4.0, 0.1, direction="up", exponent=0.0, normalizer="sequences")(logits, targets)
    assert_close(got, letter, rtol=1e-6, atol=0)


def test_adaptive_length_loss_sums_only_within_the_lengths():
    """In the chapter, tokens beyond the lengths were summed (25.8 instead of 13.5)."""
    logits, targets = batch((8, 8))
    short = torch.where(torch.arange(8) < 5, targets, -100)
    loss = AdaptiveLengthLoss(4.0, 0.5)
    assert torch.equal(loss(logits, targets, torch.tensor([5, 5])), loss(logits, short))


def test_adaptive_length_loss_uses_every_keyword_of_its_base():
    """In the chapter, label_smoothing and weight were dropped, reduction raised."""
    logits, targets = batch((8, 8))
    weight = torch.linspace(0.5, 2.0, VOCAB)

    def loss(base="ce", **keywords):
        return AdaptiveLengthLoss(8.0, 0.1, base, exponent=0.0, **keywords)(logits, targets)

    flat = logits.flatten(0, 1), targets.flatten()
    assert_close(loss(label_smoothing=0.2), F.cross_entropy(*flat, label_smoothing=0.2), rtol=1e-6, atol=0)
    assert_close(loss(weight=weight), F.cross_entropy(*flat, weight=weight.double()), rtol=1e-6, atol=0)
    assert loss(reduction="none").shape == (2,)
    assert loss(ignore_index=int(targets[0, 0])) != loss()
    p = (-token_ce(logits, targets)).exp()
    focal = 0.25 * ((1 - p) ** 3 * token_ce(logits, targets)).mean()
    assert_close(loss("focal", gamma=3.0, alpha=0.25), focal, rtol=1e-6, atol=0)


def test_adaptive_length_loss_carries_class_weights_to_the_device_and_the_checkpoint():
    loss = AdaptiveLengthLoss(weight=torch.ones(VOCAB))
    assert set(loss.state_dict()) == {"weight"} and set(AdaptiveLengthLoss().state_dict()) == set()


@pytest.mark.parametrize(
    ("error", "keywords"),
    [
        (TypeError, {"gamma": 2.0}),
        (TypeError, {"base_loss": "focal", "weight": torch.ones(2)}),
        (TypeError, {"base_loss": "focal", "label_smoothing": 0.1}),
        (ValueError, {"base_loss": "mse"}),
        (ValueError, {"target_length": 0.0}),
        (ValueError, {"length_penalty": -1.0}),
        (ValueError, {"direction": "left"}),
        (ValueError, {"reduction": "avg"}),
    ],
)
def test_adaptive_length_loss_refuses_at_construction(error, keywords):
    with pytest.raises(error):
        AdaptiveLengthLoss(**keywords)

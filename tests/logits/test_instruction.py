"""InstructionResponseLoss: what its weights mean, and what they do not change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from sftloss.logits import InstructionResponseLoss

VOCAB = 11


def batch(prompts=(2, 6), columns=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(prompts), columns, VOCAB, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCAB, (len(prompts), columns), generator=generator)
    instruction = torch.arange(columns) < torch.tensor(prompts)[:, None]
    return logits, targets, instruction, ~instruction


def token_ce(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def token_gradients(loss, logits, *others):
    """L1 norm of each token's gradient over that of plain cross-entropy: the token's coefficient."""
    leaf = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf, *others), leaf)
    (plain,) = torch.autograd.grad(token_ce(leaf, others[0]).sum(), leaf)
    return slope.abs().sum(-1) / plain.abs().sum(-1)


@pytest.mark.parametrize(("prompt", "response"), [(10, 90), (90, 10)])
def test_instruction_tokens_count_the_given_part_of_a_response_token_at_any_length(prompt, response):
    """In the chapter, a nominal 0.1 was 0.90 at 10/90 tokens and 0.011 at 90/10."""
    data = batch((prompt,), prompt + response)
    u = token_gradients(InstructionResponseLoss(0.1, 1.0), *data)
    assert_close(u[0, 0] / u[0, -1], torch.tensor(0.1).double(), rtol=1e-6, atol=0)
    letter = token_gradients(InstructionResponseLoss(0.1, 1.0, weighting="segments"), *data)
    assert_close(letter[0, 0] / letter[0, -1], torch.tensor(0.1 * response / prompt).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_instruction_response_loss_is_its_formula(alpha):
    logits, targets, instruction, response = batch()
    w = 0.3 * instruction + 1.0 * response
    u = w / w.sum(1, keepdim=True) ** alpha
    expected = (u * token_ce(logits, targets)).sum() / u.sum()
    got = InstructionResponseLoss(0.3, 1.0, alpha=alpha)(logits, targets, instruction, response)
    assert_close(got, expected, rtol=1e-6, atol=0)


def test_instruction_response_loss_by_segments_is_the_chapters_over_the_sum_of_weights():
    logits, targets, instruction, response = batch()
    ce = token_ce(logits, targets)
    parts = [(ce * mask).sum(1) / mask.sum(1) for mask in (instruction, response)]
    chapter = (0.1 * parts[0] + 1.0 * parts[1]).mean()
    for normalizer, expected in (("sequences", chapter), ("weights", chapter / 1.1)):
        loss = InstructionResponseLoss(0.1, 1.0, weighting="segments", normalizer=normalizer)
        assert_close(loss(logits, targets, instruction, response), expected, rtol=1e-6, atol=0)


def test_instruction_response_loss_without_length_normalization_is_the_token_weighted_mean():
    """The chapter compares with no reference; this is one."""
    logits, targets, instruction, response = batch()
    w = 0.1 * instruction + 1.0 * response
    got = InstructionResponseLoss(0.1, 1.0, length_normalize=False)(logits, targets, instruction, response)
    assert_close(got, (w * token_ce(logits, targets)).sum() / w.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("weighting", ["tokens", "segments"])
def test_changing_the_weights_does_not_change_the_scale_of_the_loss(weighting):
    """In the chapter, (0.1, 1) to (0.5, 1) raised the loss from 8.0 to 10.9."""
    _, targets, instruction, response = batch()
    for weights in ((0.1, 1.0), (0.5, 1.0), (3.0, 7.0)):
        loss = InstructionResponseLoss(*weights, weighting=weighting)
        got = loss(torch.zeros(2, 8, VOCAB), targets, instruction, response)
        assert_close(got, torch.tensor(float(VOCAB)).log())


@pytest.mark.parametrize("weighting", ["tokens", "segments"])
def test_a_sequence_without_a_response_is_left_out(weighting):
    """In the chapter, such a sequence counts in the mean over the batch."""
    logits, targets, instruction, response = batch((2, 8))
    loss = InstructionResponseLoss(weighting=weighting)
    first = [part[:1] for part in (logits, targets, instruction, response)]
    assert_close(loss(logits, targets, instruction, response), loss(*first), rtol=1e-12, atol=0)
    trained_on_prompts = InstructionResponseLoss(1.0, 0.0, weighting=weighting)
    assert trained_on_prompts(logits, targets, instruction, response) != trained_on_prompts(*first)


@pytest.mark.parametrize("weighting", ["tokens", "segments"])
def test_ignored_targets_inside_a_mask_do_not_count(weighting):
    """In the chapter, ignored targets count in the length of their part."""
    logits, targets, instruction, response = batch()
    ignored = targets.clone()
    ignored[:, [0, 7]] = -100
    kept = ignored != -100
    loss = InstructionResponseLoss(weighting=weighting)
    expected = loss(logits, targets, instruction & kept, response & kept)
    assert torch.equal(loss(logits, ignored, instruction, response), expected)


def test_tokens_of_weight_zero_get_exactly_zero_gradient_and_may_hold_anything():
    """A target that is valid but weighs nothing is dropped before the loss: 0 times NaN would be NaN."""
    logits, targets, instruction, response = batch()
    logits[instruction] = float("nan")
    logits.requires_grad_()
    loss = InstructionResponseLoss(0.0, 1.0)(logits, targets, instruction, response)
    (slope,) = torch.autograd.grad(loss, logits)
    assert bool(torch.isfinite(loss)) and bool((slope[instruction] == 0).all()) and bool((slope[response] != 0).all())


def test_masks_of_numbers_are_masks_of_truth():
    logits, targets, instruction, response = batch()
    loss = InstructionResponseLoss()
    got = loss(logits, targets, instruction.double() * 3, response.long())
    assert torch.equal(got, loss(logits, targets, instruction, response))


def test_masks_that_overlap_or_have_another_shape_are_refused():
    """The chapter checks neither."""
    logits, targets, instruction, response = batch()
    with pytest.raises(ValueError, match="both instruction_mask and response_mask"):
        InstructionResponseLoss()(logits, targets, instruction, response | True)
    with pytest.raises(ValueError, match="Shift the masks"):
        InstructionResponseLoss()(logits, targets, instruction, response[:, 1:])


@pytest.mark.parametrize(
    "keywords",
    [{"instruction_weight": -0.1}, {"instruction_weight": 0.0, "response_weight": 0.0}, {"weighting": "means"}],
)
def test_instruction_response_loss_refuses_at_construction(keywords):
    with pytest.raises(ValueError, match="InstructionResponseLoss"):
        InstructionResponseLoss(**keywords)

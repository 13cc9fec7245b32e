"""Laws that every module obeys: any split, any packing and any padding of a step gives the same loss and gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from sftloss.logits import AdaptiveLengthLoss, FocalLoss, InstructionResponseLoss, LengthNormalizedLoss

VOCAB = 7
MODULES: dict[str, Callable[[], torch.nn.Module]] = {
    "length, sequences": lambda: LengthNormalizedLoss(alpha=0.5),
    "length, weights": lambda: LengthNormalizedLoss(alpha=0.3, normalizer="weights", label_smoothing=0.1),
    "length, tokens": lambda: LengthNormalizedLoss(alpha=0.0, normalizer="tokens"),
    "adaptive": lambda: AdaptiveLengthLoss(4.0, 0.7, weight=torch.linspace(0.5, 2.0, VOCAB)),
    "adaptive, focal": lambda: AdaptiveLengthLoss(4.0, 0.7, "focal", gamma=0.5, normalizer="sequences"),
    "focal": lambda: FocalLoss(alpha=0.25, gamma=1.5),
    "instruction, tokens": lambda: InstructionResponseLoss(0.1, 1.0, alpha=0.5),
    "instruction, segments": lambda: InstructionResponseLoss(0.3, 1.0, weighting="segments"),
}
every_module = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
LENGTHS = st.lists(st.integers(0, 6), min_size=2, max_size=5)


@dataclass(frozen=True)
class Rows:
    """A batch: logits ``(rows, columns, vocab)``, targets, which targets are instruction, and segments if packed."""

    logits: Tensor
    targets: Tensor
    prompt: Tensor
    segments: Tensor | None = None

    def __getitem__(self, rows: slice) -> Rows:
        return Rows(self.logits[rows], self.targets[rows], self.prompt[rows])


def arguments(module: torch.nn.Module, rows: Rows) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    extra = (rows.prompt, ~rows.prompt) if isinstance(module, InstructionResponseLoss) else ()
    packed = {} if rows.segments is None or isinstance(module, FocalLoss) else {"segments": rows.segments}
    return extra, packed


def loss_of(module: torch.nn.Module, rows: Rows, **keywords: object) -> Tensor:
    extra, packed = arguments(module, rows)
    return module(rows.logits, rows.targets, *extra, **packed, **keywords)


def total_of(module: torch.nn.Module, rows: Rows) -> Tensor:
    extra, packed = arguments(module, rows)
    return module.total(rows.targets, *extra, **packed)


def drawn(lengths: list[int], seed: int, columns: int | None = None, dtype: torch.dtype = torch.float64) -> Rows:
    """Right-padded rows of the given lengths, some of their targets ignored, a prompt of drawn length first."""
    generator = torch.Generator().manual_seed(seed)
    columns = columns or max(*lengths, 1)
    shape = (len(lengths), columns)
    logits = 3 * torch.randn(*shape, VOCAB, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCAB, shape, generator=generator)
    ignored = torch.rand(shape, generator=generator) < 0.2
    beyond = torch.arange(columns) >= torch.tensor(lengths)[:, None]
    prompt = torch.arange(columns) < torch.randint(0, 4, (len(lengths), 1), generator=generator)
    return Rows(logits.to(dtype), torch.where(ignored | beyond, -100, targets), prompt)


def gradient(module: torch.nn.Module, rows: Rows) -> tuple[Tensor, Tensor]:
    logits = rows.logits.clone().requires_grad_()
    loss = loss_of(module, replace(rows, logits=logits))
    (slope,) = torch.autograd.grad(-0.7 * loss, logits)
    return loss.detach(), slope


@every_module
@settings(max_examples=25, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999), cut=st.integers(1, 4))
def test_micro_batches_with_the_total_of_the_step_are_one_batch(make, lengths, seed, cut):
    """The chapter takes the mean over the sequences of each micro-batch, which breaks this law."""
    module, rows = make(), drawn(lengths, seed)
    whole, expected = gradient(module, rows)
    parts = [rows[slice(0, cut)], rows[slice(cut, None)]]
    total = sum(total_of(module, part) for part in parts)
    leaf = rows.logits.clone().requires_grad_()
    losses = [
        loss_of(module, replace(part, logits=leaf[where]), total=total)
        for part, where in zip(parts, [slice(0, cut), slice(cut, None)], strict=True)
    ]
    for loss in losses:  # one backward each, as in training
        (-0.7 * loss).backward()
    # float64 losses; weights are float32 numbers, the same on both sides, so only the order of addition differs
    assert_close(sum(losses).detach(), whole, rtol=1e-10, atol=1e-12)
    assert_close(leaf.grad, expected, rtol=1e-10, atol=1e-12)


@every_module
def test_mean_of_micro_batch_means_is_another_loss(make):
    """Negative control of the law above: rows of 1, 6 and 6 tokens, cut after the first."""
    module = make()
    rows = drawn([1, 6, 6], seed=3)
    # no ignored target and all but the first token response, so that every row takes part in every module
    rows = replace(rows, targets=torch.where(rows.targets == -100, 1, rows.targets), prompt=rows.prompt & False)
    rows.targets[0, 1:] = -100
    rows.prompt[1:, 0] = True
    means = (loss_of(module, rows[slice(0, 1)]) + loss_of(module, rows[slice(1, 3)])) / 2
    assert abs(means - loss_of(module, rows)) > 1e-3


@every_module
@settings(max_examples=25, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999), gap=st.integers(0, 3))
def test_packed_rows_are_padded_rows(make, lengths, seed, gap):
    module, rows = make(), drawn(lengths, seed)
    whole, expected = gradient(module, rows)
    # one row: each sequence cut to its length, one after another in reverse order, then padding
    keep = [(row, column) for row in reversed(range(len(lengths))) for column in range(lengths[row])]
    if not keep:
        return
    row, column = (torch.tensor(part) for part in zip(*keep, strict=True))
    pad = (0, gap)
    packed = Rows(
        logits=torch.nn.functional.pad(rows.logits[row, column], (0, 0, 0, gap))[None],
        targets=torch.nn.functional.pad(rows.targets[row, column], pad, value=-100)[None],
        prompt=torch.nn.functional.pad(rows.prompt[row, column], pad)[None],
        segments=torch.nn.functional.pad(5 * row, pad, value=-1)[None],
    )
    loss, slope = gradient(module, packed)
    assert_close(loss, whole, rtol=1e-10, atol=1e-12)
    assert_close(slope[0, : len(keep)], expected[row, column], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted({*MODULES} - {"focal", "length, tokens"}))
def test_packed_rows_without_segments_are_another_loss(name):
    """Negative control of the law above. The two left out count each token alike, whatever its sequence."""
    module = MODULES[name]()
    rows = drawn([2, 6], seed=5)
    rows = replace(rows, targets=torch.where(rows.targets == -100, 1, rows.targets), prompt=rows.prompt & False)
    rows.targets[0, 2:] = -100
    rows.prompt[:, 0] = True
    packed = Rows(rows.logits.reshape(1, -1, VOCAB), rows.targets.reshape(1, -1), rows.prompt.reshape(1, -1))
    assert abs(loss_of(module, packed) - loss_of(module, rows)) > 1e-3


@every_module
@settings(max_examples=25, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 999), poison=st.sampled_from([float("nan"), float("inf"), 1e30]))
def test_padding_and_ignored_tokens_may_hold_anything_and_get_exactly_zero_gradient(make, lengths, seed, poison):
    module = make()
    narrow = drawn(lengths, seed)
    columns = narrow.targets.shape[1] + 2
    wide = Rows(
        torch.full((len(lengths), columns, VOCAB), poison, dtype=torch.float64),
        torch.full((len(lengths), columns), -100),
        torch.ones(len(lengths), columns, dtype=torch.bool),
    )
    kept = narrow.targets != -100
    wide.logits[:, :-2][kept], wide.targets[:, :-2], wide.prompt[:, :-2] = (
        narrow.logits[kept],
        narrow.targets,
        narrow.prompt,
    )
    loss, slope = gradient(module, wide)
    expected_loss, expected = gradient(module, narrow)
    assert_close(loss, expected_loss, rtol=1e-12, atol=1e-14)
    assert_close(slope[:, :-2], expected, rtol=1e-12, atol=1e-14)
    assert bool((slope[:, :-2][~kept] == 0).all()) and bool((slope[:, -2:] == 0).all())


@every_module
def test_nothing_to_train_is_a_zero_connected_to_the_graph(make):
    """In the chapter, 0 / 0 gives NaN."""
    logits = torch.randn(2, 3, VOCAB, requires_grad=True)
    rows = Rows(logits, torch.full((2, 3), -100), torch.zeros(2, 3, dtype=torch.bool))
    for total in (None, 0, 5.0):
        loss = loss_of(make(), rows, total=total)
        (slope,) = torch.autograd.grad(loss, logits)
        assert loss == 0 and bool((slope == 0).all())


@every_module
def test_an_ignored_row_changes_nothing(make):
    """In the chapter, such a row makes the batch NaN or counts in the mean."""
    module, rows = make(), drawn([4, 6], seed=8)
    more = drawn([4, 6, 0], seed=8, columns=6)
    more.logits[:2], more.targets[:2], more.prompt[:2] = rows.logits, rows.targets, rows.prompt
    assert_close(loss_of(module, more), loss_of(module, rows), rtol=1e-12, atol=0)


@every_module
def test_slices_that_are_not_contiguous_are_accepted(make):
    """In the chapter, `.view` raises on logits[:, :-1]."""
    module, rows = make(), drawn([4, 6], seed=9)
    tall = torch.cat([rows.logits, torch.zeros(2, 1, VOCAB, dtype=torch.float64)], dim=1)
    targets = torch.cat([torch.zeros(2, 1, dtype=torch.int64), rows.targets], dim=1)
    sliced = replace(rows, logits=tall[:, :-1], targets=targets[:, 1:])
    assert not sliced.logits.is_contiguous() and not sliced.targets.is_contiguous()
    assert torch.equal(loss_of(module, sliced), loss_of(module, rows))


@every_module
def test_columns_of_minus_infinity_are_no_part_of_the_vocabulary(make):
    """In the chapter, a padded vocabulary gives an infinite smoothed loss."""
    module, rows = make(), drawn([4, 6], seed=10)
    padded = torch.nn.functional.pad(rows.logits, (0, 3), value=float("-inf"))
    loss, slope = gradient(module, replace(rows, logits=padded))
    expected_loss, expected = gradient(module, rows)
    assert_close(loss, expected_loss, rtol=1e-12, atol=0)
    assert_close(slope[..., :VOCAB], expected, rtol=1e-12, atol=1e-15)
    assert bool((slope[..., VOCAB:] == 0).all())


@every_module
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32(make, dtype):
    """The chapter computes cross-entropy in the dtype of the logits."""
    module, rows = make(), drawn([4, 6], seed=11, dtype=dtype)
    loss = loss_of(module, rows)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, loss_of(module, replace(rows, logits=rows.logits.float())))


@every_module
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_give_finite_losses_and_gradients(make, dtype):
    """In the chapter, gamma < 1 gives NaN gradients at p = 1."""
    logits = torch.zeros(1, 4, VOCAB, dtype=dtype)
    logits[0, :, 0] = torch.tensor([60.0, 3e4, -3e4, 1.0])
    loss, slope = gradient(make(), Rows(logits, torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4) > 0))
    assert bool(torch.isfinite(loss)) and bool(torch.isfinite(slope).all())


@every_module
def test_gradient_is_that_of_finite_differences(make):
    module, rows = make(), drawn([3, 2], seed=12)
    leaf = rows.logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: loss_of(module, replace(rows, logits=logits)), (leaf,))


@every_module
def test_shapes_that_do_not_belong_together_are_refused_with_the_usual_reason(make):
    module, rows = make(), drawn([3, 2], seed=13)
    with pytest.raises(ValueError, match="Shift first"):
        loss_of(module, replace(rows, logits=torch.cat([rows.logits, rows.logits[:, :1]], dim=1)))


@every_module
def test_repr_names_the_settings(make):
    assert "=" in repr(make())

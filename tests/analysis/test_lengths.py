"""Output lengths of every normalization: closed forms, enumeration, order, and the exponent for a wanted mean."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sftloss.analysis import LengthOptions, Lengths, length_forecasts
from sftloss.analysis.lengths.answers import ready
from sftloss.analysis.lengths.target import solve
from sftloss.errors import ConfigError
from sftloss.weights import EXAMPLE_MEAN, SQRT, TOKEN_MEAN, Normalization, micro_batch_mean


def lengths_of(sizes, prompts=None, tasks=None, output=None):
    sizes = np.asarray(sizes, dtype=float)
    return Lengths(np.arange(len(sizes)), sizes, sizes if output is None else np.asarray(output), prompts, tasks)


def means(lengths, **options):
    return {one.normalization.name: one for one in length_forecasts(lengths, LengthOptions(**options))}


def drawn(count=120, seed=0):
    return np.ceil(np.random.default_rng(seed).lognormal(3, 1, count))


def test_example_mean_teaches_the_harmonic_mean_and_sum_the_arithmetic_one():
    sizes = drawn()
    found = means(lengths_of(sizes))
    assert found["token mean"].unconditional.value == pytest.approx(sizes.mean(), rel=1e-12)
    assert found["example mean"].unconditional.value == pytest.approx(stats.hmean(sizes), rel=1e-12)
    # under T^-1/2 it is sum T^1/2 / sum T^-1/2
    assert found["sqrt"].unconditional.value == pytest.approx((sizes**0.5).sum() / (sizes**-0.5).sum(), rel=1e-12)


@pytest.mark.parametrize("sequences", [1, 2, 3, 4])
def test_token_mean_of_k_is_the_harmonic_mean_of_all_micro_batches(sequences):
    """By symmetry E[T/(T+S)] = 1/k, so the mean is 1/(k E[1/(T+S)]): the harmonic mean of the batch's mean length."""
    sizes = [1.0, 2.0, 2.0, 7.0, 30.0]
    batches = [np.mean(batch) for batch in itertools.product(sizes, repeat=sequences)]
    found = means(lengths_of(sizes), batch_size=sequences)
    # the quadrature's error, measured below 1e-12
    assert found[f"token mean of {sequences} (whole step)"].unconditional.value == pytest.approx(
        stats.hmean(batches), rel=1e-10
    )


def test_a_step_is_a_micro_batch_a_rank_and_the_whole():
    assert [one.micro_batch for one in LengthOptions(batch_size=2, grad_accum=3, ranks=4).steps()] == [2, 6, 24]
    assert [one.name for one in LengthOptions(batch_size=2, grad_accum=3).steps()] == [
        "token mean of 2 (micro-batch)",
        "token mean of 6 (whole step)",
    ]
    assert [one.name for one in LengthOptions(batch_size=5).steps()] == ["token mean of 5 (whole step)"]
    assert LengthOptions().steps() == ()


def test_larger_steps_come_nearer_to_the_sum():
    found = [
        one.unconditional.value for one in means(lengths_of(drawn()), batch_size=2, grad_accum=8, ranks=8).values()
    ]
    assert found[3] < found[4] < found[5] < found[0]


def test_forecasts_do_not_depend_on_the_order_of_rows():
    rng, sizes = np.random.default_rng(1), drawn(400)
    prompts, tasks, order = rng.integers(0, 150, 400), rng.integers(0, 5, 400), rng.permutation(400)
    given = lengths_of(sizes, prompts, tasks)
    mixed = Lengths(order, sizes[order], sizes[order], prompts[order], tasks[order])
    for one, two in zip(length_forecasts(given), length_forecasts(mixed), strict=True):
        for name in ("unconditional", "within_prompt"):
            a, b = getattr(one, name), getattr(two, name)
            # sums in another order differ in their last bits
            assert a.value == pytest.approx(b.value, rel=1e-12)
            assert (a.interval.low, a.interval.high) == pytest.approx((b.interval.low, b.interval.high), rel=1e-12)
        assert one.within_task == pytest.approx(two.within_task, rel=1e-12)
        assert one.effective_examples == pytest.approx(two.effective_examples, rel=1e-12)


def test_length_that_the_prompt_determines_does_not_move():
    sizes = drawn(60)
    found = means(lengths_of(np.repeat(sizes, 2), np.repeat(np.arange(60), 2)))["example mean"]
    assert found.within_prompt.value == pytest.approx(sizes.mean(), rel=1e-12)
    assert found.unconditional.value < 0.9 * sizes.mean()
    assert found.where_seen is None


@pytest.mark.parametrize("sequences", [4, 32])
def test_batches_sorted_by_length_are_those_of_transformers(sequences):
    """Its own sampler over 20 epochs; with batches at random the mean would be 111 and 167 of 180."""
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    sizes = np.round(np.exp(4.5 + 1.2 * np.random.default_rng(0).normal(size=4000))).clip(1)
    weights = np.zeros(len(sizes))
    for epoch in range(20):
        draws = torch.Generator().manual_seed(epoch)
        order = np.array(list(LengthGroupedSampler(sequences, lengths=sizes.astype(int).tolist(), generator=draws)))
        for part in np.split(order, range(sequences, len(order), sequences)):
            weights[part] += 1 / sizes[part].sum()
    found = length_forecasts(lengths_of(sizes), LengthOptions(batch_size=sequences, batches="by-length"))
    expected = (weights * sizes).sum() / weights.sum()
    assert found[-1].unconditional.value == pytest.approx(expected, rel=0.01)  # two draws of the order of the rows
    packed = length_forecasts(lengths_of(sizes), LengthOptions(batch_size=sequences, batches="packed"))
    assert packed[-1].unconditional.value == pytest.approx(sizes.mean(), rel=1e-12)


def test_within_prompts_each_keeps_its_part_and_tilts_inside():
    sizes, prompts = [2.0, 8.0, 20.0, 20.0], np.array([1, 1, 2, 3])
    found = means(lengths_of(sizes, prompts))["example mean"]
    # the first prompt's harmonic mean is 3.2
    assert found.within_prompt.value == pytest.approx((2 * 3.2 + 40) / 4)
    assert found.where_seen == pytest.approx(3.2 / 5 - 1)
    assert found.within_prompt.interval is None and "fewer than 5" in found.within_prompt.reason


def test_one_prompt_for_all_is_no_condition():
    found = means(lengths_of(drawn(), np.full(120, 9)))["example mean"]
    assert found.within_prompt == found.unconditional


def test_of_the_example_mean_the_unconditional_shift_is_the_largest():
    """The harmonic mean is concave in the distribution, so pooling prompts can only lower it."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        prompts = rng.integers(0, 40, 200)
        sizes = np.ceil(rng.lognormal(2 + prompts % 3, 0.7))
        found = means(lengths_of(sizes, prompts, prompts % 3))["example mean"]
        assert found.unconditional.value <= found.within_task <= found.within_prompt.value <= sizes.mean()


def test_untrained_examples_count_for_nothing():
    sizes, prompts = drawn(80), np.arange(80) // 2
    with_empty = lengths_of(np.append(sizes, [0.0, 0.0]), np.append(prompts, [0, 500]))
    for one, two in zip(length_forecasts(lengths_of(sizes, prompts)), length_forecasts(with_empty), strict=True):
        assert one.unconditional.value == pytest.approx(two.unconditional.value, rel=1e-12)
        assert one.within_prompt.value == pytest.approx(two.within_prompt.value, rel=1e-12)


def test_effective_examples_are_kishs():
    sizes = drawn()
    assert means(lengths_of(sizes))["example mean"].effective_examples == pytest.approx(
        (1 / sizes).sum() ** 2 / (1 / sizes**2).sum()
    )


def test_intervals_cover_the_truth_as_often_as_they_say():
    truth, covered = np.exp(3 + 0.32), 0  # the mean of exp(3 + 0.8 z)
    for seed in range(60):
        sizes = np.random.default_rng(seed).lognormal(3, 0.8, 300)
        spread = length_forecasts(lengths_of(sizes), LengthOptions(replicates=400))[0].unconditional.interval
        covered += spread.low <= truth <= spread.high
    assert covered >= 51  # 60 draws at 95 %: fewer than 51 has a chance of 0.2 %


def test_interval_of_a_mean_length_does_not_go_below_the_shortest_answer():
    for one in length_forecasts(lengths_of(np.array([1.0, 5.0, 8.0, 13.0, 16.0]))):
        assert one.unconditional.interval.low >= 1.0


def test_intervals_of_many_rows_are_as_wide_as_theory_says():
    """Above 4096 units, sums of them are resampled; rows thrown together by their place would be alike here."""
    sizes = np.sort(np.random.default_rng(0).lognormal(3, 0.8, 60_000))
    spread = length_forecasts(lengths_of(sizes))[0].unconditional.interval
    # 1000 replicates estimate a percentile's distance to about 4 %
    assert spread.high - spread.low == pytest.approx(2 * 1.96 * sizes.std() / 60_000**0.5, rel=0.12)


def test_answers_to_one_prompt_are_resampled_together():
    sizes = drawn(100)
    alone = means(lengths_of(sizes))["token mean"].unconditional.interval
    copies = means(lengths_of(np.repeat(sizes, 4), np.repeat(np.arange(100), 4)))["token mean"].unconditional.interval
    # four copies are no more evidence; without clusters the interval would be half as wide
    assert copies.high - copies.low == pytest.approx(alone.high - alone.low, rel=0.1)


def alpha_for_length(lengths, target, groups=None):
    answers = ready(replace(lengths, prompts=groups))
    return solve(answers, target, answers.prompts)


@pytest.mark.parametrize("alpha", [-1.5, 0.0, 0.4, 1.0, 5.0])
def test_alpha_for_length_is_the_inverse_of_the_forecast(alpha):
    sizes, prompts = drawn(300), np.random.default_rng(3).integers(0, 90, 300)
    given = lengths_of(sizes, prompts)
    found = means(given, normalizations=(Normalization("asked", alpha),))
    one = found.get("asked") or found[{0.0: "token mean", 1.0: "example mean"}[alpha]]
    assert alpha_for_length(given, one.unconditional.value) == pytest.approx(alpha, abs=1e-8)
    assert alpha_for_length(given, one.within_prompt.value, prompts) == pytest.approx(alpha, abs=1e-8)


def test_alpha_for_length_is_nan_where_no_exponent_reaches():
    sizes, prompts = np.array([2.0, 8.0, 50.0, 50.0]), np.array([0, 0, 1, 2])
    given = lengths_of(sizes, prompts)
    assert np.isnan(alpha_for_length(given, 1.0)) and np.isnan(alpha_for_length(given, 51.0))
    # inside prompts only the first two can move: between (2+2+50+50)/4 and (8+8+50+50)/4
    assert np.isnan(alpha_for_length(given, 25.9, prompts)) and np.isnan(alpha_for_length(given, 29.1, prompts))
    assert alpha_for_length(given, 28.0, prompts) < 0 < alpha_for_length(given, 27.0, prompts)
    assert np.isnan(alpha_for_length(lengths_of([4.0, 4.0]), 4.0))
    assert alpha_for_length(lengths_of([1.0, 1e9]), 1e8) > 0  # wide lengths at the ends of the search stay finite
    assert np.isnan(alpha_for_length(lengths_of([4.0, 6.0]), 5.0, np.array([0, 1])))


def test_alpha_for_length_uses_what_is_divided_by_and_what_is_read():
    """T may count a trained prompt too; the wanted mean is the output's."""
    given = lengths_of([10.0, 40.0, 35.0], output=[5.0, 30.0, 20.0])
    target = means(given)["example mean"].unconditional.value
    assert alpha_for_length(given, target) == pytest.approx(1.0, abs=1e-8)


def test_a_rule_asked_twice_is_predicted_once():
    asked = (Normalization("T^-1", 1.0), micro_batch_mean(4), Normalization("more", 0.3))
    names = [one.name for one in LengthOptions(asked, batch_size=4).all_normalizations()]
    assert names == [TOKEN_MEAN.name, SQRT.name, EXAMPLE_MEAN.name, "token mean of 4", "more"]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"batch_size": 0}, "batch_size: must be at least 1"),
        ({"grad_accum": 4}, "need batch_size"),
        ({"target_mean": -3.0}, "target_mean: must be a positive length"),
        ({"target_mean": float("nan")}, "target_mean: must be a positive length"),
        ({"normalizations": (Normalization("steep", 50.0),)}, "within 20 of 0"),
    ],
)
def test_impossible_length_options_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        LengthOptions(**wrong)


def test_a_large_data_set_is_no_slower_in_its_intervals():
    """A million rows must take seconds: what grows with the data is sorting and summing, not resampling."""
    answers = ready(lengths_of(drawn(50_000), np.arange(50_000) // 2))
    assert len(np.unique(answers.units)) <= 4096


def test_lengths_say_when_the_data_cannot_tell():
    ids, size = np.arange(60), np.arange(1.0, 61.0)

    def told(*columns):
        return ready(Lengths(*columns)).cannot_tell

    assert "no prompt has two" in told(ids, size, size, ids) and "no prompt has two" in told(ids, size, size)
    assert "plain text, which has no prompt" in told(ids, size, size, np.full(60, -1))
    assert "fewer than 30" in told(ids[:9], size[:9], size[:9], ids[:9] // 2)
    assert told(ids, size, size, ids // 2) == ""


def test_plain_text_is_no_prompt_that_repeats():
    """Rows without a prompt show no variation given one, whatever their lengths."""
    found = means(lengths_of(drawn(), np.full(120, -1)))["example mean"]
    assert found.where_seen is None and found.within_prompt.value == pytest.approx(drawn().mean())


def test_an_answer_that_is_cut_off_has_no_length():
    sizes, prompts = drawn(80), np.arange(80) // 2
    extra = Lengths(
        np.arange(82), np.append(sizes, [900.0, 900.0]), np.append(sizes, [900.0, 900.0]),
        np.append(prompts, [0, 1]), None, np.arange(82) >= 80,
    )  # fmt: skip
    assert ready(extra).cut == 2
    for one, two in zip(length_forecasts(lengths_of(sizes, prompts)), length_forecasts(extra), strict=True):
        assert one.unconditional.value == pytest.approx(two.unconditional.value, rel=1e-12)
        assert one.where_seen == pytest.approx(two.where_seen, rel=1e-12)


def test_a_row_of_weight_two_counts_as_two_rows_everywhere():
    rng, sizes = np.random.default_rng(2), drawn(200)
    prompts, tasks, copies = rng.integers(0, 60, 200), rng.integers(0, 3, 200), rng.integers(1, 4, 200)
    weighted = Lengths(np.arange(200), sizes, sizes, prompts, tasks, row_weights=copies.astype(float))
    repeated = lengths_of(*(column.repeat(copies) for column in (sizes, prompts, tasks)))
    for one, two in zip(length_forecasts(weighted), length_forecasts(repeated), strict=True):
        for name in ("unconditional", "within_prompt"):
            assert getattr(one, name).value == pytest.approx(getattr(two, name).value, rel=1e-12)
        assert one.within_task == pytest.approx(two.within_task, rel=1e-12)
        assert one.where_seen == pytest.approx(two.where_seen, rel=1e-12, abs=1e-12)
    target = sizes.mean()
    for groups in ((None, None), (prompts, prompts.repeat(copies))):
        # the solver stops at 1e-12
        assert alpha_for_length(weighted, target, groups[0]) == pytest.approx(
            alpha_for_length(repeated, target, groups[1]), abs=1e-9
        )


def test_answers_of_a_conversation_have_lengths_of_their_own_and_one_weight():
    """Training divides by the whole conversation; each answer is as long as it is, after all that comes before it."""
    ids, output = np.array([0, 0, 1, 2, 2]), np.array([2.0, 8.0, 20.0, 2.0, 30.0])
    size = np.array([10.0, 10.0, 20.0, 32.0, 32.0])
    prompts = np.array([7, 8, 9, 7, 10])
    found = means(Lengths(ids, size, output, prompts))["example mean"]
    assert found.unconditional.value == pytest.approx((output / size).sum() / (1 / size).sum())
    # both conversations answer prompt 7 with two tokens: what follows them does not make the prompt a conflict
    assert found.where_seen is None
    assert found.effective_examples == pytest.approx((1 / 10 + 1 / 20 + 1 / 32) ** 2 / (0.01 + 0.0025 + 1 / 32**2))


def test_micro_batches_are_drawn_from_examples_not_from_answers():
    """A conversation of many answers is one sequence of a micro-batch."""
    ids, size = np.array([0, 1, 1, 1]), np.array([3.0, 9.0, 9.0, 9.0])
    found = means(Lengths(ids, size, np.array([3.0, 3.0, 3.0, 3.0])), batch_size=2)
    weights = {3.0: (1 / 6 + 1 / 12) / 2, 9.0: (1 / 12 + 1 / 18) / 2}
    expected = sum(weights.values()) ** 2 / sum(w * w for w in weights.values())
    assert found["token mean of 2 (whole step)"].effective_examples == pytest.approx(expected, rel=1e-9)

"""Planted faults are found with their number and their rows; clean sets are quiet; small sets say so."""

from __future__ import annotations

import numpy as np
import pytest
from tests.analysis.tables import make_table, random_examples

from sftloss.analysis.signal.describe import describe_signal
from sftloss.analysis.signal.frames import open_study
from sftloss.analysis.signal.rules import findings_of_study
from sftloss.analysis.signal.views import AnalysisOptions
from sftloss.document import Interval
from sftloss.numbers import Estimate, data_to_decide, decide
from sftloss.weights import EXAMPLE_MEAN, TOKEN_MEAN, Normalization, micro_batch_mean


def found(examples, **options):
    study = open_study(make_table(examples), AnalysisOptions(replicates=200, **options))
    return {finding.id: finding for finding in findings_of_study(study)}


def clean(count=120, seed=1):
    """Lengths from 5 to 60, each prompt once, confidence the same at every length, ends trained."""
    rng = np.random.default_rng(seed)
    return [{"p": rng.uniform(0.2, 0.9, rng.integers(5, 60)), "task": "ab"[i % 2]} for i in range(count)]


def test_a_clean_set_is_quiet():
    assert all(finding.severity == "info" for finding in found(clean(), policy="per-token").values())
    assert not {"MASK001", "MASK003", "MASK010", "SIG001", "NUM001", "NORM004", "NORM005"} & set(found(clean()))


def test_examples_without_trained_tokens_are_found_with_their_rows():
    examples = clean()
    for i in (3, 7):
        examples[i]["weight"] = 0.0
    finding = found(examples)["MASK001"]
    assert finding.value == pytest.approx(2 / 120) and finding.severity == "warning"
    assert finding.rows == ("data.jsonl:4", "data.jsonl:8")
    assert finding.interval.low <= 2 / 120 <= finding.interval.high and finding.fix


def test_mostly_untrained_data_is_an_error():
    examples = clean()
    for example in examples[:70]:
        example["weight"] = 0.0
    assert found(examples)["MASK001"].severity == "error"


def test_ends_that_are_not_trained_are_found():
    examples = clean()
    for example in examples:
        example["weight"] = np.r_[np.ones(len(example["p"]) - 1), 0.0]
    finding = found(examples)["MASK003"]
    assert finding.value == 1.0 and finding.severity == "error" and "no end is trained at all" in finding.sentence


def test_a_truncated_answer_is_not_counted_as_an_untrained_end():
    examples = clean()
    for example in examples[:30]:
        example |= {"truncated": 9, "is_end": np.zeros(len(example["p"]), dtype=bool)}
    have = found(examples)
    assert "MASK003" not in have and have["MASK007"].value == pytest.approx(0.25)
    assert "30 of them train no end" in have["MASK007"].sentence


def test_a_trained_role_opener_is_found_and_a_common_first_word_is_not():
    examples = clean()
    for example in examples:
        example["token"] = np.r_[77, np.arange(5, 5 + len(example["p"]) - 1)]
    assert "MASK005" not in found(examples)  # the same word, but the model is not certain of it
    for example in examples:
        example["p"] = np.r_[0.999, example["p"][1:]]
    assert found(examples)["MASK005"].value == 1.0


def test_trained_prompts_are_found_and_role_weights_are_intended():
    examples = clean()
    for example in examples:
        n = len(example["p"])
        example["role"] = np.r_[0, 0, np.ones(n - 2)]
    finding = found(examples)["MASK010"]
    tokens = sum(len(example["p"]) for example in examples)
    assert finding.value == pytest.approx(240 / tokens) and finding.severity == "warning"
    weights = (("prompt", 0.5), ("response", 1.0))
    assert found(examples, role_weights=weights)["MASK010"].severity == "info"
    assert "MASK010" not in found(examples, role_weights=(("response", 1.0),))


def test_answers_of_different_length_to_one_prompt_are_counted():
    examples = clean()
    examples[0] |= {"prompt": 5, "p": [0.5] * 4}
    examples[1] |= {"prompt": 5, "p": [0.5] * 9}
    examples[2] |= {"prompt": 6, "p": [0.5] * 4}
    examples[3] |= {"prompt": 6, "p": [0.5] * 4}
    finding = found(examples)["DATA103"]
    assert finding.value == pytest.approx(2 / 120) and finding.rows == ("data.jsonl:1", "data.jsonl:2")
    assert "DATA103" not in found(clean())


def test_numbers_that_are_not_finite_are_an_error_and_left_out_of_the_rest():
    examples = clean()
    examples[4]["p"] = np.r_[0.0, examples[4]["p"][1:]]
    with np.errstate(divide="ignore"):
        table = make_table(examples)
    study = open_study(table, AnalysisOptions(replicates=200))
    have = {finding.id: finding for finding in findings_of_study(study)}
    assert have["NUM001"].severity == "error" and have["NUM001"].rows == ("data.jsonl:5",)
    document = describe_signal(table, AnalysisOptions(replicates=50))
    cells = [c for s in document.sections for t in s.tables for row in t.rows for c in row if isinstance(c, float)]
    assert np.isfinite(cells).all() and have["NUM001"].value == pytest.approx(1 / sum(len(e["p"]) for e in examples))


def test_the_example_mean_is_a_warning_only_where_it_is_used_and_the_data_can_tell():
    assert found(random_examples())["NORM002"].severity == "info"
    finding = found(random_examples(), normalization=EXAMPLE_MEAN)["NORM002"]
    assert finding.severity == "warning" and finding.interval.low < finding.value < finding.interval.high
    alone = found(clean(), normalization=EXAMPLE_MEAN)["NORM002"]
    assert alone.severity == "info" and "this data cannot tell: no prompt" in alone.sentence


def test_micro_batch_means_are_found_where_they_shorten():
    have = found(random_examples(), normalization=micro_batch_mean(1))
    assert have["NORM001"].value == pytest.approx(have["NORM002"].value)  # one sequence: the example mean
    assert "NORM001" not in found(random_examples(), micro_batch=512)
    several = (TOKEN_MEAN, micro_batch_mean(64), micro_batch_mean(2))
    assert "micro-batch of 2 " in found(random_examples(), normalizations=several)["NORM001"].sentence
    assert "NORM001" not in found(random_examples())


@pytest.mark.parametrize(
    "options, verdict, severity",
    [
        ({"policy": "per-token"}, "on target", "info"),
        ({"policy": "per-example"}, "off target", "warning"),
        ({"policy": "per-example", "normalization": EXAMPLE_MEAN}, "on target", "info"),
        ({"policy": "per-token", "normalization": EXAMPLE_MEAN}, "off target", "warning"),
    ],
)
def test_a_policy_is_judged_by_practical_equivalence(options, verdict, severity):
    finding = found(clean(), **options)["NORM003"]
    assert verdict in finding.sentence and finding.severity == severity
    assert bool(finding.fix) == (severity == "warning")


def test_the_fix_of_a_policy_reaches_it():
    """Whatever the elasticity is, dividing by T to that power makes it zero."""
    finding = found(clean(), policy="per-example")["NORM003"]
    assert finding.fix == f"--normalization {finding.value:.2f}"
    fixed = Normalization("fixed", float(finding.fix.split()[1]))
    again = found(clean(), policy="per-example", normalization=fixed)["NORM003"]
    assert again.value == pytest.approx(0.0, abs=0.006)  # the fix is rounded to two digits


@pytest.mark.parametrize(
    "examples",
    [clean(20), [{"p": np.full(n, 0.5)} for n in [10, 30] * 40], [{"p": np.full(50 + i % 9, 0.5)} for i in range(60)]],
)
def test_a_policy_on_too_little_data_is_not_judged(examples):
    finding = found(examples, policy="per-example")["NORM003"]
    assert "insufficient data" in finding.sentence and finding.severity == "info" and finding.value is None


def test_a_policy_of_equal_tasks_is_judged_by_shares():
    rng = np.random.default_rng(5)
    equal = [{"p": rng.uniform(0.4, 0.6, 20), "task": "ab"[i % 2]} for i in range(800)]
    assert "on target" in found(equal, policy="per-task")["NORM003"].sentence
    finding = found([*equal, *equal[::2]], policy="per-task")["NORM003"]  # twice as many of task a
    assert "off target" in finding.sentence and finding.value == pytest.approx(4 / 3, abs=0.03)
    assert "insufficient" in found(equal[::2], policy="per-task")["NORM003"].sentence


def test_signal_in_few_examples_is_found():
    examples = [{"p": np.full(20, 0.999)} for _ in range(300)]
    for i in (10, 20, 30):
        examples[i]["p"] = np.full(40, 0.01)
    finding = found(examples)["NORM004"]
    assert set(finding.rows[:3]) == {"data.jsonl:11", "data.jsonl:21", "data.jsonl:31"}
    assert finding.value < 0.1


def test_a_group_far_from_its_part_is_found_with_its_name():
    examples = clean()
    for example in examples[::2]:
        example["p"] = np.full(len(example["p"]), 0.95)
    finding = found(examples)["NORM005"]
    assert finding.sentence.startswith("The task 'a' has 49 %") and finding.interval.high < 1 / 3
    assert "but only" in finding.sentence and finding.unit == "times its share of tokens"


def test_much_signal_on_impossible_tokens_lists_their_examples():
    examples = clean()
    for i in (8, 9):
        examples[i]["p"] = np.r_[np.full(320, 0.001), np.full(580, 0.9)]
    finding = found(examples)["SIG001"]
    assert "p < 0.01" in finding.sentence and set(finding.rows) == {"data.jsonl:9", "data.jsonl:10"}


def test_a_model_that_hardly_knows_the_data_is_told_apart_from_wrong_labels():
    """Where a third of all tokens is surprising, their signal is their part, and no label is suspect."""
    examples = clean()
    for example in examples:
        example["p"] = np.where(np.arange(len(example["p"])) % 3 == 0, 0.001, example["p"])
    finding = found(examples)["SIG001"]
    assert finding.severity == "info" and "hardly knows this data" in finding.sentence and not finding.rows


def test_exact_copies_are_found_with_their_signal_as_by_the_mask_audit():
    examples = clean(100)
    for i, example in enumerate(examples):
        example["token"] = np.random.default_rng(i).integers(5, 90, len(example["p"]))
    examples += [dict(example) for example in examples[:25]]
    finding = found(examples)["DATA102"]
    assert finding.sentence.startswith("25 of 125 examples (20 %) repeat an earlier one exactly. Their part of ")
    assert finding.rows[0] == "data.jsonl:101" and finding.severity == "warning"
    # what is cut off may differ
    assert "DATA102" not in found([example | {"truncated": 3} for example in examples])


def test_findings_are_sorted_by_severity():
    examples = clean()
    for example in examples[:70]:
        example["weight"] = 0.0
    study = open_study(make_table(examples), AnalysisOptions(replicates=50, policy="per-example"))
    ranks = [("error", "warning", "info").index(finding.severity) for finding in findings_of_study(study)]
    assert ranks == sorted(ranks) and ranks[0] == 0


@pytest.mark.parametrize(
    "ends, verdict",
    [
        ((-0.05, 0.09), "on target"),
        ((0.11, 0.4), "off target"),
        ((-0.4, -0.2), "off target"),
        ((0.0, 0.3), "inconclusive"),
    ],
)
def test_decide_is_the_region_of_practical_equivalence(ends, verdict):
    assert decide(Estimate(sum(ends) / 2, Interval(*ends)), 0.0) == verdict
    assert decide(Estimate(sum(ends) / 2 + 1, Interval(ends[0] + 1, ends[1] + 1)), 1.0) == verdict
    assert decide(Estimate(0.0), 0.0) == "insufficient data"


def test_every_finding_has_a_reason_and_every_warning_a_fix():
    examples = random_examples()
    examples[3]["weight"] = 0.0
    for finding in found(examples, policy="per-example", normalization=TOKEN_MEAN, micro_batch=2).values():
        assert finding.why and finding.sentence.endswith(".")
        assert finding.fix or finding.severity == "info"


def test_a_group_that_gets_far_more_than_its_part_is_found():
    """One task in ten is hard, the rest is known: it holds most of the signal."""
    examples = clean(200)
    for i, example in enumerate(examples):
        example |= {"task": "hard" if i % 10 == 0 else "known"}
        example["p"] = np.full(len(example["p"]), 0.3 if i % 10 == 0 else 0.97)
    finding = found(examples)["NORM005"]
    assert finding.sentence.startswith("The task 'hard' has") and finding.interval.low > 3


def ends(expected, count=120):
    """Examples of ten tokens; the model expects so many ends of each, spread over all of it."""
    return [{"p": np.full(10, 0.5), "end_p": expected / 10} for _ in range(count)]


@pytest.mark.parametrize(
    "expected, severity, word", [(0.5, "warning", "runs on"), (2.0, "warning", "early"), (0.01, "info", "not learned")]
)
def test_a_model_that_does_not_stop_where_answers_do_is_found(expected, severity, word):
    finding = found(ends(expected))["SIG003"]
    assert finding.value == pytest.approx(expected) and finding.severity == severity
    assert word in finding.why and finding.fix and finding.interval is not None


def test_a_model_that_hardly_knows_the_data_is_not_blamed_for_stopping_early():
    unfamiliar = [{"p": np.r_[np.full(4, 0.001), np.full(6, 0.5)], "end_p": 0.2} for _ in range(120)]
    finding = found(unfamiliar)["SIG003"]
    assert finding.value == pytest.approx(2.0) and finding.severity == "info" and "not learned" in finding.why


def test_ends_expected_as_often_as_they_are_raise_nothing():
    assert not {"SIG003"} & (set(found(ends(0.85))) | set(found(ends(1.2))) | set(found(ends(0.5, count=29))))


def test_examples_without_an_end_token_say_nothing_about_stopping():
    unknown = [{"p": np.full(10, 0.5), "is_end": np.zeros(10, dtype=bool)} for _ in range(120)]
    assert found([*ends(0.5), *unknown])["SIG003"].value == pytest.approx(0.5)


def test_one_group_under_two_names_is_one_finding_and_others_are_named():
    examples = clean(300)
    for i, example in enumerate(examples):
        kind = ("hard", "easy", "plain")[min(i % 10, 2)]
        example |= {"task": kind, "source": kind + ".jsonl", "language": "en"}
        example["p"] = np.full(20, {"hard": 0.05, "easy": 0.99, "plain": 0.9}[kind])
    finding = found(examples)["NORM005"]
    assert finding.sentence.startswith("The task 'easy' (the same rows as the source 'easy.jsonl') has 10 %")
    assert (
        finding.sentence.endswith("The shares of the task 'hard' differ as much.") and finding.rows[0] == "data.jsonl:2"
    )


def test_an_inconclusive_policy_says_how_much_data_would_decide():
    """The interval reaches 0.4 from the value, the edge of the region is 0.2 from it: four times as much data."""
    assert data_to_decide(Estimate(1.3, Interval(0.9, 1.7)), 1.0) == 4.0
    assert data_to_decide(Estimate(1.1, Interval(0.9, 1.3)), 1.0) > 100
    rng = np.random.default_rng(4)
    few = [{"p": rng.uniform(0.05, 0.95, rng.integers(5, 60)), "task": "ab"[i % 2]} for i in range(40)]
    sentence = found(few, policy="per-task")["NORM003"].sentence
    assert "inconclusive" in sentence and (
        "times as many examples would decide" in sentence or "at the edge" in sentence
    )

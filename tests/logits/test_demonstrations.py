"""The demonstrations: each printed statement is asserted, in both languages, within a minute."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from string import Formatter

import pytest
import torch
from tests.paths import ROOT

from sftloss.logits import (
    InstructionResponseLoss,
    analyze_length_normalization_effects,
    compare_focal_vs_standard_loss,
    comprehensive_loss_analysis,
    demonstrate_gradient_magnitude,
    demonstrate_multitask_loss,
    test_instruction_response_loss,
)
from sftloss.logits.words import Demonstration, Statement, text_of

ALL = [
    comprehensive_loss_analysis,
    demonstrate_gradient_magnitude,
    analyze_length_normalization_effects,
    compare_focal_vs_standard_loss,
    demonstrate_multitask_loss,
    test_instruction_response_loss,
]
TEXTS = json.loads(files("sftloss.logits").joinpath("texts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def results():
    """Every demonstration that returns a record, run once, with the global random state before and after."""
    before = torch.random.get_rng_state()
    records = {f.__name__: f(verbose=False) for f in ALL if f is not comprehensive_loss_analysis}
    assert torch.equal(before, torch.random.get_rng_state())
    return records


@pytest.fixture(scope="module")
def runs(results):
    """English text of this process, and Chinese text of `python -m sftloss.logits --lang zh` with its seconds."""
    with contextlib.redirect_stdout(io.StringIO()) as first:
        comprehensive_loss_analysis()
    before = os.times()
    command = [sys.executable, "-W", "error", "-m", "sftloss.logits", "--lang", "zh"]
    chinese = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONUTF8": "1"})
    after = os.times()
    return {
        "en": first.getvalue() + "".join(f"{result}\n" for result in results.values()),
        "zh": chinese.stdout.decode(),
        # user and system time of child processes
        "seconds": sum(after[2:4]) - sum(before[2:4]),
    }


@pytest.fixture
def lengths(results):
    return results["analyze_length_normalization_effects"].tables["mean_lengths"]


@pytest.fixture
def multitask(results):
    tables = results["demonstrate_multitask_loss"].tables
    return {name: {row["strategy"]: row for row in rows} for name, rows in tables.items()}


def test_dividing_by_length_teaches_the_shorter_answers_that_the_lengths_predict(lengths):
    for row in lengths:
        # 150 steps of Adam: the optimum within a hundredth
        assert row["learned"] == pytest.approx(row["predicted"], abs=0.02)
    assert [row["alpha"] for row in lengths] == [0.0, 0.5, 1.0]
    assert lengths[0]["learned"] > lengths[1]["learned"] + 1 > lengths[2]["learned"] + 2
    assert lengths[0]["predicted"] == 8.5


def test_where_the_prompt_fixes_the_length_the_exponent_changes_nothing(lengths):
    assert all(row["learned_prompt_fixes_length"] == pytest.approx(8.5, abs=0.02) for row in lengths)


def test_no_group_of_confidence_is_empty_and_focal_loss_moves_the_signal_to_the_hard_tokens(results):
    high, medium, low = results["compare_focal_vs_standard_loss"].tables["by_confidence"]
    assert all(row["count"] > 500 for row in (high, medium, low))
    assert high["mean_p"] > 0.7 > medium["mean_p"] > 0.3 > low["mean_p"]
    assert high["value_ratio"] < medium["value_ratio"] < low["value_ratio"] < 1
    assert high["focal_share"] < 0.2 * high["ce_share"] and low["focal_share"] > low["ce_share"]
    assert low["gradient_ratio"] > 1 > medium["gradient_ratio"] > high["gradient_ratio"]
    for share in ("ce_share", "focal_share"):
        assert high[share] + medium[share] + low[share] == pytest.approx(1)


def test_focal_gradient_ratio_is_that_of_its_formula(results):
    """d focal / d CE = (1-p)^g - g p (1-p)^(g-1) log p, summed over tokens with the gradient 2 (1-p) of CE."""
    p = torch.linspace(0.001, 0.3, 1000, dtype=torch.float64)
    slope = (1 - p) ** 2 - 2 * p * (1 - p) * p.log()
    assert bool((slope[p < 0.28] > 1).all())  # so the low group's gradient grows, whatever its tokens
    low = results["compare_focal_vs_standard_loss"].tables["by_confidence"][-1]
    assert 1 < low["gradient_ratio"] < float(slope.max())


def test_weights_move_under_every_strategy_and_keep_their_mean(multitask):
    tasks = ["qa", "summarization", "translation", "classification"]
    for strategy, row in multitask["task_weights"].items():
        weights = [row[task] for task in tasks]
        assert sum(weights) == pytest.approx(4)
        moved = max(abs(weight - 1) for weight in weights)
        assert moved == 0 if strategy == "static" else moved > 0.1
    assert len({tuple(row.values())[1:] for row in multitask["task_weights"].values()}) == 5


def test_strategies_move_the_weights_where_the_statements_say(multitask):
    weights, losses = multitask["task_weights"], multitask["held_out_losses"]
    tasks = [key for key in losses["static"] if key != "strategy"]
    equal = losses["static"]
    assert min(tasks, key=equal.__getitem__) == "qa" and max(tasks, key=equal.__getitem__) == "translation"
    for strategy in ("uncertainty", "gradient_balance"):
        assert max(tasks, key=weights[strategy].__getitem__) == "qa"
        assert losses[strategy]["translation"] > equal["translation"] + 0.2
    assert max(tasks, key=weights["difficulty_adaptive"].__getitem__) == "translation"
    assert losses["difficulty_adaptive"]["translation"] < equal["translation"] - 0.1
    assert losses["difficulty_adaptive"]["qa"] > 1.5 * equal["qa"]


def test_an_instruction_token_counts_the_ratio_of_the_weights_and_the_loss_keeps_its_scale(results):
    rows = results["test_instruction_response_loss"].tables["weighted_parts"]
    assert len(rows) == 9
    for row in rows:
        instruction, response = map(float, row["weights"].split(" / "))
        prompt, answer = map(int, row["lengths"].split(" / "))
        assert row["token_ratio"] == pytest.approx(instruction / response)
        assert row["segment_ratio"] == pytest.approx(instruction / response * answer / prompt)
        assert row["response_loss"] < row["total"] < row["instruction_loss"]


def test_the_instruction_demonstration_fails_where_the_loss_is_wrong(monkeypatch):
    right = InstructionResponseLoss.forward
    monkeypatch.setattr(InstructionResponseLoss, "forward", lambda *a, **k: 1.01 * right(*a, **k))
    with pytest.raises(AssertionError):
        test_instruction_response_loss(verbose=False)


def test_gradient_norms_rise_with_the_sum_and_fall_with_the_mean(results):
    of_sum, of_mean = results["demonstrate_gradient_magnitude"].tables["gradient_norms"]
    assert of_sum["low"] > 0 > of_mean["high"]
    assert of_sum["elasticity"] - of_mean["elasticity"] == pytest.approx(1, abs=1e-6)


def test_comprehensive_analysis_states_the_verdict_of_the_analyzer(capsys):
    result, losses = comprehensive_loss_analysis()
    assert result["bias_assessment"] == "neutral"
    text = capsys.readouterr().out
    assert "Loss per token against length: no trend." in text and all(name in text for name in losses)


def test_pytest_does_not_collect_the_demonstration_named_test(request):
    assert test_instruction_response_loss.__test__ is False
    assert not [item for item in request.session.items if item.name == "test_instruction_response_loss"]


@pytest.mark.parametrize("demonstration", [compare_focal_vs_standard_loss, test_instruction_response_loss])
def test_demonstrations_follow_their_seed_and_are_silent_on_request(results, demonstration, capsys):
    assert demonstration(verbose=False, seed=1) != results[demonstration.__name__]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_run_shows_every_demonstration_in_order(runs, lang):
    titles = re.findall(r"^=== (\w+): ", runs[lang], re.M)
    assert titles == [demonstration.__name__ for demonstration in ALL]
    assert "\\n" not in runs[lang] and not re.search(r"\bnan\b", runs[lang])


def test_a_run_takes_less_than_a_minute_of_one_core(runs):
    assert runs["seconds"] < 60


def test_both_languages_print_the_same_numbers_in_two_processes(runs):
    numbers = [re.findall(r"(?<![\d.])-?\d+\.\d+", runs[lang]) for lang in ("en", "zh")]
    assert len(numbers[0]) > 150 and sorted(numbers[0]) == sorted(numbers[1])


def test_the_chinese_run_has_no_english_sentence_and_the_english_run_no_chinese(runs):
    chinese = runs["zh"]
    assert not re.findall(r"[A-Za-z]{2,},? [A-Za-z]{2,},? [A-Za-z]{2,}", re.sub(r"  +.*", "", chinese))
    statements = [line for line in chinese.splitlines() if line.startswith("- ")]
    assert len(statements) > 12 and all(re.search("[\u4e00-\u9fff]{4}", line) for line in statements)
    assert not re.search("[\u4e00-\u9fff]", runs["en"])


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_numbers_of_a_column_end_in_the_same_place(runs, lang):
    def width(text):
        return sum(2 if ord(character) > 0x2E80 else 1 for character in text)

    tables = [block.splitlines()[1:] for block in runs[lang].split("\n\n") if not block.startswith(("=", "-"))]
    tables = [lines for lines in tables if len(lines) > 2]
    assert len(tables) == 8
    for lines in tables:
        assert len({width(line) for line in lines}) == 1


@pytest.mark.parametrize("key", TEXTS)
def test_every_text_has_both_languages_with_the_same_values(key):
    english, chinese = TEXTS[key]["en"], TEXTS[key]["zh"]
    fields = [sorted(name for _, name, _, _ in Formatter().parse(text) if name) for text in (english, chinese)]
    assert english and chinese and fields[0] == fields[1]


def test_every_statement_and_title_is_in_both_languages(runs):
    """A key without a text would be printed as it is."""
    for text in (runs["en"], runs["zh"]):
        assert not re.findall(r"^(?:- )?[a-z]+_[a-z_]+\.?$", text, re.M)


def test_other_languages_are_refused():
    with pytest.raises(ValueError, match="lang must be one of en, zh, got 'de'"):
        Demonstration("x", {}, (Statement("signal_anchors"),)).text("de")
    assert text_of("a name", "zh") == "a name"


def test_importing_the_room_needs_torch_and_jaxtyping_alone():
    code = "import sys, sftloss.logits; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded and not {"scipy", "pandas", "transformers", "polars", "yaml", "typer"} & set(loaded)


def test_a_run_without_scipy_names_what_to_install():
    code = "import runpy, sys; sys.modules['scipy'] = None; runpy.run_module('sftloss.logits', run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    assert re.fullmatch(r'scipy[\w.]* is missing; install it with: pip install "sftloss\[cli\]"', run.stderr.strip())

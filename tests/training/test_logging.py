"""What the log says of a step: shares of the signal, spikes, and the rows behind them by file and line."""

from __future__ import annotations

import logging
import math
import random
import re
import statistics
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.paths import ROOT
from tests.tiny_models import tiny_model
from tests.training.cases import VOCAB, gradients, model_of, ragged_rows, relative_error, without

from sftloss.finetune.watch import Groups
from sftloss.objectives import objective
from sftloss.statistics import TokenStats, from_logits
from sftloss.training import Loss, Pass, TaskFactors, attach, collate_rows, with_loss
from sftloss.training.batch.tokens import read_tokens
from sftloss.training.watch.signal import logit_signal
from sftloss.training.watch.spikes import FEWEST, SpikeWatch, _History
from sftloss.training.watch.sums import filter_warning

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
ROWS = ragged_rows()
FIELDS = ("target_logprob", "logsumexp", "entropy", "other_logprob", "mean_logprob", "is_top1")


def logits_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(12, 9, generator=generator, dtype=torch.float64)
    logits[0, 4] = 40.0  # nearly certain
    return logits.requires_grad_(), torch.randint(0, 9, (12,), generator=generator).index_fill(0, torch.tensor([0]), 4)


@pytest.mark.parametrize("text", ["cross_entropy", "focal(gamma=2)", "dft", "poly_1", "cross_entropy + 0.1 * z_loss"])
def test_signal_is_the_l1_norm_of_the_gradient_in_the_logits(text: str) -> None:
    logits, targets = logits_and_targets()
    function = objective(text)
    stats = from_logits(logits, targets)
    (expected,) = torch.autograd.grad(function(stats).sum(), logits)
    got = logit_signal(function, stats)
    assert got is not None
    torch.testing.assert_close(got, expected.abs().sum(dim=1), rtol=1e-9, atol=1e-14)


def test_signal_of_an_own_objective_in_unlikelihood_is_exact_too() -> None:
    logits, targets = logits_and_targets()

    def unlikely(stats: TokenStats) -> torch.Tensor:
        return -stats.other_logprob - 0.3 * stats.target_logprob * stats.entropy.detach()

    stats = from_logits(logits, targets)
    (expected,) = torch.autograd.grad(unlikely(stats).sum(), logits)
    got = logit_signal(unlikely, stats)
    assert got is not None
    torch.testing.assert_close(got, expected.abs().sum(dim=1), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("text", ["label_smoothing(epsilon=0.1)", "cross_entropy + 0.1 * entropy_bonus"])
def test_signal_is_not_guessed_where_the_logits_are_needed(text: str) -> None:
    assert logit_signal(objective(text), from_logits(*logits_and_targets())) is None


def shares_of(loss: Loss, rows: Any, sizes: tuple[int, ...], wrong_every: int = 0) -> dict[str, float]:
    model = model_of()
    attachment = attach(model, loss)
    start, parts = 0, []
    for size in sizes:
        parts.append(collate_rows(rows[start : start + size], pad_id=0))
        start += size
        if wrong_every:
            is_wrong = torch.arange(parts[-1]["labels"].shape[1]) % wrong_every == 0
            parts[-1]["is_negative"] = is_wrong.float().expand_as(parts[-1]["labels"])
    step = attachment.step(parts)
    for part in parts:
        model(**part, num_items_in_batch=step)
    return attachment.metrics()


def test_shares_are_those_of_the_definition_at_any_split() -> None:
    loss = Loss(
        "focal(gamma=1)", roles={"prompt": 0.2, "response": 1.0}, tasks=TaskFactors([1.0, 2.0], names=("a", "b"))
    )
    rows = without(ROWS, "token_weights")
    whole = shares_of(loss, rows, (8,))
    model = model_of()
    attachment = attach(model, loss)
    step = attachment.step([collate_rows(rows, pad_id=0)])
    attachment.detach()
    signal = {"prompt": 0.0, "response": 0.0, "a": 0.0, "b": 0.0}
    for row in rows:
        batch = collate_rows([row], pad_id=0)
        tokens = read_tokens(loss, batch)
        logits = model(batch["input_ids"]).logits[0].detach().requires_grad_()
        stats = from_logits(logits[:-1], batch["input_ids"][0, 1:])
        (gradient,) = torch.autograd.grad(objective("focal(gamma=1)")(stats).sum(), logits)
        each = (gradient.abs().sum(dim=1) * step.coefficients(tokens))[:-1]
        is_labelled = batch["labels"][0, 1:] != -100
        signal["response"] += float(each[is_labelled].sum())
        signal["prompt"] += float(each[~is_labelled].sum())
        signal["ab"[row["tasks"]]] += float(each.sum())
    for name, amount in signal.items():
        total = signal["a"] + signal["b"]
        assert whole[f"signal_share/{name}"] == pytest.approx(amount / total, rel=1e-9)
    cut = shares_of(loss, rows, (3, 1, 4))
    assert cut == pytest.approx(whole, rel=1e-9)


def test_shares_are_of_coefficients_where_the_signal_needs_the_logits() -> None:
    rows = without(ROWS, "token_weights")
    seen = shares_of(Loss("label_smoothing(epsilon=0.1)"), rows, (8,))
    counts = [sum(int((row["labels"][1:] != -100).sum()) for row in rows if row["tasks"] == task) for task in (0, 1)]
    assert seen["coefficient_share/task_0"] == pytest.approx(counts[0] / sum(counts))
    assert not [name for name in seen if name.startswith("signal_share")]


def test_cross_entropy_is_over_the_response_whatever_the_prompt_weighs() -> None:
    rows = without(ROWS, "token_weights", "tasks")
    plain = shares_of(Loss(), rows, (8,))
    weighed = shares_of(Loss(roles={"prompt": 0.1, "response": 1.0}), rows, (8,))
    assert "trained_cross_entropy" not in plain and weighed["trained_tokens"] > plain["trained_tokens"]
    for name in ("cross_entropy", "entropy", "token_accuracy"):
        assert weighed[name] == pytest.approx(plain[name], rel=1e-12)
    everything = shares_of(Loss(), [{**row, "labels": row["input_ids"]} for row in without(rows, "roles")], (8,))
    assert weighed["trained_cross_entropy"] == pytest.approx(everything["cross_entropy"], rel=1e-12)
    # one micro-batch without a response token is no exception
    split = shares_of(Loss(roles={"prompt": 0.1, "response": 1.0}), rows, (3, 1, 4))
    assert split == pytest.approx(weighed, rel=1e-9)
    prompts = shares_of(Loss(roles={"prompt": 1.0}), rows, (8,))
    assert prompts["cross_entropy"] > 0 and "trained_cross_entropy" not in prompts


def test_tokens_marked_as_wrong_are_no_right_answers_of_the_log() -> None:
    rows = without(ROWS, "token_weights", "tasks")
    is_wrong = [torch.arange(len(row["labels"])) % 3 == 0 for row in rows]
    kept = [{**row, "labels": row["labels"].masked_fill(bad, -100)} for row, bad in zip(rows, is_wrong, strict=True)]
    right = shares_of(Loss(), kept, (8,))
    marked = shares_of(Loss("unlikelihood"), rows, (3, 5), wrong_every=3)
    signed = [{**row, "token_weights": 1 - 1.5 * bad.float()} for row, bad in zip(rows, is_wrong, strict=True)]
    for seen in (marked, shares_of(Loss(normalizer="tokens"), signed, (8,))):
        for name in ("cross_entropy", "entropy", "token_accuracy"):
            assert seen[name] == pytest.approx(right[name], rel=1e-9)
        assert seen["trained_tokens"] > right["trained_tokens"]
    only_wrong = shares_of(Loss("unlikelihood"), rows, (8,), wrong_every=1)
    assert only_wrong["trained_tokens"] > 0 and "cross_entropy" not in only_wrong


def test_tokens_marked_as_wrong_are_no_right_answers_of_a_held_out_group() -> None:
    part = collate_rows(without(ROWS, "token_weights", "tasks", "row_ids"), pad_id=0)
    is_wrong = torch.arange(part["labels"].shape[1]).expand_as(part["labels"]) % 3 == 0
    part |= {"is_negative": is_wrong.float(), "example_ids": torch.zeros_like(part["labels"])}
    means = []
    for loss, labels in (("unlikelihood", part["labels"]), (Loss(), part["labels"].masked_fill(is_wrong, -100))):
        model = model_of()
        attachment, group = attach(model, loss), Groups(Loss(), [SimpleNamespace(task="a")], "task")  # type: ignore[list-item]
        attachment.observers += (group,)
        model.eval()(**part | {"labels": labels})
        means.append(group.read(torch.device("cpu"))["a"])
    assert means[0]["trained_tokens"] > means[1]["trained_tokens"]
    for name in ("cross_entropy", "token_accuracy"):
        assert means[0][name] == pytest.approx(means[1][name], rel=1e-9)


def test_gradients_stay_within_a_losss_tolerance_and_the_log_has_their_error() -> None:
    ids = torch.randint(3, 8192, (16, 64), generator=torch.Generator().manual_seed(0))
    steps: dict[float, dict[str, torch.Tensor]] = {}
    for tolerance in (0.0, 1e-2):
        model = tiny_model("llama", 8192).train()
        with torch.no_grad():
            model.lm_head.weight.mul_(30)  # sure of its tokens, as a trained model is
        attachment = attach(model, Loss(tolerance=tolerance))
        model(input_ids=ids, labels=ids).loss.backward()
        steps[tolerance], log = gradients(model), attachment.metrics()
        assert ("filter_error" in log) == bool(tolerance)
    assert log["filter_kept"] < 0.2 and 0 < log["filter_dropped"] < 0.01 and log["filter_error"] < 1e-2
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert 0 < relative_error({name: steps[1e-2][name]}, {name: steps[0.0][name]}) < 1e-2


def test_a_warning_names_what_a_filter_did_to_the_gradients_where_it_was_too_much() -> None:
    usual = {"filter_kept": 0.1, "filter_dropped": 0.005, "filter_error": 2e-3}
    assert filter_warning(usual, 2.5e-3) is None and filter_warning({}, 0.0) is None
    assert "they err by 0.002" in (filter_warning(usual, 1e-3) or "")
    assert "7.0 % of their mass" in (filter_warning({**usual, "filter_dropped": 0.07}, 2.5e-3) or "")


@pytest.mark.parametrize("tolerance", [-1e-3, 1.0, float("nan")])
def test_impossible_tolerance_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="Loss: tolerance must be at least 0 and below 1"):
        Loss(tolerance=tolerance)


def test_tasks_are_named_in_the_log_without_a_weight() -> None:
    rows = without(ROWS, "token_weights")
    named, plain = Loss(tasks=("qa", "code")), Loss()
    assert named.counts_tokens and not named.task_factor.is_weighting
    expected = shares_of(plain, rows, (3, 1, 4))
    found = shares_of(named, rows, (3, 1, 4))
    assert {name.replace("task_0", "qa").replace("task_1", "code"): v for name, v in expected.items()} == found
    without_tasks = shares_of(named, without(rows, "tasks"), (8,))
    assert without_tasks["cross_entropy"] == pytest.approx(found["cross_entropy"], rel=1e-12)


@pytest.mark.parametrize("tasks", [("qa", "qa"), "qa", (1.0, 2.0), 3])
def test_tasks_that_are_neither_names_nor_factors_are_refused(tasks: Any) -> None:
    with pytest.raises(ValueError, match="Loss: tasks takes"):
        Loss(tasks=tasks)


def test_factors_by_name_are_factors_by_index() -> None:
    assert TaskFactors({"qa": 1.0, "code": 2.0}) == TaskFactors((1.0, 2.0), names=("qa", "code"))
    with pytest.raises(ValueError, match="2 factors for 1 names"):
        TaskFactors([1.0, 2.0], names=("qa",))


def test_one_group_alone_is_not_logged() -> None:
    seen = shares_of(Loss(), without(ROWS, "token_weights", "tasks"), (8,))
    assert set(seen) == {"cross_entropy", "entropy", "token_accuracy", "trained_tokens", "seen_tokens"}


def test_seen_tokens_are_all_but_padding_whatever_is_trained() -> None:
    rows = without(ROWS, "token_weights", "tasks")
    seen = shares_of(Loss(), rows, (3, 1, 4))
    assert seen["seen_tokens"] == sum(len(row["input_ids"]) for row in rows) > seen["trained_tokens"] > 0


def pass_of(values: list[float], names: Any = None) -> Pass:
    """Rows of one token each, with these losses."""
    stats = TokenStats({"target_logprob": -torch.tensor(values, dtype=torch.float64)}, VOCAB)
    count = len(values)
    labels = torch.tensor([[-100, 5]] * count)
    tokens = read_tokens(Loss(), {"labels": labels})
    values_ = torch.zeros(2 * count, dtype=torch.float64)
    values_[::2] = torch.tensor(values, dtype=torch.float64)
    stats = TokenStats({"target_logprob": -values_}, VOCAB)
    coefficients = (tokens.targets != -100).double() / count
    return Pass(
        True,
        stats,
        tokens,
        coefficients,
        (coefficients * values_).sum(),
        {"row_ids": names},
        objective("cross_entropy"),
    )


def test_spike_is_told_once_and_names_its_rows(caplog: pytest.LogCaptureFixture) -> None:
    watch, draw = SpikeWatch(), random.Random(0)
    calm = [[1 + 0.2 * draw.random() for _ in range(3)] for _ in range(40)]
    with caplog.at_level(logging.WARNING, "sftloss.training"):
        assert not any([watch.look(pass_of(values)) for values in calm])
        assert not caplog.records
        names = ["data.jsonl:4", "data.jsonl:7", "data.jsonl:9"]
        assert watch.look(pass_of([1.1, 9.0, 1.2], names))
        assert not watch.look(pass_of([1.1, 8.0, 1.2], names)), "the same spike"
        assert not watch.look(pass_of(calm[0]))
        assert watch.look(pass_of([1.1, 1.0, 7.0], names)), "another one"
    first, second = (record.getMessage() for record in caplog.records)
    assert "loss is 3.77 a token, the median of the 40 before it 1.1" in first
    assert first.index("data.jsonl:7 (80 % of it, 9 a token)") < first.index("data.jsonl:9")
    assert "data.jsonl:9 (77 % of it, 7.00 a token)" in second


def test_a_harder_answer_of_few_tokens_is_no_spike_among_losses_near_zero() -> None:
    """By `dft` a yes/no answer that the model is sure of costs 1e-3 a token, one that it doubts 0.17."""
    draw, watch = random.Random(0), SpikeWatch()
    easy = [[1e-3 * draw.lognormvariate(0.0, 1.0)] * 2 for _ in range(40)]
    assert not any([watch.look(pass_of(values)) for values in easy])
    assert not watch.look(pass_of([0.17, 0.17])) and not watch.look(pass_of([0.34, 4.0]))
    assert watch.look(pass_of([0.17] * 40)), "of many tokens it is no chance"
    assert not watch.look(pass_of(easy[0])) and watch.look(pass_of([0.0, 9.0]))


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("lognormal", 1),
        *(
            pytest.param(*rest, marks=pytest.mark.slow)
            for rest in (("falling", 0), ("normal", 0), ("uniform", 0), ("exponential", 4))
        ),
    ],
)
def test_noise_is_no_spike(name: str, most: int) -> None:
    """False alarms in 2,000 micro-batches; an exponential's tail (one-token batches) is the worst case."""
    draw = random.Random(1)
    make = {
        "normal": lambda i: draw.gauss(2, 0.3),
        "uniform": lambda i: draw.random() + 1,
        "lognormal": lambda i: draw.lognormvariate(0.5, 0.5),
        "falling": lambda i: 10 / (1 + i / 50) + 0.1 * draw.random(),
        "exponential": lambda i: draw.expovariate(1),
    }[name]
    watch, told = SpikeWatch(), 0
    logging.getLogger("sftloss.training").disabled = True
    try:
        for i in range(2000):
            told += watch.look(pass_of([max(make(i), 1e-3)]))
    finally:
        logging.getLogger("sftloss.training").disabled = False
    assert told <= most


def rows_of_the_docs() -> list[list[float]]:
    """The numbers of the table of docs/training.md: noise, false spikes per 1,000, three shares in percent, steps."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = text.split("| noise | false spikes")[1].split("\n\n")[0].splitlines()[2:]
    return [[float(number) for number in re.findall(r"[\d.]+", row)] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("row", rows_of_the_docs())
def test_spikes_and_growth_are_found_as_the_docs_say(row: list[float]) -> None:
    """Lognormal losses of micro-batches of many tokens; `pytest -s` prints the row of the docs."""
    noise, false, *shares, steps = row
    draw, many = random.Random(5), 1e9

    def history(length: int) -> _History:
        one = _History()
        for _ in range(length):
            one.begins_rise(draw.lognormvariate(0.0, noise))
        return one

    def steps_to_report() -> int:
        one = history(300)
        return next(n for n in count(1) if one.begins_rise(draw.lognormvariate(0.02 * n, noise)))

    calm, alarms = _History(), 0
    for _ in range(20_000):
        loss = draw.lognormvariate(0.0, noise)
        alarms += calm.begins_spike(loss, many)
        calm.begins_rise(loss)
    bounds = [history(64)._bound(many) for _ in range(1000)]
    spikes = [sum(times * draw.lognormvariate(0.0, noise) > bound for bound in bounds) / 10 for times in (3, 5, 10)]
    growth = statistics.median(steps_to_report() for _ in range(200))
    print(f"| {noise} | {alarms / 20} |", *(f"{share:.0f} % |" for share in spikes), f"{growth:.0f} steps |")
    # three standard errors of a rate of 20,000 and of shares of 1,000; the median of 200 runs has a tenth
    assert alarms / 20 == pytest.approx(false, abs=3 * math.sqrt((false + 0.05) / 20))
    assert spikes == pytest.approx(shares, abs=300 * math.sqrt(0.25 / 1000))
    assert growth == pytest.approx(steps, rel=0.1)


def test_a_task_with_larger_losses_is_no_spike_among_others() -> None:
    """One row a micro-batch, nine in ten of a task with a loss of 0.2, one in ten of a task with 2."""
    draw, watch, told = random.Random(2), SpikeWatch(), 0
    for _ in range(1000):
        task = int(draw.random() < 0.1)
        one = pass_of([(0.2, 2.0)[task] * draw.lognormvariate(0.0, 0.2)])
        tasks = torch.full_like(one.tokens.targets, task)
        told += watch.look(replace(one, tokens=replace(one.tokens, tasks=tasks)))
    assert told == 0
    again = SpikeWatch()
    again.restore(watch.state())
    assert again.state() == watch.state() and len(watch.state()) == 2 * (5 + 64)


def test_a_spike_of_one_task_names_the_task_and_its_rows_only(caplog: pytest.LogCaptureFixture) -> None:
    """The rows of the other task have larger losses in every micro-batch."""
    draw, watch, rows = random.Random(2), SpikeWatch(("qa", "code")), ["data.jsonl:4", "data.jsonl:7"]

    def look(first: float) -> bool:
        one = pass_of([first, 20.0 + draw.random()], rows)
        tasks = torch.tensor([0, 0, 1, 1])
        return watch.look(replace(one, tokens=replace(one.tokens, tasks=tasks)))

    with caplog.at_level(logging.WARNING, "sftloss.training"):
        assert not any([look(1 + 0.1 * draw.random()) for _ in range(FEWEST)]) and not watch.largest
        assert look(9.0)
    assert watch.largest == "data.jsonl:4 (100 % of it, 9 a token)"
    assert "this micro-batch's loss on task qa is 9 a token" in caplog.text
    assert f"the most of its loss is at {watch.largest}." in caplog.text


@pytest.mark.parametrize(("growth", "noise", "within"), [(0.02, 0.05, 45), (0.02, 0.3, 130), (0.05, 0.3, 60)])
def test_a_loss_that_rises_slowly_is_reported_once(
    growth: float, noise: float, within: int, caplog: pytest.LogCaptureFixture
) -> None:
    draw, watch = random.Random(3), SpikeWatch()
    with caplog.at_level(logging.WARNING, "sftloss.training"):
        for _ in range(300):
            watch.look(pass_of([draw.lognormvariate(0.0, noise)]))
        assert "the loss rises" not in caplog.text
        for i in range(within):
            watch.look(pass_of([draw.lognormvariate(growth * i, noise)]))
    assert caplog.text.count("sftloss: the loss rises: the median of the last 32 micro-batches is") == 1


@pytest.mark.parametrize(
    "noise", [pytest.param(0.1, marks=pytest.mark.slow), pytest.param(0.3, marks=pytest.mark.slow), 0.5]
)
def test_a_steady_or_falling_loss_does_not_rise(noise: float, caplog: pytest.LogCaptureFixture) -> None:
    draw, watch = random.Random(4), SpikeWatch()
    with caplog.at_level(logging.WARNING, "sftloss.training"):
        for i in range(2000):
            watch.look(pass_of([draw.lognormvariate(-min(i, 1000) / 500, noise)]))
    assert "the loss rises" not in caplog.text


def test_evaluation_and_the_first_micro_batches_are_not_judged() -> None:
    watch = SpikeWatch()
    for _ in range(FEWEST - 1):
        assert not watch.look(pass_of([1.0]))
    assert not watch.look(pass_of([100.0])), "too few before it"
    evaluated = pass_of([100.0])
    assert not watch.look(Pass(False, *list(vars(evaluated).values())[1:]))
    assert watch.look(pass_of([100.0]))


def test_packed_row_is_named_by_its_sequence() -> None:
    model = model_of()
    attach(model, Loss(extras=("poison",), objective=lambda stats: -stats.target_logprob * stats.extras["poison"]))
    rows = without(ROWS, "token_weights", "tasks")
    batch = collate_rows(rows, pad_id=0, packed=True)
    assert batch["row_ids"] == [[row["row_ids"] for row in rows]]
    poison = torch.ones(batch["labels"].shape, dtype=torch.float64)
    start = sum(len(row["input_ids"]) for row in rows[:4])
    poison[0, start + 2 : start + len(rows[4]["input_ids"])] = float("nan")
    with pytest.raises(FloatingPointError, match=r"tokens of data\.jsonl:5; look"):
        model(**batch, poison=poison)


def test_trainer_logs_the_shares_of_roles_and_tasks(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    rows = without(ROWS, "token_weights")
    loss = Loss(roles={"prompt": 0.2, "response": 1.0})
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=1,
        learning_rate=0.0,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    pad = partial(collate_rows, pad_id=0)
    trainer = with_loss(transformers.Trainer, loss)(model=model_of(), args=args, train_dataset=rows, data_collator=pad)
    trainer.train()
    log = trainer.state.log_history[0]
    expected = shares_of(loss, rows, (8,))
    for name in ("prompt", "response", "task_0", "task_1"):
        assert log[f"signal_share/{name}"] == pytest.approx(expected[f"signal_share/{name}"], rel=1e-9)
    assert log["signal_share/prompt"] + log["signal_share/response"] == pytest.approx(1)
    assert log["signal_share/task_0"] + log["signal_share/task_1"] == pytest.approx(1)

"""The table is the model's own numbers, whatever the batches, the shards and the crashes on the way."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.analysis.tiny_data import packed, padded, tiny_examples
from tests.tiny_models import FAMILIES, tiny_model

pl = pytest.importorskip("polars")
from polars.testing import assert_frame_equal  # noqa: E402

from sftloss.analysis.table.measure import Settings, measure  # noqa: E402
from sftloss.analysis.table.store import (  # noqa: E402
    MeasuredTable,  # noqa: E402
    complete_parts,
    token_schema,
)
from sftloss.decoder import Decoder, open_decoder  # noqa: E402
from sftloss.errors import ConfigError, DataError, ModelError  # noqa: E402
from sftloss.statistics import FIELDS, TokenStats  # noqa: E402


def cross_entropy(stats: TokenStats) -> torch.Tensor:
    return -stats.target_logprob


def dft(stats: TokenStats) -> torch.Tensor:
    return -stats.target_logprob.detach().exp() * stats.target_logprob


def smoothed(stats: TokenStats) -> torch.Tensor:
    return -0.9 * stats.target_logprob - 0.1 * stats.mean_logprob


OBJECTIVES = {"cross_entropy": cross_entropy, "dft": dft, "smoothed": smoothed}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return open_decoder(tiny_model("llama"))


def run(decoder: Decoder, out: Path, *, batch=padded, count: int = 12, **settings) -> MeasuredTable:
    return measure(decoder, tiny_examples(count), OBJECTIVES, out, batch=batch, settings=Settings(**settings))


def collected(table: MeasuredTable) -> tuple[pl.DataFrame, pl.DataFrame]:
    return table.tokens().collect(), table.examples().collect()


def truth(model: torch.nn.Module, count: int = 12) -> dict[str, torch.Tensor]:
    """Each example alone through the whole model; the rest in float64 by its definition."""
    columns: dict[str, list[torch.Tensor]] = {}
    for example in tiny_examples(count):
        ids = example.input_ids
        with torch.no_grad():
            z = model(ids[None], use_cache=False).logits[0, :-1].double()
        logp, y = z.log_softmax(-1), ids[1:]
        p = logp.exp()
        onehot = torch.nn.functional.one_hot(y, z.shape[1])
        target = logp.gather(1, y[:, None])[:, 0]
        off = p.masked_fill(onehot.bool(), 0.0)
        gradients = {
            "cross_entropy": p - onehot,
            "dft": target.exp()[:, None] * (p - onehot),
            "smoothed": p - 0.9 * onehot - 0.1 / z.shape[1],
        }
        losses = {"cross_entropy": -target, "dft": -target.exp() * target}
        losses["smoothed"] = -0.9 * target - 0.1 * logp.mean(1)
        values = {
            "target_logprob": target,
            "logsumexp": z.logsumexp(1),
            "entropy": -(p * logp).sum(1),
            "mean_logprob": logp.mean(1),
            "collision": p.square().sum(1),
            "other_logprob": off.sum(1).log(),
            "off_target_sq": off.square().sum(1),
            "is_top1": logp.argmax(1) == y,
            "max_logprob": logp.amax(1),
            "end_logprob": logp[:, ids[-1]],  # the last token of each of these examples is its own end
            "token": y,
            "position": torch.arange(1, len(ids)),
            "weight": example.weights[1:],
            "is_end": example.is_end[1:],
            "role": example.roles[1:],
        }
        for name, dz in gradients.items():
            values |= {f"loss:{name}": losses[name], f"l1:{name}": dz.abs().sum(1), f"l2:{name}": dz.norm(dim=1)}
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in columns.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_table_is_the_models_own_logits_in_float64(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    tokens, _ = collected(run(open_decoder(model), tmp_path))
    for name, expected in truth(model).items():
        # float32 hidden states of another batch shape: a few roundings over two layers, on logits of size ten
        got = torch.tensor(tokens[name].to_numpy())
        torch.testing.assert_close(got.double(), expected.double(), rtol=2e-4, atol=2e-5, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma2", "granite", "cohere"])
def test_cross_entropy_of_the_table_is_the_models_own_loss(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    tokens, _ = collected(run(open_decoder(model), tmp_path))
    for number, example in enumerate(tiny_examples()):
        if number == 5:  # one token, nothing to predict
            continue
        with torch.no_grad():
            expected = model(example.input_ids[None], labels=example.input_ids[None], use_cache=False).loss
        got = tokens.filter(pl.col("example") == number)["loss:cross_entropy"].mean()
        assert math.isclose(got, float(expected), rel_tol=1e-5)


def test_model_without_readable_head_gives_the_same_table(decoder: Decoder, tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.lm_head.register_forward_hook(lambda _, inputs, output: output.sin())
    opened = open_decoder(model)
    assert opened.head is None
    table = run(opened, tmp_path)
    tokens, examples = collected(table)
    expected = truth(model)
    for name in ("target_logprob", "end_logprob", "entropy", "loss:dft", "l1:dft", "l2:smoothed", "l1:smoothed"):
        torch.testing.assert_close(torch.tensor(tokens[name].to_numpy()).double(), expected[name], rtol=2e-4, atol=2e-5)
    assert "hidden_norm" not in tokens.columns  # no last-layer signal, rather than one of zero
    assert examples["n_nonfinite"].sum() == 0
    assert "adapter" in table.manifest["model"]["own_logits_because"]


def test_columns_and_types_are_the_schemas(decoder: Decoder, tmp_path: Path) -> None:
    tokens, examples = collected(run(decoder, tmp_path))
    assert dict(tokens.schema) == token_schema(list(OBJECTIVES))
    assert set(FIELDS) <= set(tokens.columns)
    row = examples.row(7, named=True)
    source = tiny_examples()[7]
    assert (row["example"], row["path"], row["row"], row["line"], row["task"]) == (7, "data.jsonl", 7, 8, None)
    assert (row["n_tokens"], row["n_targets"]) == (len(source.input_ids), len(source.input_ids) - 1)
    assert (row["truncated"], row["prompts"], row["language"], row["source"]) == (1, [7 << 40], "Latin", None)


def test_hidden_norm_times_l2_is_the_last_layer_gradient_of_a_token(tmp_path: Path) -> None:
    model = tiny_model("llama")
    tokens, _ = collected(run(open_decoder(model), tmp_path, count=1))
    ids = tiny_examples(1)[0].input_ids
    logits = model(ids[None], use_cache=False).logits[0, :-1]
    for t in range(len(ids) - 1):
        loss = torch.nn.functional.cross_entropy(logits[t], ids[t + 1])
        (grad,) = torch.autograd.grad(loss, model.lm_head.weight, retain_graph=True)
        got = tokens["l2:cross_entropy"][t] * tokens["hidden_norm"][t]
        assert math.isclose(got, float(grad.norm()), rel_tol=1e-4)


@pytest.mark.parametrize(
    "batch", [packed, partial(padded, size=1), partial(packed, size=12)], ids=["packed", "one", "one row"]
)
def test_batching_does_not_change_the_table(batch, decoder: Decoder, tmp_path: Path) -> None:
    expected, expected_examples = collected(run(decoder, tmp_path / "padded"))
    got, got_examples = collected(run(decoder, tmp_path / "other", batch=batch))
    # other shapes sum in another order: a few float32 roundings
    assert_frame_equal(got, expected, rel_tol=2e-4, abs_tol=2e-5)
    assert_frame_equal(got_examples, expected_examples)


def test_two_shards_are_one_table(decoder: Decoder, tmp_path: Path) -> None:
    expected, expected_examples = collected(run(decoder, tmp_path / "one"))
    run(decoder, tmp_path / "two", shard=(0, 2))
    half = MeasuredTable(tmp_path / "two")
    assert half.missing(2) == (1,) and half.examples().collect()["example"].to_list() == [0, 1, 2, 3, 8, 9, 10, 11]
    table = run(decoder, tmp_path / "two", shard=(1, 2))
    assert not table.missing(2)
    got, got_examples = collected(table)
    assert_frame_equal(got, expected, check_exact=True)  # ranks share batches, and a batch is computed as ever
    assert_frame_equal(got_examples, expected_examples)


def test_batch_that_reorders_keeps_the_numbers_of_the_data(decoder: Decoder, tmp_path: Path) -> None:
    def bucketed(examples):
        return padded(iter(sorted(examples, key=lambda example: example.input_ids.numel())))

    expected, expected_examples = collected(run(decoder, tmp_path / "a"))
    got, got_examples = collected(run(decoder, tmp_path / "b", batch=bucketed, part_tokens=10))
    assert_frame_equal(got, expected, rel_tol=2e-4, abs_tol=2e-5)
    assert_frame_equal(got_examples, expected_examples)


def test_batch_that_copies_examples_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match="the very examples"):
        run(decoder, tmp_path, batch=lambda examples: padded(replace(example) for example in examples))


def test_memory_is_bounded_by_parts(decoder: Decoder, tmp_path: Path) -> None:
    run(decoder, tmp_path, batch=partial(padded, size=1), part_tokens=10)
    sizes = [pl.read_parquet(part.tokens).height for part in complete_parts(tmp_path)]
    assert len(sizes) > 3 and all(size < 10 + 14 for size in sizes)


def test_progress_counts_every_token(decoder: Decoder, tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    run(decoder, tmp_path, progress=lambda done, total: calls.append((done, total)))
    total = sum(len(example.input_ids) for example in tiny_examples())
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls) and len(calls) == 3


class Killed(Exception):
    pass


def killed_after(batches: int):
    def batch(examples):
        for number, group in enumerate(padded(examples, size=2)):
            if number == batches:
                raise Killed
            yield group

    return batch


def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(decoder: Decoder, tmp_path: Path) -> None:
    batch = partial(padded, size=2)
    expected = collected(run(decoder, tmp_path / "whole", batch=batch, part_tokens=10))
    for batches in (1, 2, 3, 5):
        out = tmp_path / str(batches)
        with pytest.raises(Killed):
            run(decoder, out, batch=killed_after(batches), part_tokens=10)
        assert MeasuredTable(out).missing(1) == (0,)
        got = collected(run(decoder, out, batch=batch, part_tokens=10))
        for mine, whole in zip(got, expected, strict=True):
            assert mine.equals(whole)


def test_resumed_run_does_not_compute_what_is_on_disk(decoder: Decoder, tmp_path: Path, monkeypatch) -> None:
    run(decoder, tmp_path)
    monkeypatch.setattr(Decoder, "hidden", lambda *_: pytest.fail("the model ran again"))
    run(decoder, tmp_path)


def test_resume_with_other_batches_and_ranks_measures_each_example_once(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(decoder, tmp_path / "a", batch=killed_after(3), part_tokens=5)
    for rank in range(3):
        table = run(decoder, tmp_path / "a", batch=partial(padded, size=3), shard=(rank, 3))
    expected = collected(run(decoder, tmp_path / "b"))
    for mine, whole in zip(collected(table), expected, strict=True):
        assert_frame_equal(mine, whole, rel_tol=2e-4, abs_tol=2e-5)


@pytest.mark.parametrize("kind", ["tokens", "examples"])
def test_truncated_part_is_measured_again(kind: str, decoder: Decoder, tmp_path: Path) -> None:
    batch = partial(padded, size=2)
    expected = collected(run(decoder, tmp_path, batch=batch, part_tokens=10))
    damaged = sorted(tmp_path.glob(f"{kind}-*.parquet"))[1]
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert MeasuredTable(tmp_path).examples().collect().height < 12
    for mine, whole in zip(collected(run(decoder, tmp_path, batch=batch, part_tokens=10)), expected, strict=True):
        assert mine.equals(whole)


def test_orphans_of_a_killed_run_are_swept(decoder: Decoder, tmp_path: Path) -> None:
    run(decoder, tmp_path)
    orphan, temporary = tmp_path / "tokens-00000-000009.parquet", tmp_path / "examples-00003-000001.parquet.77.tmp"
    foreign = tmp_path / "notes.txt"
    for path in (orphan, temporary, foreign):
        path.write_bytes(b"half")
    run(decoder, tmp_path)
    assert not orphan.exists() and not temporary.exists() and foreign.exists()


def test_other_rank_keeps_its_half_written_pair(decoder: Decoder, tmp_path: Path) -> None:
    """Between its two renames a pair looks orphaned to everyone else."""
    run(decoder, tmp_path, shard=(0, 2))
    between = tmp_path / "tokens-00001-000000.parquet"
    between.write_bytes(b"half")
    run(decoder, tmp_path, shard=(0, 2))
    assert between.exists()


SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
from functools import partial
from pathlib import Path
from tests.analysis.test_measure import OBJECTIVES, Settings, measure, open_decoder, padded, tiny_examples, tiny_model

def slowly(examples):
    for number, batch in enumerate(padded(examples, size=2)):
        yield batch
        if number == 2:
            print("going", flush=True)
        if number >= 2:
            time.sleep(0.05)

measure(open_decoder(tiny_model("llama")), tiny_examples(60), OBJECTIVES, Path({out!r}),
        batch=slowly, settings=Settings(part_tokens=10))
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a Unix signal")
def test_kill_9_in_the_middle_then_resume_gives_the_identical_table(decoder: Decoder, tmp_path: Path) -> None:
    root, out = Path(__file__).parents[2], tmp_path / "killed"
    script = SCRIPT.format(root=str(root), out=str(out))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == b"going\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    measured = MeasuredTable(out).examples().collect().height
    assert 0 < measured < 60
    batch = partial(padded, size=2)
    got = collected(run(decoder, out, batch=batch, count=60, part_tokens=10))
    expected = collected(run(decoder, tmp_path / "whole", batch=batch, count=60, part_tokens=10))
    for mine, whole in zip(got, expected, strict=True):
        assert mine.equals(whole)


def test_second_process_in_one_directory_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")

    def twice(examples):
        with pytest.raises(ConfigError, match="another process is measuring"):
            run(decoder, tmp_path)
        return padded(examples)

    run(decoder, tmp_path, batch=twice)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda out: run(open_decoder(tiny_model("llama", seed=1)), out), "model was"),
        (lambda out: run(open_decoder(tiny_model("llama").double()), out), "model was"),
        (
            lambda out: run(open_decoder(tiny_model("llama")), out, identity={"max_length": 9}),
            "max_length was null, is 9",
        ),
        (
            lambda out: measure(
                open_decoder(tiny_model("llama")), tiny_examples(), {"cross_entropy": cross_entropy}, out, batch=padded
            ),
            "objectives was",
        ),
        (
            lambda out: measure(
                open_decoder(tiny_model("llama")), tiny_examples(seed=2), OBJECTIVES, out, batch=padded
            ),
            r"data.jsonl:1 was another example",
        ),
    ],
    ids=["weights", "dtype", "identity", "objectives", "data"],
)
def test_table_of_something_else_is_refused_by_name(change, named: str, decoder: Decoder, tmp_path: Path) -> None:
    run(decoder, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=named) as caught:
        change(tmp_path)
    assert "choose another output or delete this one" in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_token_of_another_models_vocabulary_is_refused_by_origin(tmp_path: Path) -> None:
    decoder = open_decoder(tiny_model("llama", 40))
    with pytest.raises(ModelError, match=r"data.jsonl:\d+ has token \d+, the model has 40; the tokenizer belongs"):
        run(decoder, tmp_path)


def test_nonfinite_statistics_are_counted_by_example(tmp_path: Path) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[int(tiny_examples()[3].input_ids[1])] = float("nan")
    token = int(tiny_examples()[3].input_ids[1])
    table = run(open_decoder(model), tmp_path)
    bad = dict(
        table.examples().filter(pl.col("n_nonfinite") > 0).select("example", "n_nonfinite").collect().iter_rows()
    )
    for number, example in enumerate(tiny_examples()):
        hit = (example.input_ids[:-1] == token).nonzero()
        after = len(example.input_ids) - 1 - int(hit[0]) if len(hit) else 0
        # attention may multiply a later NaN by its weight of zero, so earlier tokens of the example can be hit too
        assert bad.get(number, 0) >= after
        assert (number in bad) == (after > 0)
    assert 3 in bad


def test_full_disk_is_one_sentence_and_leaves_no_half_part(decoder: Decoder, tmp_path: Path, monkeypatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    run(decoder, tmp_path, shard=(0, 2))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: .*parquet"):
        run(decoder, tmp_path, shard=(1, 2))
    assert not list(tmp_path.glob("*.tmp"))
    assert MeasuredTable(tmp_path).examples().collect().height == 8  # two of three batches of four are rank 0's


def test_model_is_given_back_in_its_mode(tmp_path: Path) -> None:
    model = tiny_model("gpt2").train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]
    table = run(open_decoder(model), tmp_path / "a")  # dropout 0.1 would show
    assert [module.training for module in model.modules()] == modes
    assert collected(table)[0].equals(collected(run(open_decoder(model.eval()), tmp_path / "b"))[0])
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["tokens", "examples"])
def test_a_flipped_byte_in_a_kept_part_is_measured_again(
    kind: str,
    decoder: Decoder,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = collected(run(decoder, tmp_path, part_tokens=10))
    damaged = sorted(tmp_path.glob(f"{kind}-*.parquet"))[1]
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged.write_bytes(raw)
    again = collected(run(decoder, tmp_path, part_tokens=10))
    assert f"{damaged} is not what was written" in caplog.text
    assert all(mine.equals(whole) for mine, whole in zip(again, expected, strict=True))


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 1}', '{"format": 2, "files": {}}', '{"format": 1, "files": {"a": 1}}']
)
def test_a_damaged_list_of_parts_is_named(content: str, decoder: Decoder, tmp_path: Path) -> None:
    run(decoder, tmp_path)
    (tmp_path / "parts-00000.json").write_text(content)
    with pytest.raises(DataError, match=r"parts-00000.json is damaged; delete the folder"):
        run(decoder, tmp_path)

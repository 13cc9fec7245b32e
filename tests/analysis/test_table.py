"""A table is read lazily, whole parts only, and answers for losses that were never measured."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.analysis.tiny_data import padded, tiny_examples
from tests.tiny_models import tiny_model

from sftloss.errors import DataError
from sftloss.statistics import TokenStats

pl = pytest.importorskip("polars")

from sftloss.analysis import MeasuredTable, Settings, file_identity, measure, token_stats, tokenizer_identity  # noqa: E402
from sftloss.analysis.table.store import EXAMPLE_SCHEMA, complete_parts, token_schema  # noqa: E402
from sftloss.data import batches  # noqa: E402
from sftloss.decoder import open_decoder  # noqa: E402
from sftloss.objectives import OBJECTIVES, objective  # noqa: E402


def cross_entropy(stats: TokenStats) -> torch.Tensor:
    return -stats.target_logprob


def measured(out: Path, **settings) -> MeasuredTable:
    decoder, objectives = open_decoder(tiny_model("llama")), {"cross_entropy": cross_entropy}
    return measure(decoder, tiny_examples(), objectives, out, batch=padded, settings=Settings(**settings))


def test_collected_rows_are_in_the_order_of_data_and_text(tmp_path: Path) -> None:
    for rank in range(3):
        table = measured(tmp_path, shard=(rank, 3), part_tokens=7)
    assert len(complete_parts(tmp_path)) >= 3
    keys = table.tokens().select("example", "position").collect().rows()
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    assert table.examples().collect()["example"].to_list() == list(range(12))
    assert sorted(table.tokens(is_sorted=False).select("example", "position").collect().rows()) == keys


def test_every_objective_follows_from_the_table_without_the_model(tmp_path: Path) -> None:
    """What the table stores of one objective is what `token_stats` gives for it."""
    names = [name for name in OBJECTIVES if name not in ("gem",)]
    chosen, skipped = {}, []
    probe = token_stats(measured(tmp_path / "probe").tokens().collect())
    for name in names:
        try:
            objective(name)(probe)
        except (AttributeError, KeyError, TypeError, ValueError):
            skipped.append(name)  # needs more than the nine statistics
        else:
            chosen[name] = objective(name)
    assert {"cross_entropy", "focal", "dft", "label_smoothing"} <= chosen.keys()
    table = measure(open_decoder(tiny_model("llama")), tiny_examples(), chosen, tmp_path / "all", batch=padded)
    tokens = table.tokens().collect()
    stats = token_stats(tokens)
    for name, fn in chosen.items():
        stored = torch.tensor(tokens[f"loss:{name}"].to_numpy()).double()
        # both sides start from float32 statistics
        torch.testing.assert_close(fn(stats).double(), stored, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("packing", [False, True])
def test_batches_of_the_data_room_give_the_same_table(packing: bool, tmp_path: Path) -> None:
    from polars.testing import assert_frame_equal

    batch = partial(batches, pad_id=0, tokens_per_batch=40, packed=packing)
    decoder, objectives = open_decoder(tiny_model("gpt2")), {"cross_entropy": cross_entropy}
    table = measure(decoder, tiny_examples(), objectives, tmp_path / "a", batch=batch)
    plain = measure(decoder, tiny_examples(), objectives, tmp_path / "b", batch=padded)
    # other shapes sum in another order: a few float32 roundings
    assert_frame_equal(table.tokens().collect(), plain.tokens().collect(), rel_tol=2e-4, abs_tol=2e-5)
    assert_frame_equal(table.examples().collect(), plain.examples().collect())


def test_manifest_says_what_was_measured(tmp_path: Path) -> None:
    table = measured(tmp_path, identity={"tokenizer": {"type": "Tiny"}, "max_length": 128})
    assert table.manifest["schema_version"] == "2.4"
    assert table.manifest["max_length"] == 128 and table.manifest["tokenizer"] == {"type": "Tiny"}
    assert table.manifest["model"]["type"] == "LlamaForCausalLM" and table.manifest["model"]["dtype"] == "float32"
    assert table.objectives == ("cross_entropy",)


def test_table_of_no_examples_is_empty_with_all_columns(tmp_path: Path) -> None:
    decoder, objectives = open_decoder(tiny_model("llama")), {"cross_entropy": cross_entropy}
    table = measure(decoder, [], objectives, tmp_path, batch=padded)
    assert not table.missing(1)
    assert dict(table.tokens().collect().schema) == token_schema(["cross_entropy"])
    assert dict(table.examples().collect().schema) == EXAMPLE_SCHEMA


def test_table_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a measured table \(it has no manifest.json\)"):
        _ = MeasuredTable(tmp_path).manifest
    (tmp_path / "manifest.json").write_text('{"objec')
    with pytest.raises(DataError, match="is damaged"):
        _ = MeasuredTable(tmp_path).manifest
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="not a JSON object"):
        _ = MeasuredTable(tmp_path).manifest


def test_half_a_pair_is_not_read(tmp_path: Path) -> None:
    table = measured(tmp_path, part_tokens=10)
    before = table.examples().collect().height
    last = complete_parts(tmp_path)[-1]
    gone = pl.read_parquet(last.examples).height
    last.tokens.unlink()
    assert table.examples().collect().height == before - gone
    assert set(table.tokens().collect()["example"]) <= set(table.examples().collect()["example"])


def test_parts_of_one_table_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    """Nothing in a part depends on the clock, the machine's state or the directory."""
    for name in "ab":
        measured(tmp_path / name, part_tokens=10)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir()) and len(names) > 4
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_file_facts_follow_the_content(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("a\n")
    first = file_identity([path])
    path.write_text("a\n")
    assert file_identity([path]) == first
    path.write_text("b\n")
    assert file_identity([path]) != first
    json.dumps(first)


def test_tokenizer_facts_follow_vocabulary_and_template() -> None:
    from tests.tiny import tiny_tokenizer

    one, other = tiny_tokenizer(["some text"]), tiny_tokenizer(["another text"])
    assert tokenizer_identity(one) == tokenizer_identity(tiny_tokenizer(["some text"]))
    assert tokenizer_identity(one) != tokenizer_identity(other)
    one.chat_template = "{{ messages }}"
    assert tokenizer_identity(one) != tokenizer_identity(tiny_tokenizer(["some text"]))

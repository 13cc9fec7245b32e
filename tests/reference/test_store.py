"""A reference model's values: computed once, stored, found again by row, refused where they do not fit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("safetensors")
from tests.tiny import tiny_tokenizer  # noqa: E402
from tests.tiny_models import tiny_model  # noqa: E402

from sftloss.data import Example, Examples, batches, collate  # noqa: E402
from sftloss.errors import ConfigError, DataError  # noqa: E402
from sftloss.objectives import distillation, extras_of, gift, kl_anchor  # noqa: E402
from sftloss.pipeline import Run, store_reference  # noqa: E402
from sftloss.reference import Kept, References, ReferenceWriter, open_references, row_key, writing  # noqa: E402

ROWS = [{"prompt": f"ask {n}", "completion": "answer " * (1 + n % 5)} for n in range(12)]
TOKENIZER = tiny_tokenizer([])
ALL = (
    "reference_logprob", "reference_entropy", "candidate_ids", "reference_candidate_logprob", "candidate_is_target",
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", len(TOKENIZER))


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(Examples(ROWS, TOKENIZER))


@pytest.fixture(scope="module")
def stored(model: Any, tmp_path_factory: Any) -> References:
    folder = tmp_path_factory.mktemp("stored") / "ref"
    run = Run(output=folder, tokens_per_batch=64)
    return store_reference(model, TOKENIZER, ROWS, kept=Kept(3, has_entropy=True), run=run)


def folder_of(stored: References) -> Path:
    return stored._stores[0].folder


def test_stored_values_are_those_of_the_model(model: Any, examples: list[Example], stored: References) -> None:
    for example in examples:
        logprobs = model(example.input_ids[None]).logits[0].double().log_softmax(-1)
        columns = stored.columns(example.input_ids)
        assert tuple(columns) == ALL and all(len(value) == len(example.input_ids) for value in columns.values())
        assert all((value[0] == 0).all() for value in columns.values())
        before = logprobs[:-1]
        expected = before.gather(1, example.input_ids[1:, None])[:, 0]
        top = before.topk(3)
        # float32 logits of a random model, up to about 30
        close = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
        torch.testing.assert_close(columns["reference_logprob"][1:], expected, **close)
        torch.testing.assert_close(columns["reference_entropy"][1:], -(before.exp() * before).sum(1), **close)
        torch.testing.assert_close(columns["reference_candidate_logprob"][1:], top.values, **close)
        assert (columns["candidate_ids"][1:] == top.indices).all()
        assert (columns["candidate_is_target"][1:] == (top.indices == example.input_ids[1:, None])).all()


def test_a_batch_has_the_values_of_its_targets_padded_and_packed(examples: list[Example], stored: References) -> None:
    padded = collate([[examples[0]], [examples[4]]], pad_id=0)
    packed = collate([[examples[4], examples[0]]], pad_id=0, packed=True)
    for batch in (padded, packed):
        laid = stored.lay(batch, ALL).extras
        assert laid["candidate_ids"].shape == (*batch.targets.shape, 3)
        for number, example in enumerate(batch.examples):
            row = stored.columns(example.input_ids)
            for name in ALL:
                values = laid[name][batch.segments == number]
                assert (values[:-1] == row[name][1:]).all() and (values[-1] == 0).all()
        assert (laid["reference_logprob"][batch.segments < 0] == 0).all()


def test_an_interrupted_run_goes_on_and_ends_bit_for_bit_the_same(
    model: Any, stored: References, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    calls: list[int] = []

    def progress(done: int, total: int | None) -> None:
        calls.append(done)
        if len(calls) == 2:
            raise Stopped

    kept, output = Kept(3, has_entropy=True), tmp_path / "ref"
    with pytest.raises(Stopped):
        store_reference(
            model, TOKENIZER, ROWS, kept=kept, run=Run(output=output, tokens_per_batch=64, progress=progress)
        )
    assert not output.exists()
    forwards: list[int] = []
    hook = model.model.register_forward_hook(lambda *_: forwards.append(1))
    again = store_reference(model, TOKENIZER, ROWS, kept=kept, run=Run(output=output, tokens_per_batch=64))
    resumed = len(forwards)
    store_reference(model, TOKENIZER, ROWS, kept=kept, run=Run(output=tmp_path / "new", tokens_per_batch=64))
    hook.remove()
    assert resumed == len(forwards) - resumed - 2, "the two batches that were on disk are not computed again"
    for example in Examples(ROWS, TOKENIZER):
        for name, value in again.columns(example.input_ids).items():
            assert torch.equal(value, stored.columns(example.input_ids)[name])
    assert {path.name for path in tmp_path.iterdir()} == {"ref", "new"}, "nothing else is left"


def test_parts_are_written_as_memory_fills_and_equal_rows_once(tmp_path: Path) -> None:
    writer = ReferenceWriter(tmp_path, part_bytes=3 * (2048 + 40))
    for n in range(40):
        writer.add(n % 20, {"reference_logprob": torch.full((10,), float(n))})
    writer.flush()
    assert len(writer.lengths) == 20 and len(list(tmp_path.glob("part-*"))) == 7
    assert ReferenceWriter(tmp_path).lengths == writer.lengths


def test_a_copy_in_another_process_opens_its_files_anew(examples: list[Example], stored: References) -> None:
    stored.columns(examples[0].input_ids)
    copy = pickle.loads(pickle.dumps(stored))
    assert torch.equal(*(one.columns(examples[0].input_ids)["reference_logprob"] for one in (stored, copy)))


def test_several_folders_are_one(model: Any, stored: References, examples: list[Example], tmp_path: Path) -> None:
    other = [{"prompt": "another", "completion": "row"}]
    store_reference(model, TOKENIZER, other, run=Run(output=tmp_path / "more"))
    store_reference(model, TOKENIZER, ROWS, kept=Kept(name="old"), run=Run(output=tmp_path / "old"))
    both = open_references([folder_of(stored), tmp_path / "more", tmp_path / "old"], TOKENIZER)
    (added,) = Examples(other, TOKENIZER)
    assert len(both.columns(added.input_ids, ["reference_logprob"])["reference_logprob"]) == len(added.input_ids)
    row = both.columns(examples[1].input_ids)
    assert both.names == (*ALL, "old_logprob") and torch.equal(row["old_logprob"], row["reference_logprob"])
    with pytest.raises(DataError, match=r"rows:0|row 0: this row has no values in .*old \(made from rows\)"):
        both.check([added], ["old_logprob"])


def test_the_likeliest_tokens_are_stored_as_objectives_read_them(stored: References) -> None:
    for function in (distillation, kl_anchor, gift):
        assert set(extras_of(function)) <= set(stored.names)


def test_another_row_is_refused_with_its_place_and_the_cure(stored: References) -> None:
    (other,) = Examples([{"prompt": "never seen", "completion": "row"}], TOKENIZER)
    with pytest.raises(DataError, match="row 0: this row has no values in .*; make it again with sftloss reference"):
        stored.check([other], ["reference_logprob"])


def test_another_tokenizer_and_another_length_are_refused_by_name(stored: References) -> None:
    with pytest.raises(ConfigError, match="made with another tokenizer"):
        open_references([folder_of(stored)], tiny_tokenizer([], special=["<|new|>"]))
    encoding = {"max_length": 8, "truncate": "end", "template": None, "chat_template_kwargs": {}, "think_weight": None}
    with pytest.raises(ConfigError, match=r"made with another max_length \(none; this run has 8\)"):
        open_references([folder_of(stored)], TOKENIZER, encoding)
    with pytest.raises(ConfigError, match=r"made with another thinking \(keep; this run has drop\)"):
        open_references(folder_of(stored), TOKENIZER, {**encoding, "max_length": None, "thinking": "drop"})
    open_references([folder_of(stored)], TOKENIZER, {**encoding, "max_length": None, "think_weight": 0.5})


def test_a_folder_that_is_missing_or_another_is_refused(stored: References, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing; give the folder that sftloss reference wrote"):
        open_references([tmp_path / "none"])
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        open_references([tmp_path / "file"])
    with pytest.raises(DataError, match=r"lacks sftloss\.json, so it is not complete"):
        open_references([tmp_path])
    (tmp_path / "sftloss.json").write_text(json.dumps({"format": 1, "files": {}}))
    with pytest.raises(ConfigError, match="holds no values of a reference model"):
        open_references([tmp_path])
    with pytest.raises(
        ConfigError, match="has no old_logprob; make a second folder with sftloss reference and its option name: old"
    ):
        stored.check_names(["old_logprob"])


def test_a_damaged_file_is_refused_by_name(model: Any, tmp_path: Path) -> None:
    store_reference(model, TOKENIZER, ROWS, run=Run(output=tmp_path / "ref"))
    part = tmp_path / "ref" / "part-000000.safetensors"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"part-000000\.safetensors is not what was written"):
        open_references([tmp_path / "ref"])
    part.unlink()
    with pytest.raises(DataError, match=r"lacks part-000000\.safetensors"):
        open_references([tmp_path / "ref"])


def test_an_output_is_replaced_only_where_it_is_a_store_and_asked_for(model: Any, tmp_path: Path) -> None:
    run = Run(output=tmp_path / "ref")
    store_reference(model, TOKENIZER, ROWS, run=run)
    with pytest.raises(ConfigError, match="already exists; choose another output, or add overwrite=True"):
        store_reference(model, TOKENIZER, ROWS, run=run)
    again = store_reference(model, TOKENIZER, ROWS[:2], run=Run(output=tmp_path / "ref", overwrite=True))
    assert again.facts[0]["rows"] == 2
    (tmp_path / "ref" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="has files that this command did not write"):
        store_reference(model, TOKENIZER, ROWS, run=Run(output=tmp_path / "ref", overwrite=True))
    assert (tmp_path / "ref" / "notes.txt").exists()


def test_parts_of_another_model_are_not_continued(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writing(tmp_path / "ref", {"model": 1, "columns": []}) as writer:
        writer.add(1, {"reference_logprob": torch.zeros(3)})
        raise RuntimeError
    with pytest.raises(RuntimeError), writing(tmp_path / "ref", {"model": 1, "columns": []}) as writer:
        assert 1 in writer
        raise RuntimeError
    with writing(tmp_path / "ref", {"model": 2, "columns": []}) as writer:
        assert 1 not in writer


def test_a_stopped_run_is_not_continued_with_another_number_of_likeliest_tokens(model: Any, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def progress(done: int, total: int | None) -> None:
        raise Stopped

    output = tmp_path / "ref"
    with pytest.raises(Stopped):
        run = Run(output=output, tokens_per_batch=64, progress=progress)
        store_reference(model, TOKENIZER, ROWS, kept=Kept(3), run=run)
    again = store_reference(model, TOKENIZER, ROWS, kept=Kept(2), run=Run(output=output, tokens_per_batch=64))
    widths = {again.columns(example.input_ids)["candidate_ids"].shape[1] for example in Examples(ROWS, TOKENIZER)}
    assert widths == {2}


@pytest.mark.parametrize("kept", [Kept(2), Kept(3, name="old")])
def test_folders_whose_likeliest_tokens_differ_in_name_or_number_are_refused(
    model: Any, stored: References, tmp_path: Path, kept: Kept
) -> None:
    """A batch has one tensor of ids: a second model's log-probabilities would be read at the first one's ids."""
    store_reference(model, TOKENIZER, ROWS, kept=kept, run=Run(output=tmp_path / "other"))
    with pytest.raises(ConfigError, match="differ in the name or the number of their likeliest tokens"):
        open_references([folder_of(stored), tmp_path / "other"])


def test_a_model_that_is_not_finite_is_refused_with_the_row(model: Any, tmp_path: Path) -> None:
    broken = tiny_model("llama", len(TOKENIZER))
    with torch.no_grad():
        broken.lm_head.weight[int(TOKENIZER("answer").input_ids[-1])] = float("inf")
    with pytest.raises((DataError, Exception), match=r"not finite|NaN"):
        store_reference(broken, TOKENIZER, ROWS, run=Run(output=tmp_path / "ref"))
    assert not (tmp_path / "ref").exists()


def test_rows_keys_depend_on_the_tokens_alone(examples: list[Example]) -> None:
    keys = {row_key(example.input_ids) for example in examples}
    assert len(keys) == len({tuple(example.input_ids.tolist()) for example in examples})
    assert row_key(examples[0].input_ids.int()) == row_key(examples[0].input_ids)
    assert list(batches(examples, pad_id=0, batch_size=2))

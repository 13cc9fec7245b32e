"""`sftloss reference`, and the commands that read what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.tools import MODEL, check_flags, flags_of, run, write_rows

pytest.importorskip("transformers")
LOSS = ("--loss", "cross_entropy + 0.1 * k3_anchor")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("reference") / "data.jsonl")


@pytest.fixture(scope="module")
def stored(data: Path) -> Path:
    result = run("reference", "-m", MODEL, "-d", data)
    assert result.exit_code == 0 and "reference_logprob of" in result.stderr and not result.stdout
    return data.with_name("data.jsonl.reference")


def test_the_manifest_says_what_is_stored(stored: Path) -> None:
    facts = json.loads((stored / "sftloss.json").read_text("utf-8"))
    assert facts["columns"] == ["reference_logprob"] and facts["rows"] == 6
    assert facts["command"].startswith("sftloss reference --model ")


@pytest.mark.slow
def test_train_reads_it(stored: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    words = ("train", "-m", MODEL, "-d", data, *LOSS, "--max-steps", 1, "--device", "cpu")
    result = run(*words, "--reference", stored, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    dry = run(*words, "--reference", stored, "-o", tmp_path / "dry", "--dry-run")
    assert dry.exit_code == 0 and str(stored) in dry.stdout.replace("\n", "")


@pytest.mark.parametrize(
    "words, code, sentence",
    [
        ((), 2, "give --reference, the folder that sftloss reference writes."),
        (("--reference", "none"), 2, "--reference: none is missing; give the folder that sftloss reference wrote."),
        (
            ("--reference", "STORED", "--max-length", 30),
            2,
            "was made with another --max-length (none; this run has 30)",
        ),
        (
            ("--reference", "STORED", "--truncate", "start"),
            2,
            "was made with another --truncate (end; this run has start)",
        ),
        (
            ("--reference", "STORED", "--loss", "psft"),
            2,
            "has no old_logprob; make a second folder",
        ),
        (("--reference", "STORED", "-d", "OTHER"), 3, "other.jsonl:1: this row has no values in"),
        (("--reference", "DATA"), 2, "is a file; give the folder that sftloss reference wrote."),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    stored: Path, data: Path, words: tuple[object, ...], code: int, sentence: str
) -> None:
    other = data.with_name("other.jsonl")
    other.write_text('{"prompt": "never", "completion": "seen"}\n', encoding="utf-8")
    places = {"STORED": stored, "OTHER": other, "DATA": data}
    words = tuple(places.get(word, word) for word in words if isinstance(word, str | int))
    result = run("train", "-m", MODEL, "-d", data, *LOSS, "--dry-run", *words)
    assert result.exit_code == code and sentence in result.stderr and not result.stdout
    check_flags(result.stderr, flags_of("train"))


def test_an_earlier_folder_is_replaced_only_when_asked_to(data: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": "no answer"}), *data.read_text("utf-8").splitlines()]
    (rows := tmp_path / "rows.jsonl").write_text("\n".join(lines), "utf-8")
    words = ("reference", "-m", MODEL, "-d", rows, "-o", tmp_path / "ref", "--max-examples", 2)
    first = run(*words)
    assert first.exit_code == 0 and ": 1 refused, first at " in first.stderr
    refused = run(*words)
    assert refused.exit_code == 2 and "already exists; choose another --output, or add --overwrite" in refused.stderr
    assert run(*words, "--top-k", 2, "--entropy", "--name", "old", "--overwrite").exit_code == 0
    columns = json.loads((tmp_path / "ref" / "sftloss.json").read_text("utf-8"))["columns"]
    assert columns == ["old_logprob", "old_entropy", "candidate_ids", "old_candidate_logprob"]
    many = run("reference", "-m", MODEL, "-d", data, "-o", tmp_path / "many", "--top-k", 10**6)
    assert many.exit_code == 2 and "--top-k: the model has" in many.stderr


@pytest.mark.slow
def test_compare_reads_it(stored: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    held_out = [{"prompt": f"copy: held out {n}", "completion": f"held out {n}"} for n in range(4)]
    judging = write_rows(tmp_path / "held_out.jsonl", held_out)
    words = ["compare", "-m", MODEL, "-d", data, "--eval-data", judging, "--loss", "cross_entropy", *LOSS, "--seeds", 1]
    words += ["--max-steps", 1, "--samples", 0, "--max-new-tokens", 1, "-o", tmp_path / "out", "--quiet"]
    refused = run(*words)
    assert refused.exit_code == 2 and "give --reference" in refused.stderr
    result = run(*words, "--reference", stored)
    assert result.exit_code == 0, result.stderr


def test_compare_refuses_values_of_other_rows_before_it_trains(stored: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    rows = [{"prompt": f"copy: another {n}", "completion": f"another {n}"} for n in range(6)]
    words = ["-d", write_rows(tmp_path / "other.jsonl", rows), "--eval-share", 0.4, "--loss", "cross_entropy", *LOSS]
    result = run("compare", "-m", MODEL, *words, "--max-steps", 1, "-o", tmp_path / "out", "--reference", stored)
    assert result.exit_code == 3 and "this row has no values in" in result.stderr
    assert not list((tmp_path / "out").rglob("result.json"))

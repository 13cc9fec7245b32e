"""The main job on real instruction data, where it is at hand: every file, every family of heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.paths import REAL_DATA as DATA
from tests.tiny import tiny_tokenizer
from tests.tiny_models import tiny_model

FILES = {
    "alpaca_en_demo.json": 999,
    "alpaca_zh_demo.json": 1000,
    "glaive_toolcall_en_demo.json": 300,
    "v1_sft_demo.jsonl": 500,
    "gsm8k_train.jsonl": 7473,
}
FAMILIES = ("llama", "gpt2", "qwen3", "gemma2")
FAST = {("alpaca_en_demo.json", "llama"), ("glaive_toolcall_en_demo.json", "gpt2")}
CASES = [
    pytest.param(file, family, marks=() if (file, family) in FAST else pytest.mark.slow, id=f"{file}-{family}")
    for file in FILES
    for family in FAMILIES
]


def opening_of(path: Path) -> Any:
    """A tokenizer trained on the start of the file."""
    return tiny_tokenizer([path.read_text(encoding="utf-8")[:200_000]], vocab_size=1000)


@pytest.mark.parametrize(("file", "family"), CASES)
def test_a_real_file_becomes_a_report(file: str, family: str, tmp_path: Path) -> None:
    from sftloss import analyze
    from sftloss.pipeline import Run

    path = DATA / file
    if not path.is_file():
        pytest.skip(f"{path} is not here; the project does not ship that data")
    tokenizer = opening_of(path)
    model = tiny_model(family, vocab_size=len(tokenizer), max_position_embeddings=4096)
    run = Run(output=tmp_path / "report", max_examples=60, max_length=1024)
    report = analyze(model, tokenizer, path, losses=["cross_entropy", "focal(gamma=2)"], run=run)
    sections = {section.id for section in report.document.sections}
    assert {"length", "roles", "confidence", "comparison"} <= sections, sections
    assert all(section.charts for section in report.document.sections if section.id in ("length", "confidence"))
    written = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert written["findings"] is not None
    assert (tmp_path / "report" / "report.html").stat().st_size < 1_500_000
    assert report.frames["examples"].height == 60

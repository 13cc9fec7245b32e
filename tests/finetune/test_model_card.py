"""The model card beside trained weights names the loss, the normalization, the data and the versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

from huggingface_hub import ModelCard

from sftloss.finetune import Lora, Recipe
from sftloss.finetune.outcome import model_card


def facts_of(model: str, source: str) -> dict[str, Any]:
    """The part of a run's facts that a card is made of."""
    shown = {"loss": "focal(gamma=2)", "normalization": "sqrt", "roles": {"prompt": 0.1, "response": 1.0}}
    data = {"source": source, "digest": "0af3", "examples": 1200, "trained_tokens": 34567}
    return {
        "recipe": Recipe(model=model, data=source, lora=Lora(r=2), **shown).plain(),
        "model": {"name": model, "trained_parameters": 10, "parameters": 1000, "dtype": "float32"},
        "data": data,
        "held_out": {**data, "digest": "c0de"},
        "steps": 150,
        "ranks": 2,
        "tokens": {"trained": 98765},
        "metrics": {"loss": 0.123456, "cross_entropy": 0.5},
        "versions": {"sftloss": "0.1.0", "torch": "2.13.0"},
    }


def test_a_model_card_names_loss_normalization_data_and_versions() -> None:
    card = ModelCard(model_card(facts_of("Qwen/Qwen3-0.6B", "a|b.jsonl")))
    assert card.data.base_model == "Qwen/Qwen3-0.6B" and card.data.library_name == "peft"
    assert set(card.data.tags) == {"sft", "sftloss", "lora"}
    for row in (
        "| loss | `focal(gamma=2)` |",
        "| normalization | `sqrt`, divided by `weights` |",
        "| roles | prompt 0.1, response 1.0 |",
        "| data | a\\|b.jsonl: 1,200 examples, 34,567 trained tokens, digest `0af3` |",
        "| ranks | 2 |",
        "| held-out loss | 0.1235 nats |",
        "| versions | sftloss 0.1.0, torch 2.13.0 |",
    ):
        assert row in card.text.splitlines()
    assert "digest `c0de`" in card.text


def test_a_model_card_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    text = model_card(facts_of(str(tmp_path / "secret" / "my-model"), str(tmp_path / "secret" / "rows.jsonl")))
    assert "secret" not in text and "# my-model, fine-tuned" in text and "base_model" not in text
    facts = facts_of("gpt2", "rows.jsonl")
    facts["recipe"]["tasks"] = f"doremi(reference={tmp_path}/secret/ref)"
    card = ModelCard(model_card(facts))
    assert card.data.base_model == "gpt2" and "| tasks | doremi(reference=ref) |" in card.text
    assert "base_model" not in model_card(facts_of("demo", "rows.jsonl"))

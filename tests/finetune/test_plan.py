"""What a dry run says a run will hold, beside what the run held."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.finetune.runs import environment

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from sftloss.errors import ConfigError
from sftloss.finetune import Lora, Recipe, plan
from sftloss.finetune.task_weights import reads_stored

_SCRIPT = """
import ctypes, json, sys
from dataclasses import replace
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from sftloss.data.demo import demo_tokenizer
from sftloss.finetune import Recipe, fine_tune, plan

torch.set_num_threads(1)
folder, rows = sys.argv[1], int(sys.argv[2])
demo_tokenizer().save_pretrained(folder)
config = dict(hidden_size=512, intermediate_size=1376, num_hidden_layers=2, num_attention_heads=8)
LlamaForCausalLM(LlamaConfig(vocab_size=512, **config)).save_pretrained(folder)
recipe = Recipe(model=folder, data="demo", max_examples=100, max_steps=2, batch_size=rows, device="cpu")

def resident(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field + ":"))

fine_tune(replace(recipe, model="demo", batch_size=2))  # everything that is loaded once
told = plan(recipe).total
ctypes.CDLL("libc.so.6").malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")  # the peak begins here
before = resident("VmRSS")
fine_tune(recipe)
print(json.dumps([told, resident("VmHWM") - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from /proc, on Linux")
@pytest.mark.parametrize("rows", [2, 32])
@pytest.mark.slow
def test_the_memory_told_is_what_a_run_takes(rows: int, tmp_path: Path) -> None:
    """Two rows are parameters and optimizer, thirty-two are activations too; a rule of thumb is within half."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path), str(rows)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told, measured = json.loads(done.stdout.splitlines()[-1])
    assert told > 100 * 2**20
    assert measured / 1.5 < told < 1.5 * measured


def test_activations_computed_twice_are_told_to_be_fewer() -> None:
    kept, again = (
        plan(Recipe(model="demo", data="demo", max_examples=20, gradient_checkpointing=g)).memory for g in (False, True)
    )
    assert again["activations"] < kept["activations"] and again["parameters"] == kept["parameters"]


@pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers):UserWarning")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_are_what_gradients_and_optimizer_are_told_of() -> None:
    pytest.importorskip("peft")
    found = plan(Recipe(model="demo", data="demo", max_examples=20, lora=Lora(4, targets=("lm_head",)))).memory
    # the demo model is 64 wide and has 461 tokens
    assert found["gradients"] == 4 * 4 * (64 + 461) and found["optimizer"] == 2 * found["gradients"]


def test_text_marked_as_wrong_is_trained_by_a_loss_that_reads_the_marks_or_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1", "response": "2"}, {"prompt": "1+2", "response": "5", "is_negative": True}]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match=r"1 row has text marked as wrong, the first at .*rows.jsonl:2"):
        plan(Recipe(model="demo", data=str(data)))
    for fields in ({"loss": "unlikelihood"}, {"loss": "unlikelihood(alpha=0)"}, {"normalizer": "tokens"}):
        assert plan(Recipe(model="demo", data=str(data), **fields)).counts["examples"] == 2
    for loss, name in (("cross_entropy + 0.5 * unlikelihood", "cross_entropy"), ("unlikelihood + focal", "focal")):
        for normalizer in ("weights", "tokens"):
            with pytest.raises(ConfigError, match=rf"{name} in .* would train it as right.*trains right answers by"):
                plan(Recipe(model="demo", data=str(data), loss=loss, normalizer=normalizer))
    recipe = Recipe(model="demo", data=str(data), loss="unlikelihood(alpha=0.5) + 0.01 * z_loss")
    assert plan(recipe).counts["examples"] == 2
    data.write_text(json.dumps(rows[0]))
    with pytest.raises(ConfigError, match="unlikelihood reads which text is wrong, and no row marks any"):
        plan(Recipe(model="demo", data=str(data), loss="unlikelihood"))


def test_doremi_reads_stored_values_of_a_reference() -> None:
    recipe = Recipe(model="demo", data="demo", tasks="doremi", reference=("folder",))
    assert reads_stored(recipe) and not reads_stored(replace(recipe, tasks="gls"))
    assert not reads_stored(replace(recipe, reference=()))

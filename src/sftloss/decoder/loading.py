"""From a name or a directory to a causal language model, refusing what would run code or be random."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sftloss.errors import ConfigError, ModelError, SftlossError, mention, quoted
from sftloss.models import DESCRIPTIONS, model_folder, without_collecting

_MOST_LAYERS = 10_000
_INDEX = "model.safetensors.index.json"
_IF_THERE: dict[str, Any] = {
    f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors")
}
_INSTRUCTIONS = {torch.bfloat16: "amx_bf16", torch.float16: "amx_fp16"}  # of processors that multiply it faster
_LAYER = re.compile(r"\.\d+\.")


@without_collecting()
def load_model(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = "auto",
    computes_on: str | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[nn.Module, Any]:
    """Load a causal language model from safetensors, in eval mode, and its tokenizer.

    Args:
        name_or_path: A folder, a name on the Hub (downloaded, or read from the cache when offline), ``"demo"`` for the
            model in this package, or ``"smollm2"`` for a real one (see :func:`sftloss.models.model_folder`).
        device: Where the model goes; ``"auto"`` is the first accelerator, or the CPU where there is none.
        dtype: ``"auto"`` keeps the checkpoint's, save on a processor that is faster in float32
            (:func:`with_fast_dtype`).
        computes_on: Type of the device that will compute, where the model is moved after loading; by default `device`.
        tokenizer: Where the tokenizer is, if not with the model.
        revision: Branch, tag or commit of a Hub model.
        trust_remote_code: Runs code from the model's repository; off unless asked for.

    Returns:
        The model and the tokenizer.

    Raises:
        ConfigError: If there is no such device here; nothing is loaded then.
        ModelError: If either cannot be loaded, if the model is an encoder-decoder, if its weights exist only
            as pickle (``.bin``), or if the checkpoint lacks weights that would otherwise be random.
    """
    where = _device(device)
    from transformers import AutoConfig, AutoModelForCausalLM

    from sftloss.data.tokenizer import load_tokenizer

    name = model_folder(name_or_path)
    path = Path(name).expanduser()
    _check_directory(path, name)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    with as_model_error("config", name):
        config = AutoConfig.from_pretrained(name, **hub)
    _check_index(path, name, revision)
    check_layers(config, name)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} is an encoder-decoder", option="model", cure="give a causal (decoder-only) language model"
        )
    source = name if tokenizer is None else str(tokenizer)
    with as_model_error("tokenizer", source):  # before the model, which takes longer
        own = revision if tokenizer is None else None
        read = load_tokenizer(source, revision=own, trust_remote_code=trust_remote_code)
    with as_model_error("model", name):
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(name, config=config, **options, **hub)
        model, info = loaded[0].to(where).eval(), loaded[1]
        if dtype == "auto":
            model = with_fast_dtype(model, computes_on or where.type)
    if description := DESCRIPTIONS.get(str(name_or_path)):
        model.config._name_or_path = description
    missing, unused = sorted(info["missing_keys"]), sorted(filter(_LAYER.search, info["unexpected_keys"]))
    if missing:
        problem = f"the checkpoint {name} lacks {len(missing)} weights of {type(model).__name__} ({_first(missing)})"
        raise ModelError(problem, cure="they would be random, so give the complete causal language model")
    if unused:
        problem = f"the config.json of {name} describes fewer layers than the checkpoint has"
        cure = f"repair it: {len(unused)} weights would be left out ({_first(unused)})"
        raise ModelError(problem, option="model", cure=cure)
    return model, read


def with_fast_dtype(model: nn.Module, device: str) -> nn.Module:
    """Make weights in 16 bits float32 where the device is a processor that multiplies these faster.

    A model stays as it is on a processor with instructions for its dtype (AMX), or if the weights in float32 would take
    more than half of the machine's memory. Measured on SmolLM2-135M with 512 tokens, on one thread of a processor
    with AVX512 and its instructions for bfloat16: a training step in bfloat16 takes 1.7 times that in float32, decoding
    1.9 times.
    """
    weights = list(model.parameters())
    instruction = _INSTRUCTIONS.get(weights[0].dtype) if device == "cpu" else None
    if instruction is None or torch.cpu.get_capabilities().get(instruction) or getattr(model, "is_quantized", False):
        return model
    return model.float() if 4 * sum(weight.numel() for weight in weights) <= _memory() / 2 else model


def _memory() -> int:
    """Bytes of this machine's memory; 0 where that cannot be read."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return 0


def check_layers(config: Any, name: str) -> None:
    """Refuse a configuration with so many layers that building the model would take for ever.

    Raises:
        ModelError: If there are more than in any model, or, for a local folder, more than weights.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > min(
        _MOST_LAYERS, len(_weight_names(Path(name).expanduser())) or _MOST_LAYERS
    ):
        problem = f"the config.json of {name} names {layers:,} layers, for which there are no weights"
        raise ModelError(problem, option="model", cure="repair num_hidden_layers")


def _weight_names(folder: Path) -> set[str]:
    """Names of the weights in a folder's safetensors, read from their headers; empty where there are none."""
    from safetensors import safe_open

    names: set[str] = set()
    for path in folder.glob("*.safetensors") if folder.is_dir() else ():
        with as_model_error("model", str(path)), safe_open(path, framework="pt") as file:
            names.update(file.keys())
    return names


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _device(device: str | torch.device) -> torch.device:
    """The device, or what is there instead: loading a model for minutes must not end in a mistyped name."""
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    here += [f"xpu:{i}" for i in range(torch.xpu.device_count())]
    if device == "auto":
        device = torch.accelerator.current_accelerator() or "cpu" if torch.accelerator.is_available() else "cpu"
    device = re.sub(r"^gpu\b", "cuda", str(device))
    try:
        chosen = torch.device(device)
    except RuntimeError:
        cure = f"here are {', '.join(here)}"
        raise ConfigError(f"{device!r} is not a device", option="device", cure=cure) from None
    if str(chosen) not in here and chosen.type not in {name.partition(":")[0] for name in here if not chosen.index}:
        raise ConfigError(f"{device} is not on this machine", option="device", cure=f"here are {', '.join(here)}")
    return chosen


def _check_directory(path: Path, name: str) -> None:
    """A local path must exist and hold safetensors: the Hub must not be asked for a mistyped directory."""
    if not path.is_dir():
        if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
            kind = "a file" if path.exists() else "missing"
            raise ModelError(f"{name} is {kind}", option="model", cure="give a model's folder or its name on the Hub")
        return
    if not (path / "config.json").is_file():
        raise ModelError(
            f"{name} has no config.json", option="model", cure="give the folder that save_pretrained wrote"
        )
    if not any(path.glob("*.safetensors")):
        pickled = any(path.glob("*.bin")) or any(path.glob("*.pt"))
        content = "only pickled weights (.bin), which can run code when read" if pickled else "no weights"
        raise ModelError(
            f"{name} holds {content}", option="model", cure="save it with save_pretrained, which writes safetensors"
        )


def _check_index(path: Path, name: str, revision: str | None) -> None:
    """The index of a checkpoint in parts may name safetensors beside it only: transformers reads what it names.

    That of a model on the Hub is downloaded first, or read from the cache; without a connection and a cached copy
    nothing is checked, and nothing can be loaded.
    """
    index = path / _INDEX
    if not path.is_dir():
        from transformers.utils.hub import cached_file

        with as_model_error("index", name):
            index = Path(cached_file(name, _INDEX, revision=revision, **_IF_THERE) or "")
    if not index.is_file():
        return
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{index} is damaged ({quoted(error)})", option="model", cure="download the model again"
        ) from None
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors"):
            problem = f"{index} names {file!r}, and only safetensors beside it are read: pickled weights can run code"
            raise ModelError(problem, option="model", cure="save the model with save_pretrained")
        if path.is_dir() and not (path / file).is_file():
            raise ModelError(f"{index} names {file}, which is missing", option="model", cure="download the model again")


@contextmanager
def as_model_error(what: str, name: str) -> Iterator[None]:
    """One sentence for everything that can go wrong between a name and a loaded object."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"no memory for {name}", cure=f"give a smaller {mention('dtype')} or another {mention('device')}"
        ) from error
    except SftlossError:
        raise
    except Exception as error:  # transformers, the Hub and safetensors share no base class
        hint = next((hint for part, hint in _HINTS.items() if part in str(error)), "")
        raise ModelError(f"cannot load the {what} of {name}: {first_line(error).rstrip('.')}{hint}") from error


_OFFLINE = ". There is no connection and no cached copy: give a local folder"
_HINTS = {
    "trust_remote_code": ". It needs the code of its repository: read it, then load it in Python with "
    "trust_remote_code=True",
    "couldn't connect": _OFFLINE,
    "offline mode": _OFFLINE,
    "Max retries": _OFFLINE,
    "safetensors": ". Only safetensors are read: pickled weights can run code",
    "Unrecognized configuration class": ". It is not a causal language model",
}
"""What to add to an error of another package, by a part of its text."""


def first_line(error: BaseException) -> str:
    """An error of another library, as one sentence."""
    return quoted(error) + "."

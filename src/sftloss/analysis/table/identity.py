"""What a table is of: small facts, by name, that two runs must share to write into one directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from sftloss.decoder import Decoder
from sftloss.files import file_digest

_SAMPLE = 64  # values of each weight that go into the model's digest


def model_identity(decoder: Decoder) -> dict[str, Any]:
    """Name, type, precision and a digest of configuration and weights.

    The digest reads 64 values of each weight: another checkpoint saved under the same name is noticed, and a large
    model costs no more than its list of weights.
    """
    model: Any = decoder.model
    own = model.config.to_dict() if hasattr(getattr(model, "config", None), "to_dict") else {}
    config = {k: v for k, v in own.items() if k not in ("_name_or_path", "transformers_version")}
    hashed = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=8)
    for name, weight in model.named_parameters():
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE].cpu().contiguous()
        hashed.update(f"{name}{tuple(weight.shape)}".encode())
        hashed.update(sample.view(torch.uint8).numpy().tobytes())
    return {
        "name": str(own.get("_name_or_path", "")),
        "type": type(model).__name__,
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "digest": hashed.hexdigest(),
        "own_logits_because": decoder.reason,
    }


def tokenizer_identity(tokenizer: Any) -> dict[str, Any]:
    """Type, size and a digest of the vocabulary, the special tokens and the chat template."""
    vocabulary = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    rest = json.dumps([tokenizer.special_tokens_map, tokenizer.chat_template], sort_keys=True, default=str)
    digest = hashlib.blake2b((vocabulary + rest).encode(), digest_size=8).hexdigest()
    return {"type": type(tokenizer).__name__, "size": len(tokenizer), "digest": digest}


def file_identity(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Size and a digest of the content of each file, in order and without its name: a copy of the data is the same."""
    return [{"bytes": path.stat().st_size, "digest": file_digest(path)} for path in map(Path, paths)]

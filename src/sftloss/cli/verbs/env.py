"""`sftloss env`: what to paste into a bug report."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

import typer

from sftloss.cli.options.options import Manner
from sftloss.version import package_versions

_PACKAGES = (
    "torch", "jaxtyping", "transformers", "tokenizers", "safetensors", "datasets", "polars", "numpy", "typer", "rich",
)  # fmt: skip


@dataclass(frozen=True)
class EnvOptions:
    """`sftloss env` has no options of its own."""


def env(options: EnvOptions, manner: Manner) -> None:
    """Print versions for a bug report. And devices; no paths, no names, no variables."""
    versions = package_versions("sftloss", "python", *_PACKAGES)
    for name in ("sftloss", "python", *_PACKAGES):
        machine = f" on {platform.system()} {platform.machine()}" if name == "python" else ""
        typer.echo(f"{name} {versions.get(name, 'not installed')}{machine}")
    typer.echo(f"devices: {_devices()}")


def _devices() -> str:
    try:
        import torch
    except ImportError:
        return "torch is missing"
    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if sys.platform == "darwin" and torch.backends.mps.is_available():
        found.append("mps")
    return ", ".join(["cpu", *found])

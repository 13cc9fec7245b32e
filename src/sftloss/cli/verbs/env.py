"""`sftloss env`: what to paste into a bug report."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib import metadata

import typer

from sftloss.cli.options.options import Manner

_PACKAGES = (
    "torch", "jaxtyping", "transformers", "tokenizers", "safetensors", "datasets", "polars", "numpy", "typer", "rich",
)  # fmt: skip


@dataclass(frozen=True)
class EnvOptions:
    """`sftloss env` has no options of its own."""


def env(options: EnvOptions, manner: Manner) -> None:
    """Print versions for a bug report. And devices; no paths, no names, no variables."""
    from sftloss.version import __version__

    typer.echo(f"sftloss {__version__}")
    typer.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _PACKAGES:
        try:
            typer.echo(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            typer.echo(f"{name} not installed")
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

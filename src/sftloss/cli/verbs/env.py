"""`sftloss env`: what to paste into a bug report."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

import typer

from sftloss.cli.options import Verbosity
from sftloss.version import package_versions

_PACKAGES = (
    "sftloss", "python", "torch", "jaxtyping", "transformers", "tokenizers", "safetensors", "datasets", "polars",
    "numpy", "typer", "rich",
)  # fmt: skip


@dataclass(frozen=True)
class EnvOptions:
    """`sftloss env` has no options of its own."""


def env(options: EnvOptions, verbosity: Verbosity) -> None:
    """Print versions and devices for a bug report. It prints no paths, names or environment variables."""
    versions = package_versions(*_PACKAGES)
    for name in _PACKAGES:
        machine = f" on {platform.system()} {platform.machine()}" if name == "python" else ""
        typer.echo(f"{name} {versions.get(name, 'not installed')}{machine}")
    typer.echo(f"devices: {_devices()}")


def _devices() -> str:
    try:
        import torch
    except ImportError:
        return "torch is missing"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if sys.platform == "darwin" and torch.backends.mps.is_available():
        devices.append("mps")
    return ", ".join(["cpu", *devices])

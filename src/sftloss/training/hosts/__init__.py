"""Trainers that run our losses: the HF Trainer and TRL, Axolotl, ms-swift. Nothing is patched."""

from __future__ import annotations

from sftloss.training.hosts.config import loss_from

__all__ = ["loss_from"]

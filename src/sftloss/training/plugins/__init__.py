"""Our losses inside trainers that others start: Axolotl (`axolotl`) and ms-swift (`ms_swift`). Nothing is patched."""

from __future__ import annotations

from sftloss.training.hosts.config import loss_from

__all__ = ["loss_from"]

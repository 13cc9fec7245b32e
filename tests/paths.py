"""Where tests find the repository, and real data where this machine has some beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"  # not part of the repository; tests that need it skip without it

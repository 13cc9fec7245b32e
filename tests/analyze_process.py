"""`sftloss` with small parts, and where the environment says so killed like ``kill -9`` after some measured batches."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

from sftloss.analysis.table import measure as _measure


def main() -> None:
    from sftloss.cli import main as sftloss

    before_run, before_add = _measure._Run.__init__, _measure._Run._add
    left = int(os.environ.get("DIE_AFTER_BATCHES", "-1"))

    def init(self: Any, decoder: Any, objectives: Any, directory: Any, settings: Any, done: Any) -> None:
        before_run(self, decoder, objectives, directory, replace(settings, part_tokens=30), done)

    def add(self: Any, group: Any, numbers: Any) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        before_add(self, group, numbers)

    _measure._Run.__init__, _measure._Run._add = init, add  # type: ignore[method-assign]
    sftloss()


if __name__ == "__main__":
    main()

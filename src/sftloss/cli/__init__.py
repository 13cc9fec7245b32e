"""The command line: one verb per question. A verb parses, calls one public function, shows.

`--help` loads neither torch nor transformers; a verb loads what it needs when it runs.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import time

__all__ = ["main"]

_EXTRA = {"typer", "click", "rich", "yaml"}


def main() -> None:
    """The `sftloss` command. Exits with 0 done, 1 findings at or above --fail-on, 2 usage or configuration,
    3 data, 4 model or tokenizer, 5 internal, 130 interrupted."""
    try:
        from sftloss.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        print(
            f'sftloss: {error.name} is missing; install the command line: pip install "sftloss[cli]"', file=sys.stderr
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        atexit.register(time.sleep, 0.5)  # gloo's threads drop their last tensors; while Python closes, that aborts it
    gc.set_threshold(700, 10, 100)  # collecting in all that a model loads takes 0.3 s: ten times less often than usual
    try:
        app()
    except SystemExit as stop:
        # click ends with 1, which means a finding here, where the reader of its output (head, less) has left
        raise (SystemExit(0) if type(sys.stdout).__name__ == "PacifyFlushWrapper" else stop) from None

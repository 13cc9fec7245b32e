"""A process that trains arms: names of arms come in line by line, what became of each goes out."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sftloss.experiments.plan import Plan, Run, from_plain


def main() -> None:
    """Read jobs from stdin until it ends. Answers go to the stdout that was there at the start, and nothing else
    does: whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    order = json.loads(sys.stdin.readline())
    plan = from_plain(order["plan"])
    runs = {run.name: run for run in plan.runs()}
    for line in sys.stdin:
        answers.write(json.dumps(_answer(plan, runs[line.strip()], order)) + "\n")
        answers.flush()


def _answer(plan: Plan, run: Run, order: dict[str, Any]) -> dict[str, str]:
    from sftloss.errors import SftlossError
    from sftloss.experiments.run.train import Place, train_arm

    place = Place(Path(order["folder"]), order["digest"], order["device"], order["save_every"])
    try:
        train_arm(plan, run, place)
    except SftlossError as error:
        return {"run": run.name, "error": type(error).__name__, "message": str(error)}
    return {"run": run.name}


def _end_with(parent: int) -> None:
    """A worker whose comparison was killed must not go on alone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()

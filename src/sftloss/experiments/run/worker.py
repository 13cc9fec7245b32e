"""A process that trains trials: their names come in line by line on stdin, the outcome of each goes out."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sftloss.errors import SftlossError
from sftloss.experiments.experiment import Experiment, Trial


def serve() -> None:
    """Train the trials named on stdin until it ends.

    Outcomes alone go to the original stdout; what libraries print goes to stderr.
    """
    outcomes = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    order = json.loads(sys.stdin.readline())
    experiment = Experiment.read(order["experiment"])
    trials = {trial.name: trial for trial in experiment.trials()}
    for line in sys.stdin:
        outcomes.write(json.dumps(_outcome(experiment, trials[line.strip()], order)) + "\n")
        outcomes.flush()


def _outcome(experiment: Experiment, trial: Trial, order: dict[str, Any]) -> dict[str, Any]:
    from sftloss.experiments.run.train import Place, train_arm

    place = Place(Path(order["folder"]), order["digest"], order["device"], order["save_every"])
    try:
        train_arm(experiment, trial, place)
    except SftlossError as error:
        kind = next(base.__name__ for base in type(error).__mro__ if base.__module__ == SftlossError.__module__)
        about = {"option": error.option, "cure": error.cure, "where": error.where}
        return {"trial": trial.name, "error": kind, "message": error.problem, "about": about}
    return {"trial": trial.name}


def _end_with(parent: int) -> None:
    """End this process when the parent has ended, also if it was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    serve()

"""A process that trains: names of trials come in line by line on stdin, the outcome of each goes out."""

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
    experiment, folder = Experiment.read(order.pop("experiment")), Path(order.pop("folder"))
    trials = {trial.name: trial for trial in experiment.trials()}
    from sftloss.experiments.run.train import ArmTrainer

    trainer = ArmTrainer(experiment, folder, **order)
    for line in sys.stdin:
        outcomes.write(json.dumps(_outcome(trainer, trials[line.strip()])) + "\n")
        outcomes.flush()


def _outcome(trainer: Any, trial: Trial) -> dict[str, Any]:
    try:
        trainer.train(trial)
    except SftlossError as error:
        kind = next(base.__name__ for base in type(error).__mro__ if base.__module__ == SftlossError.__module__)
        about = {"option": error.option, "cure": error.cure, "where": error.where}
        return {"error": kind, "message": error.problem, "about": about}
    return {}


def _end_with(parent: int) -> None:
    """End this process when the parent has ended, also if it was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    serve()

"""Train the arms that are not finished, on the devices given; finished ones are never trained again."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from sftloss import errors
from sftloss.errors import ConfigError
from sftloss.experiments.experiment import Experiment, Trial
from sftloss.experiments.run.results import ArmResult, claimed, load
from sftloss.experiments.verdicts.comparisons import Results
from sftloss.finetune import read_choice


@dataclass(frozen=True)
class Execution:
    """Where and how an experiment runs; nothing here changes its results.

    Attributes:
        devices: One process is started on each, e.g. ``("cuda:0", "cuda:1")``. Empty: the device that Accelerate finds.
        workers: Processes on each device. With one and no devices, this process trains.
        save_every: Optimizer steps between two checkpoints of a training. None: a killed training starts anew.
        progress: Called after each training with the number finished, the number of all, and the training's name.
    """

    devices: tuple[str, ...] = ()
    workers: int = 1
    save_every: int | None = None
    progress: Callable[[int, int, str], None] | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"must be at least 1, got {self.workers}", option="workers")
        for device in self.devices:
            if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
                raise ConfigError(f"unknown device {device!r}", option="devices", cure="give cpu, cuda, cuda:N or mps")


def run_arms(experiment: Experiment, folder: Path, execution: Execution) -> Results:
    """Read the finished trainings in `folder` and do the others.

    Raises:
        ConfigError: If `folder` is another experiment's, or a weighting cannot be compared on these rows.
        SftlossError: The error of the first training that failed; finished trainings stay.
    """
    trials = experiment.trials()
    _check_weightings(experiment)
    if len({trial.name for trial in trials}) < len(trials):
        raise ConfigError("two arms would share a folder", option="loss", cure="write their losses differently")
    with claimed(folder, experiment) as digest:
        results = _trained(experiment, folder, digest, execution)
    if len(results) < len(trials):
        missing = ", ".join(trial.name for trial in trials if trial not in results)
        raise RuntimeError(f"no result of {missing}; run the same command again")
    return Results(experiment.arms(), experiment.seeds, results)


def _trained(experiment: Experiment, folder: Path, digest: str, execution: Execution) -> dict[Trial, ArmResult]:
    """Train what is not finished, and return the results that are there then."""
    trials = experiment.trials()
    waiting = [trial for trial in trials if load(folder, trial, digest) is None]
    done = len(trials) - len(waiting)

    def finished(trial: Trial) -> None:
        nonlocal done
        done += 1
        if execution.progress is not None:
            execution.progress(done, len(trials), trial.name)

    devices = [device for device in execution.devices or ("auto",) for _ in range(execution.workers)][: len(waiting)]
    if len(devices) == 1 and devices[0] in ("auto", "cpu"):
        from sftloss.experiments.run.train import ArmTrainer

        trainer = ArmTrainer(experiment, folder, digest, execution.save_every, devices[0])
        for trial in waiting:
            trainer.train(trial)
            finished(trial)
    elif waiting:
        order = {"folder": str(folder), "digest": digest, "save_every": execution.save_every}
        _train_in_workers({"experiment": experiment.plain(), **order}, devices, waiting, finished)
    return {trial: result for trial in trials if (result := load(folder, trial, digest)) is not None}


def _check_weightings(experiment: Experiment) -> None:
    """Refuse a weighting that follows held-out losses where the only held-out rows are those that judge."""
    for arm in experiment.arms():
        if arm.tasks and not experiment.is_generated and read_choice(arm.tasks).needs == "validation":
            raise ConfigError(
                f"{arm.tasks} follows held-out losses during training, but the held-out rows must only judge",
                option="tasks",
                cure="compare it on generated data, or use it in sftloss train",
            )


def worker_environment(device: str, ours: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker on `device`; ``cuda:N`` is the N-th device visible to this process.

    Raises:
        ConfigError: If fewer devices are visible.
    """
    environment = {**ours, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    number = device.partition(":")[2]
    if not number:
        return environment
    visible = ours.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        entries = (entry.strip() for entry in visible.split(","))  # numbers, or UUIDs of GPUs and of MIG instances
        known = list(takewhile(lambda entry: entry not in ("", "-1"), entries))  # as CUDA reads it
        if int(number) >= len(known):
            raise ConfigError(
                f"there is no device {device}: CUDA_VISIBLE_DEVICES is {visible!r}, {len(known)} devices, counted from "
                "cuda:0",
                option="devices",
            )
        number = known[int(number)]
    return {**environment, "CUDA_VISIBLE_DEVICES": number}


def _train_in_workers(
    order: Mapping[str, Any], devices: Sequence[str], trials: Sequence[Trial], finished: Callable[[Trial], None]
) -> None:
    """Train in one process for each device; the first failure ends all of them."""
    environments = [worker_environment(device, os.environ) for device in devices]
    workers: list[_Worker] = []
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def train(trial: Trial) -> Trial:
        worker = idle.get()
        try:
            worker.train(trial)
        finally:
            idle.put(worker)
        return trial

    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            for device, environment in zip(devices, environments, strict=True):
                workers.append(_Worker({**order, "device": device.partition(":")[0]}, environment))
                idle.put(workers[-1])
            for outcome in as_completed([pool.submit(train, trial) for trial in trials]):
                finished(outcome.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.end()


class _Worker:
    """A process that trains: names of trials go in, outcomes come out, what else it prints is its log."""

    def __init__(self, order: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - until `end`
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sftloss.experiments.run.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, encoding="utf-8",
                env=environment,
            )  # fmt: skip
        except BaseException:
            self.log.close()
            raise
        with suppress(BrokenPipeError):  # if the process has died already, its first trial reports it
            self._send(json.dumps(order))

    def train(self, trial: Trial) -> None:
        """Train one trial.

        Raises:
            SftlossError: What the training raised there; or :class:`MachineError` if the process was killed.
        """
        line = ""
        with suppress(BrokenPipeError):
            self._send(trial.name)
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
        if not line.endswith("\n"):  # half a line: the worker died while it wrote
            raise self._death(trial)
        outcome = json.loads(line)
        if "error" in outcome:
            raise getattr(errors, outcome["error"])(outcome["message"], **outcome["about"])

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        with suppress(BrokenPipeError), self.process, self.log:
            pass

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _death(self, trial: Trial) -> Exception:
        code = self.process.wait()
        again = "run the same command again, finished arms are kept"
        if code < 0:
            name = next((one.name for one in signal.Signals if one == -code), "real-time")
            why = ", often because memory ran out" if code == -signal.SIGKILL else ""
            problem = f"the training {trial.name} was killed by signal {-code} ({name}){why}"
            return errors.MachineError(problem, cure=again)
        self.log.seek(0)
        last = ([line.strip() for line in self.log if line.strip()] or ["it printed nothing"])[-1]
        return RuntimeError(f"the process that trained {trial.name} ended with {code} ({last[:300]}); {again}")

"""Arms to train, on the devices there are; what is finished is never trained again."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from sftloss import errors
from sftloss.errors import ConfigError
from sftloss.experiments.plan import Plan, Run, to_plain
from sftloss.experiments.run.results import claim, load
from sftloss.experiments.run.task_needs import check_needs
from sftloss.experiments.verdicts.verdicts import Results


@dataclass(frozen=True)
class Manner:
    """How a comparison runs; nothing here changes its results.

    Attributes:
        devices: One process each, as ``("cuda:0", "cuda:1")``; empty for what Accelerate finds.
        workers: Processes on each device. One without devices trains in this process.
        save_every: Optimizer steps between two checkpoints of an arm; None trains a killed arm anew.
        tell: Called with the arms finished, the arms in all, and the name of the one just finished.
    """

    devices: tuple[str, ...] = ()
    workers: int = 1
    save_every: int | None = None
    tell: Callable[[int, int, str], None] | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"compare: workers must be at least 1, got {self.workers}.")
        for device in self.devices:
            if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
                raise ConfigError(f"compare: device {device!r} is none of cpu, cuda, cuda:N, mps.")


def run_arms(plan: Plan, folder: Path, manner: Manner) -> Results:
    """Every arm with every seed: those in `folder` are read, the others trained.

    Raises:
        ConfigError: If `folder` is of another plan.
        SftlossError: What the first failing arm said; finished arms stay.
    """
    arms, runs = plan.arms(), plan.runs()
    check_needs(plan)
    names = {run.name for run in runs}
    if len(names) < len(runs):
        raise ConfigError("compare: two arms would share a folder; spell their losses differently.")
    digest = claim(folder, plan)
    open_ = [run for run in runs if load(folder, run, digest) is None]
    done = len(runs) - len(open_)

    def finished(run: Run) -> None:
        nonlocal done
        done += 1
        if manner.tell is not None:
            manner.tell(done, len(runs), run.name)

    if open_:
        places = [device for device in manner.devices or ("auto",) for _ in range(manner.workers)][: len(open_)]
        order = {"plan": to_plain(plan), "folder": str(folder), "digest": digest, "save_every": manner.save_every}
        if len(places) == 1 and places[0] in ("auto", "cpu"):
            _here(plan, open_, order, places[0], finished)
        else:
            _Workers(order, places).train(open_, finished)
    found = {run: load(folder, run, digest) for run in runs}
    missing = [run.name for run, result in found.items() if result is None]
    if missing:
        raise RuntimeError(f"compare: no result of {', '.join(missing)}; run the same command again")
    return Results(arms, plan.seeds, {run: result for run, result in found.items() if result is not None})


def _here(plan: Plan, runs: Sequence[Run], order: dict[str, Any], device: str, finished: Callable[[Run], None]) -> None:
    from sftloss.experiments.run.train import Place, train_arm

    for run in runs:
        train_arm(plan, run, Place(Path(order["folder"]), order["digest"], device, order["save_every"]))
        finished(run)


def environment_of(place: str, given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: ``cuda:N`` is the N-th device that we ourselves may see.

    Raises:
        ConfigError: If we may see fewer.
    """
    environment = {**given, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    number = place.partition(":")[2]
    if not number:
        return environment
    visible = given.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        known = [entry.strip() for entry in visible.split(",")]  # numbers, or UUIDs of GPUs and of parts of them
        known = list(takewhile(lambda entry: entry not in ("", "-1"), known))  # as CUDA reads it
        if int(number) >= len(known):
            raise ConfigError(
                f"compare: there is no device {place}: CUDA_VISIBLE_DEVICES is {visible!r}, {len(known)} devices, "
                "counted from cuda:0."
            )
        number = known[int(number)]
    return {**environment, "CUDA_VISIBLE_DEVICES": number}


class _Workers:
    """Processes that draw arms from one queue; the first failure ends all."""

    def __init__(self, order: dict[str, Any], places: Sequence[str]) -> None:
        self.order, self.places = order, places
        self.answers: queue.Queue[dict[str, str]] = queue.Queue()
        self.processes: list[subprocess.Popen[str]] = []

    def train(self, runs: Sequence[Run], finished: Callable[[Run], None]) -> None:
        waiting: queue.Queue[Run] = queue.Queue()
        for run in runs:
            waiting.put(run)
        by_name = {run.name: run for run in runs}
        threads = []
        environments = [environment_of(place, os.environ) for place in self.places]
        try:
            for place, environment in zip(self.places, environments, strict=True):
                worker = self._start(place.partition(":")[0], environment)
                threads.append(threading.Thread(target=self._serve, args=(worker, waiting), daemon=True))
                threads[-1].start()
            for _ in runs:
                answer = self.answers.get()
                if "error" in answer:
                    raise getattr(errors, answer["error"], RuntimeError)(answer["message"])
                finished(by_name[answer["run"]])
        finally:
            for process in self.processes:
                process.kill()
            for thread in threads:
                thread.join()

    def _start(self, kind: str, environment: Mapping[str, str]) -> tuple[subprocess.Popen[str], Any]:
        log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - lives as the process
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "sftloss.experiments.run.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8", env=environment,
            )  # fmt: skip
        except BaseException:
            log.close()
            raise
        self.processes.append(process)
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # where it died at once, the first arm says so
            process.stdin.write(json.dumps({**self.order, "device": kind}) + "\n")
            process.stdin.flush()
        return process, log

    def _serve(self, worker: tuple[subprocess.Popen[str], Any], waiting: queue.Queue[Run]) -> None:
        """One arm after another on one worker, in a thread of its own; a worker that died answers with its death."""
        process, log = worker
        with suppress(BrokenPipeError), process, log:
            while True:
                try:
                    run = waiting.get_nowait()
                except queue.Empty:
                    return
                answer = _ask(process, log, run)
                self.answers.put(answer)
                if "error" in answer:
                    return


def _ask(process: subprocess.Popen[str], log: Any, run: Run) -> dict[str, str]:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(run.name + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = ""
    # half a line is a worker that died while it wrote
    is_whole = line.endswith("\n")
    answer: dict[str, str] = json.loads(line) if is_whole else {"run": run.name, **_death(process, log, run)}
    return answer


def _death(process: subprocess.Popen[str], log: Any, run: Run) -> dict[str, str]:
    code = process.wait()
    if code < 0:
        why = ", often for want of memory" if code == -signal.SIGKILL else ""
        told = f"{run.name} was killed by signal {-code} ({_signal_name(-code)}){why}; what is finished is kept, "
        return {"error": "MachineError", "message": f"compare: {told}run the same command again."}
    log.seek(0)
    last = ([line.strip() for line in log if line.strip()] or ["it said nothing"])[-1]
    return {
        "error": "RuntimeError",
        "message": f"the process that trained {run.name} ended with {code} ({last[:300]}); run the same command again, "
        "finished arms are kept",
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "real-time"

"""One arm from its start to its result on disk: train, evaluate, generate, write."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sftloss import version
from sftloss.experiments.experiment import Experiment, Trial
from sftloss.experiments.run.evaluate import curve_point, evaluated, forgotten
from sftloss.experiments.run.material import EncodedRows, forecasts, material, start
from sftloss.experiments.run.results import ArmResult, Point, save, trial_folder
from sftloss.experiments.run.task_needs import with_needs
from sftloss.files import write_atomic
from sftloss.finetune import Recipe, fine_tune

_CURVE_ROWS = 96


@dataclass(frozen=True)
class Place:
    """Where a trial is trained; nothing here changes its result.

    Attributes:
        folder: Folder of the experiment.
        digest: Digest of the experiment.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        save_every: Optimizer steps between two checkpoints of a trial. None: a killed trial starts anew.
    """

    folder: Path
    digest: str
    device: str = "auto"
    save_every: int | None = None


def train_arm(experiment: Experiment, trial: Trial, place: Place) -> None:
    """Train one arm with one seed, evaluate it and write its result.

    Raises:
        SftlossError: If data, model or options cannot be used.
    """
    work = trial_folder(place.folder, trial)
    with _deterministic(trial.seed):
        model, tokenizer = start(experiment, trial.seed)
        rows, held_out, forget = material(experiment, tokenizer)
        before = None if forget is None else copy.deepcopy(model).eval()
        curve = _Curve(experiment.points, held_out, tokenizer, work / "checkpoints")
        recipe = trial_recipe(experiment, trial, place)
        recipe, validation = with_needs(experiment, recipe, (model, tokenizer, rows), work / "reference")
        outcome = fine_tune(
            recipe,
            model=model,
            tokenizer=tokenizer,
            rows=rows.examples,
            eval_rows=validation,
            callbacks=(curve.callback(),),
        )
        model = outcome.model
        torch.manual_seed(trial.seed)  # sampled answers do not depend on how long training was
        fields, answers = evaluated(experiment, model, tokenizer, held_out, trial.seed)
        result = ArmResult(
            trial=trial,
            digest=place.digest,
            steps=outcome.steps,
            tokens=outcome.facts["tokens"]["seen"],
            trained_tokens=outcome.facts["tokens"]["trained"],
            curve=tuple(curve.points),
            groups=held_out.groups(),
            forgetting={} if before is None or forget is None else forgotten(before, model, tokenizer, forget),
            forecasts=forecasts(rows, recipe),
            versions=_versions(),
            row_findings=rows.findings if not experiment.is_generated else (),
            **fields,
        )
        save(place.folder, result, answers)
        for name in ("checkpoints", "reference"):
            shutil.rmtree(work / name, ignore_errors=True)


def trial_recipe(experiment: Experiment, trial: Trial, place: Place) -> Recipe:
    """The recipe of one training; held-out rows are not part of it, for they judge the arms."""
    shared = experiment.recipe
    own: dict[str, Any] = {
        "seed": trial.seed, "device": place.device, "eval_data": None, "eval_share": 0.0,
        "run_name": trial.name, "logging_every": shared.logging_every if shared.report_to else 10**9,
    }  # fmt: skip
    if place.save_every is not None:
        checkpoints = str(trial_folder(place.folder, trial) / "checkpoints")
        own |= {"output": checkpoints, "resume": True, "save_every": place.save_every}
    return replace(trial.arm.recipe(shared), **own)


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """Seed the generators and use one CPU thread, so that sums have the same order on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _versions() -> dict[str, str]:
    """Of what decides the numbers. Ours comes with a digest of the source: between two releases it changes too."""
    root = Path(version.__file__).parent
    source = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        source.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    packages = version.package_versions("torch", "transformers")
    return {**packages, "sftloss": f"{version.__version__}+{source.hexdigest()[:8]}"}


def _task_metrics(model: Any) -> dict[str, float]:
    """Where the weights of the tasks are now; empty where none are."""
    from sftloss.training import TaskWeighting, attachment_of

    attachment = attachment_of(model)
    tasks = None if attachment is None else attachment.loss.tasks
    return tasks.metrics() if isinstance(tasks, TaskWeighting) else {}


class _Curve:
    """Held-out cross-entropy at evenly spaced steps: the same measure for every arm.

    Points are kept beside the checkpoints, so that a resumed trial has the earlier points too.
    """

    def __init__(self, count: int, rows: EncodedRows, tokenizer: Any, folder: Path) -> None:
        self.rows, self.count, self.tokenizer = rows.examples[:_CURVE_ROWS], count, tokenizer
        self.file = folder / "curve.json"
        self.points: list[Point] = []

    def measure(self, model: Any, step: int) -> None:
        points = {point.step: point for point in self._earlier() if point.step < step}
        points |= {point.step: point for point in self.points}
        points[step] = Point(step, curve_point(model, self.tokenizer, self.rows), _task_metrics(model))
        self.points = [points[at] for at in sorted(points)]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.file, json.dumps(self.points))

    def _earlier(self) -> list[Point]:
        if self.points or not self.file.exists():
            return []
        return [Point(*point) for point in json.loads(self.file.read_text(encoding="utf-8"))]

    def callback(self) -> Any:
        from transformers import TrainerCallback

        curve = self

        class Watch(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                if state.global_step == 0:
                    curve.measure(given["model"], 0)

            def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                total, done = state.max_steps, state.global_step
                if done in {round(total * k / curve.count) for k in range(1, curve.count + 1)}:
                    curve.measure(given["model"], done)

        return Watch()

"""One arm from its start to its result on disk: train, evaluate, generate, write."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sftloss import version
from sftloss.data.tokenizer import pad_id_of
from sftloss.experiments.plan import Plan, Run
from sftloss.experiments.run.evaluate import curve_point, evaluated, forgotten
from sftloss.experiments.run.material import (
    Rows,
    forecasts,
    held_out_rows,
    second_rows,
    start,
    training_rows,
)
from sftloss.experiments.run.results import ArmResult, Point, arm_folder, save
from sftloss.experiments.run.task_needs import with_needs
from sftloss.files import write_atomic

if TYPE_CHECKING:
    from sftloss.finetune import Outcome, Recipe

_CURVE_ROWS = 96


@dataclass(frozen=True)
class Place:
    """Where an arm is trained; nothing here changes its result.

    Attributes:
        folder: Of the comparison.
        digest: Of its plan.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        save_every: Optimizer steps between two checkpoints, from which a killed arm goes on; None starts it anew.
    """

    folder: Path
    digest: str
    device: str = "auto"
    save_every: int | None = None


def train_arm(plan: Plan, run: Run, place: Place) -> None:
    """Train one arm with one seed and write its result.

    Raises:
        SftlossError: If data, model or options cannot be used.
    """
    with _alone(run.seed):
        model, tokenizer = start(plan, run.seed)
        rows, held_out = training_rows(plan, tokenizer), held_out_rows(plan, tokenizer)
        second = second_rows(plan, tokenizer)
        before = None if second is None else copy.deepcopy(model).eval()
        work = arm_folder(place.folder, run) / "checkpoints"
        curve = _Curve(plan, held_out, tokenizer, work)
        recipe = _recipe(plan, run, place, work)
        outcome = _fine_tuned(plan, recipe, (model, tokenizer, rows), (curve, work))
        model = outcome.model
        torch.manual_seed(run.seed)  # sampled answers do not depend on how long training was
        found = evaluated(plan, model, tokenizer, held_out, run.seed)
        result = ArmResult(
            run=run,
            digest=place.digest,
            steps=outcome.steps,
            tokens=outcome.facts["tokens"]["seen"],
            trained_tokens=outcome.facts["tokens"]["trained"],
            metrics=found.metrics,
            curve=tuple(curve.points),
            reliability=found.reliability,
            lengths=found.lengths,
            reference_lengths=found.reference_lengths,
            examples=held_out.groups(),
            forgetting={} if before is None or second is None else forgotten(before, model, tokenizer, second),
            forecasts=forecasts(rows, recipe),
            versions=_versions(),
            is_sampled=found.is_sampled,
            end_reliability=found.end_reliability,
            scores=found.scores,
        )
        save(place.folder, result, found.answers)
        for left in (work, work.parent / "reference"):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """Seeded generators, and one thread on the CPU: sums then have one order, on any number of cores."""
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
    versions = version.package_versions("torch", "transformers")
    return {**versions, "sftloss": f"{version.__version__}+{source.hexdigest()[:8]}"}


def _recipe(plan: Plan, run: Run, place: Place, work: Path) -> Recipe:
    from sftloss.finetune import Recipe

    arm, prompt = run.arm, run.arm.prompt_weight
    resumable: dict[str, Any] = {"output": str(work), "resume": True, "save_every": place.save_every}
    return Recipe(
        loss=arm.loss,
        normalization=arm.alpha,
        roles=None if prompt is None else {"prompt": prompt, "response": 1.0},
        tasks=arm.tasks or None,
        batch_size=plan.batch_size,
        grad_accum=plan.grad_accum,
        learning_rate=plan.learning_rate,
        schedule=plan.schedule,
        warmup=plan.warmup,
        epochs=plan.epochs,
        max_steps=plan.steps,
        weight_decay=plan.weight_decay,
        max_grad_norm=plan.max_grad_norm,
        seed=run.seed,
        dtype=plan.dtype,
        autocast=plan.autocast,
        device=place.device,
        logging_every=10**9,
        **({} if place.save_every is None else resumable),
    )


def _fine_tuned(plan: Plan, recipe: Recipe, start: tuple[Any, Any, Rows], watch: tuple[_Curve, Path]) -> Outcome:
    from sftloss.finetune import fine_tune

    (model, tokenizer, rows), (curve, work) = start, watch
    recipe, validation = with_needs(plan, recipe, start, work.parent / "reference")
    given = {"model": model, "tokenizer": tokenizer, "rows": rows.examples, "eval_rows": validation}
    return fine_tune(recipe, **given, callbacks=(curve.callback(),))


def _task_metrics(model: Any) -> dict[str, float]:
    """Where the weights of the tasks are now; empty where none are."""
    from sftloss.training import attachment_of

    attachment = attachment_of(model)
    return {} if attachment is None else attachment.loss.task_factor.metrics()


class _Curve:
    """Held-out cross-entropy at evenly spaced steps, the same for every arm whatever it trains.

    Points are kept beside the checkpoints, so that an arm that goes on from one has the earlier ones too.
    """

    def __init__(self, plan: Plan, rows: Rows, tokenizer: Any, folder: Path) -> None:
        self.rows = Rows(rows.records[:_CURVE_ROWS], rows.examples[:_CURVE_ROWS])
        self.count, self.pad_id, self.tokenizer = plan.points, pad_id_of(tokenizer), tokenizer
        self.file = folder / "curve.json"
        self.points: list[Point] = []

    def see(self, model: Any, step: int) -> None:
        known = {point.step: point for point in self._earlier() if point.step < step}
        known |= {point.step: point for point in self.points}
        known[step] = Point(step, curve_point(model, self.tokenizer, self.rows), _task_metrics(model))
        self.points = [known[at] for at in sorted(known)]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.file, json.dumps([p.plain() for p in self.points]))

    def _earlier(self) -> list[Point]:
        if self.points or not self.file.exists():
            return []
        return list(map(Point.read, json.loads(self.file.read_text(encoding="utf-8"))))

    def callback(self) -> Any:
        from transformers import TrainerCallback

        curve = self

        class Watch(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                if state.global_step == 0:
                    curve.see(given["model"], 0)

            def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                total, done = state.max_steps, state.global_step
                if done in {round(total * k / curve.count) for k in range(1, curve.count + 1)}:
                    curve.see(given["model"], done)

        return Watch()

"""Train one arm with one seed, evaluate it, and write its result."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sftloss import version
from sftloss.data import Example
from sftloss.data.overlap import refuse_leak
from sftloss.data.tasks import check_answer, question, reference_answer
from sftloss.experiments.experiment import Arm, Experiment, Trial
from sftloss.experiments.metrics import (
    Metric,
    Sampling,
    end_reliability,
    evaluate_tokens,
    forgetting,
    generate,
    output_metrics,
    reliability,
    token_metrics,
)
from sftloss.experiments.run.curve import CURVE_ROWS, Curve, held_out_loss
from sftloss.experiments.run.material import (
    EncodedRows,
    Material,
    forecasts,
    material,
    second_draw,
    start,
    traced_rows,
    tuning_rows,
)
from sftloss.experiments.run.results import RATES, Answer, ArmResult, TokenScores, save, trial_folder
from sftloss.files import write_atomic
from sftloss.finetune import Recipe, fine_tune, read_choice, with_reference

_GREEDY = (
    "exact_match",
    "abstains_unknown",
    "abstains_known",
)  # of the greedy answers, not of samples
_TUNING_SEED = 10_000  # no comparison has so many seeds
_EVALUATIONS = 20  # of held-out losses during training, for weightings that follow them


@dataclass(frozen=True)
class ArmTrainer:
    """Trains the arms of an experiment in this process. Only the experiment changes a result.

    Attributes:
        experiment: What is trained.
        folder: Folder of the results.
        digest: Digest of the experiment.
        save_every: Optimizer steps between two checkpoints of a training. None: a killed training starts anew.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    """

    experiment: Experiment
    folder: Path
    digest: str
    save_every: int | None = None
    device: str = "auto"
    _made: list[Material] = field(default_factory=list, init=False, repr=False)

    def train(self, trial: Trial) -> None:
        """Train one arm with one seed, evaluate it and write its result.

        Raises:
            SftlossError: If data, model or options cannot be used.
        """
        experiment, work = self.experiment, trial_folder(self.folder, trial)
        with _deterministic(trial.seed):
            model, tokenizer = start(experiment, trial.seed)
            rows, held_out, forget = self._material(tokenizer)
            before = None if forget is None else copy.deepcopy(model).eval()
            tuning = self.tuning(trial.arm)
            traced = traced_rows(self._material(tokenizer), experiment.length_rows)
            curve = Curve(experiment, held_out.examples[:CURVE_ROWS], tokenizer, work / "checkpoints", traced)
            recipe = self.recipe(trial)
            if tuning:
                recipe = replace(recipe, learning_rate=best_rate(tuning))
            recipe, validation = self._with_needs(recipe, model, tokenizer, work / "reference")
            inputs = {"model": model, "tokenizer": tokenizer, "rows": rows.examples, "eval_rows": validation}
            outcome = fine_tune(recipe, **inputs, callbacks=(curve,))
            sizes = [(p.numel(), p.requires_grad) for p in outcome.model.parameters()]
            torch.manual_seed(trial.seed)  # sampled answers do not depend on how long training was
            fields, answers = evaluated(experiment, outcome.model, tokenizer, held_out, trial.seed)
            result = ArmResult(
                trial=trial,
                digest=self.digest,
                steps=outcome.steps,
                tokens=outcome.facts["tokens"]["seen"],
                trained_tokens=outcome.facts["tokens"]["trained"],
                curve=tuple(curve.points),
                groups=held_out.groups(),
                forgetting={} if forget is None else drift_metrics(before, outcome.model, tokenizer, forget),
                forecasts=forecasts(rows, recipe),
                versions=_versions(),
                row_findings=rows.findings,
                learning_rate=recipe.learning_rate,
                tuning=tuning,
                train_rows=len(rows.examples),
                train_prompts=len(set(rows.groups().prompt)),
                parameters=sum(size for size, _ in sizes),
                trained_parameters=sum(size for size, is_trained in sizes if is_trained),
                traced={name: part.groups() for name, part in traced.items()},
                **fields,
            )
            save(self.folder, result, answers)
            for name in ("checkpoints", "reference"):
                shutil.rmtree(work / name, ignore_errors=True)

    def tuning(self, arm: Arm) -> dict[str, float]:
        """Held-out loss of an arm with each learning rate to try, nats per token; empty where one rate is given.

        The rows judge no arm, and the seed is of no other training. Losses are kept in the folder, so that all seeds
        of an arm use them.
        """
        file = self.folder / RATES / f"{arm.slug}.json"
        if not file.exists() and self.experiment.learning_rates:
            losses = {str(rate): self._tuning_loss(arm, rate) for rate in self.experiment.learning_rates}
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, json.dumps(losses))
        return json.loads(file.read_text(encoding="utf-8")) if self.experiment.learning_rates else {}

    def _tuning_loss(self, arm: Arm, rate: float) -> float:
        with _deterministic(_TUNING_SEED):
            model, tokenizer = start(self.experiment, _TUNING_SEED)
            rows, judges = tuning_rows(self.experiment, tokenizer, self._material(tokenizer).train)
            trial = Trial(arm, _TUNING_SEED)
            recipe = replace(self.recipe(trial), learning_rate=rate, output=None, resume=False, report_to=())
            place = trial_folder(self.folder, trial)
            recipe, validation = self._with_needs(recipe, model, tokenizer, place)
            inputs = {"model": model, "tokenizer": tokenizer, "rows": rows.examples, "eval_rows": validation}
            loss = held_out_loss(fine_tune(recipe, **inputs).model, tokenizer, judges.examples)
            shutil.rmtree(place, ignore_errors=True)
            return loss

    def recipe(self, trial: Trial) -> Recipe:
        """The recipe of one training. Held-out rows are not part of it, because they judge the arms."""
        shared = self.experiment.recipe
        own: dict[str, Any] = {
            "seed": trial.seed, "device": self.device, "eval_data": None, "eval_share": 0.0,
            "run_name": trial.name, "logging_every": shared.logging_every if shared.report_to else 10**9,
        }  # fmt: skip
        if self.save_every is not None:
            checkpoints = str(trial_folder(self.folder, trial) / "checkpoints")
            own |= {"output": checkpoints, "resume": True, "save_every": self.save_every}
        return replace(trial.arm.recipe(shared), **own)

    def _material(self, tokenizer: Any) -> Material:
        """The rows, made once for all arms of this process."""
        if not self._made:
            self._made.append(material(self.experiment, tokenizer))
            refuse_leak(self._made[0].train.findings)
        return self._made[0]

    def _with_needs(
        self, recipe: Recipe, model: Any, tokenizer: Any, folder: Path
    ) -> tuple[Recipe, tuple[Example, ...] | None]:
        """The recipe completed for its task weighting, and rows to evaluate during training.

        Held-out losses are of a second draw of training questions, which judge no arm. A reference model is trained
        first: from the same start, with equal task weights, for as many steps. It is kept in `folder`.
        """
        rows = self._material(tokenizer).train
        choice = None if recipe.tasks is None else read_choice(recipe.tasks)
        if choice is not None and choice.needs == "validation":
            per_step = recipe.batch_size * recipe.grad_accum
            steps = recipe.max_steps or math.ceil(len(rows.examples) * recipe.epochs / per_step)
            drawn = second_draw(self.experiment, tokenizer, rows)
            return replace(recipe, eval_every=max(1, steps // _EVALUATIONS)), drawn.examples
        if recipe.tasks is not None and choice is not None and choice.needs == "excess" and choice.reference is None:
            plain = replace(recipe, tasks="static", output=None, resume=False)
            trained = fine_tune(plain, model=copy.deepcopy(model), tokenizer=tokenizer, rows=rows.examples).model
            if recipe.lora is not None:
                trained = trained.merge_and_unload()  # a reference is loaded without adapters
            trained.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            return replace(recipe, tasks=with_reference(recipe.tasks, folder)), None
        return recipe, None


def evaluated(
    experiment: Experiment, model: Any, tokenizer: Any, rows: EncodedRows, seed: int
) -> tuple[dict[str, Any], tuple[Answer, ...]]:
    """Fields of :class:`ArmResult` and the answers: one forward pass, greedy and sampled answers for each row."""
    samples, limit = experiment.samples, experiment.max_new_tokens
    table = evaluate_tokens(model, tokenizer, rows.examples)
    greedy = drawn = generate(model, tokenizer, rows.examples, Sampling(max_new_tokens=limit))
    if samples:
        drawn = generate(model, tokenizer, rows.examples, Sampling(samples, limit, experiment.temperature, seed))
    best, metrics = output_metrics(greedy, rows.records), output_metrics(drawn, rows.records)
    if samples and "exact_match" in metrics:
        metrics["sample_match"] = metrics["exact_match"]
    step = max(1, samples)
    by_row = [drawn[i : i + step] for i in range(0, len(drawn), step)]
    fields = {
        "metrics": {**token_metrics(table), **metrics, **{name: best[name] for name in _GREEDY if name in best}},
        "reliability": reliability(table),
        "end_reliability": end_reliability(table),
        "scores": TokenScores(table.example.astype(np.int32), table.nll.astype(np.float32), table.is_top1),
        "lengths": tuple(tuple(one.length for one in row) for row in by_row),
        "reference_lengths": tuple(one.reference_length for one in greedy),
        "is_sampled": samples > 0,
    }
    answers = (
        Answer(
            asked := question(record), reference_answer(record), one.text,
            tuple(sample.text for sample in row if samples), check_answer(record, asked, one.text),
        )
        for record, one, row in zip(rows.records, greedy, by_row, strict=True)
    )  # fmt: skip
    return fields, tuple(answers)


def drift_metrics(before: Any, after: Any, tokenizer: Any, rows: EncodedRows) -> dict[str, Metric]:
    """How far training moved the model on rows of another kind."""
    loss = token_metrics(evaluate_tokens(after, tokenizer, rows.examples))["token_nll"]
    return {"forget_nll": loss, **forgetting(before, after, tokenizer, rows.examples)}


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
    """Versions of what decides the numbers; ours with a digest of the source, which changes between releases too."""
    root, source = Path(version.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        source.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    packages = version.package_versions("torch", "transformers")
    return {**packages, "sftloss": f"{version.__version__}+{source.hexdigest()[:8]}"}


def best_rate(losses: Mapping[str, float]) -> float:
    """The learning rate with the lowest loss; a diverged training, whose loss is NaN, is never the best.

    Example:
        >>> best_rate({"0.01": float("nan"), "0.001": 2.0, "0.0001": 2.5})
        0.001
    """
    return float(min(losses, key=lambda rate: math.inf if math.isnan(losses[rate]) else losses[rate]))

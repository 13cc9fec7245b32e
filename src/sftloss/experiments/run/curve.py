"""What is measured while an arm trains: held-out loss, and the lengths of answers to seen and unseen prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from sftloss.data import Example
from sftloss.experiments.experiment import Experiment
from sftloss.experiments.metrics import Sampling, evaluate_tokens, generate
from sftloss.experiments.run.material import EncodedRows
from sftloss.experiments.run.results import Point
from sftloss.files import write_atomic
from sftloss.training import attachment_of

CURVE_ROWS = 96
"""Held-out rows of a learning curve."""


def held_out_loss(model: Any, tokenizer: Any, examples: Sequence[Example]) -> float:
    """Mean loss of held-out tokens, nats."""
    return float(np.mean(evaluate_tokens(model, tokenizer, examples).nll))


class Curve(TrainerCallback):
    """Held-out cross-entropy and answer lengths at evenly spaced steps: the same measures for every arm.

    Points are kept beside the checkpoints, so that a resumed training has the earlier points too.
    """

    def __init__(
        self, experiment: Experiment, examples: Sequence[Example], tokenizer: Any, folder: Path,
        traced: Mapping[str, EncodedRows],
    ) -> None:  # fmt: skip
        self.experiment, self.examples, self.tokenizer, self.traced = experiment, examples, tokenizer, traced
        self.file = folder / "curve.json"
        self.points: list[Point] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._measure(kwargs["model"], 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        count = self.experiment.points
        steps = {round(state.max_steps * k / count) for k in range(1, count + 1)}
        if state.global_step in steps:
            self._measure(kwargs["model"], state.global_step)

    def _measure(self, model: Any, step: int) -> None:
        if not self.points and self.file.exists():
            earlier = (Point(*point) for point in json.loads(self.file.read_text(encoding="utf-8")))
            self.points = [point for point in earlier if point.step < step]
        attachment = attachment_of(model)
        tasks = {} if attachment is None else attachment.loss.task_factor.metrics()
        loss, lengths = held_out_loss(model, self.tokenizer, self.examples), self._lengths(model) if step else {}
        self.points.append(Point(step, loss, tasks, lengths))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.file, json.dumps(self.points))

    def _lengths(self, model: Any) -> dict[str, list[float]]:
        """Mean tokens of each traced row's answers, greedy and sampled."""
        one, lengths = self.experiment, {}
        ways = {"greedy": Sampling(max_new_tokens=one.max_new_tokens)}
        if one.samples:
            ways["sampled"] = Sampling(one.samples, one.max_new_tokens, one.temperature)
        for name, rows in self.traced.items():
            for way, sampling in ways.items():
                answers = generate(model, self.tokenizer, rows.examples, sampling)
                table = np.array([answer.length for answer in answers]).reshape(len(rows.examples), -1)
                lengths[f"{name} {way}"] = [round(float(mean), 3) for mean in table.mean(axis=1)]
        return lengths

"""What some task weightings need besides training rows: held-out losses, or a reference model."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from sftloss.data import Example
from sftloss.errors import ConfigError
from sftloss.experiments.experiment import Experiment
from sftloss.experiments.run.material import EncodedRows, second_draw
from sftloss.finetune import Recipe, fine_tune, read_choice, with_reference

_EVALUATIONS = 20


def check_needs(experiment: Experiment) -> None:
    """Refuse a weighting whose needs this experiment cannot meet.

    Raises:
        ConfigError: If it follows held-out losses and the rows are those of a file: the held-out rows must only judge.
    """
    for arm in experiment.arms():
        if arm.tasks and not experiment.is_generated and read_choice(arm.tasks).needs == "validation":
            raise ConfigError(
                f"{arm.tasks} follows held-out losses during training, but the held-out rows must only judge",
                option="tasks",
                cure="compare it on generated data, or use it in sftloss train",
            )


def with_needs(
    experiment: Experiment, recipe: Recipe, start: tuple[Any, Any, EncodedRows], folder: Path
) -> tuple[Recipe, tuple[Example, ...] | None]:
    """The recipe completed for its weighting, and rows to evaluate during training.

    Held-out losses are of a second draw of training questions, which judge no arm. A reference model is trained first:
    from the same start, with equal task weights, for as many steps. It is kept in `folder`.
    """
    model, tokenizer, rows = start
    if recipe.tasks is None:
        return recipe, None
    choice = read_choice(recipe.tasks)
    if choice.needs == "validation":
        per_step = recipe.batch_size * recipe.grad_accum
        steps = recipe.max_steps or math.ceil(len(rows.examples) * recipe.epochs / per_step)
        drawn = second_draw(experiment, tokenizer, rows)
        return replace(recipe, eval_every=max(1, steps // _EVALUATIONS)), drawn.examples
    if choice.needs == "excess" and choice.reference is None:
        plain = replace(recipe, tasks="static", output=None, resume=False)
        trained = fine_tune(plain, model=copy.deepcopy(model), tokenizer=tokenizer, rows=rows.examples).model
        if recipe.lora is not None:
            trained = trained.merge_and_unload()  # a reference is loaded without its adapters' base
        trained.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return replace(recipe, tasks=with_reference(recipe.tasks, folder)), None
    return recipe, None

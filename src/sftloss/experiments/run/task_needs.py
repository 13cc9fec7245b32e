"""What some task weightings want beside the rows they train on: held-out losses, or a reference model."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftloss.data import Example
from sftloss.errors import ConfigError
from sftloss.experiments.plan import GENERATED, Plan
from sftloss.experiments.run.material import Rows, second_draw

if TYPE_CHECKING:
    from sftloss.finetune import Recipe

_EVALUATIONS = 20


def check_needs(plan: Plan) -> None:
    """Refuse a weighting that wants what this comparison cannot give.

    Raises:
        ConfigError: If it looks at held-out losses and the rows are not generated: those held back are to judge.
    """
    from sftloss.finetune import read_choice

    for arm in plan.arms():
        if arm.tasks and plan.data != GENERATED and read_choice(arm.tasks).needs == "validation":
            raise ConfigError(
                f"compare: {arm.tasks} looks at held-out losses while it trains, and the held-out rows are to judge "
                "it; compare it on generated data, or train it with sftloss train."
            )


def with_needs(
    plan: Plan, recipe: Recipe, start: tuple[Any, Any, Rows], folder: Path
) -> tuple[Recipe, tuple[Example, ...] | None]:
    """The recipe with what its weighting wants, and rows to evaluate while it trains.

    Held-out losses are of another draw of the training questions, so of no question that judges the arms. A reference
    model is trained first, from the same start with equal weights of the tasks for as many steps, and kept in `folder`.
    """
    from sftloss.finetune import fine_tune, read_choice, with_reference

    model, tokenizer, rows = start
    if recipe.tasks is None:
        return recipe, None
    choice = read_choice(recipe.tasks)
    if choice.needs == "validation":
        steps = recipe.max_steps or math.ceil(len(rows.examples) * recipe.epochs / (plan.batch_size * plan.grad_accum))
        return replace(recipe, eval_every=max(1, steps // _EVALUATIONS)), second_draw(plan, tokenizer, rows).examples
    if choice.needs == "excess" and choice.reference is None:
        own = replace(recipe, tasks="static", output=None, resume=False)
        told = fine_tune(own, model=copy.deepcopy(model), tokenizer=tokenizer, rows=rows.examples)
        told.model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return replace(recipe, tasks=with_reference(recipe.tasks, folder)), None
    return recipe, None

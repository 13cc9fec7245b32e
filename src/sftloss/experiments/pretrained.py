"""Studies of a pretrained model on data of the user: SmolLM2-135M-Instruct with LoRA, within an hour on two cores."""

from __future__ import annotations

from dataclasses import replace

from sftloss.errors import ConfigError
from sftloss.experiments.experiment import Experiment
from sftloss.experiments.studies import Study
from sftloss.finetune import Lora, Recipe
from sftloss.models import SMOLLM2

_RECIPE = Recipe(
    model=SMOLLM2, eval_share=0.1, max_examples=900, max_length=192, lora=Lora(8), batch_size=4, learning_rate=2e-4,
    schedule="cosine", warmup=0.1,
)  # fmt: skip
_BASE = Experiment(replace(_RECIPE, data="any"), eval_rows=32, samples=2, max_new_tokens=128, seeds=(0, 1, 2))

_ALL = (
    Study(
        "length",
        "What normalization by length does to a pretrained chat model",
        "Does averaging each example first shorten what a pretrained model writes, and by as much as `sftloss lengths` "
        "predicts? SmolLM2-135M-Instruct is trained with LoRA. Answers to training prompts and to new ones are "
        "measured during training, sampled and greedy.",
        replace(
            _BASE, recipe=replace(_RECIPE, data="any", max_steps=60), normalizations=("token-mean", "example-mean"),
            points=2, length_rows=8,
        ),
    ),
    Study(
        "objectives",
        "Objectives on a pretrained chat model",
        "SmolLM2-135M-Instruct is trained with LoRA under eight objectives for equal steps and tokens. Held-out loss, "
        "calibration, diversity of samples and, with a second file, forgetting are compared with cross-entropy. The "
        "learning rate of each objective is chosen on training rows that judge no arm.",
        replace(
            _BASE,
            recipe=replace(_RECIPE, data="any", max_steps=20),
            losses=(
                "cross_entropy", "dft", "eaft", "gce", "infosft", "gem", "focal(gamma=2)", "label_smoothing",
            ),
            seeds=(0, 1, 2, 3),  # with eight arms a verdict needs four
            points=1,
            eval_rows=24,
            forget_rows=24,
            max_new_tokens=64,
            learning_rates=(1e-4, 4e-4),
        ),
    ),
)  # fmt: skip
_BY_NAME = {one.name: one for one in _ALL}


def pretrained_study(name: str, data: str, forget_data: str | None = None) -> Study:
    """The study of SmolLM2 with this name, on rows of a file; its results are called ``smollm2-NAME``.

    Args:
        name: ``"length"`` or ``"objectives"``.
        data: Rows to train on; one in ten judges the arms.
        forget_data: Rows of another kind, on which forgetting is measured.

    Raises:
        ConfigError: If there is no such study.

    Example:
        >>> pretrained_study("length", "train.jsonl").experiment.recipe.lora.r
        8
    """
    if name not in _BY_NAME:
        raise ConfigError(
            f"there is no study {name!r} of {SMOLLM2}", cure=f"with {SMOLLM2} there are {', '.join(_BY_NAME)}"
        )
    study = _BY_NAME[name]
    recipe = replace(study.experiment.recipe, data=data)
    experiment = replace(study.experiment, recipe=recipe, forget_data=forget_data)
    forget = (("--forget-data", forget_data),) if forget_data else ()
    command = ((name, ""), ("--model", SMOLLM2), ("--data", data), *forget)
    return replace(study, name=f"{SMOLLM2}-{name}", experiment=experiment, command=command)

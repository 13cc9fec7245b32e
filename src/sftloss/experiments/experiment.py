"""An experiment as plain values: one training recipe, the arms that change it, the seeds, and how arms are judged."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from sftloss.errors import ConfigError, mention
from sftloss.files import SEAL, file_digest
from sftloss.finetune import Lora, Recipe, read_choice
from sftloss.models import GENERATED, SCRATCH

UNWEIGHTED = "none"
_ARMS = ("losses", "normalizations", "prompt_weights", "tasks", "seeds")
_OF_AN_ARM = ("loss", "normalization", "tasks", "seed")  # fields of the recipe that each arm sets
_FORMAT = 4  # of result.json; a folder of another format is refused

# fields of the recipe that the experiment or its execution decides
_UNUSED = (
    "output", "overwrite", "resume", "resume_from", "save_every", "keep", "keep_best", "eval_every", "eval_batch_size",
    "device", "command",
)  # fmt: skip


def scratch_recipe(**changes: Any) -> Recipe:
    """Return the recipe for a small model with random weights on the generated tasks.

    Its defaults differ from those of a pretrained model, which are :class:`sftloss.finetune.Recipe`'s own: learning
    rate 3e-3 (2e-5), cosine schedule (linear), warmup over 10% of the steps (3%), batch size 16 (8).

    Args:
        changes: Fields of the recipe.

    Example:
        >>> scratch_recipe(max_steps=200).learning_rate
        0.003
    """
    fitting = {"batch_size": 16, "learning_rate": 3e-3, "schedule": "cosine", "warmup": 0.1}
    return Recipe(**{"model": SCRATCH, "data": GENERATED, **fitting, **changes})


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        loss: An objective, in its normal spelling.
        normalization: ``"token mean"``, ``"example mean"``, ``"sqrt"``, or ``"T^-0.7"``.
        alpha: Exponent of the length in that normalization.
        prompt_weight: Weight of a prompt token where an answer token has weight 1. None: the recipe's roles.
        tasks: How tasks are weighted, as :class:`sftloss.finetune.Recipe` spells it. Empty: tasks are not weighted.
    """

    loss: str = "cross_entropy"
    normalization: str = "token mean"
    alpha: float = 0.0
    prompt_weight: float | None = None
    tasks: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """Loss, normalization, prompt weight and task weighting in words; empty where the recipe's value holds."""
        prompt = "" if self.prompt_weight is None else f"prompt weight {self.prompt_weight:g}"
        return (self.loss, self.normalization, prompt, self.tasks)

    @property
    def slug(self) -> str:
        """A file name that no other arm has."""
        text = " ".join(filter(None, self.parts)).replace("+", " plus ").replace("*", " x ").replace("/", " over ")
        return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")

    def recipe(self, shared: Recipe) -> Recipe:
        """The shared recipe with this arm's loss, normalization, roles and task weighting."""
        own: dict[str, Any] = {"loss": self.loss, "normalization": self.alpha, "tasks": self.tasks or None}
        if self.prompt_weight is not None:
            own["roles"] = {"prompt": self.prompt_weight, "response": 1.0}
        return replace(shared, **own)


@dataclass(frozen=True)
class Trial:
    """One training: an arm with a seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Name of the trial's folder."""
        return f"{self.arm.slug}-seed{self.seed}"


@dataclass(frozen=True)
class Experiment:
    """What is trained and compared. The first arm is the reference that the others are compared with.

    Attributes:
        recipe: The training that all arms share: model, data, held-out data, optimizer, LoRA, packing, ... An arm
            replaces its loss, normalization, roles, tasks and seed. `model` may be ``"scratch"`` for a Llama with
            random weights, `data` may be ``"generated"`` for the tasks of the studies. Held-out rows (`eval_data` or
            `eval_share`) judge the arms; nothing is chosen by them.
        losses, normalizations, prompt_weights, tasks: The arms are all combinations of these. Empty: the recipe's own
            value. ``"none"`` in `tasks` is an arm without task weights.
        seeds: Every arm is trained once with each. A seed decides the order of the rows and, from scratch, the initial
            weights; both are equal for all arms of a seed.
        width, layers, heads: Shape of a model from scratch.
        eval_rows: Held-out rows used, from the start. None: all of a file, 240 generated ones.
        forget_data, forget_rows: Rows of another kind, and how many; the report shows how far training moved the
            model on them.
        noise: Share of generated training rows with a wrong answer. 0 for rows of a file.
        data_tasks: Names of the generated tasks; ``("multitask",)`` for those of that study. Empty: all.
        data_seed: Seed of generated rows.
        points: Points of the learning curves, the start not counted.
        max_new_tokens: Largest length of a generated answer.
        samples: Answers sampled for each held-out prompt. 0: greedy answers only.
        temperature: Temperature of the samples. 1 is the distribution that the model learned.
        learning_rates: Peak learning rates tried for each arm with a seed of its own. The rate with the lowest
            held-out loss on rows that judge no arm is used. Empty: the recipe's rate for all arms.
        length_rows: Rows of each task whose answers are measured at every point of the learning curve: of training
            prompts, and of held-out prompts that training does not have. 0: none.
        also_judged: Further metrics that get verdicts, keys of ``ALSO_JUDGED``. Every one widens all intervals.

    Raises:
        ConfigError: If nothing can be compared: no seed, no held-out rows, a field of the recipe that is not used.

    Example:
        >>> pair = Experiment(losses=("cross_entropy", "focal(gamma=2)"))
        >>> [arm.loss for arm in pair.arms()]
        ['cross_entropy', 'focal(gamma=2)']
    """

    recipe: Recipe = field(default_factory=scratch_recipe)
    losses: tuple[str, ...] = ()
    normalizations: tuple[str, ...] = ()
    prompt_weights: tuple[float, ...] = ()
    tasks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    width: int = 64
    layers: int = 2
    heads: int = 4
    eval_rows: int | None = None
    forget_data: str | None = None
    forget_rows: int | None = None
    noise: float = 0.05
    data_tasks: tuple[str, ...] = ()
    data_seed: int = 0
    points: int = 6
    max_new_tokens: int = 64
    samples: int = 4
    temperature: float = 1.0
    learning_rates: tuple[float, ...] = ()
    length_rows: int = 0
    also_judged: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(
                "give at least one seed and no seed twice: a seed is one training of each arm", option="seeds"
            )
        if not self.is_generated:
            object.__setattr__(self, "noise", 0.0)
            if self.recipe.eval_data is None and not self.recipe.eval_share:
                raise ConfigError(
                    "no held-out rows",
                    cure=f"give {mention('eval_data')}, or {mention('eval_share')} for a share of the data",
                )
        elif self.recipe.eval_share:
            raise ConfigError("generated data has held-out rows of its own", option="eval_share", cure="leave it out")
        if len(self.learning_rates) == 1 or any(not rate > 0 for rate in self.learning_rates):
            raise ConfigError(
                "give at least two positive rates to choose from", option="learning_rates",
                cure=f"give one rate as {mention('learning_rate')}",
            )  # fmt: skip
        if any(weight < 0 for weight in self.prompt_weights):
            raise ConfigError(f"must be at least 0, got {min(self.prompt_weights):g}", option="prompt_weights")
        if self.prompt_weights and self.recipe.roles is not None:
            raise ConfigError(
                f"{mention('prompt_weights')} and {mention('roles')} both weight prompts", cure="give one"
            )
        if self.width % self.heads:
            raise ConfigError(f"{self.width} is not a multiple of {self.heads} {mention('heads')}", option="width")
        default = Recipe()
        unused = [name for name in _UNUSED if getattr(self.recipe, name) != getattr(default, name)]
        if unused:
            raise ConfigError(f"{', '.join(unused)} of the recipe cannot be set; the comparison decides it")

    @property
    def is_generated(self) -> bool:
        """Whether training rows are those of the generated tasks."""
        return self.recipe.data == GENERATED

    @property
    def is_scratch(self) -> bool:
        """Whether models start from random weights."""
        return self.recipe.model == SCRATCH

    def arms(self) -> tuple[Arm, ...]:
        """Every combination, the reference first, each once.

        Raises:
            ConfigError: If a loss or a normalization cannot be read, or there are fewer than two arms.
        """
        from sftloss.pipeline import read_normalization
        from sftloss.pipeline.question import read_objectives

        has_reference = bool(self.recipe.reference)
        losses = tuple(read_objectives(self.losses or (self.recipe.loss,), has_reference=has_reference, trains=True))
        rules = tuple(map(read_normalization, self.normalizations or (str(self.recipe.normalization),)))
        weightings = tuple("" if text == UNWEIGHTED else _checked(text) for text in self.tasks)
        arms = dict.fromkeys(
            Arm(loss, rule.name, rule.alpha, prompt, tasks)
            for loss, rule, prompt, tasks in product(
                losses, rules, self.prompt_weights or (None,), weightings or (self.recipe.tasks or "",)
            )
        )
        if len(arms) < 2:
            raise ConfigError(
                "there is one arm only",
                cure=f"give a second {mention('loss')}, {mention('normalization')}, {mention('prompt_weights')} or "
                f"{mention('tasks')}",
            )
        return tuple(arms)

    def trials(self) -> tuple[Trial, ...]:
        """All trainings in order: every arm with the first seed, then every arm with the second, ..."""
        arms = self.arms()
        return tuple(Trial(arm, seed) for seed in self.seeds for arm in arms)

    def shared(self) -> dict[str, Any]:
        """What all arms have in common: values of the recipe that are not its defaults, and digests of all files.

        Seeds and arms are no part of it, so both may be added to a folder.
        """
        default = Recipe().identity()
        recipe = {k: v for k, v in self.recipe.identity().items() if k not in _OF_AN_ARM and v != default[k]}
        own = {name: value for name, value in self.plain().items() if name not in (*_ARMS, "recipe", "also_judged")}
        sources = {name: getattr(self.recipe, name) for name in ("data", "eval_data", "model", "tokenizer")}
        sources |= {"forget_data": self.forget_data}
        sources |= {f"reference_{i}": str(Path(v) / SEAL) for i, v in enumerate(self.recipe.reference)}
        return {**recipe, **own, **{f"{k}_content": _content(v) for k, v in sources.items()}, "result_format": _FORMAT}

    def plain(self) -> dict[str, Any]:
        """Every field as JSON has it; :meth:`read` is the inverse."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**{k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}, "recipe": self.recipe.plain()}

    @staticmethod
    def read(values: Mapping[str, Any]) -> Experiment:
        """The experiment that :meth:`plain` wrote."""
        recipe = _tuples(values["recipe"])
        lora = None if recipe["lora"] is None else Lora(**_tuples(recipe["lora"]))
        return Experiment(**{**_tuples(values), "recipe": Recipe(**{**recipe, "lora": lora})})


def digest_of(facts: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that change with any of the facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def arm_labels(arms: tuple[Arm, ...]) -> tuple[str, ...]:
    """A name for each arm, made of the parts in which the arms differ."""
    varies = [len(set(column)) > 1 for column in zip(*(arm.parts for arm in arms), strict=True)]
    parts_of = ((*arm.parts[:-1], arm.tasks or "unweighted") for arm in arms)
    return tuple(" · ".join(p for p, v in zip(parts, varies, strict=True) if v and p) for parts in parts_of)


def _checked(weighting: str) -> str:
    read_choice(weighting)
    return weighting.strip()


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _content(source: str | None) -> Any:
    """Name and digest of each file of a source; empty for a name on the hub, None where there is no source."""
    if source is None:
        return None
    path = Path(source).expanduser()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    return [[f.name, file_digest(f)[:16]] for f in files]

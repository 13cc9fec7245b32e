"""What is compared, as plain values: arms, seeds, and all that the arms share."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from sftloss.errors import ConfigError
from sftloss.files import file_digest

GENERATED, SCRATCH, DEMO = "generated", "scratch", "demo"
NONE = "none"
_ARMS = ("losses", "normalizations", "prompt_weights", "tasks", "seeds")
_FORMAT = 2  # of result.json: a folder of another is not gone on with


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        loss: An objective, in its normal spelling.
        normalization: ``"token mean"``, ``"example mean"``, ``"sqrt"``, or ``"T^-0.7"``.
        alpha: Its exponent of the length.
        prompt_weight: Weight of the prompt's tokens beside the answer's 1; None trains what the data says.
        tasks: How tasks are weighted, as :class:`sftloss.finetune.Recipe` has it; empty leaves them alone.
    """

    loss: str = "cross_entropy"
    normalization: str = "token mean"
    alpha: float = 0.0
    prompt_weight: float | None = None
    tasks: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """What the arm is, word by word, in a fixed order."""
        prompt = "" if self.prompt_weight is None else f"prompt weight {self.prompt_weight:g}"
        return (self.loss, self.normalization, prompt, self.tasks)

    @property
    def slug(self) -> str:
        """A file name that another arm does not share."""
        text = " ".join(filter(None, self.parts)).replace("+", " plus ").replace("*", " x ").replace("/", " over ")
        return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")


@dataclass(frozen=True)
class Run:
    """An arm with a seed: one training."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Its folder."""
        return f"{self.arm.slug}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A comparison. The first loss with the first of everything else is what the others are compared with.

    Attributes:
        losses, normalizations, prompt_weights, tasks: The arms are all combinations of these. A prompt weight of 0
            trains answers alone; without prompt weights the data says what is trained. A task weighting is a
            strategy's name, with hyper-parameters where wanted; ``"none"`` leaves tasks alone.
        seeds: Each arm is trained with each. A seed decides the order of the rows, and the initial weights where the
            model starts from scratch; arms of one seed share both.
        model: ``"scratch"``, ``"demo"``, a folder that `save_pretrained` wrote, or a hub name.
        tokenizer: Where it is, if not with the model; the demo's where neither says.
        width, layers, heads: Of a Llama from scratch.
        data: A file, a folder, a hub data set, or ``"generated"`` for the tasks of the studies.
        eval_data: Held-out rows; where `data` is generated, test rows of the same tasks.
        forget_data: Rows of another kind: what the model said about them before is compared with what it says after.
        columns, format: How files are read.
        train_rows, eval_rows, forget_rows: How many, from the start; None reads all of a file.
        noise: Share of generated training rows with a wrong answer; rows of a file are as they are, so 0 there.
        data_tasks: Names of the generated tasks; empty for all, ``("multitask",)`` for those of the study of that name.
        max_length: Tokens kept of a row.
        batch_size, grad_accum, learning_rate, schedule, warmup, weight_decay, epochs, steps: Of the training; `steps`
            wins over `epochs`.
        dtype, autocast, max_grad_norm: As in :class:`sftloss.finetune.Recipe`.
        points: Points of the learning curves after the start.
        max_new_tokens: Longest answer generated.
        samples: Answers sampled for each prompt; None samples none.
        temperature: Of the samples. 1 is the distribution that was learned.
        data_seed: Of generated rows.
    """

    losses: tuple[str, ...] = ("cross_entropy",)
    normalizations: tuple[str, ...] = ("token-mean",)
    prompt_weights: tuple[float, ...] = ()
    tasks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    model: str = SCRATCH
    tokenizer: str | None = None
    width: int = 64
    layers: int = 2
    heads: int = 4
    data: str = GENERATED
    eval_data: str | None = None
    forget_data: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    train_rows: int | None = None
    eval_rows: int | None = None
    forget_rows: int | None = None
    noise: float = 0.05
    data_tasks: tuple[str, ...] = ()
    max_length: int | None = None
    batch_size: int = 16
    grad_accum: int = 1
    learning_rate: float = 3e-3
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    epochs: float = 1.0
    steps: int | None = None
    dtype: str = "auto"
    autocast: str | None = None
    points: int = 6
    max_new_tokens: int = 64
    samples: int = 4
    temperature: float = 1.0
    data_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("losses", "normalizations", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"compare: {name} is empty; name at least one.")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("compare: a seed is given twice; every seed is one training of each arm.")
        if self.data != GENERATED and self.eval_data is None:
            raise ConfigError("compare: no held-out rows; give eval-data, a file that is not trained on.")
        if self.data != GENERATED:
            object.__setattr__(self, "noise", 0.0)
        if any(weight < 0 for weight in self.prompt_weights):
            raise ConfigError(f"compare: a prompt weight must be at least 0, got {min(self.prompt_weights):g}.")
        if self.width % self.heads:
            raise ConfigError(f"compare: width {self.width} is not a multiple of {self.heads} heads.")

    def arms(self) -> tuple[Arm, ...]:
        """Every combination, the reference first, each once.

        Raises:
            ConfigError: If a loss or a normalization cannot be read, or there are not two different arms.
        """
        from sftloss.pipeline import normalization
        from sftloss.pipeline.question import objectives

        losses = tuple(objectives(self.losses))
        rules = tuple(normalization(text) for text in self.normalizations)
        weightings = tuple("" if text == NONE else _read(text) for text in self.tasks) or ("",)
        found = dict.fromkeys(
            Arm(loss, rule.name, rule.alpha, prompt, tasks)
            for loss, rule, prompt, tasks in product(losses, rules, self.prompt_weights or (None,), weightings)
        )
        if len(found) < 2:
            raise ConfigError("compare: there is one arm only; name a second loss, normalization or weighting.")
        return tuple(found)

    def runs(self) -> tuple[Run, ...]:
        """Seed by seed: the first seed of all arms is finished before the second begins."""
        arms = self.arms()
        return tuple(Run(arm, seed) for seed in self.seeds for arm in arms)

    def shared(self) -> dict[str, Any]:
        """What every arm has in common, with a digest of each file's content in place of nothing but its name."""
        facts: dict[str, Any] = {k: v for k, v in to_plain(self).items() if k not in _ARMS}
        for name in ("data", "eval_data", "forget_data", "model", "tokenizer"):
            facts[f"{name}_content"] = _content(getattr(self, name))
        return {**facts, "format": _FORMAT}

    def digest(self) -> str:
        """Changes when the shared part does; seeds and arms may be added to a folder."""
        return digest_of(self.shared())


def _read(weighting: str) -> str:
    from sftloss.finetune import read_choice

    read_choice(weighting)
    return weighting.strip()


def to_plain(value: Any) -> dict[str, Any]:
    """A record of plain values as JSON has it."""
    return {k: list(v) if isinstance(v, tuple) else dict(v) if isinstance(v, Mapping) else v
            for k, v in asdict(value).items()}  # fmt: skip


def from_plain(values: Mapping[str, Any]) -> Plan:
    """The plan that :func:`to_plain` wrote."""
    known = {f.name for f in fields(Plan)}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    return Plan(**given)


def digest_of(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def labels(arms: tuple[Arm, ...]) -> tuple[str, ...]:
    """A name for each arm that says only what differs between them."""
    varies = [len(set(column)) > 1 for column in zip(*(arm.parts for arm in arms), strict=True)]
    told = ((*arm.parts[:-1], arm.tasks or "unweighted") for arm in arms)
    named = tuple(" · ".join(p for p, v in zip(parts, varies, strict=True) if v and p) for parts in told)
    return tuple(name or "as the data says" for name in named)


def _content(source: str | None) -> Any:
    if source is None:
        return None
    path = Path(source).expanduser()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    return [[f.name, file_digest(f)[:16]] for f in files]

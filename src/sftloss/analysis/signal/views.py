"""What is asked of a table: which losses, which normalizations, measured at which level."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from sftloss.errors import ConfigError, mention
from sftloss.numbers.bootstrap import REPLICATES
from sftloss.roles import ROLES
from sftloss.weights import EXAMPLE_MEAN, SQRT, TOKEN_MEAN, Normalization, micro_batch_mean

Level = Literal["S0", "S1", "S2"]
Signal = Literal["table", "grad", "additive"]
Optimizer = Literal["sgd", "adam", "checkpoint"]
Policy = Literal["per-token", "per-example", "per-task"]

LEVELS: dict[str, str] = {
    "S0": "S0 nominal: the coefficient c a token receives, from the data alone",
    "S1": "S1 logit: c times the L1 norm of the loss's gradient in the logits",
    "S2": "S2 last layer, sum of token norms: c times the L2 norm in the logits times the norm of the hidden state",
}
GROUPS = ("task", "language", "source")


@dataclass(frozen=True)
class View:
    """One way to train: an objective under a normalization. The role weights are the study's."""

    objective: str
    normalization: Normalization

    @property
    def label(self) -> str:
        return f"{self.objective}, {self.normalization.name}"


@dataclass(frozen=True)
class AnalysisOptions:
    """What to analyse.

    Attributes:
        objective: The loss that is trained, an expression of the table; None takes the table's first.
        normalization: How it is normalized now.
        normalizations: What it is compared with; `normalization` is added where it is missing.
        micro_batch: Sequences of one micro-batch: adds the token mean of micro-batches to the comparison.
        level: Level at which shares are reported, S0, S1 or S2.
        policy: What the user wants each token, example or task to weigh; None states no wish.
        role_weights: Weights by role that multiply the data's, as in training (a what-if), 0 for one not named. None
            keeps the data's.
        group_by: What to break down by: task, language, source, where the data has more than one of them.
        signal: ``"table"`` measures no gradient of parameters; ``"grad"`` adds the norms of some examples' gradients,
            ``"additive"`` also their shares of the update.
        signal_examples: How many examples that is, spread evenly over the data.
        optimizer: Whose update the shares are of: ``"sgd"``; with ``"additive"`` also ``"adam"``, its first step, or
            ``"checkpoint"``, the next step of the AdamW of the checkpoint that the model was loaded from.
        strips, strip_tokens: How many examples are shown token by token, and how long.
        top: How many examples are listed.
        replicates, seed: Of the bootstrap.
    """

    objective: str | None = None
    normalization: Normalization = TOKEN_MEAN
    normalizations: tuple[Normalization, ...] = (TOKEN_MEAN, EXAMPLE_MEAN, SQRT)
    micro_batch: int | None = None
    level: Level = "S1"
    policy: Policy | None = None
    role_weights: tuple[tuple[str, float], ...] | None = None
    group_by: tuple[str, ...] = GROUPS
    signal: Signal = "table"
    signal_examples: int = 200
    optimizer: Optimizer = "sgd"
    strips: int = 8
    strip_tokens: int = 200
    top: int = 10
    replicates: int = REPLICATES
    seed: int = 0
    title: str = field(default="Where the training signal goes", kw_only=True)

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ConfigError(f"must be one of {', '.join(LEVELS)}, got {self.level!r}", option="level")
        if self.signal not in ("table", "grad", "additive"):
            raise ConfigError(f"must be table, grad or additive, got {self.signal!r}", option="signal")
        if self.optimizer not in ("sgd", "adam", "checkpoint"):
            raise ConfigError(f"must be sgd, adam or checkpoint, got {self.optimizer!r}", option="optimizer")
        if self.optimizer != "sgd" and self.signal != "additive":
            raise ConfigError(
                f"{self.optimizer} changes nothing here, because no shares of an update are measured",
                option="optimizer",
                cure=f"add {mention('signal', 'additive')}",
            )
        if self.signal_examples < 1:
            raise ConfigError(f"must be at least 1, got {self.signal_examples}", option="signal_examples")
        if self.policy not in (None, "per-token", "per-example", "per-task"):
            raise ConfigError(f"must be per-token, per-example or per-task, got {self.policy!r}", option="policy")
        for group in self.group_by:
            if group not in GROUPS:
                raise ConfigError(f"{group!r} is none of {', '.join(GROUPS)}", option="group_by")
        for role, weight in self.role_weights or ():
            if role not in ROLES or not 0 <= weight < math.inf:
                raise ConfigError(
                    f"{role}={weight}: roles are {', '.join(ROLES)}, weights at least 0", option="role_weights"
                )

    def all_normalizations(self) -> tuple[Normalization, ...]:
        """The trained one first, each once."""
        micro = (micro_batch_mean(self.micro_batch),) if self.micro_batch else ()
        return tuple(dict.fromkeys((self.normalization, *self.normalizations, *micro)))

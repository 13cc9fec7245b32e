"""Weights of roles and the normalizer under the names that papers and users give them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NAMES = ("wit", "prompt-weight=W", "instruction-modelling", "think=W")
"""How presets are written; W is a number."""


WEIGHT_PAPERS = {
    "2507.07817": ("weights of roles, with any loss", "--preset wit"),
    "2401.13586": ("weight of the prompt, with any loss", "--preset prompt-weight=0.1"),
    "2405.14394": ("the instruction trained too, with any loss", "--preset instruction-modelling"),
    "1910.00177": ("weights by advantage", "sftloss.weights.reward_weights(advantages, temperature=1.0)"),
    "2309.11235": (
        "C-RLFT, without its prompts by class",
        "example_weights of 1 and 0.1, by the quality of the source",
    ),
    "2304.09151": ("UniMax", "sftloss.weights.unimax_factors(sizes, epochs=4)"),
}
"""Papers of weights, by arXiv id: what they weigh, and what to write."""


@dataclass(frozen=True)
class Preset:
    """What a preset sets.

    Attributes:
        roles: Weight by role, for :class:`sftloss.Loss`; None leaves them.
        normalizer: What Z counts, for the same.
        think_weight: Factor of the weight of reasoning blocks, for the reading of the data; None leaves it.
    """

    roles: Mapping[str, float] | None = None
    normalizer: str = "weights"
    think_weight: float | None = None

    @property
    def loss(self) -> dict[str, Any]:
        """The arguments of :class:`sftloss.Loss`; none where it leaves the roles."""
        return {} if self.roles is None else {"roles": dict(self.roles), "normalizer": self.normalizer}


def preset(text: str) -> Preset:
    """Return a preset from its spelling.

    =========================== ========================================================================================
    ``wit``                     prompt 0.2, response 0.8, over the number of tokens with a weight: Chatterjee et al.,
                                2025 (arXiv:2507.07817), at the weights of TRL's proposal
    ``prompt-weight=0.1``       prompt 0.1, response 1: Huerta-Enochian and Ko, 2024 (arXiv:2401.13586)
    ``instruction-modelling``   prompt 1, response 1: Shi et al., 2024 (arXiv:2405.14394)
    ``think=0.3``               reasoning blocks 0.3 of what they weigh
    =========================== ========================================================================================

    Raises:
        ValueError: If there is none of this name, or its weight is no number of at least 0.

    Example:
        >>> preset("prompt-weight=0.1").loss
        {'roles': {'prompt': 0.1, 'response': 1.0}, 'normalizer': 'weights'}
    """
    name, has_number, number = text.partition("=")
    takes_number = name in ("prompt-weight", "think")
    if f"{name}=W" not in _NAMES and name not in _NAMES or takes_number != bool(has_number):
        raise ValueError(f"preset: there is none called {text!r}; choose from {', '.join(_NAMES)}.")
    weight = _weight(text, number) if takes_number else 0.0
    return {
        "wit": Preset({"prompt": 0.2, "response": 0.8}, normalizer="tokens"),
        "instruction-modelling": Preset({"prompt": 1.0, "response": 1.0}),
        "prompt-weight": Preset({"prompt": weight, "response": 1.0}),
        "think": Preset(think_weight=weight),
    }[name]


def _weight(text: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"preset: the weight in {text!r} must be a number of at least 0.")
    return weight

"""Weights of examples from their rewards."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.weights.segments import exact_dtype


def reward_weights(
    rewards: Float[Tensor, " examples"], *, temperature: float, baseline: float | None = None, highest: float = 20.0
) -> Float[Tensor, " examples"]:
    r"""Exponential of the reward: reward-weighted regression, and advantage-weighted with a baseline.

    .. math:: w_i = \min(w_\max, e^{(r_i - b) / \beta})

    Give them to the batch as ``example_weights``. They are positive, so Z may be their sum; for signed rewards give the
    rewards themselves with ``Loss(normalizer="tokens")``, ``"sequences"`` or a number, since a sum of signed weights
    may vanish.

    Args:
        rewards: Reward of each example, ``(examples,)``; NaN is refused on a CPU.
        temperature: The beta above, in the unit of the rewards, ``> 0``. Small ones keep the best examples only.
        baseline: The b above, such as a value estimate or the mean reward; None is the largest reward, so that no
            weight exceeds 1.
        highest: Largest weight, ``> 0``.

    Returns:
        Weights, ``(examples,)``, float64 where the device has it.

    Raises:
        ValueError: If `temperature` or `highest` is not above 0, or a reward on the CPU is NaN.

    Example:
        >>> reward_weights(torch.tensor([0.0, 1.0]), temperature=1.0)
        tensor([0.3679, 1.0000], dtype=torch.float64)

    Source:
        Peters and Schaal, *Reinforcement Learning by Reward-Weighted Regression for Operational Space Control*, ICML
        2007; Peng et al., *Advantage-Weighted Regression*, 2019, eq. 7 (arXiv:1910.00177).
    """
    check_range("reward_weights", temperature=(temperature, "> 0"), highest=(highest, "> 0"))
    values = rewards.detach().to(exact_dtype(rewards.device))
    if values.device.type == "cpu" and bool(values.isnan().any()):
        raise ValueError("reward_weights: a reward is NaN.")
    if not values.numel():
        return values
    largest = values.max() if baseline is None else baseline
    # bounded as a logarithm: its exponential may be too large for a float
    return ((values - largest) / temperature).clamp(max=math.log(highest)).exp()

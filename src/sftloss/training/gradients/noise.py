"""Numbers of a loss from its examples' gradients: the noise scale, and cosines between groups of examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.training.attachment import Attachment
from sftloss.training.gradients.shares import gradient_of, inner_product
from sftloss.training.loss import Loss


@dataclass(frozen=True)
class NoiseScale:
    r"""Gradient noise scale :math:`B = \operatorname{tr}\Sigma / |G|^2`, in examples.

    Attributes:
        signal: Estimate of |G|^2, the squared norm of the expected gradient.
        noise: Estimate of the trace of the covariance of one example's gradient.
    """

    signal: float
    noise: float

    @property
    def examples(self) -> float:
        """Batch size from which more examples give little; infinite where no signal was found."""
        return self.noise / self.signal if self.signal > 0 else float("inf")


def noise_scale(norms: Float[Tensor, " examples"], whole: float) -> NoiseScale:
    """Unbiased estimates from one batch of N examples.

    Args:
        norms: Norm of each example's gradient in the batch's loss, as :class:`ExampleGradients` has them.
        whole: Norm of the batch's gradient, the sum of the examples'.

    Raises:
        ValueError: If there are fewer than two examples.

    Example:
        >>> noise_scale(torch.tensor([0.5, 0.5]), 1.0).noise          # two equal gradients
        0.0

    Source:
        McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018 (arXiv:1812.06162), appendix A.
    """
    count = norms.numel()
    if count < 2:
        raise ValueError(f"noise_scale: needs at least two examples, got {count}.")
    # an example's part is g / N of its own gradient g, where all count alike
    of_one = float(norms.double().square().mean()) * count**2
    of_all = whole**2
    signal = (count * of_all - of_one) / (count - 1)
    return NoiseScale(signal, (of_one - of_all) / (1 - 1 / count))


def group_cosines(
    attachment: Attachment, batches: Mapping[str, Iterable[Mapping[str, Any]]], loss: Loss
) -> tuple[list[str], Float[Tensor, "groups groups"], dict[str, Tensor]]:
    """Cosines between the gradients of groups of examples, and the gradient of all of them.

    The groups' gradients are held, in float32. Batches of one group each cost no more than the whole gradient.

    Args:
        attachment: The loss at work.
        batches: By group, its batches; each names the step that all batches belong to.
        loss: The loss.
    """
    gradients = {name: gradient_of(attachment, parts, loss) for name, parts in batches.items()}
    names = list(gradients)
    gramian = torch.tensor(
        [[inner_product(gradients[a], gradients[b]) for b in names] for a in names], dtype=torch.float64
    )
    norms = gramian.diagonal().clamp(min=0).sqrt()
    cosines = gramian / torch.outer(norms, norms).clamp(min=torch.finfo(torch.float64).tiny)
    whole: dict[str, Tensor] = {}
    for gradient in gradients.values():
        whole = {name: whole[name] + value if whole else value for name, value in gradient.items()}
    return names, cosines.clamp(-1, 1), whole

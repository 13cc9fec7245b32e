"""The gradient noise scale: from which batch size on more examples add little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_ROUNDING = 1e-6  # of squared norms that were computed in float32


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


def noise_scale(norms: ArrayLike, whole: float) -> NoiseScale:
    """Unbiased estimates from one batch of N examples.

    Args:
        norms: Norm of each example's gradient in the batch's loss, as :class:`sftloss.training.ExampleGradients` has
            them.
        whole: Norm of the batch's gradient, the sum of the examples'.

    Returns:
        The estimates; ``.examples`` is the noise scale.

    Raises:
        ValueError: If there are fewer than two examples, or a norm is negative or not finite.

    Example:
        >>> noise_scale([0.5, 0.5], 1.0).noise          # two equal gradients
        0.0
        >>> noise_scale([3.0, 4.0], 5.0).examples       # two orthogonal ones hold no common signal
        inf

    Source:
        McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018 (arXiv:1812.06162), appendix A.
    """
    values = np.asarray(norms, dtype=np.float64)
    count = values.size
    if count < 2:
        raise ValueError(f"noise_scale: needs at least two examples, got {count}.")
    if not (np.isfinite(whole) and whole >= 0):
        raise ValueError(f"noise_scale: the norm of the batch's gradient must be finite and at least 0, got {whole:g}.")
    if (wrong := ~(np.isfinite(values) & (values >= 0))).any():
        at = int(wrong.argmax())
        raise ValueError(f"noise_scale: norms must be finite and at least 0, norm {at} is {values.flat[at]:g}.")
    # an example's part is g / N of its own gradient g, where all count alike
    of_one, of_all = float(np.mean(values**2)) * count**2, whole**2
    noise = of_one - of_all if of_one - of_all > _ROUNDING * of_one else 0.0
    return NoiseScale((count * of_all - of_one) / (count - 1), noise / (1 - 1 / count))

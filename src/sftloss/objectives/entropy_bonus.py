from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.statistics import TokenStats


def entropy_bonus(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Negative entropy of the prediction: added with a positive coefficient, it raises the entropy.

    .. math:: r_i = -H(p_i) = \sum_j p_{ij} \log p_{ij}

    A term to add: ``cross_entropy + 0.1 * entropy_bonus`` is the confidence penalty :math:`-\log p - 0.1\,H`.
    The sign is in the objective, so a positive coefficient always rewards diversity.

    Args:
        stats: Token statistics; reads ``entropy``, shape ``(tokens,)``, in nats.

    Returns:
        Bonus of each token, shape ``(tokens,)``, in nats, in ``[-log V, 0]``: lower is better, as for a loss.
        Neither weighted nor reduced.

    Gradient:
        :math:`p_j (\log p_j + H)`, through the entropy itself: nothing is detached. It is 0 where the prediction is
        uniform and where it is certain.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> entropy_bonus(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([-0.3653])

    Source:
        Pereyra et al., *Regularizing Neural Networks by Penalizing Confident Output Distributions*, 2017, section 3:
        the loss is :math:`-\sum \log p_\theta(y|x) - \beta H(p_\theta(y|x))` (arXiv:1701.06548).
    """
    return -stats.entropy

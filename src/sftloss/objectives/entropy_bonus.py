from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.record import ObjectiveRecord, PublishedLoss
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("cross_entropy + 0.1 * entropy_bonus",),
        is_term=True,
        published=(
            PublishedLoss(
                "1412.6596", "soft bootstrapping, beta = 0.95", "0.95 * cross_entropy - 0.05 * entropy_bonus"
            ),
        ),
    )
)
def entropy_bonus(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Negative entropy of the prediction: added with a positive coefficient, it raises the entropy.

    .. math:: r_i = -H(p_i) = \sum_j p_{ij} \log p_{ij}

    A term to add. The sign is inside, so a positive coefficient always rewards diversity:
    ``cross_entropy + 0.1 * entropy_bonus`` is the confidence penalty :math:`-\log p - 0.1\,H`.

    Args:
        stats: Token statistics; reads ``entropy``, shape ``(tokens,)``, in nats.

    Returns:
        Bonus of each token, shape ``(tokens,)``, in nats, in ``[-log V, 0]``: lower is better, as for a loss.
        Neither weighted nor reduced.

    Gradient:
        :math:`p_j (\log p_j + H)`, through the entropy itself: nothing is detached. It is 0 where the prediction is
        uniform and where it is certain.

    Helps:
        Diversity, and against over-confidence: added to cross-entropy it is the confidence penalty of its paper,
        which improved language modelling, translation and speech recognition there.

    Harms:
        With a large vocabulary, where every wrong token adds entropy. Where one token is right and the vocabulary has
        100 000, the loss is lowest at p = 0.9998 for a coefficient of 0.05, at 0.78 for 0.1, at 0.44 for 0.2 and at
        0.11 for 1. Start with 0.01, and watch p on tokens that should be certain.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> entropy_bonus(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([-0.3653])

    Source:
        Pereyra et al., *Regularizing Neural Networks by Penalizing Confident Output Distributions*, 2017: the loss
        is :math:`-\sum \log p_\theta(y|x) - \beta H(p_\theta(y|x))` (arXiv:1701.06548).
    """
    return -stats.entropy

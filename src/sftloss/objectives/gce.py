from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import complement
from sftloss.objectives.record import ObjectiveRecord, PublishedLoss
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("gce(q=0.7)", "gce(q=10)"),
        neutral="gce(q=0)",
        published=(
            PublishedLoss("1712.09482", "mean absolute error (MAE), 2 (1 - p)", "2 * gce(q=1)"),
            PublishedLoss("2510.00526", "Beyond Log Likelihood: -p", "gce(q=1)"),
            PublishedLoss("2510.00526", "Beyond Log Likelihood: -p^10", "10 * gce(q=10)"),
            PublishedLoss("2510.00526", "Beyond Log Likelihood: (1 - p^a) / a, with a = 0.5", "gce(q=0.5)"),
        ),
    )
)
def gce(stats: TokenStats, *, q: float = 0.7) -> Float[Tensor, " tokens"]:
    r"""Generalized cross-entropy: between cross-entropy (q = 0) and 1 - p (q = 1).

    .. math:: \ell_i = \frac{1 - p_i^q}{q}, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        q: Exponent, dimensionless, ``>= 0``. ``0`` is cross-entropy, the limit; ``1`` has the gradient of ``dft``;
            above 1 only confident targets are trained.

    Returns:
        Loss of each token, shape ``(tokens,)``, in ``[0, 1/q]``. Neither weighted nor reduced.

    Raises:
        ValueError: If `q` is negative or not finite.

    Gradient:
        Cross-entropy's times :math:`p^q`. Nothing is detached.

    Helps:
        With wrong labels: a target that the model finds impossible has a bounded loss and hardly any gradient. For
        fine-tuning, Li et al. (arXiv:2510.00526) find that such losses win where the model is already strong on the
        task.

    Harms:
        Where the model is weak: the same study finds cross-entropy better there. At q = 0.7 a target with p = 0.001
        gets 0.008 of its gradient, so new facts are learned slowly.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> gce(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), q=0.7)
        tensor([0.1215])

    Source:
        Zhang and Sabuncu, *Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels*, 2018,
        the loss :math:`L_q` with q = 0.7 (arXiv:1805.07836). Their truncated loss, which leaves out targets below a
        probability, is ``profit`` with its own `q`.
    """
    check_range("gce", q=(q, ">= 0"))
    # exact near p = 1 and for a small q
    return complement(q * stats.target_logprob) / q if q else -stats.target_logprob

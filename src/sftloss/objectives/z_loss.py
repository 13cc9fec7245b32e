from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("cross_entropy + 1e-4 * z_loss",), is_term=True))
def z_loss(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Squared log-normalizer: keeps the logits from drifting, which does not change cross-entropy.

    .. math:: r_i = (\log Z_i)^2, \qquad \log Z_i = \log \sum_j e^{z_{ij}}

    A term to add, with its coefficient in the expression; :math:`10^{-4}` is PaLM's.

    Args:
        stats: Token statistics; reads ``logsumexp``, shape ``(tokens,)``, in nats.

    Returns:
        Penalty of each token, shape ``(tokens,)``, in nats squared, ``>= 0``. Neither weighted nor reduced.

    Gradient:
        :math:`2 \log Z \, p_j`. It moves all logits the same way, along p, and sums to :math:`2 \log Z` over the
        vocabulary where cross-entropy's sums to 0.

    Helps:
        The numerical range of the logits, in long pre-training at low precision. Cross-entropy does not change when all
        logits shift, so nothing else holds them.

    Harms:
        Little at :math:`10^{-4}`, and it gains little in a short fine-tuning run. A model that was trained without it
        may start with a large :math:`\log Z`: at 20 nats the term is 0.04 nats and its gradient
        :math:`0.004\,p_j`. Look at the first steps before raising the coefficient.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> z_loss(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([4.5238])

    Source:
        Chowdhery et al., *PaLM: Scaling Language Modeling with Pathways*, 2022, section 5, "Loss function":
        :math:`10^{-4} \log^2 Z` is added (arXiv:2204.02311).
    """
    return stats.logsumexp.square()

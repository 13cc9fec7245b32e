from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("cross_entropy",), neutral="cross_entropy"))
def cross_entropy(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Negative log-likelihood of the target: the usual loss of a language model.

    .. math:: \ell_i = -\log p_i, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Gradient:
        :math:`\partial \ell / \partial z_j = p_j - [j = y]`; the other objectives are described by how they change it.

    Helps:
        As the default. Its optimum is the distribution of the data (adding ``z_loss`` keeps that; of the others only
        ``brier`` and ``spherical`` have it), so its value is comparable between runs and its exponential is a
        perplexity.

    Harms:
        Where the data contain tokens that the model has good reason to find unlikely (noise, wrong facts): those have
        the largest gradients.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> cross_entropy(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.1269])

    Source:
        Bengio et al., *A Neural Probabilistic Language Model*, JMLR 2003, section 2 (the log-likelihood of the
        next word under a softmax).
    """
    return -stats.target_logprob

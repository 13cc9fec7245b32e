from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.statistics import TokenStats


def cross_entropy(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Negative log-likelihood of the target: what "the loss" of a language model means.

    .. math:: \ell_i = -\log p_i, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Gradient:
        :math:`\partial \ell / \partial z_j = p_j - [j = y]`; every other objective is told by how it changes this.

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

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("deft",), is_detached=True))
def deft(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Generalized cross-entropy whose exponent is the prediction's own concentration.

    .. math:: \ell_i = \frac{1 - p_i^a}{a}, \qquad a = \operatorname{sg}(\sum_j p_{ij}^2)

    Args:
        stats: Token statistics; reads ``target_logprob``, in nats, and ``collision``, the a above, shape ``(tokens,)``.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. Not comparable between
        runs: its scale moves with the concentration.

    Gradient:
        Cross-entropy's times :math:`p^a`; a is not differentiated. Where the prediction is spread out, a is near 0 and
        this is cross-entropy; where one token dominates, a is near 1 and this is ``dft``.

    Helps:
        It has no number to tune: the model's own certainty chooses between cross-entropy and ``dft``, token by token.

    Harms:
        Confident mistakes: where the model is certain of another token, the target gets nearly no gradient, so a wrong
        belief stays. Compare with cross-entropy on data that correct the model.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> deft(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.1208])

    Source:
        Wang et al., *Gradients Must Earn Their Influence: Unifying SFT with Generalized Entropic Objectives*, 2026,
        DEFT (arXiv:2602.11424). Its code adds 1e-6 to a in the denominator, which is not followed: a is at least 1 / V.
        Its Cayley variant takes a floor from the batch's mean of p and is not included.
    """
    a = stats.collision.detach().clamp(min=1e-6)  # 0 where a token is ignored
    return -torch.expm1(a * stats.target_logprob) / a

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("agce(a=1, q=2)", "agce(a=0.1, q=0.5)")))
def agce(stats: TokenStats, *, a: float = 1.0, q: float = 2.0) -> Float[Tensor, " tokens"]:
    r"""Asymmetric generalized cross-entropy: a gate that rises from 0 with a shape to choose.

    .. math:: \ell_i = \frac{(a + 1)^q - (a + p_i)^q}{q}, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        a: Shift, dimensionless, ``> 0``. Towards 0 this is ``gce`` with the same q.
        q: Exponent, dimensionless, ``> 0``. ``1`` has the gradient of ``dft``.

    Returns:
        Loss of each token, shape ``(tokens,)``, dimensionless, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `a` or `q` is not positive or not finite.

    Gradient:
        Cross-entropy's times :math:`p (a + p)^{q-1}`. Nothing is detached. For q above 1 it rises faster than p, for q
        below 1 slower; with a small a and q below 1 it is near :math:`p^q`.

    Helps:
        With wrong labels that still are a minority: its paper proves robustness to such noise and reports it for
        images.

    Harms:
        Where unlikely targets are right: the gate goes to 0 with p, as that of ``dft`` does. For q above 1 it exceeds 1
        at certain targets, so the step is larger too.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> agce(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), a=1.0, q=2.0)
        tensor([0.2313])

    Source:
        Zhou et al., *Asymmetric Loss Functions for Learning with Noisy Labels*, 2021, AGCE (arXiv:2106.03110).
    """
    check_range("agce", a=(a, "> 0"), q=(q, "> 0"))
    at_one = math.pow(a + 1, q)
    return (at_one - torch.pow(a + stats.target_logprob.exp(), q)) / q

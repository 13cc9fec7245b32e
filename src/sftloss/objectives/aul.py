from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("aul(a=2, q=2)",)))
def aul(stats: TokenStats, *, a: float = 2.0, q: float = 2.0) -> Float[Tensor, " tokens"]:
    r"""Asymmetric unhinged loss: a gate of p that bends down again near certainty.

    .. math:: \ell_i = \frac{(a - p_i)^q - (a - 1)^q}{q}

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        a: Offset, dimensionless, ``> 1``.
        q: Exponent, dimensionless, ``> 0``. ``1`` is ``gce(q=1)``.

    Returns:
        Loss of each token, shape ``(tokens,)``, ``>= 0``. Neither weighted nor reduced. Not comparable with
        cross-entropy.

    Raises:
        ValueError: If `a` is not above 1, `q` not above 0, or one is not finite.

    Gradient:
        Cross-entropy's times :math:`p (a - p)^{q - 1}`.

    Helps:
        Wrong labels: unlikely targets teach in proportion to p, as in ``dft``, and likely ones less than there.

    Harms:
        New material, which is unlikely at first, is hardly learned.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> aul(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.1263])

    Source:
        Zhou et al., *Asymmetric Loss Functions for Learning with Noisy Labels*, 2021, AUL (arXiv:2106.03110). The
        defaults here are ours.
    """
    check_range("aul", a=(a, "> 1"), q=(q, "> 0"))
    p = stats.target_logprob.exp()
    at_one: float = (a - 1) ** q
    return ((a - p).pow(q) - at_one) / q

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("huberised_ce(tau=10)",)))
def huberised_ce(stats: TokenStats, *, tau: float = 10.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy above a probability of 1 / tau, a straight line in p below it.

    .. math:: \ell_i = -\log \max(p_i, 1 / \tau) + \max(0, 1 - \tau p_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        tau: Largest slope of the loss in p, dimensionless, ``>= 1``. ``1`` has the gradient of ``dft``; as it grows
            this becomes cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. At most :math:`1 +
        \log \tau`.

    Raises:
        ValueError: If `tau` is below 1 or not finite.

    Gradient:
        Cross-entropy's times :math:`\min(1, \tau p)`: unchanged for targets that the model finds at least somewhat
        likely, fading to 0 below.

    Helps:
        With wrong labels: it leaves ordinary tokens exactly as cross-entropy has them, and bounds what one impossible
        target can do. Clipping the norm of the gradient does not give that, as its paper shows.

    Harms:
        Where unlikely targets are right. The paper picks tau from 2 and 10, for images; a language model's targets are
        often below p = 0.1, so start higher.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> huberised_ce(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), tau=10.0)
        tensor([0.1269])

    Source:
        Menon et al., *Can gradient clipping mitigate label noise?*, ICLR 2020, the partially Huberised cross-entropy
        (openreview.net/forum?id=rklB76EKPr).
    """
    check_range("huberised_ce", tau=(tau, ">= 1"))
    log_p = stats.target_logprob
    line = math.log(tau) + 1 - tau * log_p.exp()
    return torch.where(log_p >= -math.log(tau), -log_p, line)

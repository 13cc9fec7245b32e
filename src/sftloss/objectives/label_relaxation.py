from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import log_of_rest
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("label_relaxation(alpha=0.1)",), neutral="label_relaxation(alpha=0)"))
def label_relaxation(stats: TokenStats, *, alpha: float = 0.1) -> Float[Tensor, " tokens"]:
    r"""Label smoothing that leaves the rest to the model: no gradient once the target is likely enough.

    .. math:: \ell_i = (1 - \alpha) \log \frac{1 - \alpha}{p_i} + \alpha \log \frac{\alpha}{1 - p_i}

    This is the loss below :math:`p = 1 - \alpha`; from there on it is 0.

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        alpha: Probability left to the other tokens, in ``[0, 0.99]``. ``0`` is cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `alpha` is outside ``[0, 0.99]``.

    Gradient:
        Cross-entropy's times :math:`1 - \alpha - \alpha p / (1 - p)` below :math:`p = 1 - \alpha`, where it reaches 0,
        and 0 above.

    Helps:
        Calibration: as label smoothing it stops the target at :math:`1 - \alpha`, but it does not lift the 100 000
        other tokens to one level: how they share the rest has no gradient.

    Harms:
        Perplexity and greedy accuracy over long answers: no target is trained beyond :math:`1 - \alpha`. Choose alpha
        well below label smoothing's 0.1 for long outputs.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> label_relaxation(from_logits(torch.tensor([[1.0, 0.0]]), torch.tensor([0])), alpha=0.1)
        tensor([0.0882])

    Source:
        Lienen and Huellermeier, *From Label Smoothing to Label Relaxation*, AAAI 2021: the divergence from the nearest
        distribution that gives the target at least :math:`1 - \alpha`.
    """
    check_range("label_relaxation", alpha=(alpha, "in [0, 0.99]"))
    if alpha == 0:
        return -stats.target_logprob
    log_p = stats.target_logprob.clamp(max=math.log1p(-alpha))  # the loss is 0 at p = 1 - alpha and stays so
    return (1 - alpha) * (math.log1p(-alpha) - log_p) + alpha * (math.log(alpha) - log_of_rest(log_p))

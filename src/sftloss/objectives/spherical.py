from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("spherical",)))
def spherical(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""One minus the cosine between the prediction and the target's one-hot vector.

    .. math:: \ell_i = 1 - \frac{p_i}{|p|}, \qquad |p|^2 = \sum_j p_{ij}^2

    Args:
        stats: Token statistics; reads ``target_logprob``, in nats, and ``collision``, the sum of squares, shape
            ``(tokens,)``.

    Returns:
        Loss of each token, shape ``(tokens,)``, dimensionless, in ``[0, 1]``. Neither weighted nor reduced.

    Gradient:
        :math:`(p_y / |p|) (p_j^2 / |p|^2 - [j = y])`, through both factors. The target competes with the other tokens
        in proportion to their squares, so mostly with the likeliest.

    Helps:
        With wrong labels and for calibration: it is a strictly proper score, so its optimum is the distribution of the
        data, as cross-entropy's is, and its loss is bounded. Its paper reports gains in translation and summaries after
        fine-tuning with it.

    Harms:
        Training from scratch, where its authors find cross-entropy better, and new material: the gradient vanishes
        where p is small against the likeliest token.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> spherical(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.0090])

    Source:
        Shao et al., *Language Generation with Strictly Proper Scoring Rules*, 2024, the spherical score at each token
        (arXiv:2405.18906). Theirs is p / |p|, to be raised; this is 1 minus that. Their score smoothing is not
        included.
    """
    norm = stats.collision.clamp(min=torch.finfo(stats.collision.dtype).tiny).sqrt()
    # at least 0 by definition; rounding, and the zeros of an ignored token, would leave it below
    return (1 - stats.target_logprob.exp() / norm).clamp(min=0)

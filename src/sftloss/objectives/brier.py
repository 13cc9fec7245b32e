from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("brier",)))
def brier(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Squared distance between the prediction and the target's one-hot vector.

    .. math:: \ell_i = \sum_j (p_{ij} - [j = y_i])^2 = 1 - 2 p_i + \sum_j p_{ij}^2

    Args:
        stats: Token statistics; reads ``target_logprob``, in nats, and ``collision``, the sum of squares, shape
            ``(tokens,)``.

    Returns:
        Loss of each token, shape ``(tokens,)``, dimensionless, in ``[0, 2]``. Neither weighted nor reduced.

    Gradient:
        :math:`2 p_j (p_j - \sum_k p_k^2) - 2 p_y ([j = y] - p_j)`, through both terms. It is no multiple of
        cross-entropy's: it also pushes down what is likely and wrong.

    Helps:
        With wrong labels and for calibration: it is a strictly proper score, so its optimum is the distribution of the
        data, as cross-entropy's is, and its loss is bounded. Its paper reports better translations and summaries after
        fine-tuning with it, up to LLaMA-13B.

    Harms:
        Training from scratch, where its authors find cross-entropy better, and new material: the gradient vanishes
        where p is small, as that of ``dft`` does.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> brier(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.0284])

    Source:
        Shao et al., *Language Generation with Strictly Proper Scoring Rules*, 2024, the Brier score at each token
        (arXiv:2405.18906). Theirs is 2 p - sum p^2, to be raised; this is 1 minus that. Their score smoothing is not
        included.
    """
    # at least 0 by definition; rounding, and the zeros of an ignored token, would leave it below
    return (1 - 2 * stats.target_logprob.exp() + stats.collision).clamp(min=0)

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import complement
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("taylor_ce(terms=2)", "taylor_ce(terms=6)")))
def taylor_ce(stats: TokenStats, *, terms: int = 2) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy's series in 1 - p, cut off after a few terms.

    .. math:: \ell_i = \sum_{k=1}^t (1 - p_i)^k / k, \qquad -\log p = \sum_{k \ge 1} (1 - p)^k / k

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        terms: The t above, number of terms, ``>= 1``. ``1`` is 1 - p, with the gradient of ``dft``; more terms come
            closer to cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. At most :math:`\sum_k
        1 / k`.

    Raises:
        ValueError: If `terms` is below 1.

    Gradient:
        Cross-entropy's times :math:`1 - (1 - p)^t`: about t p where p is small, and near 1 once t p is large. Nothing
        is detached.

    Helps:
        With wrong labels, as ``gce`` does; t sets the probability, about 1 / t, below which a target loses its
        gradient.

    Harms:
        Where unlikely targets are right. For language models the paper's few terms cut deep: with t = 6 a target at p =
        0.001 gets 0.006 of its gradient.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> taylor_ce(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), terms=2)
        tensor([0.1263])

    Source:
        Feng et al., *Can Cross Entropy Loss Be Robust to Label Noise?*, IJCAI 2020, the Taylor cross-entropy loss of
        order t.
    """
    check_range("taylor_ce", terms=(terms, ">= 1"))
    rest = complement(stats.target_logprob)
    return sum((rest**k / k for k in range(2, terms + 1)), start=rest)

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("normalized_ce", "0.5 * normalized_ce + 0.5 * gce(q=1)")))
def normalized_ce(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy of the target over the mean cross-entropy of all tokens.

    .. math:: \ell_i = \frac{V \log p_i}{\sum_j \log p_{ij}}, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``mean_logprob``, shape ``(tokens,)``, in nats.

    Returns:
        Loss of each token, shape ``(tokens,)``, dimensionless, in ``[0, V]``, 1 where the prediction is uniform.
        Neither weighted nor reduced.

    Gradient:
        :math:`(p_j - [j = y]) / |m| + \ell_i (1 / V - p_j) / |m|` with m the mean log-probability, through both. It
        lowers the loss in two ways: by raising the target and by spreading the other tokens apart.

    Helps:
        With wrong labels: divided by the sum over all classes, any loss becomes robust to labels that are wrong evenly,
        as its paper proves.

    Harms:
        Learning: the paper finds that it underfits alone and adds a second loss, such as 1 - p. With
        the vocabulary of a language model m is about -10 to -20, set by tokens that never occur, and lowering those
        lowers the loss without learning anything.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> normalized_ce(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.1126])

    Source:
        Ma et al., *Normalized Loss Functions for Deep Learning with Noisy Labels*, 2020, NCE, and NCE+MAE as the sum
        (arXiv:2006.13554). Theirs divides by the sum over the V classes; this is V times that, so that its size does
        not depend on the vocabulary. The weights of its sums do not carry over.
    """
    # at most -log V by definition; where one token alone is possible, or the target is ignored, both are 0
    return stats.target_logprob / stats.mean_logprob.clamp(max=-0.5)

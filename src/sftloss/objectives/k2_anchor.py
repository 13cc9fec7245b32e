from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.reading import read_extra
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(examples=("cross_entropy + 0.1 * k2_anchor",), is_term=True, extras=("reference_logprob",))
)
def k2_anchor(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Half the squared difference of the target's log-probability from the reference's: an anchor of equal pull.

    .. math:: r_i = 0.5 (\log p_i - \log p^r_i)^2

    A term to add: ``cross_entropy + 0.1 * k2_anchor``.

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``reference_logprob`` of the batch, the target's under the
            reference model, shape ``(tokens,)``, in nats.

    Returns:
        Penalty of each token, shape ``(tokens,)``, in nats squared, ``>= 0``; 0 where both models agree. Neither
        weighted nor reduced.

    Raises:
        KeyError: If the batch does not hold ``reference_logprob``.

    Gradient:
        Cross-entropy's times :math:`\log p^r - \log p`: it raises a target below the reference and lowers one above it,
        by the difference in nats. From 10 nats on the penalty is a straight line and the factor stays 10.

    Helps:
        Forgetting, at one number a token, without the blow-up of ``k3_anchor`` where p falls far below the reference.

    Harms:
        Learning, as every anchor. It equals a divergence only where targets are samples of the model in training; on
        given data it holds the target only.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"reference_logprob": torch.tensor([-1.0])}
        >>> k2_anchor(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.3811])

    Source:
        Liu et al., *Rethinking KL Regularization in RLHF: From Value Estimation to Gradient Optimization*, 2025
        (arXiv:2510.01555), the estimator k2 used as a loss, without the straight line. For samples of the model it has
        the gradient of the reverse divergence and k3 a first-order approximation of it. k1, the difference itself, is
        no anchor: its gradient does not depend on the reference.
    """
    difference = stats.target_logprob - read_extra(stats, "k2_anchor", "reference_logprob")
    near = difference.clamp(min=-10.0, max=10.0)
    return near.square() / 2 + near * (difference - near)

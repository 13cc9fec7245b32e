from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("exponentiated_ce(gamma=2)",), neutral="exponentiated_ce(gamma=1)"))
def exponentiated_ce(stats: TokenStats, *, gamma: float = 2.0) -> Float[Tensor, " tokens"]:
    r"""A power of cross-entropy: unlikely targets weigh more than in cross-entropy.

    .. math:: \ell_i = (-\log p_i)^\gamma, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        gamma: Exponent, dimensionless, ``>= 1``. ``1`` is cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats to the power `gamma`, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `gamma` is below 1 (the gradient at p = 1 would be infinite) or not finite.

    Gradient:
        Cross-entropy's times :math:`\gamma (-\log p)^{\gamma-1}`: at gamma = 2 it is 9.2 at p = 0.01 and 0.2 at p =
        0.9. It has no bound as p goes to 0.

    Helps:
        Where rare targets are right and are what should be learned: it learns them faster than cross-entropy, and
        leaves alone what is known.

    Harms:
        With any noise: one wrong target can outweigh hundreds. Clip the gradient and lower the learning rate.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> exponentiated_ce(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), gamma=2.0)
        tensor([0.0161])

    Source:
        The ``exponentiated_cross_entropy_loss`` of qlora-pipe (github.com/tdrussell/qlora-pipe/pull/29), which
        generalizes the quadratic cross-entropy (gamma = 2) of *Gradient as a Foundation for Building a Loss Function*,
        section III.B. Its code divides by gamma: write ``0.5 * exponentiated_ce(gamma=2)`` for a run at its learning
        rate.
    """
    check_range("exponentiated_ce", gamma=(gamma, ">= 1"))
    return (-stats.target_logprob).clamp(min=0) ** gamma

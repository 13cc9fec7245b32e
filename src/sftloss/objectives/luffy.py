from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import complement
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("luffy(gamma=0.1)",)))
def luffy(stats: TokenStats, *, gamma: float = 0.1) -> Float[Tensor, " tokens"]:
    r"""Policy shaping: most gradient where p is near gamma, little where p is near 0 or 1.

    .. math:: \ell_i = \frac{1}{1 + \gamma} - \frac{p_i}{p_i + \gamma}, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.
        gamma: Probability at which the gradient is largest, dimensionless, ``> 0``.

    Returns:
        Loss of each token, shape ``(tokens,)``, dimensionless, in ``[0, 1 / (1 + gamma)]``. Neither weighted nor
        reduced.

    Raises:
        ValueError: If `gamma` is not positive or not finite.

    Gradient:
        Cross-entropy's times :math:`\gamma p / (p + \gamma)^2`, at most 1/4, at p = gamma. Nothing is detached. Tune
        the learning rate with it.

    Helps:
        For traces of a stronger model: unlikely steps that matter keep more gradient than with ``dft``, which gives p.
        At p = 0.01 and gamma = 0.1 the gate is 0.083.

    Harms:
        Certain targets: at p = 0.99 the gate is 0.083 too, so targets stay less certain than with cross-entropy.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> luffy(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), gamma=0.1)
        tensor([0.0110])

    Source:
        Yan et al., *Learning to Reason under Off-Policy Guidance*, 2025, the shaping function :math:`p / (p + \gamma)`
        of its off-policy part, with gamma = 0.1 (arXiv:2504.14945). The constant makes the loss 0 at p = 1; the
        on-policy part is reinforcement learning and not included.
    """
    check_range("luffy", gamma=(gamma, "> 0"))
    p = stats.target_logprob.exp()
    return gamma * complement(stats.target_logprob) / ((1 + gamma) * (p + gamma))

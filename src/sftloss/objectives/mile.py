from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("mile(gamma=1)",), neutral="mile(gamma=0)", is_detached=True))
def mile(stats: TokenStats, *, gamma: float = 1.0) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy that grows with the entropy of the prediction.

    .. math:: \ell_i = -\operatorname{sg}((1 + H_i)^\gamma) \log p_i, \qquad H_i = -\sum_j p_{ij} \log p_{ij}

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``entropy``, shape ``(tokens,)``, in nats.
        gamma: Exponent, dimensionless, ``>= 0``. ``0`` is cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `gamma` is negative or not finite.

    Gradient:
        Cross-entropy's times :math:`(1 + H)^\gamma`, at least 1; the weight is not differentiated. It is the opposite
        of focal loss where several tokens fit: an unlikely target of a certain prediction gets no more weight.

    Helps:
        In pre-training, for which it was made: its paper reports gains on downstream benchmarks with models of 468M,
        1.2B and 6.7B parameters. The weight goes to places where the model has not decided.

    Harms:
        Where the data are noisy or open-ended: those places have high entropy too. The weights raise the loss, so they
        act in part as a larger learning rate.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> mile(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])), gamma=1.0)
        tensor([0.1733])

    Source:
        Su et al., *MiLe Loss: a New Loss for Mitigating the Bias of Learning Difficulties in Generative Language
        Models*, 2023, with gamma = 1 (arXiv:2310.19531). Implementations also divide by the mean weight of the batch,
        which makes the value depend on how a step is cut; here the normalizer is that of the loss.
    """
    check_range("mile", gamma=(gamma, ">= 0"))
    return -((1 + stats.entropy.detach()) ** gamma) * stats.target_logprob

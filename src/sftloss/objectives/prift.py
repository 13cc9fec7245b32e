from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.reading import read_extra
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("prift",), extras=("reference_logprob",)))
def prift(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy times the target's probability under a frozen reference model.

    .. math:: \ell_i = -p^r_i \log p_i, \qquad p^r_i = p^r(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``reference_logprob`` of the batch, the target's under the
            reference model, shape ``(tokens,)``, in nats.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        KeyError: If the batch does not hold ``reference_logprob``.

    Gradient:
        Cross-entropy's times :math:`p^r`, a constant: unlike in ``dft`` the weight does not move with the model in
        training.

    Helps:
        As ``dft`` does, without its feedback: there a token that falls loses its weight and falls further. Its paper
        reports better results on mathematics, code and medical questions than the same weights from the model in
        training, and a better start for reinforcement learning.

    Harms:
        Where the reference is wrong: a target that it gives no probability is never learned, however long the run.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"reference_logprob": torch.tensor([-1.0])}
        >>> prift(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.0467])

    Source:
        Wang et al., *PriFT: Prior-Support Guided Supervised Fine-Tuning*, 2026, PriFT-prob; the reference is the
        pretrained model (arXiv:2606.09396). PriFT-mass is ``prift_mass``.
    """
    reference = read_extra(stats, "prift", "reference_logprob")
    return -reference.exp() * stats.target_logprob

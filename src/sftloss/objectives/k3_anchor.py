from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.reading import read_extra
from sftloss.objectives.record import ObjectiveRecord, PublishedLoss
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("cross_entropy + 0.1 * k3_anchor",),
        is_term=True,
        extras=("reference_logprob",),
        published=(PublishedLoss("2509.23753", "ASFT with the KL estimated at the target", "dft + 0.05 * k3_anchor"),),
    )
)
def k3_anchor(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Divergence from a reference model, estimated at the target: keeps its probability near the reference's.

    .. math:: r_i = d_i - 1 - \log d_i, \qquad d_i = p^r_i / p_i

    A term to add: ``cross_entropy + 0.1 * k3_anchor``.

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``reference_logprob`` of the batch, the target's under the
            reference model, shape ``(tokens,)``, in nats.

    Returns:
        Penalty of each token, shape ``(tokens,)``, in nats, ``>= 0``; 0 where both models agree. Neither weighted nor
        reduced.

    Raises:
        KeyError: If the batch does not hold ``reference_logprob``.

    Gradient:
        Cross-entropy's times :math:`p^r / p - 1`: it raises a target below the reference and lowers one above it. From
        log d = 5 on the penalty is a straight line in log p, so the factor is at most 147; without that one token whose
        p has collapsed would outweigh a batch.

    Helps:
        Forgetting, at one number a token: the reference's full distribution is not needed, only its log-probability of
        the target, computed once.

    Harms:
        Learning: lowering what cross-entropy has raised is its purpose, so the coefficient trades one for the other. It
        equals a divergence only where targets are samples of the model in training; on given data it holds the target
        only, while a full KL holds every token. Coefficients do not carry over between the two.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> extras = {"reference_logprob": torch.tensor([-1.0])}
        >>> k3_anchor(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), extras=extras))
        tensor([0.2907])

    Source:
        Shao et al., *DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models*, 2024, its
        estimator of the KL (arXiv:2402.03300), without the straight line; verl cuts it off instead. For fine-tuning
        NeMo-RL (pull request 3302) adds such an estimate to ``dft`` as ASFT, whose code (arXiv:2509.23753) and
        LLaMA-Factory take the full KL from the reference to the model.
    """
    log_d = read_extra(stats, "k3_anchor", "reference_logprob") - stats.target_logprob
    near = log_d.clamp(max=5.0)
    return torch.expm1(near) - near + math.expm1(5.0) * (log_d - near)

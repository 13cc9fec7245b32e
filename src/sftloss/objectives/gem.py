from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(
    ObjectiveRecord(
        examples=("gem",),
        neutral="gem(beta=1)",
        refused={"h": "h is linear here; the log-sigmoid of its scripts has half this gradient, so write 0.5 * gem"},
    )
)
def gem(stats: TokenStats, *, beta: float = 0.7) -> Float[Tensor, " tokens"]:
    r"""Game-theoretic entropy maximization: cross-entropy at a temperature below 1, which lowers other tokens less.

    .. math:: \ell_i = -\beta \log \operatorname{softmax}(z_i / \beta)_y

    Args:
        stats: Token statistics; reads ``tempered_logprob``, the target's log-probability at temperature beta, shape
            ``(tokens,)``, in nats.
        beta: Temperature, dimensionless, ``> 0``. ``1`` is cross-entropy.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `beta` is not above 0 or not finite.

    Gradient:
        :math:`q - e_y` with :math:`q = \operatorname{softmax}(z / \beta)`: it vanishes once the sharpened prediction
        is certain, before the prediction itself is.

    Helps:
        Diversity: several samples for one prompt, as for pass@N or reinforcement learning. The model stops raising a
        target that wins already, so the other tokens keep their probability.

    Harms:
        Probabilities: at its optimum the model is less certain than the data, by the temperature. Greedy answers are
        unchanged, sampled ones vary more.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> gem(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.0391])

    Source:
        Li et al., *Preserving Diversity in Supervised Fine-Tuning of Large Language Models*, 2024, the linear h
        (arXiv:2408.16673). Its scripts use h = log-sigmoid with beta 0.7, its Triton kernel the linear one. The
        log-sigmoid weighs by sigmoid(0.01 (z_v - z_y)), which is near one half everywhere: half the gradient of this
        one, 2 to 3% apart on logits of standard deviation 2. Write ``0.5 * gem`` for a run at its learning rate;
        :func:`sftloss.objectives.gem_log_sigmoid` is that loss itself, of logits.
    """
    check_range("gem", beta=(beta, "> 0"))
    return -beta * stats.tempered_logprob(beta)


def gem_log_sigmoid(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"], *, beta: float = 0.7
) -> Float[Tensor, " tokens"]:
    r"""GEM with the log-sigmoid h of its scripts, a loss of logits for :func:`sftloss.map_logits`.

    .. math:: \ell_i = \sum_j \operatorname{sg}(q_{ij} \, \sigma(0.01 (z_{ij} - z_{iy}))) (z_{ij} - z_{iy})

    Args:
        logits: ``(tokens, vocab)``.
        targets: ``(tokens,)``, no ``-100``.
        beta: Temperature of :math:`q = \operatorname{softmax}(z / \beta)`, dimensionless, ``> 0``.

    Returns:
        ``(tokens,)``. The value is no likelihood; its gradient is that of the paper's scripts.

    Example:
        >>> import torch
        >>> gem_log_sigmoid(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor([-0.0538])
    """
    check_range("gem_log_sigmoid", beta=(beta, "> 0"))
    ahead = logits - logits.gather(1, targets[:, None])
    weight = (logits / beta).softmax(dim=1) * (0.01 * ahead).sigmoid()
    return (weight.detach() * ahead).sum(dim=1)

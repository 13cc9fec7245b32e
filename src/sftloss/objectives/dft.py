from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.reading import finite
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("dft",), is_detached=True))
def dft(stats: TokenStats) -> Float[Tensor, " tokens"]:
    r"""Dynamic fine-tuning: cross-entropy times the target's own probability, held fixed.

    .. math:: \ell_i = -\operatorname{sg}(p_i) \log p_i, \qquad p_i = p(\text{target}_i)

    Args:
        stats: Token statistics; reads ``target_logprob``, shape ``(tokens,)``, in nats.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, in ``[0, 1/e]``. Neither weighted nor reduced. Not
        comparable with cross-entropy: it falls as p falls below 1/e, so watch the cross-entropy beside it.

    Gradient:
        Cross-entropy's times p, exactly that of :math:`-p`, because the factor sg(p) is not differentiated. If it were,
        the gate would be :math:`p (1 + \log p)`, and targets with p < 1/e would be pushed down.

    Helps:
        Where the model already solves much of the task and many answers are right: its authors name mathematical
        reasoning with chains of thought and difficult code.

    Harms:
        Where there is something to learn. A token with p = 0.001 gets a thousandth of the gradient, so new facts,
        formats and languages are hardly learned, and the output sharpens. The repository of the authors reports weaker
        results with a single, well-specified answer; Diao et al. (arXiv:2601.02151, table 1) measured it below plain
        fine-tuning on mathematics, its target task (63.5 against 69.4), with Qwen3-4B-Instruct.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> dft(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.1118])

    Source:
        Wu et al., *On the Generalization of SFT: A Reinforcement Learning Perspective with Reward Rectification*,
        2025, the token-level loss :math:`-\sum_t \operatorname{sg}(\pi_\theta(y_t)) \log \pi_\theta(y_t)`
        (arXiv:2508.05629).
    """
    # p log p is 0 in the limit; 0 * -inf, of a target that the logits rule out, would be NaN
    logprob = finite(stats.target_logprob)
    return -logprob.detach().exp() * logprob

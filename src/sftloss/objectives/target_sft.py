from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats


@attach_record(ObjectiveRecord(examples=("target_sft",), neutral="target_sft(gamma=1)"))
def target_sft(stats: TokenStats, *, gamma: float = 0.8, temperature: float = 0.7) -> Float[Tensor, " tokens"]:
    r"""Learn a mix of the target and the model's own prediction at another temperature.

    .. math:: \ell_i = -\log p_i + (1 - \gamma) t \log \operatorname{softmax}(z_i / t)_y

    Its gradient is that of cross-entropy against :math:`\gamma e_y + (1 - \gamma) \operatorname{softmax}(z / t)` with
    this target held fixed; the value is not.

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``tempered_logprob``, the target's log-probability at
            temperature t, shape ``(tokens,)``, in nats.
        gamma: Share of the target, in ``[0, 1]``. ``1`` is cross-entropy.
        temperature: The t above, dimensionless, ``> 0``. Below 1 the model's own favourites are strengthened; at 1 the
            gradient is gamma times cross-entropy's.

    Returns:
        Loss of each token, shape ``(tokens,)``, of either sign. Neither weighted nor reduced. Not comparable with
        cross-entropy.

    Raises:
        ValueError: If a number is outside its range.

    Gradient:
        :math:`p - \gamma e_y - (1 - \gamma) \operatorname{softmax}(z / t)`.

    Helps:
        Where the observed token is one of several good ones: what the model thinks likely is kept, and sharpened.

    Harms:
        Diversity at a temperature below 1: the model's own guesses are strengthened, wrong ones too.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> target_sft(from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0])))
        tensor([0.1191])

    Source:
        Xie et al., *A Unifying Lens on Supervised Fine-Tuning Through Target Distribution Design*, 2026, the Q-target
        framework (arXiv:2606.11189): gamma is how strongly the observed token is relied on, the rest goes to a
        distribution of the model. Here both are numbers; how Target-SFT adapts them was not seen, so its results do
        not carry over.
    """
    check_range("target_sft", gamma=(gamma, "in [0, 1]"), temperature=(temperature, "> 0"))
    return (1 - gamma) * temperature * stats.tempered_logprob(temperature) - stats.target_logprob

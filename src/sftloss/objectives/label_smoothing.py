from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats

CONVENTIONS = ("uniform", "others")


@attach_record(
    ObjectiveRecord(
        examples=("label_smoothing(epsilon=0.1)", "label_smoothing(epsilon=0.1, convention='others')"),
        neutral="label_smoothing(epsilon=0)",
    )
)
def label_smoothing(
    stats: TokenStats, *, epsilon: float = 0.1, convention: str = "uniform"
) -> Float[Tensor, " tokens"]:
    r"""Cross-entropy against a target that leaves a little probability to the rest of the vocabulary.

    .. math:: \ell_i = -(1 - \varepsilon) \log p_i - \frac{\varepsilon}{V} \sum_j \log p_{ij}

    Two conventions share the name. ``"uniform"``, above, spreads :math:`\varepsilon` over all V tokens, the target
    included (the paper, ``torch``, transformers, Liger). ``"others"`` spreads it over the V - 1 others
    (fairseq, Megatron-LM). They are one family: :math:`\varepsilon_\text{others} = \varepsilon_\text{uniform}(V-1)/V`,
    a difference too small to notice at the size of a language model's vocabulary.

    Args:
        stats: Token statistics; reads ``target_logprob`` and ``mean_logprob``, shape ``(tokens,)``, in nats, and
            ``vocab_size``, the V above: tokens whose logit is ``-inf`` (a padded vocabulary) are no part of it.
        epsilon: Probability given away, dimensionless, in ``[0, 1]``. ``0`` is cross-entropy.
        convention: ``"uniform"`` spreads epsilon over all V tokens, ``"others"`` over the V - 1 beside the target.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced.

    Raises:
        ValueError: If `epsilon` is outside ``[0, 1]`` or `convention` is unknown.

    Gradient:
        :math:`p_j - q_j` with the smoothed target q: ``"uniform"`` has
        :math:`q_j = (1 - \varepsilon)[j = y] + \varepsilon / V`. It vanishes at p = q, so confidence has a ceiling.

    Helps:
        Calibration and, in machine translation, BLEU (Vaswani et al., arXiv:1706.03762, with
        :math:`\varepsilon = 0.1`).

    Harms:
        Perplexity, as the same paper reports. The probability goes to all tokens alike: with a vocabulary of 100 000
        each gets :math:`10^{-6}`, which bounds the logits more than it teaches alternatives. The loss cannot reach 0.
        Padding of the vocabulary whose logits are finite is not recognized and receives its share.

    Example:
        >>> import torch
        >>> from sftloss.statistics import from_logits
        >>> stats = from_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        >>> label_smoothing(stats, epsilon=0.1)
        tensor([0.2269])
        >>> label_smoothing(stats, epsilon=0.05, convention="others")  # V = 2, the same
        tensor([0.2269])

    Source:
        Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*, 2016, section 7: LSR,
        :math:`q'(k) = (1 - \varepsilon) \delta_{k,y} + \varepsilon / K` (arXiv:1512.00567).
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"label_smoothing: epsilon must be in [0, 1], got {epsilon}.")
    if convention not in CONVENTIONS:
        raise ValueError(f"label_smoothing: convention must be 'uniform' or 'others', got {convention!r}.")
    share: float | Tensor = epsilon
    if convention == "others":
        # an integer tensor divided would be float32, whatever the statistics are
        vocab = torch.as_tensor(stats.vocab_size).to(stats.mean_logprob)
        # a vocabulary of one has no others to give to; both log-probabilities are 0 there
        share = epsilon * vocab / (vocab - 1).clamp(min=1)
    return -(1 - share) * stats.target_logprob - share * stats.mean_logprob

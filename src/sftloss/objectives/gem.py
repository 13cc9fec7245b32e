from __future__ import annotations

from collections.abc import Callable
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor

from sftloss.errors import check_range
from sftloss.objectives.reading import read_of_logits
from sftloss.objectives.record import ObjectiveRecord
from sftloss.registry import attach_record
from sftloss.statistics import TokenStats

_KINDS = ("linear", "log_sigmoid")


def _of_logits(*, beta: float = 0.7, kind: str = "linear") -> dict[str, Callable[..., Tensor]]:
    return {f"gem_log_sigmoid({beta})": partial(gem_log_sigmoid, beta=beta)} if kind == "log_sigmoid" else {}


@attach_record(
    ObjectiveRecord(
        examples=("gem",),
        neutral="gem(beta=1)",
        refused={"h": "write kind='linear' or kind='log_sigmoid'"},
        of_logits=_of_logits,
    )
)
def gem(stats: TokenStats, *, beta: float = 0.7, kind: str = "linear") -> Float[Tensor, " tokens"]:
    r"""Game-theoretic entropy maximization: cross-entropy at a temperature below 1, which lowers other tokens less.

    .. math:: \ell_i = -\beta \log \operatorname{softmax}(z_i / \beta)_y

    Args:
        stats: Token statistics; reads ``tempered_logprob``, the target's log-probability at temperature beta, shape
            ``(tokens,)``, in nats.
        beta: Temperature, dimensionless, ``> 0``. ``1`` is cross-entropy.
        kind: The h of the paper: ``"linear"`` as above, or ``"log_sigmoid"`` of its scripts, with about half the
            gradient. Its weight of every logit also depends on the target's, which no statistic of the fused pass
            covers. So it needs whole logits: ``weighted_loss``, ``sftloss train`` and ``sftloss compare`` compute it in
            passes of its own, other commands refuse it.

    Returns:
        Loss of each token, shape ``(tokens,)``, in nats, ``>= 0``. Neither weighted nor reduced. With
        ``"log_sigmoid"`` the value is no likelihood.

    Raises:
        ValueError: If `beta` is not above 0 or not finite, or `kind` is unknown.
        KeyError: If `kind` is ``"log_sigmoid"`` and no one has computed it of the logits.

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
        Li et al., *Preserving Diversity in Supervised Fine-Tuning of Large Language Models*, 2024
        (arXiv:2408.16673). Its scripts use h = log-sigmoid with beta 0.7, its Triton kernel the linear one. The
        log-sigmoid weighs by sigmoid(0.01 (z_v - z_y)), which is near one half everywhere: half the gradient of the
        linear one, 2 to 3% apart on logits of standard deviation 2. So ``0.5 * gem`` is nearly the same, in one pass.
    """
    check_range("gem", beta=(beta, "> 0"))
    if kind not in _KINDS:
        raise ValueError(f"gem: kind must be 'linear' or 'log_sigmoid', got {kind!r}.")
    if kind == "log_sigmoid":
        return read_of_logits(stats, "gem(kind='log_sigmoid')", f"gem_log_sigmoid({beta})")
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

from __future__ import annotations

import torch
from torch import Tensor

from sftloss.errors import check_range
from sftloss.tasks.strategies.pieces import (
    SMALLEST,
    neutral_where_unknown,
    oldest_first,
    rings,
    written,
    zeros,
)
from sftloss.tasks.strategies.strategy import Observation, State, Strategy, recorded


@recorded(settings=({"window": 3, "warmup": 2},), unit="free")
def coba(*, tau: float = 5.0, window: int = 20, warmup: int = 5) -> Strategy:
    r"""Tasks should converge together, and one that diverges should not drag the rest: slopes of held-out losses.

    .. math::
        R = \operatorname{softmax}_k \frac{K \alpha_k}{\sum_j |\alpha_j|}, \quad
        A = \operatorname{softmax}_k \frac{-n \alpha_k}{\sum_s |\alpha_k(s)|}, \quad
        D = \min\Bigl(1, n \operatorname{softmax}_s \frac{-\tau n \, \alpha_{\max}(s)}{\sum |\alpha_{\max}|}\Bigr),
        \qquad w = K (D R + (1 - D) A)

    :math:`\alpha_k` is the slope of :math:`L_k / L_k^{(0)}` over the last observations, by least squares; s runs over
    the n last slopes and :math:`\alpha_{\max}` is the largest of the tasks. While all converge D is 1 and R favours the
    slow; when one begins to diverge D falls and A takes weight from it.

    Args:
        tau: :math:`\tau`, dimensionless, ``> 0``: how fast a divergence is answered.
        window: Observations behind a slope, and slopes that are kept, ``>= 2``; 2 to 5 times the validation batches.
        warmup: Observations of a task, ``>= 2``, before it has more or less than the mean weight.

    Returns:
        The strategy; it needs validation losses in the first step and then whenever there are new ones. Lagged.
        Scale-free.

    Source:
        Gong et al., *CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models*, EMNLP 2024
        (arXiv:2410.06741): the relative and absolute convergence scores and the divergence factor. Of the authors' code
        (MFTCoder) six things are not taken over: a further softmax of K times the result; a floor of 1/(10 K) under the
        weights; a D that may exceed 1, which turns the sign of A; :math:`\alpha_{\max}` as the slope of the largest
        loss ratio instead of the largest slope; a softmax over all slopes since the warm-up instead of the last n; and
        the counting of a loss of exactly 0 as an absent task.
    """
    check_range("coba", tau=(tau, "> 0"), window=(window, ">= 2"), warmup=(warmup, ">= 2"))

    def fields(count: int) -> State:
        return {**zeros("first")(count), "ratios": rings(count, window), "slopes": rings(count, window)}

    def observe(state: State, observation: Observation) -> State:
        assert observation.extra is not None  # `update` has checked it
        seen, loss = state["seen"], observation.extra
        first = torch.where(seen == 0, loss, state["first"])
        ratios = written(state["ratios"], seen, loss / first.clamp(min=SMALLEST))
        slopes = written(state["slopes"], seen, _slope(oldest_first(ratios, seen + 1), seen + 1))
        return {"first": first, "ratios": ratios, "slopes": slopes}

    def log_weights(state: State) -> Tensor:
        seen = state["seen"]
        known = seen >= warmup
        # a first observation has no slope, so there is one slope less than observations
        weights = _scores(oldest_first(state["slopes"], seen), (seen - 1).clamp(0, window), known, tau)
        return neutral_where_unknown(weights.clamp(min=torch.finfo(weights.dtype).tiny).log(), known)

    return Strategy("coba", fields, observe, log_weights, needs="validation")


def _slope(values: Tensor, counts: Tensor) -> Tensor:
    """Least squares over the last ``counts`` of each row, oldest first; 0 for a single one."""
    window = values.shape[1]
    age = torch.arange(window, device=values.device)
    used = age >= window - counts[:, None]
    n = used.sum(1, keepdim=True)
    x = torch.where(used, age - (window - 1 - (n - 1) / 2), 0).to(values.dtype)
    return (x * values).sum(1) / (x * x).sum(1).clamp(min=0.5)


def _scores(slopes: Tensor, counts: Tensor, known: Tensor, tau: float) -> Tensor:
    window = slopes.shape[1]
    age = torch.arange(window, device=slopes.device)
    used = age >= window - counts[:, None]
    now, tasks = slopes[:, -1], known.sum()
    relative = _softmax(tasks * now / _size(torch.where(known, now, 0).abs().sum()), known)
    absolute = _softmax(-counts * now / _size(torch.where(used, slopes, 0).abs().sum(1)), known)
    worst = torch.where(known[:, None] & used, slopes, -torch.inf).amax(0)
    there = torch.isfinite(worst)
    worst, n = torch.where(there, worst, 0), there.sum()
    shares = _softmax(-tau * n * worst / _size(worst.abs().sum()), there)
    factor = (n * shares[-1]).clamp(max=1)
    return factor * relative + (1 - factor) * absolute


def _softmax(values: Tensor, among: Tensor) -> Tensor:
    return torch.softmax(torch.where(among, values, -torch.inf), 0).nan_to_num()  # NaN: among none


def _size(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, 1)

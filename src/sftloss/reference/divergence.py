"""The divergence from a reference model over the whole vocabulary, chunk by chunk."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.statistics import Head, Plan, map_logits


def reference_divergence(
    hidden: Float[Tensor, "tokens hidden"],
    head: Head,
    reference_hidden: Float[Tensor, "tokens other"],
    reference_head: Head,
    *,
    direction: Literal["forward", "reverse"] = "forward",
    plan: Plan | None = None,
) -> Float[Tensor, " tokens"]:
    r"""Divergence between a model and a reference model at each token, over the whole vocabulary.

    .. math:: \mathrm{KL}(p^r \,\|\, p) = \sum_j p^r_j (\log p^r_j - \log p_j), \qquad
              \mathrm{KL}(p \,\|\, p^r) = \sum_j p_j (\log p_j - \log p^r_j)

    Both logits are computed for a chunk of tokens at a time and dropped; backward computes them again. Neither model's
    logits are ever held whole.

    Args:
        hidden: Last hidden states of the model in training, ``(tokens, hidden)``.
        head: Its output head.
        reference_hidden: Last hidden states of the reference model at the same tokens, ``(tokens, other)``.
        reference_head: Its output head, of the same vocabulary.
        direction: ``"forward"`` is KL(reference, model): the model must cover what the reference does. ``"reverse"`` is
            KL(model, reference): the model must not go where the reference does not.
        plan: `plan.tokens` is the chunk.

    Returns:
        ``(tokens,)``, in nats, ``>= 0``. Infinite where one model rules a token out that the other does not.

    Raises:
        ValueError: If the vocabularies differ, or `direction` is another.

    Gradient:
        Forward :math:`p - p^r`, reverse :math:`p_j (\log p_j - \log p^r_j - \mathrm{KL})`, in the logits of the model
        in training. The reference is held fixed.

    Example:
        >>> hidden, head = torch.tensor([[1.0, 0.0]]), Head(torch.eye(2))
        >>> reference_divergence(hidden, head, 2 * hidden, head)
        tensor([0.0671])

    Source:
        Zhu et al., *Anchored Supervised Fine-Tuning*, 2025 (arXiv:2509.23753), adds the forward one to ``dft``.
    """
    if direction not in ("forward", "reverse"):
        raise ValueError(f"reference_divergence: direction must be forward or reverse, got {direction!r}.")
    if head.vocab != reference_head.vocab:
        raise ValueError(
            f"reference_divergence: the model has {head.vocab} tokens, the reference {reference_head.vocab}; both need "
            "one vocabulary."
        )
    fixed = {name: value.detach() for name in _TENSORS if (value := getattr(reference_head, name)) is not None}
    source = (reference_hidden.detach(), replace(reference_head, **fixed))
    return map_logits(_forward if direction == "forward" else _reverse, (hidden, head), source, plan=plan)


_TENSORS = ("weight", "bias", "low_rank")


def _forward(logits: Tensor, reference: Tensor) -> Tensor:
    return _divergence(reference, logits)


def _reverse(logits: Tensor, reference: Tensor) -> Tensor:
    return _divergence(logits, reference)


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL of the softmax of `first` from that of `second`; a token that `first` rules out adds 0."""
    log_p, log_q = first.log_softmax(-1), second.log_softmax(-1)
    is_possible = log_p > float("-inf")
    return (log_p.exp() * torch.where(is_possible, log_p - log_q, 0.0)).sum(-1)

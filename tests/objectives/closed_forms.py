"""The gradient in the logits that each objective's paper implies, written down by hand: no autograd here."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# logits, targets, hyper-parameters -> (tokens, vocab)
ClosedForm = Callable[..., Tensor]


def softmax(z: Tensor) -> Tensor:
    return torch.softmax(z, dim=1)


def one_hot(z: Tensor, y: Tensor) -> Tensor:
    return torch.zeros_like(z).scatter(1, y[:, None], 1.0)


def target_probability(z: Tensor, y: Tensor) -> Tensor:
    return softmax(z).gather(1, y[:, None])


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return softmax(z) - one_hot(z, y)


def label_smoothing(z: Tensor, y: Tensor, *, epsilon: float = 0.1, convention: str = "uniform") -> Tensor:
    real = torch.isfinite(z).to(z.dtype)
    vocab = real.sum(dim=1, keepdim=True)
    e = one_hot(z, y)
    rest = real / vocab if convention == "uniform" else (real - e) / (vocab - 1)
    return softmax(z) - (1 - epsilon) * e - epsilon * rest


def focal(z: Tensor, y: Tensor, *, gamma: float = 2.0, alpha: float = 1.0) -> Tensor:
    p = target_probability(z, y)
    gate = (1 - p) ** gamma - gamma * p * (1 - p) ** (gamma - 1) * p.log()
    return alpha * gate * cross_entropy(z, y)


def poly_1(z: Tensor, y: Tensor, *, epsilon: float = 1.0) -> Tensor:
    return (1 + epsilon * target_probability(z, y)) * cross_entropy(z, y)


def dft(z: Tensor, y: Tensor) -> Tensor:
    return target_probability(z, y) * cross_entropy(z, y)


def z_loss(z: Tensor, y: Tensor) -> Tensor:
    return 2 * torch.logsumexp(z, dim=1, keepdim=True) * softmax(z)


def entropy_bonus(z: Tensor, y: Tensor) -> Tensor:
    p = softmax(z)
    log_p = torch.where(p > 0, p, 1.0).log()
    return p * (log_p - (p * log_p).sum(dim=1, keepdim=True))


CLOSED_FORMS: dict[str, ClosedForm] = {
    "cross_entropy": cross_entropy,
    "label_smoothing": label_smoothing,
    "focal": focal,
    "poly_1": poly_1,
    "dft": dft,
    "z_loss": z_loss,
    "entropy_bonus": entropy_bonus,
}

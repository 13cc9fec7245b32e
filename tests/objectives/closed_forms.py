"""The gradient in the logits that each objective's paper implies, written down by hand: no autograd here."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sftloss.objectives import OBJECTIVES

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


def gce(z: Tensor, y: Tensor, *, q: float = 0.7) -> Tensor:
    return target_probability(z, y) ** q * cross_entropy(z, y)


def profit(z: Tensor, y: Tensor, *, low: float = 0.1, high: float = 1.0, q: float = 0.0) -> Tensor:
    p = target_probability(z, y)
    return torch.where((p >= low) & (p <= high), p**q, 0.0) * cross_entropy(z, y)


def gold(z: Tensor, y: Tensor, *, floor: float = 0.1) -> Tensor:
    return target_probability(z, y).clamp(min=floor) * cross_entropy(z, y)


def tailr(z: Tensor, y: Tensor, *, gamma: float = 0.1, floor: float = 0.0) -> Tensor:
    p = target_probability(z, y)
    return (p / (gamma + (1 - gamma) * p)).clamp(min=floor) * cross_entropy(z, y)


def deft(z: Tensor, y: Tensor) -> Tensor:
    return target_probability(z, y) ** softmax(z).square().sum(dim=1, keepdim=True) * cross_entropy(z, y)


def infosft(z: Tensor, y: Tensor, *, threshold: float = 0.93) -> Tensor:
    p = target_probability(z, y)
    top = math.log(threshold / (1 - threshold))
    return p * torch.relu(1 - (p / (1 - p)).log() / top) * cross_entropy(z, y)


def chord_phi(z: Tensor, y: Tensor) -> Tensor:
    p = target_probability(z, y)
    return p * (1 - p) * cross_entropy(z, y)


def luffy(z: Tensor, y: Tensor, *, gamma: float = 0.1) -> Tensor:
    p = target_probability(z, y)
    return gamma * p / (p + gamma) ** 2 * cross_entropy(z, y)


def entropy(z: Tensor) -> Tensor:
    p = softmax(z)
    return -(p * torch.where(p > 0, p, 1.0).log()).sum(dim=1, keepdim=True)


def mile(z: Tensor, y: Tensor, *, gamma: float = 1.0) -> Tensor:
    return (1 + entropy(z)) ** gamma * cross_entropy(z, y)


def eaft(z: Tensor, y: Tensor, *, alpha: float = 1.0, scale: str = "paper") -> Tensor:
    divisor = {"paper": math.log(20), "llama_factory": 3.0, "axolotl": 1.0}[scale]
    return (entropy(z) / divisor) ** alpha * cross_entropy(z, y)


def dco(z: Tensor, y: Tensor, *, samples: int = 8) -> Tensor:
    p = target_probability(z, y)
    return samples * p * (1 - p) ** (samples - 1) / (1 - (1 - p) ** samples) * cross_entropy(z, y)


def inverse_focal(z: Tensor, y: Tensor, *, gamma: float = 1.0) -> Tensor:
    p = target_probability(z, y)
    return ((1 + p) ** gamma + gamma * p * (1 + p) ** (gamma - 1) * p.log()) * cross_entropy(z, y)


def exponentiated_ce(z: Tensor, y: Tensor, *, gamma: float = 2.0) -> Tensor:
    return gamma * (-target_probability(z, y).log()) ** (gamma - 1) * cross_entropy(z, y)


def taylor_ce(z: Tensor, y: Tensor, *, terms: int = 2) -> Tensor:
    return (1 - (1 - target_probability(z, y)) ** terms) * cross_entropy(z, y)


def dice(z: Tensor, y: Tensor, *, gamma: float = 1.0) -> Tensor:
    p = target_probability(z, y)
    return p * (2 + gamma) / (p + 1 + gamma) ** 2 * cross_entropy(z, y)


def huberised_ce(z: Tensor, y: Tensor, *, tau: float = 10.0) -> Tensor:
    return (tau * target_probability(z, y)).clamp(max=1) * cross_entropy(z, y)


def brier(z: Tensor, y: Tensor) -> Tensor:
    p = softmax(z)
    squares = p.square().sum(dim=1, keepdim=True)
    return 2 * p * (p - squares) - 2 * target_probability(z, y) * (one_hot(z, y) - p)


def spherical(z: Tensor, y: Tensor) -> Tensor:
    p = softmax(z)
    norm = p.norm(dim=1, keepdim=True)
    return target_probability(z, y) / norm * (p.square() / norm**2 - one_hot(z, y))


def prift(z: Tensor, y: Tensor, *, reference_logprob: Tensor) -> Tensor:
    return reference_logprob[:, None].exp() * cross_entropy(z, y)


def iw_sft(
    z: Tensor, y: Tensor, *, reference_logprob: Tensor, temperature: float = 1.0, low: float = 0.2, high: float = 1.8
) -> Tensor:
    ratio = target_probability(z, y) / reference_logprob[:, None].exp()
    return (ratio**temperature).clamp(low, high) * cross_entropy(z, y)


def psft(z: Tensor, y: Tensor, *, old_logprob: Tensor, high: float = 0.28) -> Tensor:
    ratio = target_probability(z, y) / old_logprob[:, None].exp()
    return torch.where(ratio < 1 + high, ratio, 0.0) * cross_entropy(z, y)


def rho_1(z: Tensor, y: Tensor, *, reference_logprob: Tensor, threshold: float = 0.0) -> Tensor:
    excess = reference_logprob[:, None] - target_probability(z, y).log()
    return torch.where(excess >= threshold, 1.0, 0.0) * cross_entropy(z, y)


def ss_token(z: Tensor, y: Tensor, *, reference_logprob: Tensor, threshold: float = 0.0) -> Tensor:
    fall = target_probability(z, y).log() - reference_logprob[:, None]
    return torch.where(fall >= threshold, 1.0, 0.0) * cross_entropy(z, y)


def k3_anchor(z: Tensor, y: Tensor, *, reference_logprob: Tensor) -> Tensor:
    return (reference_logprob[:, None].exp() / target_probability(z, y) - 1).clamp(max=math.exp(5) - 1) * cross_entropy(
        z, y
    )


def unlikelihood(z: Tensor, y: Tensor, *, is_negative: Tensor, alpha: float = 1.0) -> Tensor:
    p = target_probability(z, y)
    return torch.where(is_negative[:, None] > 0, -alpha * p / (1 - p), 1.0) * cross_entropy(z, y)


def jensen_shannon(z: Tensor, y: Tensor, *, weight: float = 0.5) -> Tensor:
    p = target_probability(z, y)
    m = weight + (1 - weight) * p
    return p * (m / ((1 - weight) * p)).log() / -math.log(1 - weight) * cross_entropy(z, y)


def label_relaxation(z: Tensor, y: Tensor, *, alpha: float = 0.1) -> Tensor:
    p = target_probability(z, y)
    return (1 - alpha - alpha * p / (1 - p)).clamp(min=0) * cross_entropy(z, y)


def agce(z: Tensor, y: Tensor, *, a: float = 1.0, q: float = 2.0) -> Tensor:
    p = target_probability(z, y)
    return p * (a + p) ** (q - 1) * cross_entropy(z, y)


def flsd(z: Tensor, y: Tensor) -> Tensor:
    return torch.where(target_probability(z, y) < 0.2, focal(z, y, gamma=5.0), focal(z, y, gamma=3.0))


def normalized_ce(z: Tensor, y: Tensor) -> Tensor:
    real = torch.isfinite(z).to(z.dtype)
    vocab = real.sum(dim=1, keepdim=True)
    mean = torch.where(real > 0, softmax(z), 1.0).log().sum(dim=1, keepdim=True) / vocab
    loss = target_probability(z, y).log() / mean
    return (cross_entropy(z, y) + loss * (real / vocab - softmax(z))) / -mean


def eaft_top(z: Tensor, y: Tensor, *, k: int = 20, alpha: float = 1.0, scale: str = "paper") -> Tensor:
    divisor = {"paper": math.log(k), "llama_factory": 3.0, "axolotl": 1.0}[scale]
    top = z.topk(min(k, z.shape[1]), dim=1).values
    return (entropy(top) / divisor) ** alpha * cross_entropy(z, y)


def sed_sft(z: Tensor, y: Tensor, *, weight: float = 0.2, k: int = 2, threshold: float = 0.95) -> Tensor:
    p, mass = target_probability(z, y), softmax(z).topk(k, dim=1).values.sum(dim=1, keepdim=True)
    return (1 - 2 * weight * p * (p - 0.5) * (mass < threshold)) * cross_entropy(z, y)


def gem(z: Tensor, y: Tensor, *, beta: float = 0.7) -> Tensor:
    return softmax(z / beta) - one_hot(z, y)


def target_sft(z: Tensor, y: Tensor, *, gamma: float = 0.8, temperature: float = 0.7) -> Tensor:
    return softmax(z) - gamma * one_hot(z, y) - (1 - gamma) * softmax(z / temperature)


def at_candidates(z: Tensor, ids: Tensor, values: Tensor) -> Tensor:
    """Values at the candidates' places, 0 elsewhere, also where one is not in the vocabulary."""
    return torch.zeros_like(z).scatter_add(1, ids.clamp(min=0), torch.where(is_there(z, ids), values, 0.0))


def is_there(z: Tensor, ids: Tensor) -> Tensor:
    return (ids >= 0) & torch.isfinite(z.gather(1, ids.clamp(min=0)))


def unlikelihood_context(z: Tensor, y: Tensor, *, candidate_ids: Tensor, alpha: float = 1.0) -> Tensor:
    p_c = softmax(z).gather(1, candidate_ids.clamp(min=0))
    odds = torch.where(candidate_ids >= 0, p_c / (1 - p_c), 0.0)
    push = at_candidates(z, candidate_ids, odds) - odds.sum(dim=1, keepdim=True) * softmax(z)
    return cross_entropy(z, y) + alpha * push


def number_token(
    z: Tensor,
    y: Tensor,
    *,
    candidate_ids: Tensor,
    candidate_value: Tensor,
    target_value: Tensor,
    weight: float = 0.3,
    convention: str = "package",
) -> Tensor:
    p, distance = softmax(z), (candidate_value - target_value[:, None]).abs()
    if convention == "package":
        far = 1.01 * (candidate_value.amax(dim=1) - candidate_value.amin(dim=1))[:, None]
        b = at_candidates(z, candidate_ids, distance - far) + far
    else:
        p = p * at_candidates(z, candidate_ids, torch.ones_like(distance))
        p, b = p / p.sum(dim=1, keepdim=True), at_candidates(z, candidate_ids, distance)
    return cross_entropy(z, y) + weight * p * (b - (p * b).sum(dim=1, keepdim=True))


def idk(z: Tensor, y: Tensor, *, candidate_ids: Tensor, upper: float = 0.5) -> Tensor:
    share = upper * (1 - target_probability(z, y) / softmax(z).amax(dim=1, keepdim=True))
    first, total = candidate_ids[:, :1], 1 - share * ~is_there(z, candidate_ids[:, :1])
    return total * softmax(z) - (1 - share) * one_hot(z, y) - at_candidates(z, first, share)


def distillation(z: Tensor, y: Tensor, *, candidate_ids: Tensor, reference_candidate_logprob: Tensor) -> Tensor:
    q = at_candidates(z, candidate_ids, reference_candidate_logprob.exp())
    return softmax(z) - q / q.sum(dim=1, keepdim=True)


def pear(
    z: Tensor,
    y: Tensor,
    *,
    reference_logprob: Tensor,
    later_log_ratio: Tensor,
    later_tokens: Tensor,
    later_block_log_ratio: Tensor,
    later_block_tokens: Tensor,
    whole_log_ratio: Tensor,
    gamma: float = 0.999,
    level: str = "token",
) -> Tensor:
    weight = {
        "token": gamma**later_tokens * later_log_ratio.exp(),
        "block": gamma**later_block_tokens * later_block_log_ratio.exp(),
        "sequence": whole_log_ratio.exp(),
    }[level]
    return weight[:, None].clamp(math.exp(-10), math.exp(5)) * cross_entropy(z, y)


def iw_sft_sequence(
    z: Tensor,
    y: Tensor,
    *,
    reference_logprob: Tensor,
    mean_log_ratio: Tensor,
    temperature: float = 1.0,
    high: float = 16.0,
) -> Tensor:
    return (mean_log_ratio[:, None].exp() ** temperature).clamp(max=high) * cross_entropy(z, y)


def rank_tuner(z: Tensor, y: Tensor, *, q: float = 1.0) -> Tensor:
    p, bits = target_probability(z, y), entropy(z) / math.log(2)
    spread = torch.where(bits >= 2, 1 + 2**bits / 4, 2 - softmax(z).amax(dim=1, keepdim=True))
    rank = (softmax(z) >= p).sum(dim=1, keepdim=True)
    power = (1 + torch.maximum(rank, spread)).log2() ** -2
    return p**q * (p * spread).clamp(min=1e-6) ** -power * cross_entropy(z, y)


def prift_mass(
    z: Tensor,
    y: Tensor,
    *,
    reference_logprob: Tensor,
    reference_candidate_logprob: Tensor,
    candidate_is_target: Tensor,
    threshold: float = 0.5,
) -> Tensor:
    own, others = reference_logprob[:, None].exp(), reference_candidate_logprob.exp()
    kept = 1 - (others * (others > own) * ~candidate_is_target).sum(dim=1, keepdim=True).clamp(max=1) >= threshold
    return kept * cross_entropy(z, y)


def talr(z: Tensor, y: Tensor, *, tau: float = 1.0, floor: float = 0.0) -> Tensor:
    return (target_probability(z, y) ** (1 / tau)).clamp(min=floor) * cross_entropy(z, y)


def symmetric_ce(z: Tensor, y: Tensor, *, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -9.21) -> Tensor:
    return (alpha - beta * log_zero * target_probability(z, y)) * cross_entropy(z, y)


def loss_truncation(z: Tensor, y: Tensor, *, threshold: float = 5.0) -> Tensor:
    return torch.where(-target_probability(z, y).log() <= threshold, 1.0, 0.0) * cross_entropy(z, y)


def aul(z: Tensor, y: Tensor, *, a: float = 2.0, q: float = 2.0) -> Tensor:
    p = target_probability(z, y)
    return p * (a - p) ** (q - 1) * cross_entropy(z, y)


def ael(z: Tensor, y: Tensor, *, a: float = 2.0) -> Tensor:
    p = target_probability(z, y)
    return p / a * (-p / a).exp() * cross_entropy(z, y)


def groups(z: Tensor, ids: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p, the reference and p by group at each token of the vocabulary: candidates alone, the others as one."""
    floor, p = torch.finfo(z.dtype).eps, softmax(z)
    r = at_candidates(z, ids, reference.exp())
    r = r / r.sum(dim=1, keepdim=True).clamp(min=1)
    is_rest = at_candidates(z, ids, torch.ones_like(reference)) == 0
    rest_p, rest_r = ((1 - (v * ~is_rest).sum(dim=1, keepdim=True)).clamp(min=floor) for v in (p, r))
    return p, torch.where(is_rest, rest_r, r), torch.where(is_rest, rest_p, p)


def kl_anchor(
    z: Tensor, y: Tensor, *, candidate_ids: Tensor, reference_candidate_logprob: Tensor, direction: str = "forward"
) -> Tensor:
    p, r, by_group = groups(z, candidate_ids, reference_candidate_logprob)
    share = torch.where(p > 0, p / by_group, 0.0)  # of a token in its group
    if direction == "forward":
        return p * (share * r).sum(dim=1, keepdim=True) - share * r
    gain = torch.where(p > 0, by_group.log() - r.log(), 0.0)
    return p * (gain - (p * gain).sum(dim=1, keepdim=True))


def k2_anchor(z: Tensor, y: Tensor, *, reference_logprob: Tensor) -> Tensor:
    difference = target_probability(z, y).log() - reference_logprob[:, None]
    return -difference.clamp(-10, 10) * cross_entropy(z, y)


def token_cleaning(
    z: Tensor, y: Tensor, *, reference_logprob: Tensor, old_logprob: Tensor, threshold: float = 0.0
) -> Tensor:
    return (reference_logprob - old_logprob >= threshold)[:, None] * cross_entropy(z, y)


def gift(
    z: Tensor,
    y: Tensor,
    *,
    reference_logprob: Tensor,
    candidate_ids: Tensor,
    reference_candidate_logprob: Tensor,
    candidate_is_target: Tensor,
    beta: float = 20.0,
) -> Tensor:
    p, tiny = softmax(z), torch.finfo(z.dtype).eps
    others = at_candidates(z, candidate_ids, (~candidate_is_target).to(z.dtype))
    r = at_candidates(z, candidate_ids, reference_candidate_logprob.exp() * ~candidate_is_target)
    r_y = reference_logprob.exp()[:, None]
    rest_r = (1 - r_y - r.sum(dim=1, keepdim=True)).clamp(min=tiny)
    total = r_y * math.exp(beta) + r.sum(dim=1, keepdim=True) + rest_r
    p_y = target_probability(z, y)
    rest_p = 1 - p_y - (others * p).sum(dim=1, keepdim=True)
    is_open = rest_p > tiny
    q_y, q, q_rest = r_y * math.exp(beta) / total, r / total, rest_r / total
    push = (cross_entropy(z, y) * q_y) + q.sum(dim=1, keepdim=True) * p - q
    inside = p_y * (one_hot(z, y) - p) + others * p - p * (others * p).sum(dim=1, keepdim=True)
    return push + torch.where(is_open, q_rest * inside / rest_p, 0.0)


def eksft(
    z: Tensor,
    y: Tensor,
    *,
    candidate_ids: Tensor,
    reference_candidate_logprob: Tensor,
    entropy: float = 1.0,
    kl: float = 0.1,
    entropy_weight: float = 0.05,
    kl_weight: float = 0.05,
) -> Tensor:
    p, r, by_group = groups(z, candidate_ids, reference_candidate_logprob)
    gain = torch.where(p > 0, by_group.log() - r.log(), 0.0)
    distance = (p * gain).sum(dim=1, keepdim=True)
    log_p = torch.where(p > 0, p.log(), 0.0)
    h = -(p * log_p).sum(dim=1, keepdim=True)
    size = torch.isfinite(z).sum(dim=1, keepdim=True).to(z.dtype).log()
    is_unsure, is_away = h >= entropy, distance >= kl
    of_entropy, of_distance = -p * (log_p + h), p * (gain - distance)
    parts = entropy_weight * (is_unsure * of_entropy / size), kl_weight * (is_away * of_distance)
    return ~(is_unsure | is_away) * cross_entropy(z, y) - parts[0] + parts[1]


CLOSED_FORMS: dict[str, ClosedForm] = {
    name: function
    for name, function in vars().copy().items()
    if name in OBJECTIVES and getattr(function, "__module__", "") == __name__
}

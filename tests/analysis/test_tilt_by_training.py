"""The length tilt, checked by training: what the lengths alone predict is what a model learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sftloss.analysis.lengths import tilt
from sftloss.loss import weighted_loss
from sftloss.statistics import Head
from sftloss.weights import Normalization, coefficients, length_weights, micro_batch_mean, normalizer

SHORTEST, LONGEST, BATCH, STEPS = 2, 15, 32, 1500
CONTINUE, END = 0, 1


def learned_mean_length(alpha: float, micro_batch: int | None, seed: int) -> float:
    """Train p(end | position) on lengths uniform on 2 to 15 and return the mean length the model then generates."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Embedding(LONGEST, 32), torch.nn.Tanh())
    head = torch.nn.Linear(32, 2)
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, STEPS)
    for _ in range(STEPS):
        lengths = torch.randint(SHORTEST, LONGEST + 1, (BATCH,), generator=generator)
        segments = torch.repeat_interleave(torch.arange(BATCH), lengths)
        positions = torch.cat([torch.arange(int(n)) for n in lengths])
        targets = torch.where(positions + 1 == lengths[segments], END, CONTINUE)
        weights = length_weights(torch.ones(len(segments)), segments, alpha=alpha)
        if micro_batch is None:  # one constant for the step: an exact sum
            c = coefficients(weights, torch.tensor(float(BATCH)))
        else:  # the mistake: each micro-batch its own mean, then averaged
            pieces = [segments // micro_batch == part for part in range(BATCH // micro_batch)]
            c = torch.cat([coefficients(weights[p], normalizer(weights[p], segments[p])) for p in pieces])
            c = c * (micro_batch / BATCH)
        optimizer.zero_grad()
        weighted_loss(net(positions), Head(head.weight, head.bias), targets, c)[0].backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        end = head(net(torch.arange(LONGEST))).softmax(dim=1)[:, END].double()
    alive = torch.cat([torch.ones(1, dtype=torch.float64), (1 - end).cumprod(0)[:-1]])
    return float((alive * end * torch.arange(1, LONGEST + 1)).sum() / (alive * end).sum())


SCHEMES = {
    "sum": (0.0, None),
    "example mean": (1.0, None),
    "square root": (0.5, None),
    "micro-batch token mean of 1": (0.0, 1),
    "micro-batch token mean of 2": (0.0, 2),
    "micro-batch token mean of 4": (0.0, 4),
    "micro-batch token mean of 32": (0.0, 32),
}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_learned_mean_length_is_the_predicted_one(scheme: str) -> None:
    alpha, micro_batch = SCHEMES[scheme]
    lengths = np.arange(SHORTEST, LONGEST + 1)
    rule = micro_batch_mean(micro_batch) if micro_batch else Normalization(scheme, alpha)
    predicted = np.average(lengths, weights=tilt.sequence_weights(lengths, rule))
    learned = np.mean([learned_mean_length(alpha, micro_batch, seed) for seed in (0, 1)])
    print(f"{scheme}: predicted {predicted:.3f}, learned {learned:.3f}")
    # Adam's noise: the sum's own mean errs by 0.02 to 0.03, that of the lengths drawn by 0.003
    assert abs(learned - predicted) < 0.06
    if scheme != "sum":
        assert learned < (8.5 + predicted) / 2  # the data's mean is 8.5: every division by length shortens

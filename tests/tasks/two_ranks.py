"""Run by torchrun on two ranks: both must hold the weights of one process, bit for bit. JSON on rank 0."""

from __future__ import annotations

import sys
from unittest import mock

import torch
import torch.distributed as dist
from tests.launching import conclude

from sftloss.tasks import STRATEGIES, MultiTaskLoss, TaskGradients
from sftloss.tasks.strategies import EXTRA

NAMES = ["a", "b", "c"]


def step_data(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    losses = torch.rand(30, generator=generator, dtype=torch.float64)
    weights = torch.rand(30, generator=generator, dtype=torch.float64)
    # ragged: 11 tokens here, 19 there, and task c is on the second rank only
    ids = torch.cat([torch.randint(0, 2, (11,), generator=generator), torch.randint(0, 3, (19,), generator=generator)])
    return losses, ids, weights


def compare(name: str, rank: int) -> None:
    shared, alone = MultiTaskLoss(NAMES, name), MultiTaskLoss(NAMES, name)
    torch.manual_seed(rank)  # ranks have different random states, and none may matter
    for step in range(6):
        losses, ids, weights = step_data(step)
        mine = slice(0, 11) if rank == 0 else slice(11, 30)
        totals = shared.totals([(weights[mine], ids[mine])])
        leaf = losses[mine].clone().requires_grad_()
        shared(leaf, ids[mine], weights[mine], totals=totals)[0].backward()
        whole = losses.clone().requires_grad_()
        coefficients = alone.coefficients(weights, ids)
        (coefficients * whole).sum().backward()
        for part in (slice(0, 11), slice(11, 30)):  # one process adds what two would, in their order
            alone.observe(losses[part], ids[part], weights[part])
            if alone.strategy.needs in EXTRA:
                alone.observe_extra(losses[part].sqrt(), ids[part], weights[part])
        if shared.strategy.needs in EXTRA:
            shared.observe_extra(losses[mine].sqrt(), ids[mine], weights[mine])
        # DDP averages over two ranks; float64, other orders of addition in Z
        torch.testing.assert_close(leaf.grad / 2, whole.grad[mine], rtol=1e-13, atol=0)
        with mock.patch("torch.distributed.all_gather", wraps=dist.all_gather) as collective:
            shared.step()
        # one collective a step, of sums and counts; of an extra forward pass too, where there is one
        sizes = [call.args[1].numel() for call in collective.call_args_list]
        assert sizes == [(4 if shared.strategy.needs in EXTRA else 2) * len(NAMES)], (name, sizes)
        step_alone(alone)
        both = [torch.empty_like(shared.weights) for _ in range(2)]
        dist.all_gather(both, shared.weights)
        assert torch.equal(*both), (name, step, both)
        assert torch.equal(shared.weights, alone.weights), (name, step, shared.weights - alone.weights)


def step_alone(module: MultiTaskLoss) -> None:
    with mock.patch("sftloss.ranks.world_size", return_value=1):
        module.step()


def compare_gramians(rank: int) -> None:
    """The Gramian of the averaged gradients, with DDP around the model; a task lies on both ranks, one on one."""
    torch.manual_seed(0)
    alone = torch.nn.Linear(4, 3).double()
    shared = torch.nn.Linear(4, 3).double()
    shared.load_state_dict(alone.state_dict())
    wrapped = torch.nn.parallel.DistributedDataParallel(shared)
    x, ids = torch.randn(6, 4).double(), torch.tensor([0, 1, 0, 0, 1, 2])
    mine = slice(0, 3) if rank == 0 else slice(3, 6)
    found, expected = TaskGradients(wrapped, tasks=3), TaskGradients(alone, tasks=3)
    with found.capture(ids[mine]):
        (2 * wrapped(x[mine]).square().sum()).backward()  # twice, as DDP averages
    with expected.capture(ids):
        alone(x).square().sum().backward()
    gramian = found.gramian()
    torch.testing.assert_close(gramian, expected.gramian(), rtol=1e-12, atol=0)
    layers = TaskGradients(wrapped, tasks=3, layerwise=True)
    shared.zero_grad()
    with layers.capture(ids[mine]):
        (2 * wrapped(x[mine]).square().sum()).backward()
    torch.testing.assert_close(layers.gramian(), gramian, rtol=1e-12, atol=0)
    both = [torch.empty_like(gramian) for _ in range(2)]
    dist.all_gather(both, gramian)
    assert torch.equal(*both)
    weights = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    for each in (found, expected):
        each.apply(weights)
    torch.testing.assert_close(shared.weight.grad, alone.weight.grad, rtol=1e-12, atol=0)


def main(out: str) -> None:
    dist.init_process_group("gloo")
    compared = []
    for name, make in STRATEGIES.items():
        if make().needs != "gramian":
            compare(name, dist.get_rank())
            compared.append(name)
    compare_gramians(dist.get_rank())
    conclude({"compared": compared}, out)


if __name__ == "__main__":
    main(sys.argv[1])

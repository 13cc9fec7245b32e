"""Run by torchrun on two ranks: both must hold the weights of one process, bit for bit. Prints OK."""

from __future__ import annotations

import torch
import torch.distributed as dist

from sftloss.tasks import STRATEGIES, MultiTaskLoss

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
        # DDP averages over two ranks; float64, other orders of addition in Z
        torch.testing.assert_close(leaf.grad / 2, whole.grad[mine], rtol=1e-13, atol=0)
        shared.step()
        step_alone(alone)
        both = [torch.empty_like(shared.weights) for _ in range(2)]
        dist.all_gather(both, shared.weights)
        assert torch.equal(*both), (name, step, both)
        assert torch.equal(shared.weights, alone.weights), (name, step, shared.weights - alone.weights)


def step_alone(module: MultiTaskLoss) -> None:
    from unittest import mock

    with mock.patch("sftloss.tasks._ranks.world_size", return_value=1):
        module.step()


def main() -> None:
    dist.init_process_group("gloo")
    assert dist.get_world_size() == 2
    for name in STRATEGIES:
        if not name.startswith("grad"):
            compare(name, dist.get_rank())
    dist.barrier()
    if dist.get_rank() == 0:
        print("OK, world size 2")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Run by torchrun: three optimizer steps under task weights on two ranks beside one process; JSON on rank 0."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from tests.launching import conclude
from tests.training.cases import model_of, ragged_rows
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from sftloss.errors import ConfigError
from sftloss.tasks import MultiTaskLoss
from sftloss.training import Loss, TaskWeighting, attach, collate_rows

ROWS = ragged_rows()
STEPS = 3
pad = partial(collate_rows, pad_id=0)
CASES = {
    "ddp, gls": ("ddp", "gls"),
    "ddp, mgda": ("ddp", "mgda"),
    "ddp, mgda layer by layer": ("ddp", "layerwise"),
    "ddp, doremi": ("ddp", "doremi"),
    "fsdp2, uncertainty": ("fsdp2", "uncertainty"),
    "fsdp2, famo": ("fsdp2", "famo"),
    "fsdp2, doremi": ("fsdp2", "doremi"),
}


def tasks_of(strategy: str) -> TaskWeighting:
    if strategy == "doremi":
        reference = model_of()
        for p in reference.parameters():
            p.data += 0.1 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(7))
        return TaskWeighting(MultiTaskLoss(["a", "b"], "doremi"), reference=reference)
    is_layerwise = strategy == "layerwise"
    return TaskWeighting(MultiTaskLoss(["a", "b"], "mgda" if is_layerwise else strategy), layerwise=is_layerwise)


def trained(model: Any, wrapped: Any, tasks: TaskWeighting, parts: list[dict[str, Any]]) -> list[torch.Tensor]:
    """The weights after the last step; ranks average gradients."""
    attachment = attach(model, Loss(tasks=tasks))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        step = attachment.step(parts)
        for batch in parts:
            with tasks.capture(batch):
                wrapped(**batch, num_items_in_batch=step).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tasks.step()
    return [p.detach().full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()]


def sharded(model: Any) -> Any:
    for layer in [*model.model.layers, model]:
        fully_shard(layer)
    return model


def case(how: str, strategy: str) -> dict[str, float]:
    half = slice(0, 5) if dist.get_rank() == 0 else slice(5, 8)
    rows = ROWS[half]
    # a step is one pass where the Gramian is taken layer by layer
    parts = [pad(rows)] if strategy == "layerwise" else [pad(rows[:1]), pad(rows[1:])]
    model, tasks = model_of(), tasks_of(strategy)
    if how == "fsdp2":
        found = trained(sharded(model), model, tasks, parts)
    else:
        found = trained(model, DistributedDataParallel(model, broadcast_buffers=False), tasks, parts)
    weights = tasks.weighting.weights
    both = [torch.empty_like(weights) for _ in range(2)]
    dist.all_gather(both, weights)
    with mock.patch("torch.distributed.is_initialized", return_value=False):
        single = model_of()
        expected = trained(single, single, tasks_of(strategy), [pad(ROWS)])
    error = max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
    return {"weights": error, "bits": float(not torch.equal(*both)), "moved": float((weights - 1).abs().max())}


def refused(attach_first: bool) -> str:
    model, tasks = model_of(), tasks_of("mgda")
    try:
        if not attach_first:
            sharded(model)
        attach(model, Loss(tasks=tasks))
        sharded(model)
        with tasks.capture(pad(ROWS)):
            pass
    except ConfigError as error:
        return str(error)
    return "taken"


def main(out: str) -> None:
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo")
    found: dict[str, Any] = {name: case(*told) for name, told in CASES.items()}
    found["refused"] = [refused(True), refused(False)]
    conclude(found, out)


if __name__ == "__main__":
    main(sys.argv[1])

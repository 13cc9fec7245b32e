"""A plain PyTorch loop with any loss, exact at any split: `python examples/plain_loop.py`.

The same file trains on several processes: `torchrun --nproc-per-node 2 examples/plain_loop.py`. It uses the tiny model
and the generated data that come with the package; put your own in their places.
"""

from __future__ import annotations

import os
from itertools import islice

import torch

from sftloss.data import Examples, batches
from sftloss.data.demo import demo_model, demo_records, demo_tokenizer
from sftloss.training import Loss, attach, inputs_of

LOSS = Loss("focal(gamma=1) + 1e-4 * z_loss", normalization="sqrt")
STEPS, MICRO_BATCHES, TOKENS = 5, 4, 512


def main() -> list[float]:
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        torch.distributed.init_process_group("gloo")
    model, tokenizer = demo_model().train(), demo_tokenizer()
    attachment = attach(model, LOSS)  # the one line; everything that wraps the model comes after it
    wrapped = torch.nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    examples = Examples(demo_records(seed=1)[rank::world], tokenizer)
    stream = map(inputs_of, batches(examples, pad_id=tokenizer.pad_token_id, tokens_per_batch=TOKENS))
    losses = []
    for _ in range(STEPS):
        window = list(islice(stream, MICRO_BATCHES))
        step = attachment.step(window)  # counts the normalizer: one number for all micro-batches and ranks
        for batch in window:
            wrapped(**batch, num_items_in_batch=step).loss.backward()  # no division: the step did it
        optimizer.step()
        optimizer.zero_grad()
        seen = attachment.metrics()
        losses.append(seen["cross_entropy"])
        if rank == 0:
            print("  ".join(f"{name} {value:.4f}" for name, value in seen.items()))
    return losses


if __name__ == "__main__":
    main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # once the wrapped model is gone; with gloo, before it may hang

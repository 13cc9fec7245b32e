"""Run by torchrun on two ranks under DDP: each gets the norms of its own rows. JSON on rank 0."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from tests.launching import conclude
from tests.training.cases import model_of, ragged_rows, without
from torch.nn.parallel import DistributedDataParallel

from sftloss import per_example_gradients
from sftloss.ranks import gather_over_ranks
from sftloss.training import attach, collate_rows


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    rows = without(ragged_rows(8), "token_weights", "tasks")
    mine = collate_rows(rows[:3] if rank == 0 else rows[3:], pad_id=0)
    wrapped = DistributedDataParallel(model_of("gpt2", tie_word_embeddings=True))
    attachment = attach(wrapped, "cross_entropy")
    step = attachment.step([mine])
    norms = per_example_gradients(wrapped, {**mine, "num_items_in_batch": step}).norms
    found = sum(gather_over_ranks(norms.tolist()), [])
    whole = collate_rows(rows, pad_id=0)
    alone = model_of("gpt2", tie_word_embeddings=True)
    expected = per_example_gradients(alone, whole).norms
    error = float(((torch.tensor(found, dtype=torch.float64) - expected) / expected).abs().max())
    conclude({"error": error, "rows": len(found)}, sys.argv[1])


if __name__ == "__main__":
    main()

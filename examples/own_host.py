"""A decoder that is a plain `nn.Module`, with any loss, exact at any split: `python examples/own_host.py`.

The same file trains on several processes: `torchrun --nproc-per-node 2 examples/own_host.py`. The model is built as
torchtitan builds its own: `tok_embeddings`, `layers`, `norm`, `output`, and a forward pass from tokens to logits. The
library needs two things about it: how to get its hidden states, and the name of its head.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sftloss.data import Examples, batches
from sftloss.data.demo import demo_records, demo_tokenizer
from sftloss.decoder import PlainPort
from sftloss.ranks import launched_as
from sftloss.testing import check_loop
from sftloss.training import Loss, attach, collate_rows, inputs_of

LOSS = Loss("focal(gamma=1) + 1e-4 * z_loss", normalization="sqrt")
STEPS, MICRO_BATCHES, TOKENS, WIDTH, HEADS = 5, 4, 512, 64, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.norms = nn.ModuleList([nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)])

    def forward(self, hidden: Tensor, may_attend: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.norms[0](hidden)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=may_attend[:, None])
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        return hidden + self.down(F.silu(self.up(self.norms[1](hidden))))


class Transformer(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.tok_embeddings, self.positions = nn.Embedding(vocab, WIDTH), nn.Embedding(1024, WIDTH)
        self.layers = nn.ModuleList([Block(), Block()])
        self.norm, self.output = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, vocab, bias=False)

    def body(self, tokens: Tensor, position_ids: Tensor | None = None) -> Tensor:
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        position_ids = columns.expand(tokens.shape) if position_ids is None else position_ids
        document = (position_ids == 0).cumsum(1)  # packed rows: each restart begins a document
        may_attend = (document[:, :, None] == document[:, None]) & (columns[:, None] >= columns)
        hidden = self.tok_embeddings(tokens) + self.positions(position_ids)
        for layer in self.layers:
            hidden = layer(hidden, may_attend)
        return self.norm(hidden)

    def forward(self, tokens: Tensor, position_ids: Tensor | None = None) -> Tensor:
        return self.output(self.body(tokens, position_ids))


def hidden_states(model: Transformer, batch: Mapping[str, Any]) -> Tensor:
    return model.body(batch["tokens"], batch.get("position_ids"))


PORT = PlainPort(hidden_states, head="output", ids="tokens")


def main() -> list[float]:
    rank, world = launched_as()
    if world > 1:
        torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    tokenizer = demo_tokenizer()
    model = Transformer(len(tokenizer))
    attachment = attach(model, LOSS, port=PORT)  # the one line; everything that wraps the model comes after it
    if rank == 0:
        print("own loop:", check(model, attachment))
    else:
        check(model, attachment)
    wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
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


def check(model: nn.Module, attachment: Any) -> Any:
    """Whether micro-batches and ranks have the gradient of the whole batch."""
    rows = [{"input_ids": torch.arange(5, 8 + 2 * i)} for i in range(8)]

    def accumulate(model: nn.Module, micro_batches: list[dict[str, Any]]) -> None:
        step = attachment.step(micro_batches)
        for batch in micro_batches:
            model(**batch, num_items_in_batch=step).loss.backward()

    return check_loop(accumulate, model, collate_rows(rows, pad_id=0))


if __name__ == "__main__":
    main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # once the wrapped model is gone; with gloo, before it may hang

"""The bare products of a fused loss, preallocated, at several tilings: no loss can be faster.

Three for one pass (logits, dh, dW), four for two passes, which make the logits twice; a frozen head takes no dW.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Problem = tuple[Tensor, Tensor, Tensor]  # hidden states, weight, targets
# tokens and columns at a time; whether the logits lie column by column, the weight on the left of their product
FLOORS = {
    "cpu": {
        "floor of 3": ((256, 2**20, True), (512, 8192, True), (1024, 8192, True), (2048, 2048, False)),
        "floor of 4": ((1024, 8192, True), (2048, 2048, True), (2048, 2048, False)),
    },
    "cuda": {
        "floor of 3": ((1024, 2**20, False), (2048, 2**20, False), (8192, 2**20, False)),
        "floor of 4": ((8192, 4096, False), (8192, 16384, False)),
    },
}


def floor(products: int, tiling: tuple[int, int, bool], inputs: Problem, times: int) -> Callable[[], None]:
    """The bare products of the tokens that count; the fourth is the logits once more. A frozen head has no dW."""
    hidden, weight = inputs[0].detach()[inputs[2] != -100], inputs[1].detach()
    if hidden.device.type == "cpu":  # where a processor has no products of low precision, float32 is the best there is
        hidden, weight = hidden.float(), weight.float()
    tokens, vocab = hidden.shape[0], weight.shape[0]
    rows, columns, learns = min(tiling[0], tokens), min(tiling[1], vocab), inputs[1].requires_grad
    d_hidden, d_weight = torch.empty_like(hidden), torch.empty_like(weight)
    buffer = hidden.new_empty(rows * columns)

    def block(height: int, width: int) -> Tensor:
        part = buffer[: height * width]
        return part.view(width, height).t() if tiling[2] else part.view(height, width)

    def logits(h: Tensor, w: Tensor, out: Tensor) -> None:
        if tiling[2]:
            torch.mm(w, h.t(), out=out.t())
        else:
            torch.mm(h, w.t(), out=out)

    def run_once() -> None:
        for i in range(0, tokens, rows):
            h = hidden[i : i + rows]
            for j in range(0, vocab, columns):
                w = weight[j : j + columns]
                part = block(h.shape[0], w.shape[0])
                for _ in range(products - 2):
                    logits(h, w, part)
                d_hidden[i : i + rows].addmm_(part, w, beta=float(j > 0))
                if learns:
                    d_weight[j : j + columns].addmm_(part.t(), h, beta=float(i > 0))

    def run() -> None:
        for _ in range(times):
            run_once()

    return run

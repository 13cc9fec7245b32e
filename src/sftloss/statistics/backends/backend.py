"""The seam between the two passes and the device: read a block of logits, write its gradient."""

from __future__ import annotations

import importlib.util
from typing import Protocol

import torch
from torch import Tensor

from sftloss.statistics.backends.plain import Chunk, Keep, LogitBlock, PlainBackend
from sftloss.statistics.backends.rows import RowGradient, RowNumbers, Sums
from sftloss.statistics.head import Head
from sftloss.statistics.plan import Buffers

_HAS_TRITON = importlib.util.find_spec("triton") is not None
KERNEL_DEVICES = ["cuda"]  # where the Triton kernels run; their tests add "cpu", for Triton's interpreter


class Backend(Protocol):
    """The work between the matrix products of one call, on the tokens that count."""

    head: Head
    dtype: torch.dtype  # of sums and statistics
    product: torch.dtype  # of the factors of the matrix products
    vocab_size: int | Tensor  # columns in the vocabulary, on all ranks together
    is_device: bool  # whether chunks and tiles have the size that suits a GPU

    def read(self, chunk: Chunk, columns: slice, sums: Sums, buffers: Buffers, keep: Keep) -> LogitBlock:
        """Multiply a block and add it to the sums."""

    def recompute(self, chunk: Chunk, columns: slice, m: Tensor, buffers: Buffers, keep: Keep) -> LogitBlock:
        """Multiply a block again, centred at the final m, for its gradient."""

    def write(self, block: LogitBlock, numbers: RowNumbers, grad: RowGradient) -> Tensor:
        """Turn a block into the gradient in the bare product h W^T, given the numbers of the whole rows."""


def backend_of(hidden: Tensor, head: Head) -> Backend:
    """Choose the backend of a call: Triton where it is installed and the tensor is on a GPU, else plain PyTorch."""
    if hidden.device.type in KERNEL_DEVICES and _HAS_TRITON:
        from sftloss.statistics.backends.triton import TritonBackend

        return TritonBackend.of(hidden, head)
    return PlainBackend.of(hidden, head)

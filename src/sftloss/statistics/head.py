"""The output head as a value, and the three matrix products every fused loss is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.statistics.backends.cpu import uses_kernels
from sftloss.statistics.sharded import Shard, local_rows, total

_CAST_ROWS = 4096  # rows of a low-precision weight held as float32 at a time: 12 MiB at 768 columns


@dataclass(frozen=True)
class Head:
    r"""How hidden states become logits.

    .. math:: z = \mathrm{cap}(s\,(h W^\top + u B^\top + b)), \qquad \mathrm{cap}(x) = c \tanh(x / c)

    Args:
        weight: ``(vocab, hidden)``; frozen (``requires_grad=False``) costs no gradient product.
        bias: ``(vocab,)`` or None. ``-inf`` takes a column out of the vocabulary.
        scale: A constant factor :math:`s` on the logits (Cohere's ``logit_scale``, Granite's ``1 / logits_scaling``).
        softcap: The cap :math:`c > 0` (Gemma 2's ``final_logit_softcapping``) or None.
        shard: Which rows of a tensor-parallel head `weight` and `bias` are; None where they are all of it. With one
            they may be DTensors; the gradient of a shard is its own rank's, that of the hidden states is summed.
        low_rank: ``(vocab, r)``, the factor :math:`B` of a low-rank adapter or None. The hidden states then come with
            :math:`u` beside them, ``torch.cat([h, u], dim=1)``: what the adapter makes of its input, scaled, dropped
            out and differentiated by its own autograd. Neither :math:`W + BA` nor the logits are ever held.

    Raises:
        ValueError: If a shape or a number is impossible, or a DTensor comes without saying what it is a shard of.

    Example:
        >>> Head(torch.eye(3)).logits(torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1., 2., 3.]])
        >>> hidden, a, b = torch.ones(1, 3), torch.ones(2, 3), torch.ones(3, 2)     # LoRA: u = scaling * h A^T
        >>> Head(torch.eye(3), low_rank=b).logits(torch.cat([hidden, 0.5 * hidden @ a.t()], dim=1))
        tensor([[4., 4., 4.]])

    Source:
        Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, 2021 (arXiv:2106.09685), eq. 3.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    shard: Shard | None = None
    low_rank: Tensor | None = None

    def __post_init__(self) -> None:
        if self.shard is not None:
            object.__setattr__(self, "weight", local_rows(self.weight))
            object.__setattr__(self, "bias", local_rows(self.bias))
            object.__setattr__(self, "low_rank", local_rows(self.low_rank))
        elif hasattr(self.weight, "to_local"):
            raise ValueError(
                "Head: weight is a DTensor. A tensor-parallel head is Head(weight, shard=Shard.of(weight)); one that "
                "FSDP2 sharded is read inside the forward pass of the module that owns it."
            )
        if self.weight.ndim != 2 or not self.weight.is_floating_point():
            shape, dtype = tuple(self.weight.shape), self.weight.dtype
            raise ValueError(
                f"Head: weight must be a floating (vocab, hidden) matrix, got {dtype} {shape}. "
                "Dequantise a packed head first."
            )
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                f"Head: bias has shape {tuple(self.bias.shape)}, the vocabulary is {self.weight.shape[0]}."
            )
        if self.low_rank is not None and (self.low_rank.ndim != 2 or self.low_rank.shape[0] != self.weight.shape[0]):
            raise ValueError(
                f"Head: low_rank has shape {tuple(self.low_rank.shape)}, it is ({self.weight.shape[0]}, r) like weight."
            )
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"Head: softcap must be > 0 or None, got {self.softcap}.")
        if self.shard is not None:
            rows, start, vocab = self.weight.shape[0], self.shard.start, self.shard.vocab
            if not (rows and 0 <= start <= vocab - rows):
                raise ValueError(f"Head: a shard of {rows} rows from {start} does not lie in a vocabulary of {vocab}.")

    @property
    def vocab(self) -> int:
        """Rows of the head, on all ranks together."""
        return self.weight.shape[0] if self.shard is None else self.shard.vocab

    @property
    def factors(self) -> tuple[tuple[slice, Tensor], ...]:
        """What is multiplied with which columns of the hidden states; the logits are the sum of the products."""
        width = self.weight.shape[1]
        first = (slice(0, width), self.weight)
        return (first,) if self.low_rank is None else (first, (slice(width, self.width), self.low_rank))

    @property
    def width(self) -> int:
        """Columns of the hidden states."""
        return self.weight.shape[1] + (0 if self.low_rank is None else self.low_rank.shape[1])

    @property
    def start(self) -> int:
        """Id of the first row this rank holds."""
        return 0 if self.shard is None else self.shard.start

    @property
    def common(self) -> int:
        """Rows a rank holds, as a number all ranks agree on: what the chunks of tokens are cut by."""
        return self.weight.shape[0] if self.shard is None else self.shard.common

    def logits(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocab"]:
        """The whole logits, differentiable: the definition, for small inputs and for tests.

        Of a shard, this rank's columns.
        """
        (columns, weight), *more = self.factors
        z = torch.nn.functional.linear(hidden[:, columns], weight, self.bias)
        for columns, weight in more:
            z = z + torch.nn.functional.linear(hidden[:, columns], weight)
        z = z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """Statistics are never computed in less than float32."""
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def product_dtype(hidden: Tensor, head: Head) -> torch.dtype:
    """What the products are multiplied in: on a GPU the inputs' own dtype, or autocast's, summed in float32."""
    device, wide = hidden.device.type, compute_dtype(hidden)
    if not uses_kernels(hidden) or wide == torch.float64:
        return wide
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(hidden.dtype, head.weight.dtype)


def multiply(out: Tensor, a: Tensor, b: Tensor, *, beta: float = 0.0, alpha: float = 1.0) -> None:
    """out = beta out + alpha a b; factors of low precision are summed in the precision of `out`."""
    if a.dtype == out.dtype:
        out.addmm_(a, b, beta=beta, alpha=alpha)
    elif out.is_cuda:
        torch.addmm(out, a, b, out_dtype=out.dtype, beta=beta, alpha=alpha, out=out)
    else:
        out.addmm_(a.to(out.dtype), b.to(out.dtype), beta=beta, alpha=alpha)


Factors = list[tuple[slice, Tensor]]


def blocks(head: Head, dtype: torch.dtype, columns: slice) -> Iterator[tuple[slice, Factors]]:
    """The factors of some columns of the logits in `dtype`; uncopied and all at once, where nothing forbids it."""
    step = columns.stop - columns.start if head.weight.dtype == dtype else _CAST_ROWS
    for start in range(columns.start, columns.stop, max(step, 1)):
        piece = slice(start, min(start + step, columns.stop))
        yield piece, factors_of(head, piece, dtype)


def factors_of(head: Head, piece: slice, dtype: torch.dtype) -> Factors:
    """The factors' rows of one block of the vocabulary."""
    return [(columns, factor.detach()[piece].to(dtype)) for columns, factor in head.factors]


def finite_columns(head: Head, dtype: torch.dtype) -> tuple[Tensor | None, int | Tensor]:
    """Which columns are in the vocabulary (1 and 0; None where all are) and how many, without waiting for a device."""
    if head.bias is None or head.softcap is not None:
        return None, head.vocab
    finite = (head.bias.detach() > float("-inf")).to(dtype)
    return finite, total(finite.sum(), head.shard)


def products(hidden: Tensor, factors: Factors, out: Tensor) -> None:
    """Write the bare product with one block of the factors into `out`."""
    for columns, factor in factors:
        multiply(out, hidden[:, columns], factor.t(), beta=float(columns.start > 0))


def project(hidden: Tensor, factors: Factors, head: Head, piece: slice, out: Tensor, slope: Tensor | None) -> None:
    """Write the logits of one block of the vocabulary into `out`, d(capped)/d(uncapped) into `slope` where wanted."""
    products(hidden, factors, out)
    if head.bias is not None:
        out += head.bias.detach()[piece].to(out.dtype)
    if head.scale != 1.0:
        out *= head.scale
    if head.softcap is None:
        return
    out.div_(head.softcap).tanh_()
    if slope is not None:
        torch.square(out, out=slope).neg_().add_(1.0)
    out *= head.softcap

"""The output head as a value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.statistics.sharded import Shard
from sftloss.statistics.tokens import check_type


@dataclass(frozen=True)
class Head:
    r"""How hidden states become logits.

    .. math:: z = \mathrm{cap}(s\,(h W^\top + u B^\top + b)), \qquad \mathrm{cap}(x) = c \tanh(x / c)

    Args:
        weight: ``(vocab, hidden)``; frozen (``requires_grad=False``) costs no gradient product.
        bias: ``(vocab,)`` or None. ``-inf`` takes a column out of the vocabulary.
        scale: A constant factor :math:`s` on the logits (Cohere's ``logit_scale``, Granite's ``1 / logits_scaling``).
        softcap: The cap :math:`c > 0` (Gemma 2's ``final_logit_softcapping``) or None.
        shard: Which rows of a tensor-parallel head `weight` and `bias` are; None where they are all of it. With a
            shard they may be DTensors; each rank gets the gradient of its rows, that of the hidden states is summed.
        low_rank: ``(vocab, r)``, the factor :math:`B` of a low-rank adapter or None. The hidden states are then
            ``torch.cat([h, u], dim=1)``, where :math:`u` is the scaled output of the adapter's first factor. The
            adapter's own autograd differentiates it. Neither :math:`W + BA` nor the logits are ever held.

    Raises:
        TypeError: If `weight` is not a tensor.
        ValueError: If a shape or a number is impossible, or a DTensor comes without its shard.

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
        check_type("Head", "weight", self.weight, Tensor, "Write Head(linear.weight, linear.bias).")
        if self.shard is not None:
            for name in ("weight", "bias", "low_rank"):
                value = getattr(self, name)  # of a DTensor this rank's rows, whose gradient stays here
                object.__setattr__(self, name, value.to_local() if hasattr(value, "to_local") else value)
        elif hasattr(self.weight, "to_local"):
            raise ValueError(
                "Head: weight is a DTensor. For a tensor-parallel head write Head(weight, shard=Shard.of(weight)). "
                "Read a head that FSDP2 sharded inside the forward pass of the module that owns it."
            )
        if self.weight.ndim != 2 or not self.weight.is_floating_point():
            kind = f"{self.weight.dtype} {tuple(self.weight.shape)}"
            cure = "Dequantise a packed head first."
            raise ValueError(f"Head: weight must be a floating (vocab, hidden) matrix, got {kind}. {cure}")
        rows = self.weight.shape[0]
        if self.bias is not None and self.bias.shape != (rows,):
            raise ValueError(f"Head: bias has shape {tuple(self.bias.shape)}, the vocabulary is {rows}.")
        if self.low_rank is not None and (self.low_rank.ndim != 2 or self.low_rank.shape[0] != rows):
            raise ValueError(f"Head: low_rank has shape {tuple(self.low_rank.shape)}, it must be ({rows}, r).")
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"Head: softcap must be > 0 or None, got {self.softcap}.")
        if self.shard is not None:
            start, vocab = self.shard.start, self.shard.vocab
            if not (rows and 0 <= start <= vocab - rows):
                raise ValueError(f"Head: a shard of {rows} rows from {start} does not lie in a vocabulary of {vocab}.")

    @property
    def vocab(self) -> int:
        """Rows of the head, on all ranks together."""
        return self.weight.shape[0] if self.shard is None else self.shard.vocab

    @property
    def factors(self) -> tuple[tuple[slice, Tensor], ...]:
        """The columns of the hidden states and the matrix they are multiplied with; the products add up."""
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
        """Rows a rank holds, the same number on every rank, so that all cut the tokens into the same chunks."""
        ranks = 1 if self.shard is None else torch.distributed.get_world_size(self.shard.group)
        return -(-self.vocab // ranks)

    def logits(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocab"]:
        """Return the whole logits, differentiable; of a shard, this rank's columns. For small inputs and tests."""
        (columns, weight), *more = self.factors
        z = torch.nn.functional.linear(hidden[:, columns], weight, self.bias)
        for columns, weight in more:
            z = z + torch.nn.functional.linear(hidden[:, columns], weight)
        z = z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)

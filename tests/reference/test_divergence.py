"""The divergence over the whole vocabulary: its formula and gradient, and that no logits are held."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sftloss import weighted_loss
from sftloss.reference import reference_divergence
from sftloss.statistics import Head, Plan

both_directions = pytest.mark.parametrize("direction", ["forward", "reverse"])


def inputs(dtype: torch.dtype, tokens: int = 14, vocab: int = 31) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens, 6), (vocab, 6), (tokens, 5), (vocab, 5), (tokens,))
    hidden, weight, other, other_weight, c = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return hidden.to(dtype), weight.to(dtype), other.to(dtype), other_weight.to(dtype), c.to(dtype)


def plain(direction: str, logits: Tensor, reference: Tensor) -> Tensor:
    p, r = logits.softmax(-1), reference.softmax(-1)
    return (r * (r / p).log()).sum(-1) if direction == "forward" else (p * (p / r).log()).sum(-1)


def evaluate(direction: Any, dtype: torch.dtype, how: Plan | None, data: tuple[Tensor, ...]) -> list[Tensor]:
    """Value and gradients in the hidden states and the head, in float64."""
    hidden, weight, other, other_weight, c = (value.to(dtype) for value in data)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    if how is None:
        value = plain(direction, hidden @ weight.t(), other @ other_weight.t())
    else:
        value = reference_divergence(hidden, Head(weight), other, Head(other_weight), direction=direction, plan=how)
    gradients = torch.autograd.grad((value * c).sum(), (hidden, weight))
    return [value.detach().double(), *(gradient.double() for gradient in gradients)]


@both_directions
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 5, 14])
def test_divergence_errs_at_most_twice_what_the_plain_formula_errs(
    direction: str, dtype: torch.dtype, chunk: int
) -> None:
    data = inputs(dtype)
    truth = evaluate(direction, torch.float64, None, data)
    low, ours = evaluate(direction, dtype, None, data), evaluate(direction, dtype, Plan(tokens=chunk), data)
    for true, other, mine in zip(truth, low, ours, strict=True):
        floor = 4 * torch.finfo(dtype).eps * true.abs().max()  # a rounding or two of the result itself
        assert (mine - true).abs().max() <= 2 * (other - true).abs().max() + floor


@both_directions
@pytest.mark.parametrize("chunk", [1, 5, 14])
def test_divergence_is_the_plain_formula_in_float64(direction: str, chunk: int) -> None:
    data = inputs(torch.float64)
    ours = evaluate(direction, torch.float64, Plan(tokens=chunk), data)
    for mine, true in zip(ours, evaluate(direction, torch.float64, None, data), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-10, atol=1e-12)  # sums in another order


@both_directions
def test_divergence_has_the_closed_form_gradient(direction: Any) -> None:
    hidden, weight, other, other_weight, _ = inputs(torch.float64)
    z = (hidden @ weight.t()).requires_grad_()
    value = reference_divergence(z, Head(torch.eye(31).double()), other, Head(other_weight), direction=direction)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    p, r = z.softmax(-1), (other @ other_weight.t()).softmax(-1)
    expected = p - r if direction == "forward" else p * ((p / r).log() - plain("reverse", z, r.log())[:, None])
    torch.testing.assert_close(gradient, expected)


@both_directions
def test_divergence_is_finite_where_both_rule_a_token_out_and_the_reference_learns_nothing(direction: Any) -> None:
    hidden, weight, other, other_weight, _ = inputs(torch.float64)
    bias = torch.zeros(31).double()
    bias[3] = float("-inf")
    for tensor in (hidden, weight, other, other_weight):
        tensor.requires_grad_()
    value = reference_divergence(
        hidden, Head(weight, bias), other, Head(other_weight, bias), direction=direction, plan=Plan(tokens=4)
    )
    value.sum().backward()
    assert value.isfinite().all() and (value >= 0).all() and hidden.grad is not None and hidden.grad.isfinite().all()
    assert other.grad is None and other_weight.grad is None
    same = reference_divergence(hidden, Head(weight), hidden, Head(weight), direction=direction)
    torch.testing.assert_close(same, torch.zeros_like(same))


def test_divergence_adds_to_a_fused_loss() -> None:
    hidden, weight, other, other_weight, c = inputs(torch.float64)
    targets, head = torch.arange(14) % 31, Head(weight.requires_grad_())
    loss = weighted_loss(hidden, head, targets, c, "dft")[0]
    loss = loss + 0.05 * (c * reference_divergence(hidden, head, other, Head(other_weight))).sum()
    logits, p = hidden @ weight.t(), (hidden @ weight.t()).log_softmax(-1)[range(14), targets]
    expected = (c * (-p.exp().detach() * p + 0.05 * plain("forward", logits, other @ other_weight.t()))).sum()
    torch.testing.assert_close(*(torch.autograd.grad(value, weight)[0] for value in (loss, expected)))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.untyped_storage().nbytes() // value.element_size())
        return result


@both_directions
def test_no_tensor_has_the_size_of_the_logits(direction: Any) -> None:
    hidden, weight, other, other_weight, _ = inputs(torch.float32, tokens=512, vocab=1000)
    with Largest() as largest:
        value = reference_divergence(
            hidden.requires_grad_(), Head(weight.requires_grad_()), other, Head(other_weight), direction=direction,
            plan=Plan(tokens=16),
        )  # fmt: skip
        value.sum().backward()
    assert largest.elements == 16 * 1000, "one chunk of logits"


def test_divergence_refuses_another_vocabulary_and_another_direction() -> None:
    hidden, weight, other, other_weight, _ = inputs(torch.float64)
    with pytest.raises(ValueError, match="the model has 31 tokens, the reference 30; both need one vocabulary"):
        reference_divergence(hidden, Head(weight), other, Head(other_weight[:30]))
    with pytest.raises(ValueError, match="direction must be forward or reverse, got 'both'"):
        reference_divergence(hidden, Head(weight), other, Head(other_weight), direction="both")  # type: ignore[arg-type]

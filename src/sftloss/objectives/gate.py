"""The gate of an objective: its factor on cross-entropy's gradient, as numbers, as a line of bars and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sftloss.statistics import from_logits

BARS = "▁▂▃▄▅▆▇█"
CURVE = tuple((2 * k + 1) / 100 for k in range(50))
"""Probabilities of the target at which gates are drawn."""

_WIDTH, _HEIGHT, _COLUMNS, _HIGHEST = 168, 96, 5, 3.0


def gates(loss: Callable[..., Tensor], probabilities: Sequence[float]) -> list[float] | None:
    """Return the factor on cross-entropy's gradient at each of these probabilities of the target.

    None where the target's probability does not determine the gradient: such an objective acts on the whole
    distribution, or reads it, or a batch tensor.
    """
    try:
        others = torch.tensor([[0.2, 0.3, 0.5], [0.9, 0.06, 0.04]], dtype=torch.float64)
        factors = [_gates(loss, probabilities, rest) for rest in others]
    except Exception:  # it reads a batch tensor, or is a user's own that fails on made-up tokens
        return None
    first, second = factors
    return None if first is None or second is None or not torch.allclose(first, second) else first.tolist()


def _gates(loss: Callable[..., Tensor], probabilities: Sequence[float], rest: Tensor) -> Tensor | None:
    """Return the factors where the other tokens share the remaining probability as `rest` says; None if none fits."""
    p = torch.tensor(probabilities, dtype=torch.float64)[:, None] + 1e-9  # a threshold at one of them is reached
    probability = torch.cat([p, (1 - p) * rest], dim=1)
    logits = (probability.log() + 0.5).requires_grad_()  # an objective may read their normalizer
    losses = loss(from_logits(logits, torch.zeros(len(p), dtype=torch.long)))
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    plain = probability - torch.tensor([1.0, 0.0, 0.0, 0.0])
    gate = gradient[:, :1] / plain[:, :1]
    return gate[:, 0] if torch.allclose(gradient, gate * plain, atol=1e-7) else None


def gate_line(loss: Callable[..., Tensor]) -> str | None:
    """Return the gate from p = 0 to 1 as bars beside cross-entropy's on the same scale; None if there is none.

    Example:
        >>> from sftloss.objectives import dft
        >>> gate_line(dft)
        '▁▁▂▂▃▃▄▄▅▅▆▆▇▇██ (cross-entropy ████), highest 0.97 at p = 0.97'
    """
    values = gates(loss, [(2 * k + 1) / 32 for k in range(16)])
    if values is None:
        return None
    largest = max(*values, 1.0)
    top = max(range(16), key=values.__getitem__)
    bars, plain = ("".join(_bar(value / largest) for value in row) for row in (values, [1.0] * 4))
    return f"{bars} (cross-entropy {plain}), highest {values[top]:.2g} at p = {(2 * top + 1) / 32:.2f}"


def _bar(share: float) -> str:
    return BARS[min(len(BARS) - 1, max(0, int(share * len(BARS) + 1e-6)))]


def gate_sheet(losses: Mapping[str, Callable[..., Tensor]]) -> str:
    """Return a picture of the gates that depend on p alone, a panel each, as SVG that suits light and dark pages."""
    drawn = {name: values for name, loss in losses.items() if (values := gates(loss, CURVE)) is not None}
    rows = -(-len(drawn) // _COLUMNS)
    size = f'width="{_COLUMNS * _WIDTH}" height="{rows * _HEIGHT}"'
    style = "text{font:11px sans-serif;fill:#777}.g{fill:none;stroke:#2a78d6;stroke-width:2}.c{stroke:#999}"
    style += ".c{stroke-dasharray:3 3}.a{stroke:#bbb}"
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><style>{style}</style>']
    for at, (name, values) in enumerate(drawn.items()):
        x, y = at % _COLUMNS * _WIDTH, at // _COLUMNS * _HEIGHT
        lines += [f'<g transform="translate({x} {y})">', *_panel(name, values), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(name: str, values: Sequence[float]) -> Iterator[str]:
    """Yield one panel: the name, the axis at 0, cross-entropy's line at 1, the gate up to `_HIGHEST`."""
    left, right, top, bottom = 6, _WIDTH - 10, 20, _HEIGHT - 8
    highest = min(_HIGHEST, max(1.2, *values))

    def height(value: float) -> float:
        return bottom - (bottom - top) * min(max(value, 0.0), highest) / highest

    points = " ".join(f"{left + (right - left) * p:.0f},{height(v):.1f}" for p, v in zip(CURVE, values, strict=True))
    yield f'<text x="{left}" y="13">{name}</text>'
    yield f'<line class="a" x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}"/>'
    yield f'<line class="c" x1="{left}" y1="{height(1):.1f}" x2="{right}" y2="{height(1):.1f}"/>'
    yield f'<polyline class="g" points="{points}"/>'

"""The generated parts of docs/objectives.md, and the imports by which type checkers know the objectives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sftloss.docstrings import markdown, write_regions
from sftloss.objectives.description import Description, descriptions
from sftloss.objectives.expression import objective
from sftloss.objectives.record import OBJECTIVES
from sftloss.registry import with_imports
from sftloss.statistics import from_logits

PROBABILITIES = (0.01, 0.1, 0.5, 0.9, 0.99)


def rewrite_objectives_page() -> None:
    """Rewrite the page, the README's count and the imports; run it in the root of the repository."""
    write_regions(Path("docs/objectives.md"), objective_regions())
    readme = Path("README.md")
    readme.write_text(with_count(readme.read_text(encoding="utf-8")), encoding="utf-8")
    room = Path(__file__).with_name("__init__.py")
    room.write_text(with_imports(room.read_text(encoding="utf-8"), OBJECTIVES), encoding="utf-8")


def with_count(text: str) -> str:
    """Return a text in which ``12 objectives`` has the number there is."""
    return re.sub(r"\b\d+ objectives\b", f"{len(OBJECTIVES)} objectives", text)


def objective_regions() -> dict[str, str]:
    """Return the generated regions of the page by name."""
    entries = descriptions()
    return {
        "gates": "\n".join([*_table_head(), *map(_gate_row, entries)]),
        "papers": "\n".join(["| paper | loss | written |", "|---|---|---|", *sorted(_paper_rows(entries))]),
        "entries": "\n\n".join(map(_entry, entries)),
    }


def gates(loss: Callable[..., Tensor]) -> list[float] | None:
    """Return the factor on cross-entropy's gradient at each of ``PROBABILITIES`` of the target.

    None where the target's probability does not determine the gradient: such an objective acts on the whole
    distribution, or reads it.
    """
    factors = [_gates(loss, torch.tensor(rest)) for rest in ([0.2, 0.3, 0.5], [0.9, 0.06, 0.04])]
    first, second = factors
    return None if first is None or second is None or not torch.allclose(first, second) else first.tolist()


def _gates(loss: Callable[..., Tensor], rest: Tensor) -> Tensor | None:
    """Return the factors where the other tokens share the remaining probability as `rest` says; None if none fits."""
    p = torch.tensor(PROBABILITIES, dtype=torch.float64)[:, None] + 1e-9  # a threshold at one of them is reached
    probabilities = torch.cat([p, (1 - p) * rest], dim=1)
    logits = probabilities.log().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(from_logits(logits, torch.zeros(len(p), dtype=torch.long))).sum(), logits)
    plain = probabilities - torch.tensor([1.0, 0.0, 0.0, 0.0])
    gate = gradient[:, :1] / plain[:, :1]
    return gate[:, 0] if torch.allclose(gradient, gate * plain) else None


def _table_head() -> list[str]:
    columns = " | ".join(f"{p:g}" for p in PROBABILITIES[1:])
    head = f"| objective | gate at p = {PROBABILITIES[0]:g} | {columns} | equals cross-entropy at |"
    return [head, "|---" * (len(PROBABILITIES) + 2) + "|"]


def _gate_row(entry: Description) -> str:
    extras, factors = entry.record.extras, None
    if not extras:
        factors = gates(OBJECTIVES[entry.name] if entry.record.is_term else objective(entry.record.examples[0]))
    reason = f"it depends on `{extras[0]}`" if extras else "it depends on the whole distribution"
    cells = [f"no gate of p alone: {reason}", *[""] * (len(PROBABILITIES) - 1)]
    if factors is not None:
        cells = [f"{round(factor, 4) + 0.0:.4f}".rstrip("0").rstrip(".") for factor in factors]
    neutral = "nowhere" if entry.neutral is None else "always" if entry.neutral == entry.name else f"`{entry.neutral}`"
    return f"| `{entry.record.examples[0]}` | {' | '.join(cells)} | {neutral} |"


def _paper_rows(entries: Sequence[Description]) -> Iterator[str]:
    """Yield a row for the paper of each objective, and for each loss that is an objective under another name."""
    for entry in entries:
        source = " ".join(entry.docstring.sections["Source"].split())
        paper, title = re.search(r"arXiv:(\d{4}\.\d{5})", source), re.search(r"\*(.+?)\*", source)
        if paper and title:
            yield _paper_row(paper[1], title[1], entry.record.examples[0])
        for loss in entry.record.published:
            yield _paper_row(loss.paper, loss.name, loss.expression)


def _paper_row(paper: str, name: str, expression: str) -> str:
    return f"| [{paper}](https://arxiv.org/abs/{paper}) | {name} | `{expression}` |"


def _entry(entry: Description) -> str:
    docstring = entry.docstring
    parts = [f"## `{entry.name}`", _on_one_line(docstring.summary), f"$${docstring.formula}$$"]
    parts += [_on_one_line(paragraph) for paragraph in docstring.body.split("\n\n") if paragraph]
    words = [
        f"- `{name}={default!r}`: {_on_one_line(docstring.arguments[name])}"
        for name, default in entry.hyper_parameters.items()
    ]
    parts += ["\n".join(words)] if words else []
    parts.append(f"**Reads** {_names(entry.reads)}.")
    if entry.record.extras:
        parts[-1] += f" From each batch {_names(entry.record.extras)}, laid out as the labels are."
    for title in ("Gradient", "Helps", "Harms", "Source"):
        parts.append(f"**{title}.** {_on_one_line(docstring.sections[title])}")
    parts.append(f"**Written** {', '.join(f'`{example}`' for example in entry.record.examples)}")
    return "\n\n".join(parts)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _on_one_line(text: str) -> str:
    return " ".join(markdown(text).split())

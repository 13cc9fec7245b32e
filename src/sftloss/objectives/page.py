"""The generated parts of docs/objectives.md, and the imports by which type checkers know the objectives."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from sftloss.docstrings import markdown, write_regions
from sftloss.objectives.description import Description, descriptions, published_losses
from sftloss.objectives.expression import objective
from sftloss.objectives.gate import gate_sheet, gates
from sftloss.objectives.record import OBJECTIVES, PublishedLoss
from sftloss.registry import with_imports

PROBABILITIES = (0.01, 0.1, 0.5, 0.9, 0.99)


def rewrite_objectives_page() -> None:
    """Rewrite the page, its picture, the README's count and the imports; run it in the root of the repository."""
    write_regions(Path("docs/objectives.md"), objective_regions())
    Path("docs/gates.svg").write_text(gate_picture(), encoding="utf-8")
    readme = Path("README.md")
    readme.write_text(with_count(readme.read_text(encoding="utf-8")), encoding="utf-8")
    room = Path(__file__).with_name("__init__.py")
    room.write_text(with_imports(room.read_text(encoding="utf-8"), OBJECTIVES), encoding="utf-8")


def gate_picture() -> str:
    """Return docs/gates.svg, the gates of all objectives that have one."""
    return gate_sheet({entry.name: _usual(entry) for entry in descriptions()})


def with_count(text: str) -> str:
    """Return a text in which ``12 objectives`` has the number there is."""
    return re.sub(r"\b\d+ objectives\b", f"{len(OBJECTIVES)} objectives", text)


def objective_regions() -> dict[str, str]:
    """Return the generated regions of the page by name."""
    entries = descriptions()
    papers = sorted(map(_paper_row, published_losses(entries)))
    return {
        "gates": "\n".join([*_table_head(), *map(_gate_row, entries)]),
        "papers": "\n".join(["| paper | loss | written |", "|---|---|---|", *papers]),
        "entries": "\n\n".join(map(_entry, entries)),
    }


def _usual(entry: Description) -> Callable[..., Tensor]:
    """The objective as it is usually written; a term without the cross-entropy that it is added to."""
    return OBJECTIVES[entry.name] if entry.record.is_term else objective(entry.record.examples[0])


def _table_head() -> list[str]:
    columns = " | ".join(f"{p:g}" for p in PROBABILITIES[1:])
    head = f"| objective | gate at p = {PROBABILITIES[0]:g} | {columns} | equals cross-entropy at |"
    return [head, "|---" * (len(PROBABILITIES) + 2) + "|"]


def _gate_row(entry: Description) -> str:
    extras, factors = entry.record.extras, None
    if not extras:
        factors = gates(_usual(entry), PROBABILITIES)
    reason = f"it depends on `{extras[0]}`" if extras else "it depends on the whole distribution"
    cells = [f"no gate of p alone: {reason}", *[""] * (len(PROBABILITIES) - 1)]
    if factors is not None:
        cells = [f"{round(factor, 4) + 0.0:.4f}".rstrip("0").rstrip(".") for factor in factors]
    neutral = "nowhere" if entry.neutral is None else "always" if entry.neutral == entry.name else f"`{entry.neutral}`"
    return f"| `{entry.record.examples[0]}` | {' | '.join(cells)} | {neutral} |"


def _paper_row(loss: PublishedLoss) -> str:
    return f"| [{loss.paper}](https://arxiv.org/abs/{loss.paper}) | {loss.name} | `{loss.expression}` |"


def _entry(entry: Description) -> str:
    docstring = entry.docstring
    parts = [f"## `{entry.name}`", _on_one_line(docstring.summary), f"$${docstring.formula}$$"]
    parts += [_on_one_line(paragraph) for paragraph in docstring.body.split("\n\n") if paragraph]
    words = [
        f"- `{name}={default!r}`: {_on_one_line(docstring.arguments[name])}"
        for name, default in entry.hyper_parameters.items()
    ]
    parts += ["\n".join(words)] if words else []
    parts += [f"**Gate** {entry.gate}"] if entry.gate else []
    parts.append(f"**Reads** {_names(entry.reads)}. **Costs** {entry.cost}.")
    if entry.record.extras:
        parts[-1] += f" From each batch {_names(entry.record.extras)}, laid out as the labels are."
    if entry.record.sequence_values:
        parts[-1] += (
            f" Of each sequence {_names(entry.record.sequence_values)}, which training computes before the loss."
        )
    for title in ("Gradient", "Helps", "Harms", "Source"):
        parts.append(f"**{title}.** {_on_one_line(docstring.sections[title])}")
    parts.append(f"**Written** {', '.join(f'`{example}`' for example in entry.record.examples)}")
    return "\n\n".join(parts)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _on_one_line(text: str) -> str:
    return " ".join(markdown(text).split())

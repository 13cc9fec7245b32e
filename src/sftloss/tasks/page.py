"""The generated table of docs/multitask.md, and the imports by which type checkers know the strategies."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from sftloss.docstrings import docstring_of, markdown, write_regions
from sftloss.registry import with_imports
from sftloss.tasks.strategies import STRATEGIES, Strategy

_NEEDS = {
    "losses": "losses",
    "after": "the step's losses once more, after it",
    "validation": "held-out losses",
    "excess": "losses of a reference model",
    "gramian": "gradients",
}


def rewrite_strategies_page() -> None:
    """Rewrite the table and the imports; run it in the root of the repository."""
    write_regions(Path("docs/multitask.md"), strategy_regions())
    room = Path(__file__).with_name("strategies") / "__init__.py"
    room.write_text(with_imports(room.read_text(encoding="utf-8"), STRATEGIES), encoding="utf-8")


def strategy_regions() -> dict[str, str]:
    """Return the generated regions of the page by name."""
    head = ["| strategy | needs | weights |", "|---|---|---|"]
    return {"strategies": "\n".join([*head, *(_row(name, make) for name, make in STRATEGIES.items())])}


def _row(name: str, make: Callable[..., Strategy]) -> str:
    docstring, parameters = docstring_of(make), inspect.signature(make).parameters.values()
    arguments = ", ".join(f"{parameter.name}={parameter.default!r}" for parameter in parameters)
    signature = f"{name}({arguments})" if arguments else name
    text = markdown(docstring.summary) + (f" ${docstring.formula}$" if docstring.formula else "")
    # a bar ends a cell
    return f"| `{signature}` | {_NEEDS[make().needs]} | {text.replace('|', chr(92) + 'vert ')} |"

"""``python -m sftloss.data.formats``: rewrite the table of formats in docs/inspect.md."""

from __future__ import annotations

import json
from pathlib import Path

from sftloss.data.formats import FORMATS, format_kinds
from sftloss.docstrings import write_regions


def table() -> str:
    """The formats in the order in which they are asked, those of one kind as one row."""
    formats = {kind: FORMATS[kind] for kind in format_kinds()}
    rows = [f"| `{kind}` | {one.columns} | `{json.dumps(one.example)}` |" for kind, one in formats.items()]
    return "\n".join(["| format | columns | example |", "|---|---|---|", *rows])


if __name__ == "__main__":
    write_regions(Path("docs/inspect.md"), {"formats": table()})

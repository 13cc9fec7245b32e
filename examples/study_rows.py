"""Rows for `sftloss study languages` and `rewards`: `python examples/study_rows.py en=FILE zh=FILE --output rows`.

Writes `languages.jsonl`, rows of all files with the file's name as the task; and of the first file `rewards.jsonl`, in
which every fourth answer belongs to another question and is marked as wrong with a weight of 0.1, and `right.jsonl`,
rows of the same file that judge.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sftloss.data import read_records

MARKED = 4  # of so many rows one is marked as wrong
HELD_OUT = 8  # and one of so many judges
WEIGHT = 0.1


def rows_of(task: str, file: Path, limit: int) -> list[dict[str, Any]]:
    """The first `limit` rows of one question and one answer."""
    rows = []
    for record in read_records(file, limit=limit):
        *before, answer = record.messages or ()
        question = "\n".join(message.content for message in before)
        rows.append({"prompt": question, "completion": answer.content, "task": task})
    return rows


def with_wrong_answers(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, some with the answer of the next row, marked."""
    wrong = {"is_negative": True, "weight": WEIGHT}
    return [
        {**row, "completion": rows[(i + 1) % len(rows)]["completion"], **wrong} if i % MARKED == 0 else row
        for i, row in enumerate(rows)
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="TASK=FILE")
    parser.add_argument("--output", type=Path, default=Path("rows"))
    parser.add_argument("--rows", type=int, default=450, help="of each file, at most")
    chosen = parser.parse_args(argv)
    parts = [rows_of(task, Path(file), chosen.rows) for task, _, file in (text.partition("=") for text in chosen.files)]
    mixed = [row for together in zip(*parts, strict=False) for row in together]
    first = parts[0]
    files = {
        "languages": mixed,
        "rewards": with_wrong_answers([row for i, row in enumerate(first) if i % HELD_OUT]),
        "right": first[::HELD_OUT],
    }
    chosen.output.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (chosen.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    print(", ".join(f"{name}.jsonl: {len(rows)} rows" for name, rows in files.items()), "in", chosen.output)


if __name__ == "__main__":
    main()

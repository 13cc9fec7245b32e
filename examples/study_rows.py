"""Rows for the studies of SmolLM2: `python examples/study_rows.py en=FILE zh=FILE math=FILE --output rows`.

Only rows of one question and one answer are taken that fit into the 128 tokens of these studies, so no answer loses its
end. Writes

- `en.jsonl`, `zh.jsonl`, `math.jsonl`: the rows of each file;
- `languages.jsonl`: as many rows of the first as of the second file, with `en` and `zh` as their task;
- `rewards.jsonl`: rows of the first file; every fourth has the answer of another question, is marked as wrong and has
  weight 0.1;
- `right.jsonl`: other rows of the first file, which judge.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sftloss.data import Examples, read_records
from sftloss.data.tokenizer import load_tokenizer
from sftloss.models import SMOLLM2, model_folder

LENGTH = 128  # tokens of a row, with the chat template
MARKED = 4  # of so many rows one is marked as wrong
HELD_OUT = 8  # and one of so many judges
WEIGHT = 0.1


def rows_of(task: str, file: Path, limit: int, tokenizer: Any) -> list[dict[str, Any]]:
    """The first `limit` rows of one question and one answer that fit."""
    rows: list[dict[str, Any]] = []
    for record, example in Examples(read_records(file), tokenizer).pairs():
        *before, answer = record.messages or ()
        if len(rows) < limit and len(example.input_ids) <= LENGTH:
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
    parser.add_argument("--rows", type=int, default=900, help="of each file, at most")
    chosen = parser.parse_args(argv)
    tokenizer = load_tokenizer(model_folder(SMOLLM2))
    named = (text.partition("=") for text in chosen.files)
    parts = {task: rows_of(task, Path(file), chosen.rows, tokenizer) for task, _, file in named}
    first, *others = parts.values()
    files = {
        **parts,
        "languages": [row for together in zip(first, *others[:1], strict=False) for row in together],
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

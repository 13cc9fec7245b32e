"""Two instruction files for `sftloss compare`: `python examples/compare_real.py gsm8k=FILE alpaca=FILE --output real`.

Writes `train.jsonl` and `held_out.jsonl`, each row with its file's name as the task, and a byte-level tokenizer made
from the training rows alone. Then, from the folder that holds `real`:

    sftloss compare -c examples/compare_real.yaml
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from real_data import make_tokenizer

from sftloss.data import read_records

EACH = 8  # of so many rows one is held out


def rows_of(task: str, file: Path, limit: int, characters: int) -> list[dict[str, str]]:
    """The first `limit` rows of one question and one answer of at most `characters`."""
    rows = []
    for record in read_records(file):
        *before, answer = record.messages or ()
        question = "\n".join(message.content for message in before)
        if question and 0 < len(answer.content) <= characters and len(question) <= characters:
            rows.append({"prompt": question, "completion": answer.content, "task": task, "language": "en"})
    return rows[:limit]


def main(argv: Sequence[str] | None = None) -> None:
    """Split, tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="TASK=FILE")
    parser.add_argument("--output", type=Path, default=Path("real"))
    parser.add_argument("--rows", type=int, default=600, help="of each file, at most")
    parser.add_argument("--characters", type=int, default=400, help="longer questions and answers are left out")
    parser.add_argument("--vocab", type=int, default=2000)
    chosen = parser.parse_args(argv)
    parts: dict[str, list[dict[str, str]]] = {"train": [], "held_out": []}
    for given in chosen.files:
        task, _, file = given.partition("=")
        for i, row in enumerate(rows_of(task, Path(file), chosen.rows, chosen.characters)):
            parts["held_out" if i % EACH == 0 else "train"].append(row)
    chosen.output.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (chosen.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    texts = (row[key] for row in parts["train"] for key in ("prompt", "completion"))
    make_tokenizer(texts, chosen.vocab).save_pretrained(chosen.output / "tokenizer")
    print(f"{len(parts['train'])} rows to train on, {len(parts['held_out'])} held out, in {chosen.output}")


if __name__ == "__main__":
    main()

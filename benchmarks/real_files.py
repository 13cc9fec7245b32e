"""The numbers of docs/real_data.md: `python -m benchmarks.real_files FOLDER ... --json FILE`.

Each folder has the name of its data file and holds what the commands of that page write: report/report.json,
inspect.json and lengths.json. The record has numbers and the names of groups, and no text of the rows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import provenance, write_json

TABLES = {
    "report/report.json": "length-forecast roles language ends confidence comparison length-deciles",
    "inspect.json": "totals lengths",
    "lengths.json": "length-forecast",
}
Numbers = dict[str, Any]


def numbers_of(document: dict[str, Any], tables: list[str]) -> Numbers:
    """Numbers by table, first cell of the row and column; the number of each finding under ``findings``."""
    values = {finding["id"]: finding["value"] for finding in document["findings"]}
    numbers: Numbers = {"findings": {id: rounded(value) for id, value in values.items() if value is not None}}
    for table in (table for section in document["sections"] for table in section["tables"] if table["id"] in tables):
        keys = [column["key"] for column in table["columns"]]
        numbers[table["id"]] = {
            row[0]: {key: rounded(cell) for key, cell in zip(keys, row, strict=True) if isinstance(cell, int | float)}
            for row in table["rows"]
        }
    return numbers


def rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.5g}")


def shorter_half(deciles: Numbers) -> Numbers:
    """Shares of the first five tenths by length, added."""
    rows = list(deciles.values())[: len(deciles) // 2]
    return {key: rounded(sum(row[key] for row in rows)) for key in ("examples", "tokens", "token_mean", "example_mean")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, required=True)
    chosen = parser.parse_args()
    record: Numbers = provenance("real_files", "transformers", "tokenizers")
    for folder in chosen.folders:
        of_file: Numbers = {}
        for file, tables in TABLES.items():
            document = json.loads((folder / file).read_text(encoding="utf-8"))
            of_file[Path(file).stem] = numbers_of(document, tables.split())
        of_file["report"]["shorter half"] = shorter_half(of_file["report"]["length-deciles"])
        record[folder.name] = of_file
    write_json(chosen.json, record)


if __name__ == "__main__":
    main()

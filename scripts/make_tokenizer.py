"""Make a small byte-level tokenizer from data files: `python scripts/make_tokenizer.py FOLDER SIZE FILE [FILE ...]`.

For models trained from scratch, as in studies/real_data.md: the merges are those of the files' own text, and the
chat template is the demo's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from make_demo_model import make_tokenizer

from sftloss.data import read_records


def main(folder: str, size: str, *files: str) -> None:
    """Read every file, count pairs of bytes, write the tokenizer."""
    records = tuple(record for file in files for record in read_records(Path(file)))
    tokenizer = make_tokenizer(records, int(size))
    tokenizer.save_pretrained(folder)
    print(f"{folder}: {len(tokenizer)} tokens from {len(records)} rows")


if __name__ == "__main__":
    main(*sys.argv[1:])

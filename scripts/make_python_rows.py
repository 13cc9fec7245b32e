"""Write instruction rows about Python's standard library: `python scripts/make_python_rows.py rows.jsonl`.

The texts are those of the Python that runs this, so they are at hand offline and none of them is kept here:

========  ==========================================  =======================================
task      question                                    answer
========  ==========================================  =======================================
yes_no    whether a function takes an argument        Yes or No, by turns: most rows, few tokens
module    in which module a function is               the module's name
explain   what a function does                        its docstring
code      to write a function                         its source
========  ==========================================  =======================================
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

MODULES = (
    "argparse", "ast", "bisect", "calendar", "cmd", "configparser", "contextlib", "copy", "csv", "difflib", "fnmatch",
    "fractions", "functools", "getpass", "glob", "gzip", "heapq", "inspect", "json", "linecache", "mimetypes", "os",
    "pprint", "random", "shlex", "shutil", "statistics", "string", "subprocess", "tempfile", "textwrap", "tokenize",
    "traceback", "types", "urllib.parse", "uuid", "warnings", "webbrowser", "zipfile",
)  # fmt: skip
COUNTS = {"yes_no": 72, "module": 40, "explain": 32, "code": 16}
LONGEST = 1600  # characters of an answer


def functions() -> list[tuple[str, Callable[..., Any]]]:
    """Public functions with a docstring, each with the module that defines it."""
    found = []
    for name in MODULES:
        module = importlib.import_module(name)
        for label, value in sorted(vars(module).items()):
            is_own = inspect.isfunction(value) and value.__module__ == name and not label.startswith("_")
            if is_own and len(inspect.getdoc(value) or "") >= 60:
                found.append((name, value))
    return found


def rows(seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows as mappings with messages and task, in random order; equal for equal seeds and equal versions of Python."""
    random = Random(f"python rows {seed}")
    made = []
    for task, count in COUNTS.items():
        known = functions()
        random.shuffle(known)
        answered = ((_ANSWERS[task](module, function, i)) for i, (module, function) in enumerate(known))
        usable = [(question, answer) for question, answer in answered if 0 < len(answer) <= LONGEST]
        made += [(task, *pair) for pair in usable[:count]]
    random.shuffle(made)
    for task, question, answer in made:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield {"messages": messages, "task": task}


def _yes_no(module: str, function: Callable[..., Any], turn: int) -> tuple[str, str]:
    names = list(inspect.signature(function).parameters)
    if not names:
        return "", ""
    name = names[0] if turn % 2 else next(n for n in ("timeout", "encoding", "key") if n not in names)
    question = f"Does the Python function {module}.{function.__name__} take an argument named {name}?"
    return f"{question} Answer yes or no.", "Yes" if turn % 2 else "No"


def _module(module: str, function: Callable[..., Any], turn: int) -> tuple[str, str]:
    return f"In which module of Python's standard library is the function {function.__name__}?", module


def _explain(module: str, function: Callable[..., Any], turn: int) -> tuple[str, str]:
    return f"What does the Python function {module}.{function.__name__} do?", inspect.getdoc(function) or ""


def _code(module: str, function: Callable[..., Any], turn: int) -> tuple[str, str]:
    try:
        source = inspect.getsource(function)
    except OSError:  # a Python without its sources
        return "", ""
    return f"Write the Python function {function.__name__} of the module {module}.", inspect.cleandoc(source)


_ANSWERS = {"yes_no": _yes_no, "module": _module, "explain": _explain, "code": _code}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    target = parser.parse_args().file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")

"""Write hub-kernel/torch-ext/sftloss_rows/kernels.py: the Triton kernels, without the rest of sftloss."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sftloss" / "statistics" / "backends" / "triton.py"
TARGET = ROOT / "hub-kernel" / "torch-ext" / "sftloss_rows" / "kernels.py"
HEAD = '''"""The kernels of sftloss; written by scripts/make_hub_kernel.py."""

import triton
import triton.language as tl

'''


def kernels() -> str:
    """The functions with a Triton decorator, what they are launched with, and the numbers they read."""
    from sftloss.statistics.backends.rows import FAR

    text = SOURCE.read_text(encoding="utf-8")
    parts = [HEAD]
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_BLOCK":
            parts.append(f"{ast.unparse(node)}\n_FAR = tl.constexpr({FAR!r})\n")
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            parts.append("\n\n" + "\n".join(text.splitlines()[first - 1 : node.end_lineno]) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(kernels(), encoding="utf-8")

"""A first report, made from nothing but this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sftloss.pipeline.analyze import analyze
from sftloss.pipeline.folder import check_folder
from sftloss.pipeline.run import Run

if TYPE_CHECKING:
    from sftloss.report import Report

LOSSES = ("cross_entropy", "focal(gamma=2)", "dft")


def demo(run: Run | None = None, *, seed: int = 1) -> Report:
    """Analyze a tiny model, trained on five generated tasks, on examples of those tasks it has not seen.

    Args:
        run: Where results go.
        seed: Of the generated examples; the model was trained on seed 0.

    Example:
        >>> print(demo().document.title)   # doctest: +SKIP
    """
    run = run or Run()
    check_folder(run, resumes=False)
    from sftloss.data.demo import demo_rows
    from sftloss.decoder import load_model

    model, tokenizer = load_model("demo")
    return analyze(model, tokenizer, demo_rows(seed), losses=LOSSES, run=run)

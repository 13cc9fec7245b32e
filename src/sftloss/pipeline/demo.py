"""The first report a person sees, from nothing but this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sftloss.pipeline.analyze import analyze
from sftloss.pipeline.folder import check_folder
from sftloss.pipeline.run import Run

if TYPE_CHECKING:
    from sftloss.report import Report

EXAMPLES = 600
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
    from sftloss.data.demo import demo_model, demo_records, demo_tokenizer

    rows = [_row(record) for record in demo_records(seed, count=EXAMPLES)]
    model = demo_model()
    model.config._name_or_path = "sftloss demo model"  # not this machine's path to it: equal runs give equal reports
    return analyze(model, demo_tokenizer(), rows, losses=LOSSES, run=run)


def _row(record: Any) -> dict[str, Any]:
    """The record as a user would write it: the demo reads its rows as it reads anyone's."""
    messages = [{"role": m.role, "content": m.content} for m in record.messages]
    return {"messages": messages, "task": record.task, "language": record.language}

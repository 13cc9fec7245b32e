"""The findings about measured gradients: shares against the update, outliers, conflicts, and the noise scale."""

from __future__ import annotations

import numpy as np

from sftloss.analysis.shared import fixes
from sftloss.analysis.signal.gradients import GradientStudy
from sftloss.analysis.signal.rules.mask import share_of
from sftloss.rules import Evidence, Rule
from sftloss.words import counted, number, percent

_NEGATIVE = 0.4  # of the examples
_OUTLIER = 20.0  # times the norm that examples of this length have
_LEAST = 30  # examples, below which no finding is made
_CONFLICT = -0.1  # cosine
_NOISY = 10.0  # times the sequences of a step


def _against(study: GradientStudy) -> Evidence | None:
    """SIG002: many examples push against the update."""
    part = study.shares
    if part is None or len(part) < _LEAST or not (part < 0).mean() > _NEGATIVE:
        return None
    share, interval = share_of(study, part < 0)
    rows = study.study.origins(study.rows[np.argsort(part, kind="stable")[:10]])
    sentence = f"{percent(share)} of the examples have a gradient that points against the update of all of them."
    return Evidence(sentence, share, interval, "share of examples", rows)


def _outliers(study: GradientStudy) -> Evidence | None:
    """SIG005: single examples whose gradient is far larger than that of others of their length."""
    norms = study.norms()
    if len(norms) < _LEAST:
        return None
    order = np.argsort(study.size, kind="stable")
    usual, limit = np.empty(len(norms)), np.empty(len(norms))
    for part in np.array_split(order, max(1, len(order) // _LEAST)):
        low, usual[part], high = np.quantile(norms[part], (0.25, 0.5, 0.75))
        # where many norms differ by orders, as of easy and hard tasks, a large one is no outlier
        limit[part] = max(_OUTLIER * usual[part][0], high * (high / low) ** 1.5 if low > 0 else np.inf)
    times = norms / np.where(usual > 0, usual, np.inf)
    far = np.flatnonzero(norms > limit)
    if not len(far):
        return None
    far = far[np.argsort(-times[far], kind="stable")]
    has, its, it_has = ("have", "their", "they have") if len(far) > 1 else ("has", "its", "it has")
    sentence = (
        f"{counted(len(far), 'example')} {has} a gradient over {number(_OUTLIER)} times the usual norm of {its} "
        f"length, at most {number(float(times[far[0]]))} times. Together {it_has} "
        f"{percent(float(norms[far].sum() / norms.sum()))} of all norms."
    )
    rows = study.study.origins(study.rows[far[:10]])
    return Evidence(sentence, float(times[far[0]]), None, "times the usual norm", rows)


def _conflicts(study: GradientStudy) -> Evidence | None:
    """SIG006: two tasks or languages whose gradients point against each other."""
    pairs = [
        (one.values[i][j], one.column, one.names[i], one.names[j])
        for one in study.measured.cosines
        for i in range(len(one.names))
        for j in range(i)
    ]
    pairs = sorted(pair for pair in pairs if pair[0] < _CONFLICT)
    if not pairs:
        return None
    cosine, column, a, b = pairs[0]
    sentence = f"The gradients of the {column}s '{b}' and '{a}' point against each other (cosine {number(cosine)})."
    if len(pairs) > 1:
        sentence += f" {counted(len(pairs) - 1, 'further pair')} of groups {'do' if len(pairs) > 2 else 'does'} too."
    return Evidence(sentence, cosine, None, "cosine")


def _noisy(study: GradientStudy) -> Evidence | None:
    """SIG007: the step is far smaller than the gradient noise scale."""
    sizes = [rule.micro_batch for rule in study.study.rules if rule.micro_batch is not None]
    scale = study.noise_scale()
    if not sizes or len(study.rows) < _LEAST or not scale > _NOISY * max(sizes):
        return None
    shown = f"{number(scale)} sequences" if np.isfinite(scale) else "larger than these examples can measure"
    sentence = f"The gradient noise scale is {shown}, and a step has {counted(max(sizes), 'sequence')}."
    return Evidence(sentence, scale if np.isfinite(scale) else None, None, "sequences")


GRADIENT_RULES: tuple[Rule[GradientStudy], ...] = (
    Rule(
        "SIG002",
        "info",
        "Many examples whose gradient points against the update (--signal additive)",
        "For these examples a step raises the loss, in first order. Much of this is normal noise; it is a fault where "
        "the rows are mislabelled or contradict others.",
        fixes.READ_ROWS,
        _against,
    ),
    Rule(
        "SIG005",
        "warning",
        "An example whose gradient is far larger than that of others of its length (--signal grad)",
        "This row decides each step that holds it, and gradient clipping then shrinks the gradients of all other rows.",
        fixes.READ_ROWS,
        _outliers,
    ),
    Rule(
        "SIG006",
        "warning",
        "Two tasks or languages whose gradients point against each other (--signal additive)",
        "A step for one raises the loss of the other. A task weighting that resolves conflicts may serve both.",
        "compare --tasks upgrad with no task weights; see docs/multitask.md",
        _conflicts,
    ),
    Rule(
        "SIG007",
        "info",
        "A step far smaller than the gradient noise scale (--signal additive, with --batch-size)",
        "Most of each step is noise; a larger step or a smaller learning rate wastes less.",
        "raise --grad-accum, or lower the learning rate",
        _noisy,
    ),
)

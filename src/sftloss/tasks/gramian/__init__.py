"""Weights from the inner products of the tasks' gradients: ``weighting(gramian) -> weights`` of this step.

Pure functions of a ``(tasks, tasks)`` Gramian, solved in float64 to the last digits (a handful of tasks costs less
than a millisecond or a few). The step is :math:`\\sum_k w_k g_k`. Leave out tasks that are absent: :func:`on_present`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sftloss.tasks.gramian.aligned_mtl import aligned_mtl
from sftloss.tasks.gramian.cagrad import cagrad
from sftloss.tasks.gramian.imtl_g import imtl_g
from sftloss.tasks.gramian.mgda import mgda
from sftloss.tasks.gramian.nash_mtl import fairgrad, nash_mtl
from sftloss.tasks.gramian.pcgrad import pcgrad
from sftloss.tasks.gramian.present import on_present
from sftloss.tasks.gramian.upgrad import upgrad

WEIGHTINGS: dict[str, Callable[..., Tensor]] = {
    "imtl_g": imtl_g,
    "pcgrad": pcgrad,
    "mgda": mgda,
    "cagrad": cagrad,
    "nash_mtl": nash_mtl,
    "aligned_mtl": aligned_mtl,
    "upgrad": upgrad,
    "fairgrad": fairgrad,
}
"""Every Gramian method by name. GradNorm keeps state, so it is a strategy: ``sftloss.tasks.strategies.grad_norm``."""

__all__ = [
    "WEIGHTINGS",
    "aligned_mtl",
    "cagrad",
    "fairgrad",
    "imtl_g",
    "mgda",
    "nash_mtl",
    "on_present",
    "pcgrad",
    "upgrad",
]

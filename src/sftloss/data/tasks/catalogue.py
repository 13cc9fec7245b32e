"""All tasks of the studies, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sftloss.data.tasks import facts as _facts
from sftloss.data.tasks import open as _open
from sftloss.data.tasks import rewrite as _rewrite
from sftloss.data.tasks.task import Task

_ALL = (
    Task("some", 0.16, "one question, answers of many lengths: a length exponent acts", _open.draw_some,
         _open.check_some, is_open=True),
    Task("any", 0.10, "one question, many right answers: diversity", _open.draw_any, _open.check_any, is_open=True),
    Task("classify", 0.24, "most rows, two tokens an answer, unequal classes", _facts.draw_classify,
         _facts.check_classify),
    Task("qa", 0.16, "rare and frequent facts to remember, or nothing to know", _facts.draw_qa, _facts.check_qa,
         is_answerable=_facts.is_answerable_qa),
    Task("compare", 0.14, "another language, or nothing to know", _facts.draw_compare, _facts.check_compare,
         is_answerable=_facts.is_answerable_compare),
    Task("summarise", 0.08, "answers of many lengths, told by the question", _rewrite.draw_summarise,
         _rewrite.check_summarise),
    Task("translate", 0.08, "two languages, the longest answers, hard", _rewrite.draw_translate,
         _rewrite.check_translate),
    Task("add", 0.04, "fewest tokens, much loss", _rewrite.draw_add, _rewrite.check_add),
)  # fmt: skip

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _ALL})
"""The tasks of the studies, with the shares they have by default."""

MULTITASK: Mapping[str, float] = MappingProxyType({"qa": 0.25, "summarise": 0.10, "translate": 0.15, "classify": 0.50})
"""Shares for the study of task weights: four tasks of unequal sizes, lengths and difficulties."""

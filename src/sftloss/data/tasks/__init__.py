"""The generated tasks of the studies: eight, of unequal sizes, lengths and difficulties, in two languages, checked.

==========  =====  ====  ====================================  ============================================
task        share  lang  example                               what it is there for
==========  =====  ====  ====================================  ============================================
some        0.16   both  some tools: ``saw pin rake``          one question, answers of many lengths
any         0.10   both  any fruits: ``plum``                  one question, many right answers
classify    0.24   en    kind: fig cat lime: ``fruits``        most rows, few tokens, unequal classes
qa          0.16   en    colour: pig?: ``gold``                a third has no answer; some facts are rare
compare     0.14   zh    12比5大吗?: ``是``                    a quarter of the questions has no answer
summarise   0.08   en    sum: cat saw dog: ``animals tools``   answers of many lengths, told by the question
translate   0.08   both  zh: red cat: ``红猫``                 two languages, the longest answers, hard
add         0.04   en    17 + 6 =: ``23``                      fewest tokens, much loss
==========  =====  ====  ====================================  ============================================

:func:`study_rows` makes rows from a seed, some with wrong answers on purpose; :func:`check` scores an answer.
"""

from __future__ import annotations

from sftloss.data.tasks.catalogue import MULTITASK, TASKS
from sftloss.data.tasks.rows import NOISE, abstains, check, is_answerable, question, reference, study_rows
from sftloss.data.tasks.task import UNKNOWN, Task

__all__ = [
    "MULTITASK",
    "NOISE",
    "TASKS",
    "UNKNOWN",
    "Task",
    "abstains",
    "check",
    "is_answerable",
    "question",
    "reference",
    "study_rows",
]

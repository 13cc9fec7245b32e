"""The generated tasks of the studies: eight, of unequal sizes, lengths and difficulties, in two languages, checked.

==========  =====  ====  ====================================  ============================================
task        share  lang  example                               what it is there for
==========  =====  ====  ====================================  ============================================
some        0.16   both  some tools: ``saw pin rake``          one question, answers of many lengths
any         0.10   both  any fruits: ``plum``                  one question, many right answers
classify    0.24   en    kind: fig cat lime: ``fruits``        most rows, few tokens, unequal classes
qa          0.16   en    colour: pig?: ``gold``                a third has no answer; some facts are rare
compare     0.14   zh    12比5大吗?: ``是``                    a quarter of the questions has no answer
summarise   0.08   en    sum: cat saw dog: ``animals tools``   the question determines the length of the answer
translate   0.08   both  zh: red cat: ``红猫``                 two languages, the longest answers, hard
add         0.04   en    17 + 6 =: ``23``                      fewest tokens, much loss
==========  =====  ====  ====================================  ============================================

:func:`study_rows` makes rows from a seed, some with wrong answers on purpose; :func:`check_answer` scores an answer.
"""

from __future__ import annotations

from sftloss.data.tasks.rows import NOISE, abstains, check_answer, is_answerable, question, reference_answer, study_rows
from sftloss.data.tasks.tasks import MULTITASK, TASKS, UNKNOWN_ANSWER, Task

__all__ = [
    "MULTITASK",
    "NOISE",
    "TASKS",
    "UNKNOWN_ANSWER",
    "Task",
    "abstains",
    "check_answer",
    "is_answerable",
    "question",
    "reference_answer",
    "study_rows",
]

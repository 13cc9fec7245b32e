"""The generated demo: five tasks in which length, difficulty and task are not aligned, and a model trained on them.

========  ========  ==============================  ======================================================
task      language  answers                         what it is there for
========  ========  ==============================  ======================================================
add       en        1 to 3 digits, hard             few tokens, much loss
reverse   en        2 to 12 words, hard             loss grows with length
copy      en        2 to 24 words, easy             many tokens, hardly any loss
list      en        2 to 10 words, undetermined     one prompt, answers of many lengths: here 1/T tilts
yes_no    zh        1 or 2 characters, easy         most examples, fewest tokens
========  ========  ==============================  ======================================================

Everything is drawn from a seed with Python's own generator, so it is the same on every machine.
"""

from __future__ import annotations

from random import Random
from typing import Any

from sftloss.data.examples import Message, Origin, Record
from sftloss.data.tasks.rows import tasks_of_rows
from sftloss.data.tasks.tasks import WORD_KINDS, WORDS
from sftloss.models import DEMO_FOLDER as MODEL_PATH

DEMO_TASKS = {"yes_no": 0.36, "add": 0.24, "copy": 0.18, "list": 0.12, "reverse": 0.10}
"""Share of each task in the examples."""

_LANGUAGES = dict.fromkeys(DEMO_TASKS, "en") | {"yes_no": "zh"}


def demo_records(seed: int = 0, *, count: int = 1000) -> tuple[Record, ...]:
    """Instruction data of five tasks, as messages with task and language.

    Args:
        seed: Equal seeds give equal records; the demo model was trained on seed 0 only.
        count: Number of records. The tasks have the shares in `DEMO_TASKS`, exactly up to rounding, in random order.

    Raises:
        ValueError: If `count` is below 1.

    Example:
        >>> demo_records(count=1000)[0].messages[0].role
        'user'
    """
    if count < 1:
        raise ValueError(f"demo_records: count must be at least 1, got {count}.")
    random, tasks = Random(f"demo {seed}"), tasks_of_rows(count, DEMO_TASKS)
    random.shuffle(tasks)
    return tuple(_record(task, row, seed, random) for row, task in enumerate(tasks))


def _record(task: str, row: int, seed: int, random: Random) -> Record:
    question, answer = _MAKERS[task](random)
    return Record(
        origin=Origin(f"demo-{seed}", row),
        messages=(Message("user", question), Message("assistant", answer)),
        task=task,
        language=_LANGUAGES[task],
        source="demo",
    )


def _add(random: Random) -> tuple[str, str]:
    left, right = (random.randrange(10 ** random.choice((1, 2, 2, 2))) for _ in range(2))
    return f"{left} + {right} =", str(left + right)


def _copy(random: Random) -> tuple[str, str]:
    words = " ".join(random.sample(WORDS, k=random.choice((2, 3, 4, 6, 8, 12, 16, 24))))
    return f"copy: {words}", words


def _reverse(random: Random) -> tuple[str, str]:
    words = random.sample(WORDS, k=random.randint(2, 12))
    return f"reverse: {' '.join(words)}", " ".join(reversed(words))


def _list(random: Random) -> tuple[str, str]:
    kind = random.choice(tuple(WORD_KINDS))
    return f"list {kind}", ", ".join(random.sample(WORD_KINDS[kind], k=random.randint(2, 10)))


def _yes_no(random: Random) -> tuple[str, str]:
    left, right = random.sample(range(100), 2)
    return f"{left}比{right}大吗?", "是" if left > right else "不是"


_MAKERS = {"add": _add, "copy": _copy, "reverse": _reverse, "list": _list, "yes_no": _yes_no}


def demo_rows(seed: int = 1, *, count: int = 600) -> list[dict[str, Any]]:
    """The same examples as a user would write them: messages, task and language of each row.

    Args:
        seed: Seed of the examples; the demo model was trained on seed 0 only.
        count: Number of rows.

    Example:
        >>> demo_rows()[0]["messages"][0]["role"]
        'user'
    """
    return [
        {
            "messages": [{"role": m.role, "content": m.content} for m in record.messages or ()],
            "task": record.task,
            "language": record.language,
        }
        for record in demo_records(seed, count=count)
    ]


def demo_tokenizer() -> Any:
    """The demo's byte-level tokenizer, with a ChatML template that has generation tags. Loads offline."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(MODEL_PATH, local_files_only=True)


def demo_model() -> Any:
    """The demo's Llama of about 0.1 million parameters, in float32 and evaluation mode. Loads offline."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(
        MODEL_PATH, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    model.train(False)
    return model

"""One example compared with its conversation: the faults of its mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sftloss.data import Example, Record
from sftloss.data.account import END_ROOM
from sftloss.data.rendering.render import POSITIONS, TAGS
from sftloss.data.rendering.scaffold import Scaffold, Turn
from sftloss.roles import RESPONSE, UNKNOWN


@dataclass(frozen=True)
class Audit:
    """What one example shows.

    Attributes:
        faults: Ids of findings, and ``"MASK010 intended"`` where weights in the data ask for it.
        trained: Whether each token is trained.
        answer: Index of the first and one past the last trained token.
        trains_end: Whether the last stretch of trained tokens ends with an end token.
        strays: Trained tokens in the words of others than the assistant.
    """

    faults: tuple[str, ...]
    trained: tuple[bool, ...]
    answer: tuple[int, int]
    trains_end: bool
    strays: int


def audit(example: Example, record: Record, scaffold: Scaffold, *, pad_id: int | None = None) -> Audit:
    """Compare the trained tokens of an example with the turns that its tokens show.

    Args:
        example: The tokens and weights of training.
        record: The row it was made from.
        scaffold: What the tokenizer's template puts around messages.
        pad_id: The tokenizer's padding token, to recognize an end that is masked as padding.
    """
    ids: list[int] = example.input_ids.tolist()
    trained: list[bool] = (example.weights != 0).tolist()
    first, stop = trained.index(True), len(trained) - trained[::-1].index(True)
    ends = scaffold.ends | set(example.input_ids[example.is_end].tolist())
    faults = ["MASK005"] if "opener_in_tags" in example.notes else []
    if record.messages is not None and scaffold.has_tags and example.method != TAGS:
        faults.append("MASK002")
    # the words of messages are found by their positions; labels are a claim of the data
    turns = () if example.method in (POSITIONS, TAGS) else scaffold.turns(ids)
    faults += _turn_faults(turns, trained)
    trains_end = any(trained[i] and ids[i] in ends for i in range(max(0, stop - END_ROOM), stop))
    following = ids[stop] if stop < len(ids) else None
    if not trains_end and not (example.truncated and following is None):  # an end that is cut off is not missing
        is_padding = example.method == "labels" and following is not None and following == pad_id and following in ends
        faults.append("MASK008" if is_padding else "MASK003")
    if all(token in ends | scaffold.special for token, is_trained in zip(ids, trained, strict=True) if is_trained):
        faults.append("DATA106")
    strays = sum(sum(trained[turn.start : turn.stop]) for turn in turns if turn.role != RESPONSE)
    if not turns:
        is_other = (example.roles != RESPONSE) & (example.roles != UNKNOWN)
        strays = int((is_other & (example.weights != 0)).sum())
    if strays:
        is_intended = any(message.role != "assistant" and message.weight for message in record.messages or ())
        faults.append("MASK010 intended" if is_intended else "MASK010")
    return Audit(tuple(dict.fromkeys(faults)), tuple(trained), (first, stop), trains_end, strays)


def _turn_faults(turns: Sequence[Turn], trained: Sequence[bool]) -> Iterator[str]:
    # position 0 can never be predicted, so its mask says nothing
    answers = [turn for turn in turns if turn.role == RESPONSE and turn.start > 0]
    if any(any(trained[turn.start : turn.stop]) and not trained[turn.start] for turn in answers):
        yield "MASK004"
    if any(any(trained[turn.opener : turn.start]) for turn in answers):
        yield "MASK005"


def answer_text(record: Record, audit: Audit, example: Example, tokenizer: Any) -> tuple[str, str]:
    """Prompt and answer as text, at most a few hundred characters each where they must be decoded."""
    if record.messages is not None:
        prompt = " ".join(m.content for m in record.messages if m.role == "user")
        return prompt, " ".join(m.content for m in record.messages if m.role == "assistant")
    if record.text is not None:
        return "", record.text
    first, last = audit.answer
    return (
        tokenizer.decode(example.input_ids[max(0, first - 100) : first], skip_special_tokens=True),
        tokenizer.decode(example.input_ids[first : min(last, first + 100)], skip_special_tokens=True),
    )

"""One example compared with its conversation: the faults of its mask."""

from __future__ import annotations

from collections.abc import Sequence
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
    first, last = trained.index(True), len(trained) - 1 - trained[::-1].index(True)
    ends = scaffold.ends | set(example.input_ids[example.is_end].tolist())
    # the words of messages are found by their positions; labels and tags are a claim of the data or the template
    turns = () if example.method in (POSITIONS, TAGS) else scaffold.turns(ids)
    roles: list[int] = example.roles.tolist()
    trains_end = _ends_trained(ids, trained, last, ends)
    faults = [
        *_template_faults(example, record, scaffold),
        *_turn_faults(turns, trained),
        *_end_faults(example, ids, last, ends, trains_end, pad_id),
        *_content_faults(ids, trained, ends | scaffold.special),
    ]
    strays = _strays(turns, roles, trained)
    if strays:
        faults.append("MASK010 intended" if _is_intended(record) else "MASK010")
    return Audit(tuple(dict.fromkeys(faults)), tuple(trained), (first, last + 1), trains_end, strays)


def _strays(turns: Sequence[Turn], roles: Sequence[int], trained: Sequence[bool]) -> int:
    if turns:
        return sum(sum(trained[turn.start : turn.stop]) for turn in turns if turn.role != RESPONSE)
    return sum(is_trained and role not in (RESPONSE, UNKNOWN) for is_trained, role in zip(trained, roles, strict=True))


def _ends_trained(ids: Sequence[int], trained: Sequence[bool], last: int, ends: frozenset[int] | set[int]) -> bool:
    return any(trained[i] and ids[i] in ends for i in range(max(0, last + 1 - END_ROOM), last + 1))


def _template_faults(example: Example, record: Record, scaffold: Scaffold) -> list[str]:
    faults = ["MASK005"] if "opener_in_tags" in example.notes else []
    if record.messages is not None and scaffold.has_tags and example.method != TAGS:
        faults.append("MASK002")
    return faults


def _turn_faults(turns: Sequence[Turn], trained: Sequence[bool]) -> list[str]:
    faults = []
    # position 0 can never be predicted, so its mask says nothing
    answers = [turn for turn in turns if turn.role == RESPONSE and turn.start > 0]
    if any(any(trained[turn.start : turn.stop]) and not trained[turn.start] for turn in answers):
        faults.append("MASK004")
    if any(any(trained[turn.opener : turn.start]) for turn in answers):
        faults.append("MASK005")
    return faults


def _end_faults(
    example: Example,
    ids: Sequence[int],
    last: int,
    ends: frozenset[int] | set[int],
    trains_end: bool,
    pad_id: int | None,
) -> list[str]:
    """A missing end: MASK008 where it is masked as padding, none where it is cut off, MASK003 elsewhere."""
    following = ids[last + 1] if last + 1 < len(ids) else None
    if trains_end or (example.truncated and following is None):
        return []
    is_padding = example.method == "labels" and following is not None and following == pad_id and following in ends
    return ["MASK008"] if is_padding else ["MASK003"]


def _content_faults(ids: Sequence[int], trained: Sequence[bool], special: frozenset[int] | set[int]) -> list[str]:
    is_bare = all(token in special for token, is_trained in zip(ids, trained, strict=True) if is_trained)
    return ["DATA106"] if is_bare else []


def _is_intended(record: Record) -> bool:
    """Whether the data itself asks for other roles to be trained, message by message."""
    return any(message.role != "assistant" and message.weight for message in record.messages or ())


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

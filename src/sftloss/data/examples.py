"""The two shapes of data on its way to the model: a record as written, an example as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sftloss.roles import RESPONSE, UNKNOWN


@dataclass(frozen=True)
class Origin:
    """Where a row came from: its file, its number from 0, and in files of lines the line, from 1."""

    path: str
    row: int
    line: int | None = None

    def __str__(self) -> str:
        if self.line is not None:
            return f"{self.path}:{self.line}"
        return f"row {self.row}" if self.path == "rows" else f"{self.path} row {self.row}"  # "rows": from no file


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: The chat template's word: system, user, assistant or tool.
        content: Plain text.
        weight: The data's own loss weight, None where it states none.
        tool_calls: As ``{"type": "function", "function": {"name", "arguments": object}}``.
        reasoning: The thoughts before the content.
        extra: Other fields of the message, which reach the chat template unread: ``tool_call_id``, ``name``, ...
    """

    role: str
    content: str
    weight: float | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    reasoning: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One row of any supported format before it is tokenized; exactly one of messages, text and tokens is set."""

    origin: Origin
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    tokens: Mapping[str, Any] | None = None  # input_ids, and labels, weights, roles where the row has them
    tools: tuple[Mapping[str, Any], ...] | None = None
    task: str | None = None
    language: str | None = None
    source: str | None = None
    weight: float = 1.0
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)  # variables for the chat template


@dataclass(frozen=True)
class Example:
    """One row as tokens. All four tensors have shape ``(tokens,)`` and hold a value for each token.

    Attributes:
        input_ids: int64 token ids.
        roles: int8 codes into ROLES.
        weights: float32 data-side loss weight of *predicting this token*; 0 is not trained.
            Position 0 can never be predicted: its weight is 0.
        is_end: bool, True at end-of-sequence or end-of-turn tokens.
        task, language, source: group names, None where the data has none.
        origin: the row it came from.
        truncated: number of tokens cut off.
        prompts: for each answer in `answer_spans`, a hash of all tokens before it: equal for answers to the same
            prompt, whatever they are and whatever follows them (stable across runs). 0 where there is no prompt: plain
            text, or an answer that nothing but one token precedes.
        method: how the trained tokens were found: "generation tags", "positions", "plain text" or "labels".
        notes: what `encode` had to repair or could not render, as "double_bos" or "tools_not_rendered".
        row_weight: the weight of the whole row, > 0, a factor of `weights`. A normalization by length leaves it out of
            T, so that a row of weight 2 counts twice under every normalization.
    """

    input_ids: Tensor
    roles: Tensor
    weights: Tensor
    is_end: Tensor
    origin: Origin
    task: str | None = None
    language: str | None = None
    source: str | None = None
    truncated: int = 0
    prompts: tuple[int, ...] = ()
    method: str = ""
    notes: tuple[str, ...] = ()
    row_weight: float = 1.0


def answer_spans(example: Example) -> list[tuple[int, int]]:
    """Start and stop of each answer: a stretch of response tokens, which is over after the tokens that end a turn.

    Whether it is trained does not matter. The first token of an example is never predicted and so in no answer.

    Example:
        >>> import torch
        >>> roles = torch.tensor([0, 1, 1, 0, 1, 1], dtype=torch.int8)
        >>> ends = torch.tensor([False, False, True, False, False, True])
        >>> answer_spans(Example(torch.arange(6), roles, roles.float(), ends, Origin("rows", 0)))
        [(1, 3), (4, 6)]
    """
    roles, count = spoken_roles(example.roles, example.weights != 0), len(example.roles)
    breaks = (segment_breaks(roles[1:], example.is_end[1:]).nonzero()[:, 0] + 2).tolist()
    edges = [1, *breaks, count]
    return [(a, b) for a, b in zip(edges, edges[1:], strict=False) if a < b and int(roles[a]) == RESPONSE]


def spoken_roles(roles: Any, is_trained: Any) -> Any:
    """Roles in which trained tokens of an unknown role count as answers: what is trained is what there is to measure.

    Args:
        roles, is_trained: Of tokens, ``(tokens,)``; both tensors or both arrays.
    """
    return roles - ((roles == UNKNOWN) & is_trained) * (UNKNOWN - RESPONSE)


def segment_breaks(roles: Any, is_end: Any) -> Any:
    """Whether each token but the first begins a stretch: the role changes, or the tokens that end a turn are over.

    Args:
        roles, is_end: Of tokens in their order, ``(tokens,)``; both tensors or both arrays.
    """
    return (roles[1:] != roles[:-1]) | (is_end[:-1] & ~is_end[1:])


@dataclass(frozen=True)
class Batch:
    """Examples side by side, padded or packed, targets already aligned with the hidden states that predict them.

    Attributes:
        input_ids: int64 ``(rows, columns)``.
        position_ids: int64 ``(rows, columns)``, restarting at each packed example.
        attention_mask: int64 ``(rows, columns)``, or None when packed (position ids isolate the attention then).
        targets: int64 ``(rows, columns)``: the next token of the same example, -100 where there is none.
            Untrained tokens keep their target; `weights` says what is trained.
        weights: float32 ``(rows, columns)``, data-side weight of the target.
        roles: int8 ``(rows, columns)``, role of the target.
        is_end: bool ``(rows, columns)``, whether the target ends a turn or the sequence.
        segments: int64 ``(rows, columns)``, index into `examples`, -1 on padding.
        examples: the examples in the batch.
        extras: further columns of the targets, ``(rows, columns)`` or ``(rows, columns, K)``, by name.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    targets: Tensor
    weights: Tensor
    roles: Tensor
    is_end: Tensor
    segments: Tensor
    examples: tuple[Example, ...]
    extras: Mapping[str, Tensor] = field(default_factory=dict)

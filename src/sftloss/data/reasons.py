"""Why a row cannot be used: one record per reason, and the two exceptions that carry a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from sftloss.data.examples import Origin
from sftloss.errors import DataError, Spell, as_argument, spelled

_SHOWN_LENGTH = 80
_LEFT_OUT = "They are left out: training on the rest is training on other data than you meant."


@dataclass(frozen=True)
class Reason:
    """One reason why a row is refused, or what is unusual about a row that is kept.

    Attributes:
        code: Under which reports name it. A code never changes its meaning.
        name: As in `RowError.reason` and in `Account.counts`.
        sentence: What is wrong, after "3 of 10 rows (30 %)".
        cure: What to do.
        stage: ``"read"`` or ``"encode"`` where the row is refused, by the reader or while it is made into tokens;
            ``"chosen"`` where an option of the user leaves it out, which is no refusal; ``"kept"`` where it is used.
        why: Why it matters.
    """

    code: str
    name: str
    sentence: str
    cure: str
    stage: Literal["read", "encode", "chosen", "kept"] = "read"
    why: str = _LEFT_OUT

    @property
    def is_refusal(self) -> bool:
        """Whether the row is left out although nobody asked for it."""
        return self.stage in ("read", "encode")


_ALL = (
    Reason("DATA001", "not-json", "are not valid JSON", "write each row as strict JSON, one row a line"),
    Reason("DATA002", "not-utf8", "are not UTF-8 text", "save the file as UTF-8"),
    Reason(
        "DATA003",
        "line-too-long",
        "are lines that are too long",
        "write one row a line; drop a row that is this long",
    ),
    Reason("DATA004", "truncated-row", "end in the middle", "copy or download the file again: it was cut off"),
    Reason("DATA005", "not-an-object", "are not objects", "write each row as one object of columns"),
    Reason("DATA006", "duplicate-key", "have the same key twice", "keep one of the two keys"),
    Reason("DATA007", "non-finite-number", "hold NaN or infinity", "write null or an ordinary number"),
    Reason("DATA008", "lone-surrogate", "hold half a character", "repair the escape, or write the character itself"),
    Reason(
        "DATA009",
        "unknown-shape",
        "have no columns of a known format",
        "--columns prompt=...,response=... with the data's own column names",
    ),
    Reason("DATA010", "empty-messages", "have no message", "drop these rows, or fill in their conversation"),
    Reason("DATA011", "non-string-content", "hold something else where text is expected", "write the content as text"),
    Reason(
        "DATA012", "unsupported-content", "hold content other than text", "keep the text of these rows, or drop them"
    ),
    Reason("DATA013", "unknown-role", "have an unknown role", "use the roles user, assistant, system and tool"),
    Reason("DATA014", "no-response", "have no answer", "give each row an answer of the assistant, or drop it"),
    Reason("DATA015", "empty-answer", "have an empty answer", "drop these rows, or give the empty turn weight 0"),
    Reason("DATA016", "bad-weight", "have a weight that cannot be used", "write one finite weight of at least 0"),
    Reason(
        "DATA017",
        "bad-tool-call",
        "have a tool call that cannot be used",
        "write each call as an object with a name and arguments",
    ),
    Reason(
        "DATA018",
        "bad-tokens",
        "have token columns that cannot be used",
        "write input_ids, labels and masks as flat lists of equal length, one sequence a row, unshifted",
    ),
    Reason(
        "DATA019",
        "preference-row",
        "hold two answers, and no option says which one to train",
        "--format preference trains the chosen answers",
        "read",
        "An answer that the data calls bad would be trained like a good one.",
    ),
    Reason(
        "DATA020",
        "bad-answer",
        "have an answer that the data calls bad (label: false)",
        "drop these rows",
        "read",
        "An answer that the data calls bad would be trained like a good one.",
    ),
    Reason(
        "DATA051",
        "template-error",
        "are refused by the chat template",
        "write the conversations as the chat template expects them, or use another template",
        "encode",
    ),
    Reason("DATA054", "too-short", "have fewer than two tokens", "drop these rows", "encode"),
    Reason(
        "DATA055",
        "content-lost",
        "lose a part of a trained answer in the chat template",
        "another chat template: --template; or leave out what it does not show",
        "encode",
        "The model would be trained to leave out what the data has.",
    ),
    Reason(
        "DATA056",
        "outside-vocabulary",
        "hold token ids outside the vocabulary",
        "make the rows with the tokenizer of this model, or name its tokenizer: --tokenizer",
        "encode",
    ),
    Reason(
        "DATA057",
        "too-long",
        "are many times longer than the context of the model",
        "set --max-length to the context of the model: longer rows are then cut, or left out with --truncate drop; or "
        "split the rows",
        "encode",
    ),
    Reason(
        "MASK001",
        "nothing-trained",
        "have no trained token (left out)",
        "drop these rows, or correct their labels or weights",
        "encode",
        "They cost compute and teach nothing; where a loss averages over examples they also dilute the others.",
    ),
    Reason(
        "MASK006",
        "prefix-broken",
        "are refused: the chat template begins an answer differently than a generation prompt",
        "another chat template: --template; or one whose generation prompt opens every answer",
        "encode",
        "Where the answer starts cannot be determined, so the mask would be wrong without a sign of it.",
    ),
    Reason(
        "MASK007",
        "truncated-away",
        "lose every trained token to truncation (left out)",
        "give a larger --max-length, or leave out every row that is too long: --truncate drop",
        "encode",
        "A cut answer teaches to go on where the answer went on, and its end is never seen.",
    ),
    Reason(
        "DATA117",
        "longer-than-kept",
        "are longer than --max-length and left out by --truncate drop",
        "keep more of them with a larger --max-length",
        "chosen",
        "The longest rows are not trained, so the model learns from shorter ones than the data has.",
    ),
    Reason(
        "DATA111",
        "placeholder",
        "hold a placeholder such as {{name}}",
        "fill the placeholders in: a template of the data was not applied",
        "kept",
        "The model is trained to write the placeholder.",
    ),
    Reason(
        "DATA101",
        "last-turn-not-assistant",
        "end with a turn that is not the assistant's",
        "cut them after the last answer",
        "kept",
        "What comes after the last answer is read and never trained.",
    ),
)
ROW_REASONS: Mapping[str, Reason] = MappingProxyType({reason.name: reason for reason in _ALL})
"""Every reason by its name."""


class BadRow(Exception):
    """One row cannot be used, and who raises this does not know where the row is.

    Attributes:
        reason: A key of ROW_REASONS.
        detail: One clause: what is wrong and what to do. Options in it are `sftloss.errors.mention`.
        message: Index of the message at fault, where one is.
    """

    def __init__(self, reason: str, detail: str, message: int | None = None) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.message = reason, detail, message

    def __str__(self) -> str:
        return f"{ROW_REASONS[self.reason].code} {self.reason}: {plain_detail(self.detail)}"


class RowError(DataError):
    """One row cannot be used: `reason` and `detail` as in BadRow, and the row's `origin`."""

    def __init__(self, reason: str, origin: Origin, detail: str) -> None:
        super().__init__(f"{ROW_REASONS[reason].code} {reason}: {detail}", where=origin)
        self.reason, self.origin, self.detail = reason, origin, detail


def plain_detail(detail: str, spell: Spell = as_argument) -> str:
    """A detail with its options written as in Python, or by `spell`."""
    return spelled(detail, spell).removesuffix(".")


def excerpt(value: object, length: int = _SHOWN_LENGTH) -> str:
    """The value in quotes, at most `length` characters, none of which can steer a terminal."""
    text = value if isinstance(value, str) else repr(value)
    shown = text[:length]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)
    if len(text) > length or len(shown) > length:
        shown = shown[: length - 3] + "..."
    return f"'{shown}'" if isinstance(value, str) else shown

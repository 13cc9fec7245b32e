"""Text that came from somebody's data, made safe to show: only what a screen would obey is taken away."""

from __future__ import annotations

import re
import textwrap
import unicodedata

# CSI, OSC (ended by BEL or ST) and two-byte escapes: what a terminal would execute
_ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\-_]|\x9b[0-?]*[ -/]*[@-~]")
_SPACES = re.compile(r"[\t\n\v\f\r\u0085\u2028\u2029]+")
# C0, C1, bidirectional overrides and isolates (they reorder the text around them), lone surrogates, byte-order mark
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TOGETHER = re.compile(r"(?<=\d) (?=%)|(?<=\bp) (?=[<\u2265])|(?<=[<\u2265]) (?=\d)")  # 24 %, p < 0.1
_UNBROKEN = re.compile(r"(?:[!-~×≥∞]+(?: %| [<≥] [\d.]+)?|[^!-~])[，。；：、）”？！…]* ?")  # of a Chinese line
_MARKS = {"\n": "↵", "\t": "⇥", "\r": "␍", "\u2028": "↵", "\u2029": "↵"}


def clean(text: str) -> str:
    """One line of plain text: escape sequences and control characters removed, line breaks become one space."""
    text = _ANSI.sub("", text)
    text = _SPACES.sub(" ", text)
    text = _CONTROL.sub("", text)
    return _SURROGATE.sub("\ufffd", text)


def prose(text: str) -> str:
    """As :func:`clean`, for a sentence of ours: a number and its percent sign, or p and its bound, stay on one line.

    Example:
        >>> prose("24 % of 3")
        '24\\xa0% of 3'
    """
    return _TOGETHER.sub("\u00a0", clean(text))


def ended(text: str) -> str:
    """A sentence of ours with a full stop, where it ends in no mark.

    Example:
        >>> ended("Read it"), ended("Why?"), ended("占比为24 %")
        ('Read it.', 'Why?', '占比为24 %。')
    """
    text = text.rstrip()
    if not text or text[-1] in ".!?:;…。！？：；":
        return text
    return text + ("。" if columns(text[0] + text[-1]) > 2 else ".")


def clean_block(text: str) -> str:
    """As :func:`clean`, keeping line breaks (command lines, code)."""
    return "\n".join(clean(line) for line in text.replace("\r\n", "\n").split("\n"))


def visible(token: str) -> str:
    """A token with its invisible characters drawn (line break, tab, escape), so that none is overlooked.

    Example:
        >>> visible("a\\n\\x1b")
        'a↵␛'
    """
    shown = [_MARKS.get(c) or (chr(0x2400 + ord(c)) if ord(c) < 0x20 else c) for c in token]
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("\ufffd", "".join(shown)))


def shorten(text: str, width: int) -> str:
    """At most `width` characters, with an ellipsis where something was cut."""
    return text if len(text) <= width else text[: max(width - 1, 0)].rstrip() + "…"


def columns(text: str) -> int:
    """Width of a text in terminal columns: East Asian wide characters take two, combining marks none."""
    wide = (2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
    return sum(wide)


def fold(text: str, width: int) -> str:
    """A text with wide characters on lines of `width` columns: no number or word is broken, no line begins with a mark.

    Example:
        >>> fold("预测的平均长度为5.61个token。", 17).splitlines()
        ['预测的平均长度为', '5.61个token。']
    """
    if columns(text) == len(text):
        return text
    lines, room = [""], width
    for part in _UNBROKEN.findall(text):
        if columns(part.rstrip()) > room and lines[-1]:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
            room = width
        lines[-1] += part
        room -= columns(part)
    return "\n".join(lines)


def wrap(text: str, width: int, *, lines: int) -> list[str]:
    """`text` in at most `lines` lines of `width` columns; what does not fit ends in an ellipsis."""
    room = width if columns(text) == len(text) else max(width // 2, 4)
    wrapped = textwrap.wrap(clean(text), room, break_long_words=True, max_lines=lines, placeholder="…")
    return wrapped or [""]

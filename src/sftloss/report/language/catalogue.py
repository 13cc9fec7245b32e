"""English sentences with holes and their translations, from ``zh.json``: one entry a line, matched as a whole.

An English template holds text, holes and alternatives: ``{n} of {n2} row(s) [has|have] no answer``. The name of a hole
is what it may hold (digits at its end tell two of a kind apart):

- ``{n}``: a number as :mod:`sftloss.words` writes it, with its sign for percent or times;
- ``{NAME}``, in capitals: anything, taken over as it is: data, files, commands;
- ``{name}``: a name, translated where it has an entry of its own (``token mean``), else as it is (``dft``);
- ``{names}``: a list of such names; ``{list}``: a list of texts that all have entries;
- ``{detail}``: a text that is taken over as it is where it has no entry;
- any other, ``{what}``: a text that must have an entry itself, or is a number.

A template fits better where each hole that takes text over holds one word, or a list of words.
A text without an entry is split into sentences. Where one of them has none, the whole text stays English.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib.resources import files

from sftloss.document import LANGUAGES

_HOLE = r"(?<!\{)\{(\w+)\}(?!\})"
_PART = re.compile(_HOLE + r"|\[([^\[\]{}]*\|[^\[\]{}]*)\]|\(s\)")
_FIGURE = r"[<+-]?(?:\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?|∞)(?: ?%|×)?"
_NUMBER = re.compile(rf"-?{_FIGURE}")
_NUMBER_HOLE = rf"(?:less than )?-?{_FIGURE}|undefined|an undefined part|no"
_QUOTED = r"'(?:[^']|'(?=\w))*'(?!\w)"
_ANY_HOLE = rf"(?:{_QUOTED}|(?!{_QUOTED}|\. ).)+?"  # one sentence, and whatever it quotes; each character in one way
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.) (?=\S)")
_ITEM_END = re.compile(r"(?:, | and )(?![^(]*\))")
_NAME = re.compile(r"\S+(?:(?<![:;,]) \S+){0,2}(?<![.:;,])")  # some words
_WORD = r"(?:[^\s()]+\([^()]*\)|\S+)"  # with its arguments
_ONE_NAME = re.compile(rf"{_WORD}(?: [+*] {_WORD})*(?<![.:;,])")  # a word, or a sum of objectives
_IS_CHINESE = re.compile(r"^(?!.*[a-z]{2} [a-z]{2}).*[\u3400-\u9fff]", re.DOTALL)  # without an English phrase


class _Template:
    """One English template with holes, and its translation."""

    def __init__(self, english: str, other: str) -> None:
        pattern, pieces, at = "", [], 0
        self.kinds: dict[str, str] = {}
        for part in _PART.finditer(english):
            pattern += re.escape(english[at : part.start()])
            pieces.append(english[at : part.start()])
            at = part.end()
            hole, choices = part.groups()
            if hole:
                self.kinds[hole] = hole.rstrip("0123456789") if hole.islower() else "NAME"
                pattern += f"(?P<{hole}>{_NUMBER_HOLE if self.kinds[hole] == 'n' else _ANY_HOLE})"
            elif choices is not None:
                pattern += f"(?:{'|'.join(map(re.escape, choices.split('|')))})"
            else:
                pattern += "s?"
        self.pieces = [*pieces, english[at:]]
        self.pattern = re.compile(pattern + re.escape(english[at:]), re.DOTALL)
        self.anchor = max(self.pieces, key=len)
        self.english, self.other = english, other
        self.weight = sum(map(len, self.pieces))

    def filled(self, values: Mapping[str, str | None]) -> str:
        """The translation with the values of its holes."""
        return re.sub(_HOLE, lambda hole: str(values[hole[1]]), self.other)


class Catalogue:
    """Entries of one language.

    Args:
        entries: English templates and their translations.

    Example:
        >>> rows = Catalogue({"{n} row(s)": "{n}行", "{n} of {rest}": "{rest}中的{n}", "the data": "数据"})
        >>> rows.translated("1,200 rows"), rows.translated("3 of the data"), rows.translated("3 of it")
        ('1,200行', '数据中的3', None)
    """

    def __init__(self, entries: Mapping[str, str]) -> None:
        self.entries = dict(entries)
        self._known: dict[str, str | None] = {}

    @cached_property
    def templates(self) -> list[_Template]:
        """Entries with holes or alternatives, those with most text first."""
        templates = [_Template(*entry) for entry in self.entries.items() if _PART.search(entry[0])]
        return sorted(templates, key=lambda template: (-template.weight, "NAME" in template.kinds.values()))

    def translated(self, text: str) -> str | None:
        """The translation of a text; None where it, or a part of it, has no entry."""
        if text not in self._known:  # a hole holds less than its text, so this ends
            self._known[text] = self._of_entries(text) or self._of_sentences(text)
        return self._known[text]

    def _of_entries(self, text: str) -> str | None:
        if _NUMBER.fullmatch(text) or not text.strip():
            return text
        forms = dict.fromkeys((text, text[0].lower() + text[1:]))  # one entry serves all places of a sentence
        known = [self.entries[form] for form in forms if form in self.entries]
        fitting = (match for short in (True, False) for form in forms for match in self._matches(form, short))
        return next(iter(known), None) or next(fitting, text if _IS_CHINESE.search(text) else None)

    def _matches(self, text: str, short: bool) -> Iterator[str]:
        """The text by each template that fits it; `short`: with one word in each hole that takes text over."""
        for template in self.templates:
            match = template.anchor in text and template.pattern.fullmatch(text)
            if match:
                holes = match.groupdict().items()
                values = {hole: self._value(part, template.kinds[hole], short) for hole, part in holes}
                if None not in values.values():
                    yield template.filled(values)

    def _value(self, text: str, kind: str, short: bool) -> str | None:
        if kind == "NAME":
            return None if short and " " in text.replace(", ", "") else text
        if kind == "name":
            taken = _ONE_NAME.fullmatch(text) or (not short and _NAME.fullmatch(text))
            return self.translated(text) or (text if taken else None)
        if kind in ("names", "list"):
            each = "name" if kind == "names" else "text"
            items = [self._value(item, each, short) for item in _ITEM_END.split(text)]
            return None if None in items else "、".join(filter(None, items))
        return self.translated(text) or (text if kind == "detail" else None)

    def _of_sentences(self, text: str) -> str | None:
        sentences = _SENTENCE_END.split(text)
        if len(sentences) == 1:
            return None
        parts = [self._of_entries(sentence) for sentence in sentences]
        return None if None in parts else "".join(filter(None, parts))


@cache
def catalogue(language: str) -> Catalogue:
    """The entries of a language.

    Raises:
        ValueError: If there is no catalogue of it.
    """
    if language not in LANGUAGES[1:]:
        raise ValueError(f"catalogue: there is none of {language!r}. There are {', '.join(LANGUAGES[1:])}.")
    return Catalogue(json.loads((files("sftloss.report.language") / f"{language}.json").read_text(encoding="utf-8")))


def translated(text: str, language: str) -> str:
    """A text of ours in a language, or the English text where it has no entry.

    Example:
        >>> translated("Findings", "en")
        'Findings'
    """
    return text if language == "en" else catalogue(language).translated(text) or text

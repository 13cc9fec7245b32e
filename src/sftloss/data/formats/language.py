"""Which script a text is written in: the language group of rows that name no language, without a model file."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from functools import lru_cache

# First code point of each stretch of the Unicode blocks, and the script of its letters. Scripts not named are Other.
_STRETCHES = (
    (0x0000, "Latin"),
    (0x0370, "Greek"),
    (0x0400, "Cyrillic"),
    (0x0530, "Other"),
    (0x0590, "Hebrew"),
    (0x0600, "Arabic"),
    (0x0700, "Other"),
    (0x0750, "Arabic"),
    (0x0780, "Other"),
    (0x0860, "Arabic"),
    (0x0900, "Devanagari"),
    (0x0980, "Other"),
    (0x0E00, "Thai"),
    (0x0E80, "Other"),
    (0x1100, "Hangul"),
    (0x1200, "Other"),
    (0x1C80, "Cyrillic"),
    (0x1C90, "Other"),
    (0x1D00, "Latin"),
    (0x1DC0, "Other"),
    (0x1E00, "Latin"),
    (0x1F00, "Greek"),
    (0x2000, "Latin"),
    (0x2C00, "Other"),
    (0x2C60, "Latin"),
    (0x2C80, "Other"),
    (0x2DE0, "Cyrillic"),
    (0x2E00, "Other"),
    (0x2E80, "Han"),
    (0x2FE0, "Other"),
    (0x3000, "Han"),
    (0x3040, "Kana"),
    (0x3100, "Other"),
    (0x3130, "Hangul"),
    (0x3190, "Han"),
    (0x31F0, "Kana"),
    (0x3200, "Han"),
    (0x3400, "Han"),
    (0xA000, "Other"),
    (0xA640, "Cyrillic"),
    (0xA6A0, "Other"),
    (0xA720, "Latin"),
    (0xA800, "Other"),
    (0xA8E0, "Devanagari"),
    (0xA900, "Other"),
    (0xA960, "Hangul"),
    (0xA980, "Other"),
    (0xAB30, "Latin"),
    (0xAB70, "Other"),
    (0xAC00, "Hangul"),
    (0xD800, "Other"),
    (0xF900, "Han"),
    (0xFB00, "Latin"),
    (0xFB10, "Other"),
    (0xFB1D, "Hebrew"),
    (0xFB50, "Arabic"),
    (0xFE00, "Other"),
    (0xFE70, "Arabic"),
    (0xFF00, "Latin"),
    (0xFF66, "Kana"),
    (0xFFA0, "Hangul"),
    (0xFFE0, "Other"),
    (0x1B000, "Kana"),
    (0x1B170, "Other"),
    (0x1D400, "Latin"),
    (0x1D6A8, "Greek"),
    (0x1D7CC, "Other"),
    (0x1EE00, "Arabic"),
    (0x1EF00, "Other"),
    (0x20000, "Han"),
    (0x32000, "Other"),
)
_STARTS = tuple(start for start, _ in _STRETCHES)
_SAMPLE = 400
# one Han, kana or Hangul character carries about what three letters do: "用 PyTorch 训练模型" stays Chinese
_LETTERS_WORTH = {"Han": 3, "Kana": 3, "Hangul": 3}
_CLEAR_SHARE = 0.7
_LEAST_LETTERS = 0.2
_FENCED_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


@lru_cache(maxsize=65536)
def _script(character: str) -> str:
    return _STRETCHES[bisect_right(_STARTS, ord(character)) - 1][1]


def script_of(text: str) -> str:
    """The script most of the text is written in.

    Looks at up to about 400 characters spread evenly over the text, fenced code left out.

    Args:
        text: Any text.

    Returns:
        ``"script:Latin"``, ``"script:Han"``, ``"script:Kana"`` (Japanese: kana among Han), ``"script:Hangul"``,
        ``"script:Cyrillic"``, ``"script:Arabic"``, ``"script:Devanagari"``, ``"script:Thai"``, ``"script:Greek"``,
        ``"script:Hebrew"``, ``"script:Other"``; ``"script:Mixed"`` where no script has 70 % of the letters;
        ``"script:none"`` where less than a fifth of the characters are letters: numbers, formulas, fenced code.

    Example:
        >>> script_of("今天天气很好。")
        'script:Han'
        >>> script_of("3 + 4 = 7")
        'script:none'
    """
    if "```" in text:
        text = _FENCED_CODE.sub(" ", text)
    # the step is odd so that it cannot fall into step with lines of even width
    step = (len(text) // _SAMPLE) | 1 if len(text) > _SAMPLE else 1
    letters: Counter[str] = Counter()
    others = 0
    for character, count in Counter(text[::step]).items():
        if character.isalpha():
            script = _script(character)
            letters[script] += count * _LETTERS_WORTH.get(script, 1)
        elif not character.isspace():
            others += count
    total = sum(letters.values())
    if total == 0 or total < _LEAST_LETTERS * (total + others):
        return "script:none"
    # Japanese writes Han and kana side by side: a tenth of kana tells it from Chinese
    if letters["Kana"] * 10 >= letters["Kana"] + letters["Han"] > 0 and letters["Kana"]:
        letters["Kana"] += letters.pop("Han", 0)
    script, count = max(letters.items(), key=lambda item: item[1])
    return f"script:{script}" if count >= _CLEAR_SHARE * total else "script:Mixed"

"""The script a text is written in: the language group of rows that name no language."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, lru_cache
from typing import Any

from sftloss.errors import DataError

# Unicode's own scripts, by the name of the group they are counted in; letters of any other script are "Other".
# Letters that scripts share (the micro sign, mathematical letters) count for none.
_SCRIPTS = {
    **{name: rf"\p{{Script={name}}}" for name in ("Latin", "Han", "Hangul", "Cyrillic", "Arabic", "Devanagari")},
    **{name: rf"\p{{Script={name}}}" for name in ("Thai", "Greek", "Hebrew")},
    "Kana": r"[\p{Script=Hiragana}\p{Script=Katakana}\u30fc\uff70\uff9e\uff9f]",
    "Common": r"\p{Script=Common}",
}
_SAMPLE = 400
# one Han, kana or Hangul character carries about what three letters do: "用 PyTorch 训练模型" stays Chinese
_LETTERS_WORTH = {"Han": 3, "Kana": 3, "Hangul": 3}
_CLEAR_SHARE = 0.7
_LEAST_LETTERS = 0.2
_FENCED_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)


@cache
def _pattern() -> Any:
    try:
        import regex
    except ImportError:
        raise DataError(
            "telling the script of a text needs the regex package; pip install 'sftloss[cli]', or name each row's "
            "language in a column."
        ) from None
    return regex.compile("|".join(f"(?P<{name}>{script})" for name, script in _SCRIPTS.items()))


@lru_cache(maxsize=65536)
def _script(letter: str) -> str:
    match = _pattern().match(letter)
    return match.lastgroup if match else "Other"


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

    Raises:
        DataError: If the `regex` package is missing (transformers brings it).

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
        if character.isalpha() and (script := _script(character)) != "Common":
            letters[script] += count * _LETTERS_WORTH.get(script, 1)
        elif not character.isspace():
            others += count
    total = letters.total()
    if total == 0 or total < _LEAST_LETTERS * (total + others):
        return "script:none"
    # Japanese writes Han and kana side by side: a tenth of kana distinguishes it from Chinese
    if letters["Kana"] * 10 >= letters["Kana"] + letters["Han"] > 0 and letters["Kana"]:
        letters["Kana"] += letters.pop("Han", 0)
    script, count = letters.most_common(1)[0]
    return f"script:{script}" if count >= _CLEAR_SHARE * total else "script:Mixed"

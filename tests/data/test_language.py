"""The script of a text stands in for its language where the data names none."""

from __future__ import annotations

import time
import unicodedata

import pytest

from sftloss.data import script_of
from sftloss.data.formats.language import _script

TEXTS = {
    "Latin": ["Good morning, how are you?", "Où est la bibliothèque ?", "Tiếng Việt có dấu", "Ｆｕｌｌｗｉｄｔｈ"],
    "Han": ["今天天气很好。", "繁體中文也是漢字", "用 PyTorch 训练一个小模型"],
    "Kana": ["今日はとても天気がいいですね。", "カタカナ", "ﾊﾝｶｸ ｶﾀｶﾅ"],
    "Hangul": ["오늘 날씨가 좋네요", "한국어"],
    "Cyrillic": ["Сегодня хорошая погода", "Українська мова"],
    "Arabic": ["الطقس جميل اليوم", "زبان فارسی"],
    "Devanagari": ["आज मौसम अच्छा है", "नमस्ते"],
    "Thai": ["วันนี้อากาศดี"],
    "Greek": ["Σήμερα ο καιρός είναι καλός"],
    "Hebrew": ["מזג האוויר נאה היום"],
    "Other": ["დღეს კარგი ამინდია", "இன்று வானிலை நன்றாக உள்ளது", "Այսօր եղանակը լավն է"],
    "Mixed": ["Good morning. Доброе утро.", "hello world 안녕"],
    "none": [
        "𝐱 = 𝐲",
        "",
        "   \n",
        "3 + 4 = 7",
        "(555) 123-4567",
        "1. 2 x 3 = 6\n2. 8 x 7 = 56",
        "😀🎉",
        "```python\nprint(1)\n```",
    ],
}


@pytest.mark.parametrize("script", TEXTS)
def test_script_of_a_text_is(script):
    """Including numbers, fenced code and a foreign word among others."""
    assert [script_of(text) for text in TEXTS[script]] == [f"script:{script}"] * len(TEXTS[script])


def test_code_between_fences_does_not_outweigh_the_words_around_it():
    """A Chinese answer with a long program is Chinese."""
    assert (
        script_of("下面是代码：\n```python\n" + "print('hello world')\n" * 50 + "```\n希望对你有帮助") == "script:Han"
    )
    assert script_of("下面是代码：\n```python\nprint('unclosed')") == "script:Han"


def test_long_text_is_judged_by_all_of_it_not_by_its_beginning():
    """A short greeting in English does not make a Russian text English."""
    assert script_of("Hello, dear friends and colleagues! " + "Сегодня хорошая погода. " * 400) == "script:Cyrillic"


def test_block_table_agrees_with_the_unicode_names():
    """Every letter of the basic plane, against the script its own name begins with."""
    words = {
        "LATIN": "Latin", "GREEK": "Greek", "CYRILLIC": "Cyrillic", "HEBREW": "Hebrew", "ARABIC": "Arabic",
        "DEVANAGARI": "Devanagari", "THAI": "Thai", "HANGUL": "Hangul", "HIRAGANA": "Kana", "KATAKANA": "Kana",
        "CJK": "Han", "GEORGIAN": "Other", "TAMIL": "Other", "ARMENIAN": "Other", "BENGALI": "Other",
    }  # fmt: skip
    wrong = []
    for code in range(0xFFFF):
        character = chr(code)
        if 0x3400 < code < 0x9FFF or 0xAC00 < code < 0xD7A3 or not character.isalpha():
            continue  # the inside of the two great uniform blocks would only cost time
        expected = words.get(unicodedata.name(character, "").split(" ")[0])
        # Unicode itself counts these two as shared by several scripts
        if expected and _script(character) != expected and code not in (0x0374, 0x0640):
            wrong.append(f"U+{code:04X} {unicodedata.name(character)}: {_script(character)}")
    assert not wrong


def test_script_of_is_fast_enough_for_a_million_rows():
    """Long texts cost what short ones do."""
    text = "Сегодня хорошая погода, and so on. " * 1000
    start = time.process_time()
    for _ in range(200):
        script_of(text)
    # measured 40 microseconds each on two slow cores; the bound is wide for a loaded machine
    assert (time.process_time() - start) / 200 < 1e-3

"""The words of the generated tasks: each English one a token of the demo's tokenizer, each Chinese one three."""

from __future__ import annotations

KINDS = {
    "fruits": ("apple", "pear", "plum", "fig", "lime", "melon", "lemon", "peach", "date", "mango"),
    "animals": ("cat", "dog", "cow", "pig", "horse", "sheep", "goat", "duck", "hen", "mouse"),
    "colours": ("red", "blue", "green", "black", "white", "brown", "grey", "pink", "gold", "tan"),
    "tools": ("saw", "axe", "pin", "drill", "file", "knife", "rake", "spade", "nail", "plane"),
}
WORDS = tuple(word for words in KINDS.values() for word in words)
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}

ANIMALS = dict(
    zip(("cat", "dog", "cow", "pig", "horse", "sheep", "duck", "hen", "mouse"), "猫狗牛猪马羊鸭鸡鼠", strict=True)
)
COLOURS = dict(
    zip(("red", "blue", "green", "black", "white", "brown", "grey", "pink", "gold"), "红蓝绿黑白棕灰粉金", strict=True)
)
CHINESE = {"动物": tuple(ANIMALS.values()), "颜色": tuple(COLOURS.values())}
"""Chinese kinds: animals and colours, one character a word."""

"""What to do about a finding, as words, a setting or a command: the one place that spells them."""

from __future__ import annotations

from collections.abc import Iterable

from sftloss.document import Command

INSPECT = Command("inspect")
ANSWERS_ONLY = Command("inspect", lead="give prompt, system and tool tokens weight 0, then check the mask")
ENDS_ONLY = Command("inspect", lead="check that end tokens stand only where answers end")
LONGER = "give a larger --max-length, or leave out every row that is too long: --truncate drop"
GLOBAL_MEAN = "divide by the trained tokens of the whole step, all micro-batches and ranks (--normalization token-mean)"
READ_ROWS = "read the rows listed here"
FOCAL = Command(
    "analyze",
    (("--loss", "cross_entropy"), ("--loss", "focal(gamma=2)")),
    "look at a loss that gives tokens the model already knows less weight",
)
BY_HAND = "give the rows of the lengths that get too little a weight of their own in the data; the deciles name them"
TASK_WEIGHTS = "give each task a weight of its own in the data"
ENDS = "train, then look at generated lengths; if answers still run on, give end tokens a larger weight in the data"

STEEPEST_ADVICE = 1.5
"""The largest exponent that is ever advised: beyond it a few short examples hold nearly everything."""

_NAMES = {0.0: "token-mean", 0.5: "sqrt", 1.0: "example-mean"}


def alpha(value: float) -> str:
    """The setting that divides by T^alpha."""
    return f"--normalization {_named(value)}"


def _named(exponent: float) -> str:
    rounded = round(exponent, 2)
    return _NAMES.get(rounded, f"{rounded:.2f}")


def training(losses: Iterable[str], exponents: Iterable[float], roles: str = "") -> Command:
    """The comparison that trains each of some losses, or where there is one of them, each of some normalizations."""
    losses, exponents = tuple(dict.fromkeys(losses)), tuple(dict.fromkeys(exponents))
    arms = [("--loss", loss) for loss in losses]
    arms += [("--normalization", _named(one)) for one in (exponents[:1] if len(losses) > 1 else exponents)]
    return Command("compare", (*arms, *([("--roles", roles)] if roles else []), ("--eval-share", "0.1")))

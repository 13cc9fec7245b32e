"""Numbers and lists in words: the one place that writes them, so that every page writes a number in one way.

Everything is plain text: a minus sign is a hyphen, thousands have a comma, a percent sign stands after a blank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_DUST = 1e-9  # what is left of a sum that should be zero


def number(value: float) -> str:
    """Three significant digits, no exponent from 0.0001 on; whole numbers are written out.

    Example:
        >>> number(2.0), number(0.04512), number(12345.6), number(3e-5), number(2e-14)
        ('2', '0.0451', '12,346', '3.00e-5', '0')
    """
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    size = abs(value)
    if size < _DUST:
        return "0"
    if size < 1e-4 or size >= 1e15:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if size >= 999.5 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def index(value: float) -> str:
    """A number of order one, such as a correlation or an exponent: two decimals.

    Example:
        >>> index(0.8034), index(-0.0003)
        ('0.80', '0.00')
    """
    if not math.isfinite(value):
        return number(value)
    return f"{value:,.2f}" if abs(value) >= 0.005 else "0.00"


def percent(share: float | None) -> str:
    """A share in words: no decimals from 10 % on, one below; nearly all is not all, and nearly none is not none.

    Example:
        >>> percent(0.123), percent(0.0123), percent(0.00012), percent(0.9999)
        ('12 %', '1.2 %', 'less than 0.1 %', '99.9 %')
    """
    if share is None or not math.isfinite(share):
        return "an undefined part"
    size = abs(share)
    if _DUST < size < 0.0005:
        return "less than 0.1 %"
    if 0.995 <= size < 1 - _DUST:
        return f"{math.copysign(min(99.9, 100 * size), share):.1f} %"
    return f"{100 * share:.0f} %" if size >= 0.0995 or size <= _DUST else f"{100 * share:.1f} %"


def confidence(level: float) -> str:
    """The level of an interval, with as many of two decimals as it has.

    Example:
        >>> confidence(0.95), confidence(0.99967)
        ('95 %', '99.97 %')
    """
    return f"{f'{100 * level:.2f}'.rstrip('0').rstrip('.')} %"


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun.

    Example:
        >>> counted(1, "step"), counted(1200, "step"), counted(2, "entry", "entries")
        ('1 step', '1,200 steps', '2 entries')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def agreeing(count: int, predicate: str) -> str:
    """A predicate in the plural, with its verb in the singular where the count is 1.

    Example:
        >>> agreeing(1, "have no answer"), agreeing(1, "repeat a row"), agreeing(3, "are empty")
        ('has no answer', 'repeats a row', 'are empty')
    """
    verb, _, rest = predicate.partition(" ")
    if count == 1:
        verb = {"are": "is", "have": "has", "do": "does"}.get(verb, f"{verb}s")
    return f"{verb} {rest}".strip()


def part_of(count: int, whole: int, noun: str, predicate: str) -> str:
    """How many of a whole, with its share: the subject and the predicate of a sentence.

    Example:
        >>> part_of(1, 1000, "rows", "have no answer")
        '1 of 1,000 rows (0.1 %) has no answer'
    """
    return f"{count:,} of {whole:,} {noun} ({percent(count / whole)}) {agreeing(count, predicate)}"


def duration(seconds: float) -> str:
    """A time that is estimated.

    Example:
        >>> duration(42.3), duration(400), duration(9000)
        ('42 s', '7 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    Example:
        >>> listed(["a"]), listed(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))

"""Student's t distribution for any real number of degrees of freedom, without SciPy."""

from __future__ import annotations

import math


def _continued_fraction(a: float, b: float, x: float) -> float:
    """Lentz's evaluation of the continued fraction of the incomplete beta function."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0) or tiny)
    value = d
    for m in range(1, 400):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / (1.0 + factor * d or tiny)
            c = 1.0 + factor / c or tiny
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _incomplete_beta(a: float, b: float, x: float, y: float) -> float:
    """The regularised incomplete beta function; `y` is 1 - x, given apart so that neither loses digits."""
    if x <= 0.0 or y <= 0.0:
        return float(y <= 0.0)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y))
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _continued_fraction(a, b, x) / a
    return 1.0 - front * _continued_fraction(b, a, y) / b


def t_tail(t: float, df: float) -> float:
    """P(|T| > |t|) for Student's T with `df` degrees of freedom.

    Example:
        >>> round(t_tail(12.706, 1.0), 4)
        0.05
    """
    size = t * t
    return _incomplete_beta(df / 2.0, 0.5, df / (df + size), size / (df + size))


def t_quantile(probability: float, df: float) -> float:
    """The t with P(T < t) = `probability`, which is at least one half.

    Example:
        >>> round(t_quantile(0.975, 1e9), 3)
        1.96
    """
    tail = 2.0 * (1.0 - probability)
    high = 1.0
    while t_tail(high, df) > tail:
        high *= 2.0
    low = 0.0
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if t_tail(middle, df) > tail else (low, middle)
        if high - low <= 1e-13 * high:
            break
    return (low + high) / 2.0

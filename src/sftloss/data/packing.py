"""Which examples share a packed row."""

from __future__ import annotations

from collections.abc import Sequence


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices whose lengths sum to at most `capacity`: the longest first, each into the first bin with room.

    Uses at most 11/9 of the fewest bins possible (plus one). Equal lengths keep their order, so the result depends
    on the input alone. A length above the capacity gets a bin of its own.

    Args:
        lengths: Length of each example, in tokens, `>= 0`.
        capacity: Tokens of a row, `>= 1`.

    Raises:
        ValueError: If `capacity` is less than 1.

    Example:
        >>> first_fit_decreasing([3, 5, 2, 4], capacity=7)
        [[1, 2], [3, 0]]

    Source:
        Dosa, *The Tight Bound of First Fit Decreasing Bin-Packing Algorithm Is FFD(I) <= 11/9 OPT(I) + 6/9*, 2007.
    """
    if capacity < 1:
        raise ValueError(f"first_fit_decreasing: capacity must be at least 1 token, got {capacity}.")
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        size = lengths[index]
        fit = next((b for b, free in enumerate(room) if free >= size), None)
        if fit is None:
            bins.append([])
            room.append(capacity)
            fit = -1
        bins[fit].append(index)
        room[fit] -= size
    return bins

"""The quiet part of a chart: scales, ticks, a light grid, labels that read from left to right."""

from __future__ import annotations

import math
import typing

from sftloss.document import Chart
from sftloss.report.charts.svg import stand_in
from sftloss.report.format import format_cell, format_tick
from sftloss.report.text import clean, columns, shorten, wrap

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

FONT = 13
NAME_LINES = 4  # of the name of a category
COLUMN = 7.1  # pixels a column of text takes at this size, in the widest common sans-serif


def _scale(axes: Axes, name: str, scale: str) -> None:
    if scale == "log":
        (axes.set_xscale if name == "x" else axes.set_yscale)("log", nonpositive="mask")


def _ticks(axis: Axis, kind: str, *, is_log: bool, bounds: tuple[float, float], most: int) -> None:
    """At most `most` + 1 ticks."""
    from matplotlib import ticker

    if is_log:
        decades = math.log10(bounds[1] / bounds[0]) if 0 < bounds[0] < bounds[1] else 3.0
        steps = (1.0, 2.0, 5.0) if decades < 2.5 * most / 6 else (1.0,)
        axis.set_major_locator(ticker.LogLocator(base=10, subs=steps, numticks=most + 2))
        axis.set_minor_locator(ticker.NullLocator())
    else:
        axis.set_major_locator(ticker.MaxNLocator(nbins=most, integer=kind == "integer", steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: format_tick(value, kind)))


def _calm(axes: Axes, name: str) -> None:
    """Widen an axis whose values differ by rounding alone, which would draw noise as large as a mountain."""
    read, write = (axes.get_xlim, axes.set_xlim) if name == "x" else (axes.get_ylim, axes.set_ylim)
    low, high = read()
    size = max(abs(low), abs(high))
    if abs(high - low) < 1e-5 * size:
        write((low + high) / 2 - 0.1 * size, (low + high) / 2 + 0.1 * size)


def dress_numbers(axes: Axes, chart: Chart, *, width: float, is_horizontal: bool, is_categorical: bool) -> None:
    """Scale and ticks of the value axis and, where x is a number, of the x axis."""
    across = min(6, int(width * (0.6 if is_horizontal else 0.85) / 55))  # ticks that fit side by side
    value: typing.Literal["x", "y"] = "x" if is_horizontal else "y"
    _scale(axes, value, chart.scale_y)
    if chart.scale_y == "linear":
        _calm(axes, value)
    if not is_categorical:
        _scale(axes, "x", chart.scale_x)
        _ticks(axes.xaxis, chart.format_x, is_log=chart.scale_x == "log", bounds=axes.get_xlim(), most=across)
    axis = axes.xaxis if is_horizontal else axes.yaxis
    bounds = axes.get_xlim() if is_horizontal else axes.get_ylim()
    most = across if is_horizontal else 6
    _ticks(axis, chart.format_y, is_log=chart.scale_y == "log", bounds=bounds, most=most)
    axes.grid(axis=value, color=stand_in("grid"), linewidth=1)
    axes.set_axisbelow(True)


def beside_columns(width: float) -> int:
    """Columns of text that a name beside the axis has on one line."""
    return min(26, int(0.42 * width / COLUMN))


def dress_categories(
    axes: Axes, chart: Chart, places: dict[float | str, float], *, width: float, is_horizontal: bool
) -> int:
    """Names of the categories: wrapped down the side, or along the bottom on as many lines as it returns."""
    labels = [format_cell(x, chart.format_x) for x in places]
    at = list(places.values())
    if is_horizontal:
        axes.set_yticks([])
        for label, y in zip(labels, at, strict=True):
            _label(axes, wrap(label, beside_columns(width), lines=NAME_LINES), y, beside=True)
        axes.set_ylim(len(at) - 0.4, -0.6)
        return 1
    slot = (width - 70) / max(1, len(labels)) / COLUMN
    lines = [wrap(label, max(int(slot) - 1, 1), lines=9) for label in labels]
    if chart.kind == "bar" and all(len(label) <= 2 for label in lines):
        axes.set_xticks([])
        for x, label_lines in zip(at, lines, strict=True):
            _label(axes, label_lines, x, beside=False)
        return max((len(label) for label in lines), default=1)
    labels = [shorten(label, 16) for label in labels]
    widest = max((columns(label) for label in labels), default=1) * COLUMN + 10
    step = max(1, math.ceil(len(labels) * widest / (width - 90)))
    axes.set_xticks(at[::step], labels[::step])
    return 1


def _label(axes: Axes, lines: list[str], at: float, *, beside: bool) -> None:
    """A label beside the axis or below it, one text a line: in the reader's font a block would be ragged."""
    for i, line in enumerate(lines):
        down = ((len(lines) - 1) / 2 - i) * 1.2 * FONT if beside else -8 - 1.15 * FONT * i
        axes.annotate(
            line,
            (0, at) if beside else (at, 0),
            xycoords=("axes fraction", "data") if beside else ("data", "axes fraction"),
            xytext=(-8, down) if beside else (0, down),
            textcoords="offset points",
            ha="right" if beside else "center",
            va="center" if beside else "top",
            fontsize=FONT,
            color=stand_in("muted"),
        )


def finish(axes: Axes, chart: Chart, *, size: tuple[float, float], is_horizontal: bool, lines_below: int = 1) -> None:
    """Margins from the labels themselves; the value's name above the axis, where nobody must tilt the head."""
    width, height = size
    beside = axes.yaxis.get_major_formatter().format_ticks(list(axes.get_yticks()))
    names = [text.get_text() for text in axes.texts] if is_horizontal else beside
    widest = max((columns(name) for name in names), default=1)
    left = min(max(30.0, widest * COLUMN + 12), width / 2)
    above, below = (chart.x_label, chart.y_label) if is_horizontal else (chart.y_label, chart.x_label)
    top = 36.0 if above.strip() else 12.0
    fit = int((width - 8) / COLUMN)
    names_below = wrap(clean(below), fit, lines=2)
    bottom = 16.0 + 16 * (lines_below + max(1, len(names_below)))
    axes.set_position((left / width, bottom / height, (width - left - 18) / width, (height - top - bottom) / height))
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, pad=6, labelsize=FONT, labelcolor=stand_in("muted"))
    ink = stand_in("ink")
    axes.figure.text(1 / width, 1 - 16 / height, shorten(clean(above), fit), fontsize=FONT, color=ink, va="center")
    for i, name in enumerate(reversed(names_below)):
        half = columns(name) * COLUMN / 2  # a long name stays inside the picture
        middle = min(max((left + width - 18) / 2, half), max(width - half, half)) / width
        y = (11 + 16 * i) / height
        axes.figure.text(middle, y, name, fontsize=FONT, color=ink, ha="center", va="center")

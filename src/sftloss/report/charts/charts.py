"""Charts as inline SVG: matplotlib's object interface, its settings borrowed for the moment, no global figure."""

from __future__ import annotations

import io
import math
import typing
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sftloss.document import Chart, Series
from sftloss.report.cells import positions
from sftloss.report.charts.axes import (
    COLUMN,
    FONT,
    NAME_LINES,
    beside_columns,
    dress_categories,
    dress_numbers,
    finish,
)  # fmt: skip
from sftloss.report.charts.svg import SERIES, inline, stand_in
from sftloss.report.language import translated
from sftloss.report.text import clean, columns, wrap

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, COMPACT, NARROW = (
    620,
    310,
    430,
    360,
)  # CSS pixels: figures are drawn at 72 dots an inch, so one point is one pixel
DASHES = ("", "7 3", "2 2.5", "9 3 2 3", "12 3", "5 2 1 2 1 2")
_Dash = str | tuple[int, tuple[float, ...]]
MARKERS = ("o", "s", "^", "D", "v", "P")


@contextmanager
def _quiet_settings() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # text stays text: the reader's fonts draw it, so a glyph missing from matplotlib's own is no loss
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {"svg.fonttype": "none", "svg.hashsalt": "sftloss", "text.parse_math": False, "axes.unicode_minus": False}
        )
        yield


def _points(series: Series) -> list[tuple[float | str, float, float, float]]:
    """(x, y, low, high) with NaN for what is missing or not finite."""
    missing = (None,) * len(series.x)
    rows = zip(series.x, series.y, series.low or missing, series.high or missing, strict=False)
    return [(x, *(math.nan if v is None or not math.isfinite(v) else v for v in rest)) for x, *rest in rows]  # type: ignore[misc]


@dataclass(frozen=True)
class _Layout:
    """Where things go: the axes, the chart, and whether categories run down the side."""

    axes: Axes
    chart: Chart
    places: dict[float | str, float]  # x of the data -> x of the picture
    is_categorical: bool
    is_horizontal: bool
    width: float

    @property
    def gap(self) -> float:
        """Distance of the closest two places."""
        ordered = sorted(self.places.values())
        return min((b - a for a, b in zip(ordered, ordered[1:], strict=False)), default=1.0)

    @property
    def drawn(self) -> list[tuple[int, Series]]:
        return list(enumerate(s for s in self.chart.series if not s.is_reference))

    @property
    def references(self) -> list[Series]:
        return [s for s in self.chart.series if s.is_reference]


def colour(index: int) -> str:
    return stand_in(f"c{index % len(SERIES)}")


def _dash(index: int) -> _Dash:
    pattern = DASHES[index % len(DASHES)]
    return (0, tuple(float(n) for n in pattern.split())) if pattern else "solid"


def _draw_line(layout: _Layout) -> None:
    for number, series in enumerate(layout.references):
        points = _points(series)
        xs = [layout.places[x] for x, *_ in points]
        style: _Dash = (0, (3.0, 3.0)) if number % 2 else "solid"  # two anchors of one picture differ
        grey = stand_in("reference")
        layout.axes.plot(xs, [p[1] for p in points], color=grey, linewidth=1.2, linestyle=style, zorder=1.5)
    for series in [one for _, one in layout.drawn if one.is_faint]:
        points = _along(layout, series)
        xs = [layout.places[x] for x, *_ in points]
        layout.axes.plot(xs, [p[1] for p in points], color=stand_in("reference"), linewidth=0.9, alpha=0.6, zorder=1.2)
    for index, series in [(i, one) for i, one in layout.drawn if not one.is_faint]:
        points = _along(layout, series)
        xs = [layout.places[x] for x, *_ in points]
        ys, lows, highs = ([p[k] for p in points] for k in (1, 2, 3))
        if series.low is not None and series.high is not None:
            layout.axes.fill_between(xs, lows, highs, color=colour(index), alpha=0.16, linewidth=0, zorder=2)
        marker = MARKERS[index % len(MARKERS)] if len(xs) <= 16 else ""
        form: dict[str, typing.Any] = {"linestyle": _dash(index), "marker": marker, "markersize": 4.5}
        layout.axes.plot(xs, ys, color=colour(index), linewidth=2, zorder=3 + index, **form)


def _along(layout: _Layout, series: Series) -> list[tuple[float | str, float, float, float]]:
    """The points of a line from left to right."""
    points = _points(series)
    if not layout.is_categorical:
        points.sort(key=lambda point: typing.cast(float, point[0]))
    return points


def _slots(layout: _Layout, width: float, *, widest: float = 1000.0) -> Iterator[tuple[int, Series, float, float]]:
    """Each drawn series with its offset in the group and its thickness, `widest` pixels at most."""
    size = width / max(1, len(layout.drawn))
    if layout.is_categorical and not layout.is_horizontal:
        size = min(size, widest * len(layout.places) / layout.width)
    for index, series in layout.drawn:
        yield index, series, (index - (len(layout.drawn) - 1) / 2) * size, size


def _draw_bar(layout: _Layout) -> None:
    axes, across = layout.axes, layout.is_horizontal
    gap = layout.gap
    for index, series, offset, size in _slots(layout, 0.78 * gap, widest=70):
        points = _points(series)
        xs, ys = [layout.places[p[0]] + offset for p in points], [p[1] for p in points]
        # a sliver of paper between neighbours keeps grouped bars apart without an outline
        draw = axes.barh if across else axes.bar
        draw(xs, ys, 0.9 * size, color=colour(index), alpha=0.88, zorder=3)
        for at, (_, _, low, high) in zip(xs, points, strict=True):
            ends = ((low, high), (at, at)) if across else ((at, at), (low, high))
            axes.plot(*ends, color=stand_in("ink"), linewidth=1.2, zorder=4, solid_capstyle="butt")
    _draw_references(layout, 0.46 * gap, is_flat=across)


def _draw_references(layout: _Layout, half: float, *, is_flat: bool) -> None:
    """The same value everywhere: one line through the picture. Else a short line at each place."""
    axes, grey = layout.axes, stand_in("reference")
    for series in layout.references:
        points = _points(series)
        levels = {y for _, y, *_ in points if not math.isnan(y)}
        if len(levels) == 1:
            (axes.axvline if is_flat else axes.axhline)(levels.pop(), color=grey, linewidth=1.2, zorder=1.5)
            continue
        for x, y, *_ in points:
            span = (layout.places[x] - half, layout.places[x] + half)
            ends = ((y, y), span) if is_flat else (span, (y, y))
            axes.plot(*ends, color=grey, linewidth=1.6, zorder=5, solid_capstyle="butt")


def draws_dots(chart: Chart) -> bool:
    """Four or more series of bars are a thicket: they are drawn as dots on the same scale, which still starts at 0."""
    return chart.kind == "bar" and sum(not s.is_reference for s in chart.series) > 3


def _draw_marks(layout: _Layout) -> None:
    """Points with their intervals: of a forest plot, or in place of too many bars."""
    axes, across, is_forest = layout.axes, layout.is_horizontal, layout.chart.kind == "point"
    if is_forest:
        _draw_references(layout, 0.3, is_flat=True)
    places = [x for _, series in layout.drawn for x, y, *_ in _points(series) if not math.isnan(y)]
    meet = len(set(places)) < len(places)  # series that never meet share the middle of the row
    width = (0.62 if meet else 0.0) if is_forest else 0.8 * layout.gap
    for index, series, offset, _ in _slots(layout, width, widest=1000 if is_forest else 22):
        ink = stand_in("muted") if series.is_faint else colour(index)
        thick, marker = (1.2, "o") if series.is_faint else (2 if is_forest else 1.4, MARKERS[index % len(MARKERS)])
        face = stand_in("paper") if series.is_faint else ink
        line: dict[str, typing.Any] = {
            "linewidth": thick,
            "alpha": 1.0 if is_forest else 0.55,
            "solid_capstyle": "butt",
        }
        dot: dict[str, typing.Any] = {"marker": marker, "markersize": 7 if is_forest else 5.5, "markerfacecolor": face}
        for x, y, low, high in _points(series):
            at = layout.places[x] + offset
            for values, form, order in (((low, high), line, 3), ((y,), dot, 4)):
                places_of = (at,) * len(values)
                axes.plot(*((values, places_of) if across else (places_of, values)), color=ink, zorder=order, **form)
    if not is_forest and layout.chart.scale_y == "linear":
        bounds = axes.get_xlim() if across else axes.get_ylim()
        (axes.set_xlim if across else axes.set_ylim)(min(0.0, bounds[0]), bounds[1])


def _fits_below(labels: list[str], width: float) -> bool:
    """Whether category labels can stand side by side under their bars, on two lines at most."""
    room = int((width - 70) / max(1, len(labels)) / COLUMN)
    words = max((columns(word) for label in labels for word in label.split()), default=0)
    return words <= room - 1 and all(len(wrap(label, max(room - 1, 1), lines=9)) <= 2 for label in labels)


def _is_horizontal(chart: Chart, width: float) -> bool:
    xs = positions(chart)
    is_words = any(isinstance(x, str) for x in xs)
    labels = [clean(str(x)) for x in xs]
    return chart.kind == "point" or (chart.kind == "bar" and is_words and not _fits_below(labels, width))


def _layout(chart: Chart, axes: Axes, width: float) -> _Layout:
    xs = positions(chart)
    is_categorical = any(isinstance(x, str) for x in xs) or chart.scale_x == "category" or chart.kind == "point"
    is_categorical = is_categorical or (chart.kind == "bar" and chart.scale_x == "log")
    places = {x: float(i) if is_categorical else float(x) for i, x in enumerate(xs)}
    return _Layout(axes, chart, places, is_categorical, _is_horizontal(chart, width), width)


_DRAW = {"line": _draw_line, "bar": _draw_bar, "point": _draw_marks}


def _height(chart: Chart, width: float) -> float:
    if not _is_horizontal(chart, width):
        return HEIGHT
    xs = positions(chart)
    series = max(1, sum(not s.is_reference for s in chart.series))
    lines = max((len(wrap(str(x), beside_columns(width), lines=NAME_LINES)) for x in xs), default=1)
    thickness = 9 if draws_dots(chart) else 15 if width == WIDTH else 10
    return 90 + max(32, 16 * lines + 10, thickness * series + 12) * max(1, len(xs))


def _share_scale(axes: Axes, chart: Chart, alongside: Sequence[Chart], *, is_horizontal: bool) -> None:
    """One scale for charts that are looked at side by side: a longer bar is more in every one of them."""
    series = [series for one in (chart, *alongside) for series in one.series]
    values = [v for one in series for _, *bounds in _points(one) for v in bounds if not math.isnan(v)]
    if not alongside or chart.scale_y != "linear" or not values or min(values) == max(values):
        return
    low, high = min(values), max(values)
    margin = 0.05 * (high - low)
    low = min(0.0, low) if chart.kind == "bar" else low - margin
    (axes.set_xlim if is_horizontal else axes.set_ylim)(low, high + margin)


def render_chart(
    chart: Chart, *, prefix: str, alongside: Sequence[Chart] = (), width: float = WIDTH, language: str = "en"
) -> str:
    """The chart as one inline SVG, on one scale with those `alongside`. Equal arguments give equal bytes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    height = _height(chart, width)
    with _quiet_settings():
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        layout = _layout(chart, axes, width)
        (_draw_marks if draws_dots(chart) else _DRAW[chart.kind])(layout)
        if layout.is_categorical and not layout.is_horizontal and chart.kind == "bar" and layout.places:
            axes.set_xlim(-0.5, len(layout.places) - 0.5)
        _share_scale(axes, chart, alongside, is_horizontal=layout.is_horizontal)
        flat = layout.is_horizontal
        dress_numbers(axes, chart, width=width, is_horizontal=flat, is_categorical=layout.is_categorical)
        lines = 1
        if layout.is_categorical:
            lines = dress_categories(axes, chart, layout.places, width=width, is_horizontal=flat)
        finish(axes, chart, size=(width, height), is_horizontal=flat, lines_below=lines)
        if all(math.isnan(y) for series in chart.series for _, y, *_ in _points(series)):
            axes.clear()
            axes.set_axis_off()
            empty, ink = translated("no data", language), stand_in("muted")
            axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", color=ink, fontsize=FONT)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    return inline(buffer.getvalue(), prefix=prefix, title=clean(chart.title), description=clean(chart.description))

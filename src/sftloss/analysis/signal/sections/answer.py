"""The answer: for each way to train who gets more of the signal, who less, at what cost; and advice for each wish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.shares import cell
from sftloss.analysis.shared.words import ALL_CUT, TWO_ENDS, alternative, as_subject, group_name, inside_sentence
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.sections.groups import TITLES, group_codes, group_sentence, group_shares, moves
from sftloss.analysis.signal.sections.length import is_bad_fit, length_law, length_misfit
from sftloss.analysis.signal.sections.tokens import token_shares
from sftloss.analysis.signal.token_groups import BAND_NAMES, token_sums
from sftloss.analysis.signal.views import LEVELS, View
from sftloss.document import Chart, Column, Cure, Section, Series, Table
from sftloss.numbers import Estimate, Floats, cannot_tell, kish_ess
from sftloss.weights import EXAMPLE_MEAN, TOKEN_MEAN
from sftloss.words import number, percent


class Advice(NamedTuple):
    """The wish, what to do then, the observation it rests on, its number and how that is written, and a setting."""

    wish: str
    then: str
    because: str
    estimate: Estimate
    written: Callable[[float], str]
    setting: Cure

    @property
    def interval(self) -> str:
        """The interval in words; empty where it is no wider than the number is written."""
        if self.estimate.interval is None:
            return ""
        low, high = self.written(self.estimate.interval.low), self.written(self.estimate.interval.high)
        return "" if low == high else f"{low} to {high}"


ANSWER_LINES = 6  # lines of the table
_LEAST = 0.02  # a share that moves by less is not told
_STRIKING = 0.1  # a group whose share moves less is not what a reader must know first
_BANDS = {
    "tokens with p < 0.1": slice(0, 2),
    "tokens with p from 0.1 to 0.9": slice(2, 6),
    "tokens with p \u2265 0.9": slice(6, len(BAND_NAMES)),
}


@dataclass(frozen=True)
class _Part:
    """A part of the data: its share of the tokens (first), and of the signal under each way to train."""

    name: str
    section: str  # where its numbers are
    shares: Floats


def answer_section(study: SignalStudy) -> Section:
    """At most six ways to train in a table, and the parts of the data that they treat most differently in a chart."""
    ways, parts = study.ways[:ANSWER_LINES], _parts(study)
    rows = tuple(_row(study, parts, at, way) for at, way in enumerate(ways))
    columns = (
        Column("way", "trained with"),
        Column("more", "more signal for"),
        Column("less", "less signal for"),
        Column("cost", "cost"),
        Column("next", "read next"),
    )
    note = "The first line compares with the shares of the tokens, each other line with the first line."
    if len(study.ways) > ANSWER_LINES:
        note += f" {len(study.ways) - ANSWER_LINES} more are in Losses compared."
    table = Table("answer", "Ways to train", columns, rows, note)
    exponents = (way.normalization.alpha for way in ways if way.normalization.micro_batch is None)
    roles = ",".join(f"{role}={weight:g}" for role, weight in study.options.role_weights or ())
    command = fixes.training((way.objective for way in ways), exponents, roles)
    notes = [f"This shows what each choice weighs. Only training shows which one is best: {command}"]
    if any("at the bound" in cell for row in rows for cell in row):
        notes.insert(0, TWO_ENDS)
    lead, level = _lead(parts, ways), LEVELS[study.options.level]
    return Section("answer", "Answer", lead, level, (_chart(parts, ways, lead),), (table,), notes=tuple(notes))


def _parts(study: SignalStudy) -> list[_Part]:
    """Halves of the examples by length, bands of confidence, and groups of the data."""
    ways, level = study.ways[:ANSWER_LINES], study.options.level
    per_example = np.stack([study.column("count"), *(study.signal(way, level) for way in ways)], axis=1)

    total = per_example.sum(axis=0)

    def shares(sums: Floats) -> Floats:
        return sums / np.where(total > 0, total, 1.0)

    order = np.lexsort((study.ids, study.example_lengths))
    order = order[study.size[order] > 0]
    half = shares(per_example[order[: len(order) // 2]].sum(axis=0))
    parts = [_Part("the shorter half of the examples", "Length", half)]
    parts.append(_Part("the longer half of the examples", "Length", 1.0 - half))
    sums = token_sums(study, "band", ["tokens", *(f"signal {way.label}" for way in ways)]).total
    parts += [_Part(name, "Confidence", shares(sums[bands].sum(axis=0))) for name, bands in _BANDS.items()]
    for column in study.options.group_by:
        codes, names = group_codes(study, column) or (np.zeros(0), [])
        for code, label in enumerate(names):
            name = inside_sentence(group_name(column, label))
            parts.append(_Part(name, TITLES[column], shares(per_example[codes == code].sum(axis=0))))
    return parts


def _moved(parts: list[_Part], at: int) -> tuple[_Part, _Part]:
    """The parts that gain and lose most in a line: against the tokens in the first, else against the first."""
    gains = [part.shares[at + 1] - part.shares[min(at, 1)] for part in parts]
    return parts[int(np.argmax(gains))], parts[int(np.argmin(gains))]


def _told(part: _Part, at: int) -> str:
    before, after = part.shares[min(at, 1)], part.shares[at + 1]
    if abs(after - before) < _LEAST:
        return "none: in proportion to tokens" if at == 0 else "as in the first line"
    of = f"{percent(before)} of the tokens" if at == 0 else f"not {percent(before)}"
    return f"{part.name}: {percent(after)}, {of}"


def _row(study: SignalStudy, parts: list[_Part], at: int, way: View) -> tuple[str, ...]:
    more, less = _moved(parts, at)
    farthest = max((more, less), key=lambda part: abs(part.shares[at + 1] - part.shares[min(at, 1)]))
    costs = list(_costs(study, way))
    has_moved = abs(farthest.shares[at + 1] - farthest.shares[min(at, 1)]) >= _LEAST
    reads = dict.fromkeys([*([farthest.section] if has_moved else []), *(section for _, section in costs)])
    label = f"{way.label} (now)" if at == 0 else way.label
    cost = "; ".join(cost for cost, _ in costs) or "none seen here"
    return label, _told(more, at), _told(less, at), cost, ", ".join(reads)


def _costs(study: SignalStudy, way: View) -> Iterator[tuple[str, str]]:
    """What a way to train costs, and the section to read about it."""
    if len(study.lengths.answers.ids):
        of = study.lengths.range_of(way.normalization)
        if abs(of.largest_shift) >= 0.05 and way.objective == "cross_entropy":
            yield f"mean answer may become {of.words('tokens')} ({number(of.data)} in the data)", "Output length"
    trained, level = study.size > 0, study.options.level
    count, now = (kish_ess(study.signal(one, level)[trained]) / max(int(trained.sum()), 1) for one in (way, study.view))
    if count < 0.5 and (way == study.view or count < now):  # what is more even than now costs nothing
        yield f"uneven signal: as if {percent(count)} of the examples counted", "Losses compared"


def _lead(parts: list[_Part], ways: tuple[View, ...]) -> str:
    """The way that differs most from the one in use, and where."""
    lead = f"Trained now: {ways[0].label}."
    if len(ways) == 1:
        more, less = _moved(parts, 0)
        return f"{lead} More signal for {_told(more, 0)}; less for {_told(less, 0)}."
    far, part = max(
        ((at, part) for at in range(1, len(ways)) for part in parts),
        key=lambda pair: abs(pair[1].shares[pair[0] + 1] - pair[1].shares[1]),
    )
    before, after = part.shares[1], part.shares[far + 1]
    if abs(after - before) < _LEAST:
        return f"{lead} The other ways to train move no part of the signal by 2 % or more."
    return (
        f"{lead} {ways[far].label} differs most: {part.name} would get {percent(after)} of the signal instead of "
        f"{percent(before)}."
    )


def _chart(parts: list[_Part], ways: tuple[View, ...], described: str) -> Chart:
    """The parts that the ways treat most differently, at most four: one of length, two of confidence, one group."""
    shorter, _, unlikely, _, known, *groups = parts
    shown = [shorter, unlikely, known, *sorted(groups, key=lambda part: -np.ptp(part.shares))[:1]]
    shown = [part for part in shown if np.ptp(part.shares) >= _LEAST] or shown[:1]
    names = tuple(part.name for part in shown)
    series = [Series("share of the tokens", names, tuple(cell(part.shares[0]) for part in shown), is_reference=True)]
    for at, way in enumerate(ways):
        series.append(Series(way.label, names, tuple(cell(part.shares[at + 1]) for part in shown)))
    title, y = "Who gets the signal", "share of the signal"
    return Chart("answer", "point", title, "", y, tuple(series), described, "category", "linear", "text", "percent")


def signal_headlines(study: SignalStudy) -> tuple[str, ...]:
    """Three lines that are true and worth knowing: who gets the signal, what length is predicted, what is known."""
    return tuple(filter(None, (_group_line(study), _length_line(study), _confidence_line(study))))


def _group_line(study: SignalStudy) -> str:
    farthest, line = _STRIKING, ""
    for column in study.options.group_by:
        of = group_shares(study, column)
        if of is not None and len(of.labels) > 1 and max(moves(study, of)) > farthest:
            farthest, line = max(moves(study, of)), group_sentence(study, of, column)
    if line:
        return line
    half, views = _parts(study)[0].shares, [view for view in study.views if view in study.ways[:ANSWER_LINES]]
    if not half[0]:  # one example has no shorter half
        return ""
    signals = [float(half[1 + study.ways.index(view)]) for view in views]
    return (
        f"The shorter half of the examples has {percent(half[0])} of the tokens and {percent(signals[0])} of the "
        f"training signal{alternative(signals, [view.normalization for view in views])}."
    )


def _length_line(study: SignalStudy) -> str:
    if not len(study.lengths.answers.ids):
        return ALL_CUT
    ranges = [(rule, study.lengths.range_of(rule)) for rule in study.rules]
    rule, far = max(ranges, key=lambda pair: abs(pair[1].largest_shift))
    if not abs(far.largest_shift) >= 0.005:
        return f"Every normalization compared keeps the data's mean answer length of {number(far.data)} tokens."
    if not abs(far.largest_shift) >= 0.02:
        mean = f"the data's mean answer length of {number(far.data)} tokens"
        return f"No normalization compared moves {mean} by 2 % or more."
    direction = "shorter" if far.largest_shift < 0 else "longer"
    return (
        f"{as_subject(rule)} can make answers {direction}: the predicted mean is {far.words('tokens')}; the data's "
        f"mean is {number(far.data)}."
    )


def _confidence_line(study: SignalStudy) -> str:
    unlikely, _, known = _parts(study)[2:5]
    part = known if known.shares[0] >= 0.2 or unlikely.shares[0] < 0.2 else unlikely
    tokens, signal = map(float, part.shares[:2])
    get = "but get only" if signal < tokens / 2 else "and get"
    name = part.name[0].upper() + part.name[1:]
    return f"{name} are {percent(tokens)} of the tokens {get} {percent(signal)} of the training signal."


def advice_section(study: SignalStudy) -> Section:
    """One row a wish whose number can be read off this data."""
    columns = (
        Column("premise", "if you want"),
        Column("advice", "then"),
        Column("because", "because"),
        Column("interval", "95 % interval"),
        Column("fix", "how"),
    )
    rows = tuple(
        (one.wish, one.then, one.because, one.interval, one.setting)
        for one in (*_about_length(study), *_about_signal(study))
    )
    lead = (
        "Choose the row that matches your goal. Only training can show which loss is best; sftloss compare does that."
    )
    return Section("advice", "Advice", lead, tables=(Table("advice", "Goals and settings", columns, rows),))


def _about_length(study: SignalStudy) -> Iterator[Advice]:
    if len(study.lengths.answers.ids):  # else all are cut off, and no output length is known
        for wish, normalization, then in (
            ("output as long as the data's", TOKEN_MEAN, "divide by the trained tokens of the whole step"),
            ("shorter output", EXAMPLE_MEAN, "average every example first"),
        ):
            of = study.lengths.range_of(normalization)
            because = f"the predicted mean is {of.words('tokens')}, and the data has {number(of.data)}"
            bound = Estimate(of.whole, of.interval)
            yield Advice(wish, then, because, bound, _at_the_bound, fixes.alpha(normalization.alpha))
    if not cannot_tell(study.example_lengths):
        yield from _equal_signal(study)


def _at_the_bound(length: float) -> str:
    return f"{number(length)} at the bound"


def _times(power: float) -> str:
    return f"{2.0**power:.2f} times"


def _equal_signal(study: SignalStudy) -> Iterator[Advice]:
    """How to give short and long examples equal signal: nothing where no small power of length does."""
    view, level = View(study.objective, TOKEN_MEAN), study.options.level
    wish, law = "equal signal from short and long examples", length_law(study, view, level)
    if is_bad_fit(study, view, level):
        wrong = length_misfit(study, view, level)
        because = f"the best power of length puts {percent(wrong)} of the signal at the wrong lengths"
        then = "weight rows yourself: dividing by a power of length does not do it"
        yield Advice(wish, then, because, Estimate(wrong), percent, "")
    elif 0 < law.value <= fixes.STEEPEST_ADVICE and law.interval is not None:
        because = f"with every token counted alike, twice the length gets {2.0**law.value:.2f} times the signal"
        near = round(law.value) if abs(law.value - round(law.value)) < 0.05 else law.value
        then = "average every example first" if near == 1 else f"divide every example by T^{near:.2f}"
        yield Advice(wish, then, because, law, _times, fixes.alpha(near))


def _about_signal(study: SignalStudy) -> Iterator[Advice]:
    bands, known = token_shares(study, "band"), BAND_NAMES[-1]
    tokens, signal = bands.share(known, "tokens"), bands.estimate(known, study.current)
    if tokens > 0:
        part, is_much = f"tokens with {known}", signal.value > 0.05
        because = f"{part} are {percent(tokens)} of the tokens and get {percent(signal.value)} of the signal"
        then = "use a loss that gives known tokens less weight" if is_much else "keep the loss: these tokens get little"
        setting = fixes.FOCAL if is_much else ""
        yield Advice("less signal for what is already learned", then, because, signal, percent, setting)
    ends = token_shares(study, "end")
    if "end" in ends.labels:
        tokens, signal = ends.share("end", "tokens"), ends.estimate("end", study.current)
        because = f"end tokens are {percent(tokens)} of the tokens and get {percent(signal.value)} of the signal"
        then = "weight the ends of answers more"
        yield Advice("better stopping", then, because, signal, percent, fixes.ENDS)

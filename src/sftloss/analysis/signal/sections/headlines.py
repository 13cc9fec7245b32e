"""The three lines a newcomer reads first: who gets the signal, what length is learned, what the model knows."""

from __future__ import annotations

import numpy as np

from sftloss.analysis.shared.words import ALL_CUT, alternative, as_subject
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.sections.groups import group_sentence, group_shares, moves
from sftloss.analysis.signal.sections.tokens import band_shares, from_band, up_to_band
from sftloss.words import number, percent

_STRIKING = 0.1  # a group whose share moves less is not what a reader must know first
_KNOWN = ((7, "0.99"), (6, "0.9"), (5, "0.75"), (4, "0.5"))  # index of the first band, and its lower edge


def signal_headlines(study: SignalStudy) -> tuple[str, ...]:
    """Three lines that are true and worth knowing."""
    return (_group_line(study), _length_line(study), _confidence_line(study))


def _group_line(study: SignalStudy) -> str:
    farthest, line = _STRIKING, ""
    for column in study.options.group_by:
        of = group_shares(study, column)
        if of is not None and len(of.labels) > 1 and max(moves(study, of)) > farthest:
            farthest, line = max(moves(study, of)), group_sentence(study, of, column)
    return line or _half_line(study)


def _half_line(study: SignalStudy) -> str:
    order = np.lexsort((study.ids, study.size))
    order = order[study.size[order] > 0]
    half = order[: len(order) // 2]
    tokens = float(study.column("count")[half].sum() / study.column("count").sum())
    signals = [study.signal(view, study.options.level) for view in study.views]
    shares = [float(of[half].sum() / of.sum()) if of.sum() > 0 else float("nan") for of in signals]
    return (
        f"The shorter half of the examples has {percent(tokens)} of the tokens and {percent(shares[0])} of the "
        f"training signal{alternative(shares, study.rules)}."
    )


def _length_line(study: SignalStudy) -> str:
    if not len(study.lengths.answers.ids):
        return ALL_CUT
    data = study.lengths.data.value
    forecasts = [study.lengths.forecast(rule) for rule in study.rules]
    far = max(forecasts, key=lambda one: abs(one.unconditional.value / data - 1.0))
    shift = far.unconditional.value / data - 1.0
    if not abs(shift) >= 0.02:
        return f"Every normalization compared keeps the data's mean answer length of {number(data)} tokens."
    verb = "may teach" if study.lengths.reason else "teaches"
    return (
        f"{as_subject(far.normalization)} {verb} {'shorter' if shift < 0 else 'longer'} answers: "
        f"{number(far.unconditional.value)} tokens instead of the data's {number(data)}, where the prompt does not "
        "determine the length."
    )


def _confidence_line(study: SignalStudy) -> str:
    of, current = band_shares(study), study.current
    for band, edge in _KNOWN:
        tokens, signal = from_band(of, band, "tokens"), from_band(of, band, current)
        if tokens >= 0.2:
            get = "but get only" if signal < tokens / 2 else "and get"
            return (
                f"Tokens that the model already predicts with p \u2265 {edge} are {percent(tokens)} of the tokens "
                f"{get} {percent(signal)} of the training signal."
            )
    last, edge = (0, "0.01") if up_to_band(of, 0, "tokens") >= 0.2 else (1, "0.1")
    parts = [percent(up_to_band(of, last, name)) for name in ("tokens", "loss", current)]
    return (
        f"Tokens that the model gives p < {edge} are {parts[0]} of the tokens, {parts[1]} of the loss and {parts[2]} "
        "of the training signal."
    )

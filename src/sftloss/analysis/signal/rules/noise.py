"""The finding about a group whose answers look random and which has a large part of the signal.

A high loss alone does not distinguish noise from what is only hard. Two more things are measured: how well the
answers are guessed by how often each token occurs in them, and whether prompts and answers depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from sftloss.analysis.shared import fixes
from sftloss.analysis.shared.words import group_name
from sftloss.analysis.signal.frames import SignalStudy
from sftloss.analysis.signal.sections.groups import group_codes, group_shares
from sftloss.numbers import Codes, Estimate, dependence
from sftloss.roles import RESPONSE, UNKNOWN
from sftloss.rules import Evidence, Rule
from sftloss.words import counted, number, percent

_MUCH = 1 / 3  # share of the signal
_LEAST_ROWS, _MOST_ROWS = 100, 300  # fewer rows cannot show a weak dependence; more are not needed
_NO_BETTER = 0.8  # the model's loss over that of guessing by frequency
_DEPENDENT = 0.01  # p-value, below which prompts and answers depend on each other


def _looks_random(study: SignalStudy) -> Evidence | None:
    """The group with most signal whose answers the model predicts no better than frequencies, prompts or not."""
    for name, signal, rows in sorted(_large_groups(study), key=lambda group: -group[1].value):
        chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_ROWS)).round().astype(np.int64)]
        tokens = _answers_and_prompts(study, chosen)
        words = tokens.filter(pl.col("answer") & ~pl.col("is_end"))
        prompts, answers = (
            frame.group_by("example", maintain_order=True).agg("token").sort("example")
            for frame in (tokens.filter(~pl.col("answer")), words)
        )
        both = prompts.join(answers, on="example", how="inner", suffix="_answer")
        if both.height < _LEAST_ROWS:
            continue
        loss, guess = -float(words["target_logprob"].cast(pl.Float64).mean()), _guess_by_frequency(words)  # type: ignore[arg-type]
        if not loss >= _NO_BETTER * guess:
            continue
        p = dependence(*([row.to_numpy() for row in both[side]] for side in ("token", "token_answer")))
        if p < _DEPENDENT:
            continue
        sentence = (
            f"{name} gets {percent(signal.value)} of the training signal (level {study.options.level}), and its "
            f"answers look random. The model's loss on them is {number(loss)} nats a token; that of guessing each "
            f"token by its frequency in these answers is {number(guess)}. No relation between prompts and answers was "
            f"found in {counted(both.height, 'row')} (permutation test, p = {p:.2g})."
        )
        return Evidence(sentence, signal.value, signal.interval, "share of signal", study.origins(rows[:10]))
    return None


def _large_groups(study: SignalStudy) -> Iterator[tuple[str, Estimate, Codes]]:
    """Groups with much of the signal and enough trained rows: name, share of the signal, rows."""
    for column in study.options.group_by:
        coded, of = group_codes(study, column), group_shares(study, column)
        if coded is None or of is None:
            continue
        for code, label in enumerate(coded[1]):
            rows = np.flatnonzero((coded[0] == code) & (study.size > 0))
            if len(rows) >= _LEAST_ROWS and of.share(label, study.current) > _MUCH:
                yield group_name(column, label), of.estimate(label, study.current), rows


def _answers_and_prompts(study: SignalStudy, rows: Codes) -> pl.DataFrame:
    """The tokens of some examples up to the last answer, with whether they are of an answer."""
    frame = study.tokens_of(study.ids[rows], ("token", "role", "u", "is_end", "target_logprob"))
    role, trained = pl.col("role"), pl.col("u") > 0
    answer = ((role == RESPONSE) | (role == UNKNOWN)) & trained
    last = pl.col("position").filter(pl.col("answer")).max().over("example")
    return frame.with_columns(answer.alias("answer")).filter(pl.col("position") <= last)


def _guess_by_frequency(words: pl.DataFrame) -> float:
    """Mean loss of guessing a token by its frequency in the other answers, at any place or at its own: the better."""
    place = pl.int_range(pl.len()).over("example").alias("place")
    kinds = words["token"].n_unique()
    losses = []
    for keys in ([], ["place"]):
        here = words.with_columns(place).with_columns(
            pl.len().over("token", *keys).alias("all"),
            pl.len().over("token", "example", *keys).alias("own"),
            (pl.len().over(keys) if keys else pl.len()).alias("sum"),
            pl.len().over("example", *keys).alias("sum own"),
        )
        chance = (pl.col("all") - pl.col("own") + 1) / (pl.col("sum") - pl.col("sum own") + kinds)
        losses.append(here.select(-chance.log().mean()).item())
    return float(min(losses))


SIG004 = Rule(
    "SIG004",
    "warning",
    "A task, language or source with random answers that has a large part of the signal",
    "Random answers can only be memorized, and each step spent on them is lost for the rest. The test reads tokens and "
    "pairs of tokens: answers by a rule that neither shows, such as a checksum, look random too.",
    f"{fixes.READ_ROWS}; if their answers do not follow from their prompts, leave them out or give them a small weight",
    _looks_random,
)

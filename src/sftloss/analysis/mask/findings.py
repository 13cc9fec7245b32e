"""From counts to findings. All rows were counted, nothing is a sample: no number here has an interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sftloss.analysis.lengths.findings import conflict_finding
from sftloss.analysis.lengths.tilt import conflicting
from sftloss.analysis.mask.scaffold import Scaffold
from sftloss.analysis.mask.tally import MOST_ORIGINS, Tally
from sftloss.analysis.mask.words import FAULTS, WHY_CUT
from sftloss.analysis.shared.shares import percent
from sftloss.data import CURES, ENCODE_REASONS, READ_REASONS, READ_WARNINGS, ReadReport
from sftloss.document import Finding, Severity, by_severity

_NO_LANGUAGE = ("script:none", "script:Mixed", "script:Other")
_REFUSED = {"nothing-trained": "MASK001", "prefix-broken": "MASK006"}


def findings(
    tally: Tally, read: ReadReport, scaffold: Scaffold, tokenizer_facts: frozenset[str]
) -> tuple[Finding, ...]:
    """All findings, the most severe first, then by id."""
    found = [
        *_faults(tally),
        *_tags(tally, scaffold),
        *_cut(tally),
        *_intended(tally),
        *_padding(tally, tokenizer_facts),
        *_unusable(tally, read),
        *_repeated(tally),
        *_languages(tally),
    ]
    return by_severity(found)


def _of(count: int, whole: int, noun: str = "rows") -> str:
    return f"{count:,} of {whole:,} {noun} ({percent(count / whole)})"


def _graded(share: float) -> Severity:
    return "error" if share > 0.5 else "warning"


def _faults(tally: Tally) -> Iterator[Finding]:
    """The faults that are one count of rows each."""
    counts = dict(tally.faults.counts)
    places = {fault: tally.faults.rows(fault) for fault in counts}
    for reason, fault in _REFUSED.items():
        counts[fault], places[fault] = tally.refused.counts[reason], tally.refused.rows(reason)
    for fault, words in FAULTS.items():
        count = counts.get(fault, 0)
        if not count:
            continue
        share = count / tally.records
        sentence = f"{_of(count, tally.records)} {words.sentence}"
        if fault == "MASK003" and not tally.with_end:
            sentence = f"{sentence[:-1]}: no end is trained at all."
        if fault == "MASK010":
            sentence = f"{sentence} They are {percent(tally.strays / tally.trained)} of the trained tokens."
        severity = _graded(share) if fault.startswith("MASK") else "warning"
        yield Finding(fault, severity, sentence, words.why, words.fix, share, None, "share", places[fault])


def _tags(tally: Tally, scaffold: Scaffold) -> Iterator[Finding]:
    """MASK002: a template whose own assistant mask is empty, wrong, or not there."""
    unmasked, broken = tally.faults.counts["MASK002"], tally.refused.counts["prefix-broken"]
    fix = "enclose the assistant's words and their end in {% generation %} ... {% endgeneration %} in the template"
    if unmasked:
        share = unmasked / tally.records
        yield Finding(
            "MASK002",
            _graded(share),
            f"In {_of(unmasked, tally.records)} the template's generation tags give no mask, or not one stretch per "
            "answer; here the prefix difference was taken instead.",
            "A trainer told to train the assistant only gets a mask of zeros, or of the wrong turns.",
            fix,
            share,
            None,
            "share",
            tally.faults.rows("MASK002"),
        )
    elif broken and not scaffold.has_tags:
        share = broken / tally.records
        yield Finding(
            "MASK002",
            _graded(share),
            f"The chat template has no generation tags, and in {_of(broken, tally.records)} the prefix difference "
            "cannot take their place.",
            "No assistant mask can be made for these rows in any way.",
            fix,
            share,
            None,
            "share",
            tally.refused.rows("prefix-broken"),
        )
    elif tally.methods["prefix difference"] and scaffold.has_template:
        yield Finding(
            "MASK002",
            "info",
            f"The chat template has no generation tags; the prefix difference found the answers of all "
            f"{tally.methods['prefix difference']:,} conversations.",
            "A trainer told to train the assistant only by the template's mask gets a mask of zeros.",
            fix,
        )


def _cut(tally: Tally) -> Iterator[Finding]:
    """MASK007: what truncation took."""
    gone, cut = tally.refused.counts["truncated-away"], tally.faults.counts["MASK007"]
    lost = tally.faults.counts["MASK007 end"]
    if not gone + cut:
        return
    share = (gone + cut) / tally.records
    severity: Severity = "error" if gone / tally.records > 0.5 else "warning" if gone or share > 0.01 else "info"
    rows = (*tally.refused.rows("truncated-away"), *tally.faults.rows("MASK007 end"), *tally.faults.rows("MASK007"))
    yield Finding(
        "MASK007",
        severity,
        f"{_of(gone + cut, tally.records)} are truncated: {gone:,} lose the whole answer and are left out, "
        f"{lost:,} lose its end.",
        WHY_CUT,
        _longer(tally),
        share,
        None,
        "share",
        tuple(dict.fromkeys(rows))[:MOST_ORIGINS],
    )


def _longer(tally: Tally) -> str:
    whole = tally.ledger.numbers("whole")
    if not len(whole):
        return "--max-length MORE"
    most = int(np.quantile(whole, 0.99, method="inverted_cdf"))
    return f"--max-length {most} keeps 99 % of these examples whole, {int(whole.max())} all; or drop the rows cut off"


def _intended(tally: Tally) -> Iterator[Finding]:
    count = tally.faults.counts["MASK010 intended"]
    if count and not tally.faults.counts["MASK010"]:
        yield Finding(
            "MASK010",
            "info",
            f"{_of(count, tally.records)} train tokens outside answers, as weights in the data ask for: "
            f"{percent(tally.strays / tally.trained)} of the trained tokens.",
            FAULTS["MASK010"].why,
            "",
            count / tally.records,
            None,
            "share",
            tally.faults.rows("MASK010 intended"),
        )


def _padding(tally: Tally, facts: frozenset[str]) -> Iterator[Finding]:
    """MASK008 as a warning for later: nothing is wrong in the rows themselves."""
    if "pad is end" in facts and not tally.faults.counts["MASK008"]:
        yield Finding(
            "MASK008",
            "info",
            "The tokenizer pads with the token that ends an answer; in these rows the end is trained all the same.",
            FAULTS["MASK008"].why,
            FAULTS["MASK008"].fix,
        )


def _unusable(tally: Tally, read: ReadReport) -> Iterator[Finding]:
    """DATA001 to DATA099: rows that could not be read or encoded, and odd rows that were kept."""
    refused = [
        (READ_REASONS[name], name, count, read.rows, read.details[name], read.origins[name])
        for name, count in read.counts.items()
    ]
    for name, count in tally.refused.counts.items():
        if ENCODE_REASONS[name].startswith("DATA"):
            origins = tuple(tally.refused.origins[name])
            refused.append((ENCODE_REASONS[name], name, count, tally.records, tally.refused.details[name], origins))
    for code, name, count, whole, detail, origins in refused:
        share = count / whole
        yield Finding(
            code,
            _graded(share),
            f"{_of(count, whole)} cannot be used, {name}: {detail}.",
            "They are left out; training on the rest is training on other data than you meant.",
            CURES[name],
            share,
            None,
            "share",
            tuple(map(str, origins)),
        )
    for name, count in read.warnings.items():
        yield Finding(
            READ_WARNINGS[name],
            "warning" if count > 0.01 * read.usable else "info",
            f"{_of(count, read.usable)} end with a turn that is not the assistant's.",
            "What comes after the last answer is read and never trained.",
            "cut them after the last answer",
            count / read.usable,
            None,
            "share",
            tuple(map(str, read.origins[name])),
        )
    if read.unseen_columns:
        named = ", ".join(read.unseen_columns)
        sentence = f"No row has the column {named} that --columns names."
        yield Finding("DATA108", "warning", sentence, "A mistyped name is ignored.", "correct --columns")


def _repeated(tally: Tally) -> Iterator[Finding]:
    """DATA102 and DATA103: the same row twice, and the same prompt with other answers."""
    rows = tally.ledger.numbers("contents")
    if not len(rows):
        return
    _, first = np.unique(rows, return_index=True)
    again = np.setdiff1d(np.arange(len(rows)), first)
    if len(again):
        share = len(again) / len(rows)
        yield Finding(
            "DATA102",
            "warning" if share > 0.01 else "info",
            f"{_of(len(again), len(rows))} repeat an earlier row exactly.",
            "Each copy weighs as much as another example would, and makes a held-out split leak.",
            "remove the copies, unless they are there on purpose",
            share,
            None,
            "share",
            tuple(tally.ledger.origin(int(i)) for i in again[:MOST_ORIGINS]),
        )
    yield from _conflicts(tally)


def _conflicts(tally: Tally) -> Iterator[Finding]:
    """DATA103: answers to one prompt that differ, and how many of them in length."""
    prompts, words, lengths, owners = map(tally.ledger.numbers, ("prompts", "words", "lengths", "owners"))
    asked = prompts != 0
    differ, unequal = (conflicting(of[asked], prompts[asked]) for of in (words, lengths))
    if not differ.any():
        return
    share = int(differ.sum()) / len(prompts)
    sentence = (
        f"{_of(int(differ.sum()), len(prompts), 'answers')} share their prompt with a different answer; "
        f"{int(unequal.sum()):,} of them with one of another length."
    )
    at = dict.fromkeys(owners[asked][differ].tolist())
    rows = tuple(tally.ledger.origin(i) for i in list(at)[:MOST_ORIGINS])
    yield replace(conflict_finding(share, None, rows), id="DATA103", sentence=sentence, unit="share")


def _languages(tally: Tally) -> Iterator[Finding]:
    """DATA104: more than one language or script, and answers in another than the question's."""
    known = {name: n for name, n in tally.languages.most_common() if name not in _NO_LANGUAGE}
    whole = sum(tally.languages.values())
    crossed = sum(tally.crossings.counts.values())
    if len(known) < 2 and not crossed:
        return
    parts = ", ".join(f"{name.removeprefix('script:')} {percent(n / whole)}" for name, n in list(known.items())[:5])
    sentence = f"Answers are in {len(known)} languages or scripts: {parts}."
    if crossed:
        pair, _ = tally.crossings.counts.most_common(1)[0]
        pair = pair.replace("script:", "")
        sentence += f" In {_of(crossed, whole)} prompt and answer differ, mostly {pair}."
    origins = [origin for found in tally.crossings.origins.values() for origin in found]
    yield Finding(
        "DATA104",
        "info",
        sentence,
        "A small language can get a large or a small part of the signal, by its lengths and by the tokenizer.",
        "",
        crossed / whole if crossed else None,
        None,
        "share" if crossed else "",
        tuple(map(str, origins[:MOST_ORIGINS])),
    )

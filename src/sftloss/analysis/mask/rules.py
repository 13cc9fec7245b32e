"""The findings of an inspection about masks and texts, one rule each. All rows are counted: no number has an interval.

What rows were refused or cut is `sftloss.data.account.ROW_RULES`, the same in every command that reads rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sftloss.analysis.lengths.rules import DATA103
from sftloss.analysis.lengths.tilt import conflicting
from sftloss.analysis.mask.tally import MaskTally
from sftloss.analysis.shared.words import label_of
from sftloss.data import Account
from sftloss.data.account import MOST_ORIGINS, MOSTLY
from sftloss.data.rendering.render import POSITIONS
from sftloss.data.rendering.scaffold import Scaffold
from sftloss.document import Severity
from sftloss.rules import Evidence, Rule
from sftloss.words import part_of, percent

NO_LANGUAGE = ("script:none", "script:Mixed", "script:Other")
"""Scripts that name no language."""


@dataclass(frozen=True)
class Inspection:
    """What the rules judge.

    Attributes:
        tally: Counts over all examples.
        account: What became of the rows.
        scaffold: What the chat template puts around messages.
        pads_with_end: Whether the tokenizer's padding token also ends an answer.
    """

    tally: MaskTally
    account: Account
    scaffold: Scaffold
    pads_with_end: bool


def _graded(share: float) -> Severity:
    return "error" if share > MOSTLY else "warning"


def _counted(fault: str, sentence: str, inspection: Inspection) -> Evidence | None:
    """Rows with this fault; a fault of the mask in most rows is an error."""
    tally, rows = inspection.tally, inspection.account.rows
    if not (count := tally.faults.counts[fault]):
        return None
    severity = _graded(count / tally.examples) if fault.startswith("MASK") else "warning"
    return Evidence(
        f"{part_of(count, rows, 'rows', sentence)}.", count / rows, None, "share", tally.faults.rows(fault), severity
    )


def _tags(inspection: Inspection) -> Evidence | None:
    """MASK002: the template's own assistant mask is empty, wrong, or not there."""
    tally, scaffold = inspection.tally, inspection.scaffold
    if tally.faults.counts["MASK002"]:
        sentence = "get no mask from the template's generation tags, or not of every answer; here answers are found by"
        return _counted("MASK002", f"{sentence} the positions of their words", inspection)
    if (count := tally.methods[POSITIONS]) and scaffold.has_template:
        return Evidence(
            f"The chat template has no generation tags; the answers of all {count:,} conversations are found by the "
            "positions of their words.",
            severity="info",
            why="A trainer that takes the template's mask to train the assistant only gets a mask of zeros.",
        )
    return None


def _ends(inspection: Inspection) -> Evidence | None:
    sentence = "train no end-of-turn or end-of-sequence token"
    if not inspection.tally.with_end:
        sentence += ": no end is trained at all"
    return _counted("MASK003", sentence, inspection)


def _padding(inspection: Inspection) -> Evidence | None:
    """MASK008; a note where nothing is wrong in the rows themselves."""
    sentence = "have an end token that is not trained because it is also the padding token"
    if (evidence := _counted("MASK008", sentence, inspection)) or not inspection.pads_with_end:
        return evidence
    return Evidence(
        "The tokenizer pads with the token that ends an answer; in these rows the end is trained all the same.",
        severity="info",
    )


def _others(inspection: Inspection) -> Evidence | None:
    """MASK010; a note where weights in the data ask for it."""
    tally, rows = inspection.tally, inspection.account.rows
    accident, intended = (tally.faults.counts[fault] for fault in ("MASK010", "MASK010 intended"))
    if not accident + intended:
        return None
    fault, count = ("MASK010", accident) if accident else ("MASK010 intended", intended)
    part = f"{percent(tally.strays / tally.trained)} of the trained tokens"
    places = tally.faults.rows(fault)
    if accident:
        train = part_of(count, rows, "rows", "train tokens of the user or the system")
        sentence = f"{train}. They are {part}."
        return Evidence(sentence, count / rows, None, "share", places, _graded(count / tally.examples))
    train = part_of(count, rows, "rows", "train tokens outside answers")
    sentence = f"{train}, as weights in the data ask for: {part}."
    return Evidence(sentence, count / rows, None, "share", places, "info")


def _repeated(inspection: Inspection) -> Evidence | None:
    """DATA102: the same row twice."""
    tally = inspection.tally
    again = tally.copies
    if not len(again):
        return None
    share = len(again) / tally.examples
    places = tuple(tally.ledger.origin(int(i)) for i in again[:MOST_ORIGINS])
    sentence = f"{part_of(len(again), tally.examples, 'rows', 'repeat an earlier row exactly')}."
    return Evidence(sentence, share, None, "share", places, "warning" if share > 0.01 else "info")


def _conflicts(inspection: Inspection) -> Evidence | None:
    """DATA103: answers to one prompt that differ, and how many of them in length."""
    ledger = inspection.tally.ledger
    prompts, words, lengths, owners = map(ledger.numbers, ("prompts", "words", "lengths", "owners"))
    has_prompt = prompts != 0
    differ, unequal = (conflicting(of[has_prompt], prompts[has_prompt]) for of in (words, lengths))
    if not (count := int(differ.sum())):
        return None
    sentence = (
        f"{part_of(count, len(prompts), 'answers', 'share their prompt with a different answer')}; "
        f"{int(unequal.sum()):,} of them with one of another length."
    )
    at = list(dict.fromkeys(owners[has_prompt][differ].tolist()))
    return Evidence(sentence, count / len(prompts), None, "share", tuple(map(ledger.origin, at[:MOST_ORIGINS])))


def _languages(inspection: Inspection) -> Evidence | None:
    """DATA104: more than one language or script, and answers in another than the question's."""
    tally = inspection.tally
    known = [(name, n) for name, n in tally.languages.most_common() if name not in NO_LANGUAGE]
    whole, crossed = tally.languages.total(), tally.crossings.counts.total()
    if len(known) < 2 and not crossed:
        return None
    parts = ", ".join(f"{label_of('language', name)} {percent(n / whole)}" for name, n in known[:5])
    sentence = f"Answers are in {len(known)} languages or scripts: {parts}."
    if not crossed:
        return Evidence(sentence)
    prompt, answer = tally.crossings.counts.most_common(1)[0][0].split(" to ", 1)
    pair = f"{label_of('language', prompt)} to {label_of('language', answer)}"
    sentence += (
        f" In {crossed:,} of {whole:,} rows ({percent(crossed / whole)}) prompt and answer differ, mostly {pair}."
    )
    places = [str(origin) for origins in tally.crossings.origins.values() for origin in origins]
    return Evidence(sentence, crossed / whole, None, "share", tuple(places[:MOST_ORIGINS]))


INSPECT_RULES: tuple[Rule[Inspection], ...] = (
    Rule(
        "MASK002",
        "warning",
        "A chat template without generation tags, or whose tags give no mask",
        "A trainer told to train the assistant only gets a mask of zeros, or of the wrong turns.",
        "enclose the assistant's words and their end in {% generation %} ... {% endgeneration %} in the template",
        _tags,
    ),
    Rule(
        "MASK003",
        "warning",
        "Answers whose end is not trained",
        "A model that is never taught to stop runs on until it hits the length limit.",
        "end each answer with the eos or end-of-turn token, labelled; in a template put it inside the generation "
        "tags: {% generation %}{{ message.content }}<|im_end|>{% endgeneration %}",
        _ends,
    ),
    Rule(
        "MASK004",
        "warning",
        "Answers whose first token is not trained",
        "The first token decides how the answer begins; untrained it stays what the base model would write.",
        "start the labels right after the opener; usual cause: labels shifted twice, or an opener counted with one "
        "token too many",
        partial(_counted, "MASK004", "do not train the first token of an answer"),
    ),
    Rule(
        "MASK005",
        "warning",
        "Trained role openers",
        "Scaffold tokens carry no information: they lower the reported loss and teach what the template provides.",
        "label the opener -100; in a template start {% generation %} after it",
        partial(_counted, "MASK005", "have the role opener, the template's own words, in their mask"),
    ),
    Rule(
        "MASK008",
        "warning",
        "Ends that are masked because the padding token is the end token",
        "A collator that sets the labels of padding to -100 erases the real end too: the model never stops.",
        "tokenizer.pad_token = another token than eos, and make the labels again; or mask by attention_mask, not by "
        "token",
        _padding,
    ),
    Rule(
        "MASK010",
        "warning",
        "Trained tokens of the user or the system",
        "This is sometimes wanted (short answers, small data), and often a mistake in the template's mask.",
        "label everything outside answers -100, or use a template whose tags enclose answers only",
        _others,
    ),
    Rule(
        "DATA102",
        "warning",
        "Rows that repeat an earlier row exactly",
        "Each copy counts as one more example. Where a random split holds out one of them, held-out loss is too low.",
        "remove the copies, unless they are there on purpose",
        _repeated,
    ),
    DATA103.on(_conflicts),
    Rule(
        "DATA104",
        "info",
        "Several languages or scripts, or an answer in another one than its prompt",
        "A small language can get a large or a small part of the signal, by its lengths and by the tokenizer.",
        "",
        _languages,
    ),
    Rule(
        "DATA105",
        "warning",
        "Special tokens in the text",
        "The text becomes a real control token, which can end a turn or begin one of another role.",
        "remove it from the text, or write it so that the tokenizer does not know it",
        partial(_counted, "DATA105", "hold a special token of the tokenizer in their text"),
    ),
    Rule(
        "DATA106",
        "warning",
        "Answers of nothing but special tokens",
        "The model is trained to write nothing.",
        "drop these rows",
        partial(_counted, "DATA106", "have an answer of nothing but special tokens"),
    ),
)

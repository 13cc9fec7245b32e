"""Studies: fixed comparisons of claims about losses, each with its committed result and a page made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from sftloss.document import Command, Document, Flags
from sftloss.errors import ConfigError
from sftloss.experiments.comparison import compare, write_report
from sftloss.experiments.experiment import Experiment, scratch_recipe
from sftloss.experiments.pages.groups import OUTPUTS
from sftloss.experiments.pages.method import LEARNING_RATE, METHOD
from sftloss.experiments.pages.steps import STEPS
from sftloss.experiments.run.runner import Execution
from sftloss.files import write_atomic
from sftloss.report import Report, render_markdown, to_json
from sftloss.report.language import in_language
from sftloss.report.markdown import escape
from sftloss.words import listed

_BASE = Experiment(scratch_recipe(max_examples=4000, max_steps=600), eval_rows=320, max_new_tokens=48)
_SHORT = replace(_BASE, recipe=replace(_BASE.recipe, max_steps=300), samples=2)
DIFFERENT, _UNJUDGED = "different", "too few seeds"


@dataclass(frozen=True)
class Claim:
    """A claim that every other arm changes a measure in one direction against the first arm.

    Attributes:
        statement: The claim, to follow "The claim that".
        measure: Beginning of the measure's name.
        direction: The claimed direction.
    """

    statement: str
    measure: str
    direction: Literal["higher", "lower"]


@dataclass(frozen=True)
class Study:
    """A question about losses and the experiment that answers it.

    Attributes:
        name, title: Name of its command, title of its page.
        question: What is claimed, and what is trained to test it.
        experiment: What is compared.
        claim: The claim that the verdicts are held against; None: what was measured is the answer.
        command: Words of its command after ``sftloss study``, where they are not the name alone.
    """

    name: str
    title: str
    question: str
    experiment: Experiment
    claim: Claim | None = None
    command: Flags = ()

    def answer(self, document: Document) -> str:
        """The answer in words: the claim against the verdicts, what was measured, and how rates were chosen."""
        leads = {section.id: section.lead for section in document.sections}
        measured = leads.get(STEPS) or leads.get("comparison-tasks")
        judged = claim_answer(document, self.claim) if self.claim or not measured else None
        outcome = " ".join(filter(None, (judged, measured)))
        method = {row["what"]: row["value"] for row in table_rows(document, METHOD)}
        return f"{outcome} Learning rate: {method[LEARNING_RATE]}."


# fixed weights first (equal ones of task means, the plain mean over tokens, by size), then weights that follow losses,
# random ones, and those that follow gradients
_WEIGHTINGS = (
    "static", "none", "temperature(temperature=2)",
    "uncertainty", "uw_so", "imtl_l", "gls", "stch", "focal_dtp", "difficulty_adaptive", "group_dro",
    "dwa", "performance_based", "learning_progress", "famo", "coba", "doremi", "rlw",
    "gradient_balance", "grad_norm", "imtl_g", "pcgrad", "mgda", "cagrad", "nash_mtl", "aligned_mtl", "upgrad",
    "fairgrad",
)  # fmt: skip

_ALL = (
    Study(
        "length",
        "What normalization by length does to a model",
        "It is often said that the sum of token losses makes models prefer short answers, and that dividing by the "
        "length repairs this. The arithmetic says the opposite: the sum keeps the lengths of the data, and dividing by "
        "the length teaches shorter answers wherever one prompt has answers of several lengths. Here models are "
        "trained with the exponents 0 (token mean), 0.5 (sqrt) and 1 (example mean) of the length.",
        replace(_BASE, normalizations=("token-mean", "sqrt", "example-mean"), learning_rates=(1e-3, 3e-3, 1e-2)),
        Claim("dividing by the length makes answers longer", "answer length", "higher"),
    ),
    Study(
        "length-by-step",
        "When and for which prompts the answer length moves",
        "The forecast of `sftloss lengths` is about the optimum and has two ends: the mean if only answers to one "
        "prompt are compared, and the bound if the prompt says nothing about length. Here a small model is trained for "
        "many passes over few rows, with the token mean and the example mean. In `some` one prompt has answers of many "
        "lengths; in `summarise` and `translate` the prompt determines the length. Answers to training prompts and to "
        "new ones are measured at several steps, sampled and greedy.",
        Experiment(
            scratch_recipe(max_examples=600, max_steps=480),
            normalizations=("token-mean", "example-mean"),
            noise=0.0,
            data_tasks=("some", "summarise", "translate"),
            eval_rows=240,
            points=8,
            max_new_tokens=48,
            length_rows=48,
        ),
    ),
    Study(
        "focal",
        "Focal loss against cross-entropy",
        "Focal loss is said to help with hard tokens, because it weights easy ones down. Here one training answer in "
        "ten is wrong on purpose, so that hard tokens are not always worth learning.",
        replace(_SHORT, losses=("cross_entropy", "focal(gamma=1)", "focal(gamma=2)"), noise=0.1),
        Claim("focal loss gives more right answers", "right answers", "higher"),
    ),
    Study(
        "instruction-response",
        "Training on the instruction too",
        "The tokens of the prompt can be trained too, with a weight relative to the answer's tokens: 0 trains answers "
        "alone, 1 trains both alike, and 0.1 is sometimes recommended for instruction data. The normalizer is the sum "
        "of the weights, so the weight does not change the learning rate.",
        replace(_SHORT, prompt_weights=(0.0, 0.1, 1.0)),
        Claim("training the instruction too gives more right answers", "right answers", "higher"),
    ),
    Study(
        "multitask",
        "Task weights that move against weights that stay",
        "It is often said that task weights which follow the losses balance question answering, summarisation, "
        "translation and classification. Here four such tasks, one of which has half of the rows, are trained with "
        "every strategy of `sftloss.tasks`, all for equal steps and tokens. Each is compared with equal weights of the "
        "tasks' mean losses (`static`). `unweighted` is plain training, a mean over tokens. `rlw` draws its weights at "
        "random, the same ones for every seed. Weights computed from gradients take effect one step later. The "
        "optimizer is AdamW, whose step does not depend on the size of the gradient, without clipping. `coba` follows "
        "the losses on a second draw of questions. The reference of `doremi` is trained first, with equal weights, and "
        "its steps are not counted. The settings of the strategies were chosen in four runs before this one.",
        Experiment(
            # a sum of task means has larger gradients, so clipping would treat arms differently
            scratch_recipe(max_examples=1600, max_steps=160, max_grad_norm=0.0),
            tasks=_WEIGHTINGS,
            data_tasks=("multitask",),
            noise=0.0,  # the strategies' settings were chosen on right answers
            eval_rows=320,
            points=8,
            samples=0,
            max_new_tokens=32,
        ),
    ),
    Study(
        "real_data",
        "Two losses and two normalizations on GSM8K and Alpaca",
        "The other studies are of generated tasks. Here a small model learns from rows of GSM8K and Alpaca with "
        "questions and answers of at most 400 characters, which `python examples/compare_real.py gsm8k=FILE "
        "alpaca=FILE --output real` writes. No prompt has two answers, so the data cannot tell by how much a "
        "normalization changes the length. The results are about a short training of a tiny model, not about a model "
        "that can reason. The page shows no text of the data.",
        Experiment(
            scratch_recipe(
                tokenizer="real/tokenizer",
                data="real/train.jsonl",
                eval_data="real/held_out.jsonl",
                batch_size=8,
                learning_rate=4e-3,
                max_steps=300,
            ),
            losses=("cross_entropy", "focal(gamma=2)"),
            normalizations=("token-mean", "example-mean"),
            width=96,
            samples=2,
            max_new_tokens=256,
        ),
    ),
)

STUDIES: Mapping[str, Study] = MappingProxyType({one.name: one for one in _ALL})
"""The studies by name."""

DEMO = Experiment(
    scratch_recipe(max_examples=1600, max_steps=150),
    losses=("cross_entropy", "focal(gamma=2)"),
    normalizations=("token-mean", "example-mean"),
    eval_rows=120,
    samples=2,
    points=5,
    max_new_tokens=24,
)
"""What `sftloss demo --compare` trains: two losses, two normalizations, five seeds, a tiny Llama from scratch."""


def study_named(name: str) -> Study:
    """The study with this name.

    Raises:
        ConfigError: If there is none.
    """
    if name not in STUDIES:
        raise ConfigError(f"there is no study {name!r}", cure=f"there are {', '.join(STUDIES)}")
    return STUDIES[name]


def run_study(
    study: str | Study, *, output: str | Path, execution: Execution | None = None, lang: str = "en"
) -> Report:
    """Run a study; write ``<name>.json`` and ``<name>.md`` beside the report, as `studies/` holds them.

    Those two are in English whatever the language of the report is, because programs read them. They hold no text of
    the rows, which may not be ours to publish.

    Raises:
        ConfigError: If there is no such study, or `output` holds another experiment.

    Example:
        >>> run_study("length", output="study-length")   # doctest: +SKIP
    """
    study = study_named(study) if isinstance(study, str) else study
    command = Command("study", study.command or ((study.name, ""),), inputs=())
    report = compare(study.experiment, output=output, execution=execution, command=command)
    folder = Path(output).expanduser()
    document = replace(report.document, sections=tuple(s for s in report.document.sections if s.id != OUTPUTS))
    write_atomic(folder / f"{study.name}.json", to_json(document))
    write_atomic(folder / f"{study.name}.md", study_page(study, document))
    if lang != "en":
        report = Report(in_language(report.document, lang))
        write_report(report, folder)
    return report


def study_page(study: str | Study, document: Document) -> str:
    """The page of a study in Markdown: the question, the answer, then the result; every number is the document's."""
    study = study_named(study) if isinstance(study, str) else study
    name = study.name
    title, _, body = render_markdown(replace(document, title=study.title)).partition("\n")
    command = dict(document.provenance).get("command", f"sftloss study {name}")
    origin = f"This page is written by `{command}` from [{name}.json]({name}.json)."
    answer = f"**Answer.** {escape(study.answer(document))}"
    return f"{title}\n\n{study.question}\n\n{answer}\n\n{origin}\n{body}"


def claim_answer(document: Document, claim: Claim | None) -> str:
    """Whether the intervals support the claim, contradict it or neither; then all other differences that they show.

    Where arms disagree, both sides are named. Without a claim, the differences alone.
    """
    judged = [row for row in table_rows(document, "comparisons") if row["verdict"] != _UNJUDGED]
    if not judged:
        return "There are too few seeds for any verdict."
    sentences = []
    if claim is not None:
        about = [row for row in judged if row["measure"].startswith(claim.measure)]
        sentences.append(f"The claim that {claim.statement} is {_support(about, claim)}.")
    sentences += [finding.sentence for finding in document.findings if finding.id == "CMP010"]
    different = {row["measure"] for row in judged if row["verdict"] == DIFFERENT}
    equal = tuple(dict.fromkeys(row["measure"] for row in judged if row["measure"] not in different))
    if equal:
        sentences.append(f"No difference is shown in {listed(equal)}.")
    return " ".join(sentences)


def _support(rows: Sequence[dict[str, Any]], claim: Claim) -> str:
    different = [row for row in rows if row["verdict"] == DIFFERENT]
    supporting = tuple(row["arm"] for row in different if (row["difference"] > 0) == (claim.direction == "higher"))
    contradicting = tuple(row["arm"] for row in different if row["arm"] not in supporting)
    if not different:
        return "neither supported nor contradicted: no difference is shown"
    rest = tuple(row["arm"] for row in rows if row["verdict"] != DIFFERENT)
    sides = (("supported", supporting), ("contradicted", contradicting))
    where = " and ".join(f"{word} for {listed(arms)}" for word, arms in sides if arms)
    return where + (f"; no difference is shown for {listed(rest)}" if rest else "")


def table_rows(document: Document, id: str) -> list[dict[str, Any]]:
    """The rows of the tables whose id begins so, each by the keys of the columns, with the table's title."""
    return [
        {"title": table.title, **dict(zip((column.key for column in table.columns), row, strict=True))}
        for section in document.sections
        for table in section.tables
        if table.id.startswith(id)
        for row in table.rows
    ]

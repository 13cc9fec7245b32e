"""Studies: fixed comparisons of claims about losses, each with its committed result and a page made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from sftloss.document import Document
from sftloss.errors import ConfigError
from sftloss.experiments.comparison import compare
from sftloss.experiments.experiment import Experiment, scratch_recipe
from sftloss.experiments.run.runner import Execution
from sftloss.experiments.verdicts.answers import Claim, answer
from sftloss.files import write_atomic
from sftloss.report import Report, render_markdown
from sftloss.report.markdown import escape

_RECIPE = scratch_recipe(max_examples=4000, max_steps=600)


@dataclass(frozen=True)
class Study:
    """A question and the comparison that asks it.

    Attributes:
        name, title: Of its command and of its page.
        asks: What was said, and what is trained to see.
        claim: What its verdicts are held against; without one the headlines have to do.
        experiment: What is compared.
    """

    name: str
    title: str
    asks: str
    experiment: Experiment
    claim: Claim | None = None


# fixed weights first: equal ones of task means, the plain mean over tokens, by size; then those that losses move, by
# chance, and those that gradients move
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
        "A tutorial says that the sum of token losses makes models prefer short answers and that dividing by the "
        "length repairs it. The arithmetic says the reverse: the sum leaves the lengths of the data as they are, and "
        "dividing by the length teaches shorter answers wherever one prompt has answers of several lengths. Here "
        "models are trained under the exponents 0 (token mean), 0.5 (sqrt) and 1 (example mean) of the length.",
        Experiment(
            _RECIPE,
            normalizations=("token-mean", "sqrt", "example-mean"),
            seeds=tuple(range(8)),
            eval_rows=320,
            max_new_tokens=48,
        ),  # fmt: skip
        Claim("dividing by the length makes answers longer", "answer length", "higher"),
    ),
    Study(
        "focal",
        "Focal loss against cross-entropy",
        "Focal loss is said to help with hard tokens by turning down the easy ones. One answer in ten of the training "
        "rows is wrong on purpose, so that hard tokens are not always worth learning.",
        Experiment(
            _RECIPE,
            losses=("cross_entropy", "focal(gamma=1)", "focal(gamma=2)"),
            noise=0.1,
            eval_rows=320,
            max_new_tokens=48,
        ),  # fmt: skip
        Claim("focal loss gives more right answers", "right answers", "higher"),
    ),
    Study(
        "instruction-response",
        "Training on the instruction too",
        "The loss of the prompt's tokens may be weighted against the answer's: 0 trains answers alone, 1 trains both "
        "alike. A tutorial offers 0.1 as made for instructions and shows no model trained with it. The normalizer is "
        "the sum of the weights, so the learning rate is not hidden in them.",
        Experiment(_RECIPE, prompt_weights=(0.0, 0.1, 1.0), eval_rows=320, max_new_tokens=48),
        Claim("training the instruction too gives more right answers", "right answers", "higher"),
    ),
    Study(
        "multitask",
        "Task weights that move against weights that stay",
        "A tutorial trains question answering, summarisation, translation and classification together and says that "
        "weights which follow the losses balance them. Here four such tasks, half of the rows of one of them, are "
        "trained under every strategy of `sftloss.tasks`, all at equal steps and tokens. Each is compared with equal "
        "weights of the tasks' mean losses (`static`); `unweighted` is plain training, a mean over tokens, and `rlw` "
        "draws its weights at random, the same draws under every seed. What gradients decide acts one step later. "
        "AdamW, which the size of a gradient leaves alone, and no clipping. `coba` looks at the losses of another draw "
        "of questions; the reference of `doremi` is trained before, with equal weights, and its steps are not counted. "
        "The strategies' settings were chosen over four runs seen before the committed one.",
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


def run_study(name: str, *, output: str | Path, execution: Execution | None = None) -> Report:
    """Trial a study; beside the report, write ``<name>.json`` and ``<name>.md``, which `studies/` holds.

    Raises:
        ConfigError: If there is no such study, or `output` holds another comparison.

    Example:
        >>> run_study("length", output="study-length")   # doctest: +SKIP
    """
    if name not in STUDIES:
        raise ConfigError(f"study: there is no {name!r}; there are {', '.join(STUDIES)}.")
    report = compare(STUDIES[name].experiment, output=output, execution=execution, command=f"sftloss study {name}")
    folder = Path(output).expanduser()
    report.to_json(folder / f"{name}.json")
    write_atomic(folder / f"{name}.md", study_page(name, report.document))
    return report


def study_page(name: str, document: Document) -> str:
    """The page of a study: the question, then what the result file says; every number is from the document."""
    one = STUDIES[name]
    kept = replace(document, title=one.title, sections=tuple(s for s in document.sections if s.id != "outputs"))
    title, _, body = render_markdown(kept).partition("\n")
    told = f"This page is written by `sftloss study {name}` from [{name}.json]({name}.json)."
    said = "" if one.claim is None else f"**Answer.** {escape(answer(document, one.claim))}\n\n"
    return f"{title}\n\n{one.asks}\n\n{said}{told}\n{body}"

"""`sftloss compare`: train the same model under several losses and compare the results."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sftloss.cli.language import LANG_FLAG, language_of
from sftloss.cli.options import (
    DATA,
    DTYPE_FLAG,
    EVAL_DATA_FLAG,
    EVAL_SHARE_FLAG,
    JSON_FLAG,
    LOSS,
    MARKDOWN_FLAG,
    MODEL,
    NORMALIZER_FLAG,
    OUTPUT,
    PRESET_FLAG,
    ROLES_FLAG,
    TASKS_FLAG,
    TOLERANCE_FLAG,
    TRAINING,
    DataOptions,
    LossListOptions,
    ModelOptions,
    TrainingOptions,
    Verbosity,
    read_number,
    recipe_fields,
)
from sftloss.config import command_line, option, part, values_of
from sftloss.errors import ConfigError, mention
from sftloss.models import GENERATED, SCRATCH

if TYPE_CHECKING:
    from sftloss.experiments import Execution, Experiment
    from sftloss.report import Report

EVALUATION, PROCESSES = "Evaluation", "Processes"
COMPARE_RESULTS = ("report.html", "report.json", "report.md", "experiment.json", "rates", "arms")


_HELP = {
    "model": "Folder that save_pretrained wrote, name on the Hugging Face hub, demo for the model in this package, "
    "smollm2 for SmolLM2-135M-Instruct without a hub, or scratch for a small Llama with random weights.",
    "data": "JSON, JSON lines or Parquet file, a folder of them, a hub data set, or generated for built-in tasks.",
    "batch_size": "Examples per micro-batch (default: 8; 16 with --model scratch).",
    "learning_rate": "Peak learning rate (default: 2e-5, for a pretrained model; 3e-3 with --model scratch).",
    "schedule": "Learning rate schedule after the warmup (default: linear; cosine with --model scratch).",
    "warmup": "Warmup steps of the learning rate; a value below 1 is a share of all steps (default: 0.03; 0.1 with "
    "--model scratch).",
}
_OF_MODEL = TrainingOptions(batch_size=None, learning_rate=None, schedule=None, warmup=None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ExecutionOptions:
    """The processes that train."""

    devices: str | None = option(
        None, "Devices to train on, one process each, e.g. cuda:0,cuda:1.", panel=PROCESSES, metavar="LIST",
        is_device=True,
    )  # fmt: skip
    workers: int = option(1, "Processes per device. Each computes on one CPU core.", panel=PROCESSES, minimum=1)


@dataclass(frozen=True)
class CompareOptions:
    """Flags and YAML keys of `sftloss compare`. The arms are all combinations of loss, normalization, prompt weight and
    tasks."""

    losses: LossListOptions = part(LossListOptions((), ()))
    prompt_weight: tuple[str, ...] = option(
        (), "Weight of a prompt token where an answer token has weight 1.", panel=LOSS, metavar="W", takes_numbers=True,
        argument="prompt_weights",
    )  # fmt: skip
    tasks: tuple[str, ...] = option((), TASKS_FLAG)
    roles: dict[str, str] = option({}, ROLES_FLAG)
    normalizer: str = option("weights", NORMALIZER_FLAG)
    preset: str | None = option(None, PRESET_FLAG)
    tolerance: float = option(0.0, TOLERANCE_FLAG)
    seeds: int = option(
        5, "Number of seeds; every arm is trained once with each. Fewer than 3 allow no verdict, 3 or 4 find only very "
        "large differences.", panel=LOSS, minimum=1,
    )  # fmt: skip
    model: ModelOptions = part(ModelOptions(SCRATCH), help=_HELP)
    width: int = option(64, "Hidden size (with --model scratch).", panel=MODEL, minimum=1)
    layers: int = option(2, "Number of decoder layers (with --model scratch).", panel=MODEL, minimum=1)
    heads: int = option(4, "Number of attention heads (with --model scratch).", panel=MODEL, minimum=1)
    data: DataOptions = part(DataOptions(GENERATED), help=_HELP)
    eval_data: str | None = option(None, EVAL_DATA_FLAG)
    eval_share: float = option(0.0, EVAL_SHARE_FLAG)
    eval_rows: int | None = option(None, "Number of held-out examples to use, from the start.", panel=DATA, minimum=2)
    forget_data: str | None = option(
        None, "Other data; the report shows how far training moved the model on it.", panel=DATA,
        metavar="FILE|DIR|NAME", reads=True,
    )  # fmt: skip
    forget_rows: int | None = option(
        None, "Number of examples of --forget-data to use, from the start.", panel=DATA, minimum=2
    )
    noise: float | None = option(
        None, "Share of generated training examples with a wrong answer (default: 0.05).", panel=DATA, minimum=0
    )
    data_tasks: tuple[str, ...] = option(
        (), "Generated task to train on (default: all); multitask for the four of the study.", panel=DATA,
        metavar="NAME",
    )  # fmt: skip
    data_seed: int = option(0, "Seed of the generated examples.", panel=DATA, minimum=0)
    training: TrainingOptions = part(_OF_MODEL, help=_HELP)
    dtype: str = option("auto", replace(DTYPE_FLAG, panel=TRAINING))
    points: int = option(6, "Number of points of each learning curve.", panel=EVALUATION, minimum=1)
    max_new_tokens: int = option(64, "Largest number of tokens of a generated answer.", panel=EVALUATION, minimum=1)
    samples: int = option(4, "Number of answers sampled for each held-out prompt.", panel=EVALUATION, minimum=0)
    temperature: float = option(
        1.0, "Temperature of the sampled answers; 1 is the distribution that the model learned.", panel=EVALUATION,
        minimum=0.01,
    )  # fmt: skip
    execution: ExecutionOptions = part(ExecutionOptions())
    save_every: int | None = option(
        None, "Optimizer steps between checkpoints of a training. Without it a killed training starts anew.",
        panel=PROCESSES, minimum=1,
    )  # fmt: skip
    output: str = option(
        "sftloss-compare", "Folder of the trainings and the report; finished trainings in it are kept.", panel=OUTPUT,
        short="-o", metavar="DIR", writes=COMPARE_RESULTS,
    )  # fmt: skip
    lang: str | None = option(None, LANG_FLAG)
    json: str | None = option(None, JSON_FLAG)
    markdown: str | None = option(None, MARKDOWN_FLAG)


def compare(options: CompareOptions, verbosity: Verbosity) -> None:
    """Train a model under several losses and compare the results, with verdicts and intervals.

    The arms are all combinations of --loss, --normalization, --prompt-weight and --tasks (none: no task weights); the
    first of each makes the arm that the others are compared with. All are trained with the same rows, steps and seeds.
    An interrupted comparison continues with the same command.

    Example: sftloss compare --loss cross_entropy --loss dft --model MODEL --data train.jsonl --eval-share 0.1
    """
    from sftloss.cli.show import hide_progress_bars, print_note
    from sftloss.experiments import compare

    experiment = experiment_of(options)
    hide_progress_bars()
    execution = execution_of(options.execution, verbosity, save_every=options.save_every)
    command, lang = command_line("compare", options), language_of(options.lang)
    report = compare(experiment, output=options.output, execution=execution, command=command, lang=lang)
    print_brief(report, json=options.json, markdown=options.markdown)
    print_note(f"wrote {options.output}/report.html", verbosity)


def experiment_of(options: CompareOptions) -> Experiment:
    """The experiment that the options ask for."""
    from sftloss.experiments import Experiment, scratch_recipe
    from sftloss.finetune import Recipe

    values = values_of(options)
    if options.noise and options.data.data != GENERATED:
        cure = f"leave it out, or leave {mention('data')} out"
        raise ConfigError("only generated rows can have wrong answers", option="noise", cure=cure)
    arms = {"losses": values["loss"], "normalizations": values["normalization"], "tasks": values["tasks"]}
    arms["prompt_weights"] = tuple(read_number("prompt_weight", text) for text in options.prompt_weight)
    own = {f.name: values[f.name] for f in fields(Experiment) if f.name in values and f.name not in ("seeds", "tasks")}
    if options.noise is None:
        del own["noise"]
    unshared = ("loss", "normalization", "tasks", "output", "save_every")
    shared = {k: v for k, v in recipe_fields(values).items() if k not in unshared and v is not None}
    recipe = scratch_recipe(**shared) if options.model.model == SCRATCH else Recipe(**shared)
    return Experiment(recipe, **own, **arms, seeds=tuple(range(options.seeds)))


def execution_of(options: ExecutionOptions, verbosity: Verbosity, **rest: Any) -> Execution:
    """Devices and processes, with a line on stderr for every finished training."""
    from sftloss.cli.show import print_note
    from sftloss.experiments import Execution

    def progress(done: int, total: int, name: str) -> None:
        print_note(f"{done} of {total} trained: {name}", verbosity)

    devices = tuple(filter(None, (options.devices or "").split(",")))
    return Execution(devices, options.workers, progress=progress, **rest)


def print_brief(report: Report, *, json: str | None = None, markdown: str | None = None) -> None:
    """Headlines, findings and the first tables on the terminal; the page has everything."""
    from sftloss.cli.show import print_report

    sections = tuple(s for s in report.document.sections if s.id in ("metrics", "lengths"))
    brief = tuple(replace(s, charts=(), tables=s.tables[:2] if s.id == "metrics" else s.tables[:1]) for s in sections)
    print_report(report, json=json, markdown=markdown, brief=replace(report.document, sections=brief))

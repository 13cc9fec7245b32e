"""`sftloss compare`: what does each loss really do to a model?"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftloss.cli.options import Verbosity
from sftloss.config import command_line, option
from sftloss.errors import ConfigError

if TYPE_CHECKING:
    from sftloss.experiments import Execution, Experiment
    from sftloss.report import Report

_ARMS, _IN, _TRAIN, _ASK, _OUT = "What is compared", "Model and data", "Training", "Evaluation", "Where it runs"


@dataclass(frozen=True)
class CompareOptions:
    """Flags and YAML keys of `sftloss compare`."""

    loss: tuple[str, ...] = option(
        (), "Train with this loss; repeat it. The first is what others are compared with.", panel=_ARMS
    )
    normalization: tuple[str, ...] = option(
        (), "token-mean, example-mean, sqrt or an exponent of the length; repeat it.", panel=_ARMS,
        metavar="NAME|ALPHA", takes_numbers=True,
    )  # fmt: skip
    prompt_weight: tuple[str, ...] = option(
        (), "Weight of the prompt's tokens beside the answer's 1; repeat it.", panel=_ARMS, metavar="W",
        takes_numbers=True,
    )  # fmt: skip
    tasks: tuple[str, ...] = option(
        (), "Weight the tasks that the data names by this strategy, or none; repeat it.", panel=_ARMS,
        metavar="STRATEGY",
    )  # fmt: skip
    seeds: int = option(
        5, "Train every arm with this many seeds; 3 find little, fewer give no verdicts.", panel=_ARMS, minimum=1
    )
    model: str = option("scratch", "A directory, a hub name, demo, or scratch for a small Llama.", panel=_IN)
    tokenizer: str | None = option(None, "Its tokenizer, if not with the model.", panel=_IN)
    width: int = option(64, "Width of a model from scratch.", panel=_IN, minimum=1)
    layers: int = option(2, "Its layers.", panel=_IN, minimum=1)
    heads: int = option(4, "Its heads.", panel=_IN, minimum=1)
    data: str = option(
        "generated", "A file, a folder or a hub name; generated for built-in tasks.", panel=_IN, short="-d"
    )
    eval_data: str | None = option(None, "Held-out rows; needed unless data is generated.", panel=_IN)
    forget_data: str | None = option(None, "Other rows, for what the model forgets of them.", panel=_IN)
    columns: dict[str, str] = option({}, "The data's own column names.", panel=_IN, metavar="prompt=Q,response=A")
    format: str | None = option(None, "The data's format; found out for each row if not given.", panel=_IN)
    max_examples: int | None = option(None, "Training rows, from the start.", panel=_IN, minimum=1)
    eval_rows: int | None = option(None, "Held-out rows, from the start.", panel=_IN, minimum=2)
    forget_rows: int | None = option(None, "Rows of forget-data, from the start.", panel=_IN, minimum=2)
    noise: float | None = option(
        None, "Share of generated training rows with a wrong answer; 0.05 if not given.", panel=_IN, minimum=0
    )
    data_tasks: tuple[str, ...] = option((), "Generated tasks; all if not given.", panel=_IN, metavar="NAME")
    max_length: int | None = option(None, "Tokens kept of each row.", panel=_IN, minimum=2)
    batch_size: int | None = option(
        None, "Rows of a micro-batch; 16 from scratch, 8 for a pretrained model if not given.", panel=_TRAIN, minimum=1
    )
    grad_accum: int = option(1, "Micro-batches of a step.", panel=_TRAIN, minimum=1)
    learning_rate: float | None = option(
        None, "Highest learning rate; 3e-3 from scratch, 2e-5 for a pretrained model if not given.", panel=_TRAIN,
        minimum=0,
    )  # fmt: skip
    schedule: str | None = option(
        None, "Learning-rate schedule; cosine from scratch, linear for a pretrained model if not given.", panel=_TRAIN
    )
    warmup: float | None = option(
        None, "Warmup steps, below 1 a share of all; 0.1 from scratch, 0.03 for a pretrained model if not given.",
        panel=_TRAIN, minimum=0,
    )  # fmt: skip
    weight_decay: float = option(0.0, "Of AdamW.", panel=_TRAIN, minimum=0)
    max_grad_norm: float = option(1.0, "Gradients are clipped to it; 0 clips nothing.", panel=_TRAIN, minimum=0)
    epochs: float = option(1.0, "Passes over the rows.", panel=_TRAIN, minimum=0)
    max_steps: int | None = option(None, "Optimizer steps, in place of epochs.", panel=_TRAIN, minimum=1)
    dtype: str = option("auto", "Number format of the parameters.", panel=_TRAIN)
    autocast: str | None = option(None, "Compute in this format.", panel=_TRAIN, choices=("bfloat16", "float16"))
    points: int = option(6, "Points of the learning curves.", panel=_ASK, minimum=1)
    max_new_tokens: int = option(64, "Longest answer generated.", panel=_ASK, minimum=1)
    samples: int = option(4, "Answers sampled for each held-out prompt.", panel=_ASK, minimum=0)
    temperature: float = option(1.0, "Of the samples; 1 is what was learned.", panel=_ASK, minimum=0.01)
    data_seed: int = option(0, "Of generated rows.", panel=_IN, minimum=0)
    output: str = option("sftloss-compare", "Folder of arms and report; finished arms in it are kept.", panel=_OUT,
                         short="-o", metavar="DIR")  # fmt: skip
    devices: str | None = option(None, "One process each, as cuda:0,cuda:1.", panel=_OUT, metavar="LIST")
    workers: int = option(1, "Processes on each device.", panel=_OUT, minimum=1)
    save_every: int | None = option(None, "Steps between checkpoints of an arm; without, a killed arm starts anew.",
                                    panel=_OUT, minimum=1)  # fmt: skip
    json: str | None = option(None, "Also write the JSON here; '-' prints JSON alone.", panel=_OUT, metavar="FILE|-")
    markdown: str | None = option(None, "Also write Markdown here.", panel=_OUT, metavar="FILE")


_ARM_FIELDS = {"loss": "losses", "normalization": "normalizations", "tasks": "tasks"}


def compare(options: CompareOptions, verbosity: Verbosity) -> None:
    """Train and compare. The same model under several losses, at equal tokens; verdicts with intervals."""
    from sftloss.cli.show import check_targets, hide_progress_bars
    from sftloss.experiments import compare

    check_targets(options.json, options.markdown, replace=True)
    experiment = experiment_of(options)
    hide_progress_bars()
    devices = tuple(filter(None, (options.devices or "").split(",")))
    report = compare(
        experiment,
        output=options.output,
        execution=running(verbosity, devices=devices, workers=options.workers, save_every=options.save_every),
        command=command_line("compare", options),
    )
    show_brief(report, json=options.json, markdown=options.markdown)
    told(options.output, verbosity)


def experiment_of(options: CompareOptions) -> Experiment:
    """The experiment that the options ask for."""
    from sftloss.experiments import Experiment, scratch_recipe
    from sftloss.finetune import Recipe

    if options.noise and options.data != CompareOptions.data:
        raise ConfigError("--noise: only generated rows get wrong answers; leave it out, or leave --data out.")
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    shared = {f.name for f in fields(Recipe)} - {*_ARM_FIELDS, "output", "save_every"}
    given = {name: value for name, value in values.items() if name in shared and value not in (None, {})}
    recipe = scratch_recipe(**given) if options.model == CompareOptions.model else Recipe(**given)
    own = {name: values[name] for name in {f.name for f in fields(Experiment)} & values.keys() - {"seeds"}}
    own |= {plural: values[name] for name, plural in _ARM_FIELDS.items()}
    if options.noise is None:
        del own["noise"]
    try:
        weights = tuple(map(float, options.prompt_weight))
    except ValueError:
        raise ConfigError(f"--prompt-weight: expected numbers, got {', '.join(options.prompt_weight)[:60]}.") from None
    return Experiment(recipe, **own, prompt_weights=weights, seeds=tuple(range(options.seeds)))


def running(verbosity: Verbosity, **given: Any) -> Execution:
    """Devices and processes, with a line on stderr for every finished training."""
    from sftloss.cli.show import print_note
    from sftloss.experiments import Execution

    def progress(done: int, total: int, name: str) -> None:
        print_note(f"{done} of {total} trained: {name}", verbosity)

    return Execution(**given, progress=progress)


def show_brief(report: Report, *, json: str | None = None, markdown: str | None = None) -> None:
    """Headlines, findings and the first tables on the terminal; the page has the rest."""
    from dataclasses import replace

    from sftloss.cli.show import print_report
    from sftloss.report import Report

    if json is not None or markdown is not None:
        report.to_json(None if json in (None, "-") else Path(json))
        if markdown is not None:
            report.to_markdown(Path(markdown))
    if json == "-":
        print_report(report, json="-")
        return
    sections = tuple(s for s in report.document.sections if s.id in ("metrics", "lengths"))
    short = tuple(replace(s, charts=(), tables=s.tables[:2] if s.id == "metrics" else s.tables[:1]) for s in sections)
    print_report(Report(replace(report.document, sections=short)))


def told(output: str, verbosity: Verbosity) -> None:
    from sftloss.cli.show import print_note

    print_note(f"wrote {output}/report.html", verbosity)

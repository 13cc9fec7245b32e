"""`sftloss analyze`: what does each loss train on, for this model and this data?"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from sftloss.cli.options.options import Manner
from sftloss.config import command_line, option

if TYPE_CHECKING:
    from sftloss.analysis import AnalysisOptions

_IN, _LOSS, _RUN, _OUT = "What to analyze", "The losses to compare", "How to run", "Where results go"


@dataclass(frozen=True)
class AnalyzeOptions:
    """Flags and YAML keys of `sftloss analyze`."""

    model: str = option(
        "", "A directory that save_pretrained wrote, or a name on the hub.", panel=_IN, required=True, short="-m"
    )
    data: str = option(
        "", "A JSON, JSON lines or Parquet file, a folder of them, or a hub name.", panel=_IN, required=True, short="-d"
    )
    tokenizer: str | None = option(None, "Where the tokenizer is, if not with the model.", panel=_IN)
    revision: str | None = option(None, "Branch, tag or commit of a model on the hub.", panel=_IN)
    columns: dict[str, str] = option(
        {}, "What the data's own columns are: prompt, response, task, ...", panel=_IN, metavar="prompt=Q,response=A"
    )
    format: str | None = option(
        None,
        "messages, sharegpt, alpaca, text, tokens or two columns as prompt/response; found out for each row if not "
        "given.",
        panel=_IN,
    )
    max_length: int | None = option(None, "Tokens kept of each example.", panel=_IN, minimum=2)
    max_examples: int | None = option(None, "Examples read, from the start; all if not given.", panel=_IN, minimum=1)
    on_error: str = option("report", "What an unusable row does.", panel=_IN, choices=("report", "skip", "raise"))
    loss: tuple[str, ...] = option(
        ("cross_entropy",),
        "An objective; may be repeated, and added: 'cross_entropy + 1e-4 * z_loss', 'focal(gamma=2)'.",
        panel=_LOSS,
        metavar="EXPR",
    )
    normalization: tuple[str, ...] = option(
        ("token-mean", "example-mean"),
        "How a step divides: token-mean, example-mean, sqrt, or the exponent of the length; may be repeated.",
        panel=_LOSS,
        metavar="NAME|ALPHA",
        takes_numbers=True,
    )
    roles: dict[str, str] = option(
        {}, "Weight by role in place of the data's; one not named is not trained.", panel=_LOSS,
        metavar="prompt=0.1,response=1", takes_numbers=True,
    )  # fmt: skip
    level: str = option(
        "S1", "What signal is: S0 a token's coefficient, S1 that times its gradient in the logits, S2 that times its "
        "gradient in the last layer.", panel=_LOSS, choices=("S0", "S1", "S2"),
    )  # fmt: skip
    group_by: tuple[str, ...] = option(
        ("task", "language", "source"), "What shares are broken down by; may be repeated.", panel=_LOSS,
        choices=("task", "language", "source"),
    )  # fmt: skip
    policy: str | None = option(
        None,
        "What should get an equal share of the training signal; findings measure against it.",
        panel=_LOSS,
        choices=("per-token", "per-example", "per-task"),
    )
    batch_size: int | None = option(
        None,
        "Sequences in a micro-batch of your training, to predict what its normalization does.",
        panel=_LOSS,
        minimum=1,
    )
    grad_accum: int | None = option(None, "Micro-batches in a step of your training.", panel=_LOSS, minimum=1)
    tokens_per_batch: int = option(4096, "Tokens in one forward pass.", panel=_RUN, minimum=1)
    device: str = option("cpu", "Where the model runs: cpu, cuda, cuda:1, mps.", panel=_RUN)
    dtype: str = option(
        "auto", "Number format of the model.", panel=_RUN, choices=("auto", "float32", "bfloat16", "float16")
    )
    rank_timeout: float = option(
        600.0, "Seconds in which all ranks must have joined, where several processes share the work.", panel=_RUN,
        minimum=0,
    )  # fmt: skip
    seed: int = option(0, "Seed of every random draw (intervals, samples).", panel=_RUN, minimum=0)
    output: str = option(
        "sftloss-report",
        "Folder for report.html, report.json and the measured table.",
        panel=_OUT,
        short="-o",
        metavar="DIR",
    )
    overwrite: bool = option(False, "Replace an earlier report in that folder.", panel=_OUT)
    resume: bool = option(False, "Go on from the table in that folder, as far as it got.", panel=_OUT)
    json: str | None = option(None, "Also write the JSON here; '-' prints JSON alone.", panel=_OUT, metavar="FILE|-")
    markdown: str | None = option(None, "Also write Markdown here, as for a pull request.", panel=_OUT, metavar="FILE")
    fail_on: str = option(
        "never", "Exit with 1 on a finding this severe or worse.", panel=_OUT, choices=("error", "warning", "never")
    )


def analyze(options: AnalyzeOptions, manner: Manner) -> int:
    """Show what each loss trains on. One forward pass over the data, then a report.

    Example: sftloss analyze --model MODEL --data train.jsonl --loss cross_entropy --loss "focal(gamma=2)"

    Under torchrun the processes share the work, and the first one shows.
    """
    from sftloss.cli.show import check_targets, note, progress, show, verdict
    from sftloss.decoder import load_model
    from sftloss.pipeline import Run, analyze, check, take_part
    from sftloss.ranks import device_of_rank, launched_as

    shard = launched_as()
    if shard[0] == 0:
        check_targets(options.json, options.markdown, replace=options.overwrite or options.resume)
    question = _question(options)
    kept = {f.name: getattr(options, f.name) for f in fields(Run) if f.name in _FIELDS}
    with progress("measuring", manner if shard[0] == 0 else replace(manner, quiet=True)) as tell:
        run = Run(**kept, shard=shard, progress=tell, command=command_line("analyze", options))
        check(options.data, losses=options.loss, run=run)
        model, tokenizer = load_model(
            options.model,
            device=device_of_rank(options.device),
            dtype=options.dtype,
            tokenizer=options.tokenizer,
            revision=options.revision,
        )
        if shard[0] != 0:
            take_part(model, tokenizer, options.data, losses=options.loss, run=run)
            return 0
        report = analyze(model, tokenizer, options.data, losses=options.loss, question=question, run=run)
    show(report, json=options.json, markdown=options.markdown)
    note(f"wrote {options.output}/report.html", manner)
    return verdict(report, options.fail_on)


def _question(options: AnalyzeOptions) -> AnalysisOptions:
    from sftloss.analysis import AnalysisOptions
    from sftloss.pipeline import normalization, normalizations_of_a_step, role_weights

    asked = tuple(map(normalization, options.normalization))
    return AnalysisOptions(
        normalization=asked[0],
        normalizations=asked + normalizations_of_a_step(options.batch_size, options.grad_accum),
        level=options.level,  # type: ignore[arg-type]
        policy=options.policy,  # type: ignore[arg-type]
        role_weights=role_weights(options.roles),
        group_by=options.group_by,
        seed=options.seed,
    )


_FIELDS = {f.name for f in fields(AnalyzeOptions)}

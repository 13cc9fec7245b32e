"""`sftloss lengths`: which output lengths does each normalization teach?"""

from __future__ import annotations

from dataclasses import dataclass

from sftloss.cli.options.options import Manner
from sftloss.config import command_line, option
from sftloss.errors import ConfigError

_IN, _RULE, _OUT = "What to read", "What to predict", "Where results go"


@dataclass(frozen=True)
class LengthsOptions:
    """Flags and YAML keys of `sftloss lengths`."""

    data: str = option(
        "", "A JSON, JSON lines or Parquet file, a folder of them, or a hub name.", panel=_IN, required=True, short="-d"
    )
    tokenizer: str | None = option(None, "Counts tokens, as training does: a directory or a hub name.", panel=_IN)
    unit: str | None = option(
        None,
        "Counts these where there is no tokenizer; characters if not given.",
        panel=_IN,
        choices=("characters", "words"),
    )
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
    normalization: tuple[str, ...] = option(
        (),
        "Also predict token-mean, example-mean, sqrt or an exponent of the length; may be repeated. The first is taken "
        "to be in use.",
        panel=_RULE,
        metavar="NAME|ALPHA",
        takes_numbers=True,
    )
    batch_size: int | None = option(None, "Sequences in a micro-batch of your training.", panel=_RULE, minimum=1)
    grad_accum: int | None = option(None, "Micro-batches in a step of one rank.", panel=_RULE, minimum=1)
    ranks: int | None = option(None, "Data-parallel processes.", panel=_RULE, minimum=1)
    target_mean: float | None = option(
        None, "A mean output length to solve for: which exponent teaches it?", panel=_RULE, metavar="L"
    )
    seed: int = option(0, "Seed of the intervals.", panel=_RULE, minimum=0)
    output: str | None = option(None, "Folder for report.html and report.json.", panel=_OUT, short="-o", metavar="DIR")
    overwrite: bool = option(False, "Replace an earlier report in that folder.", panel=_OUT)
    json: str | None = option(None, "Also write the JSON here; '-' prints JSON alone.", panel=_OUT, metavar="FILE|-")
    markdown: str | None = option(None, "Also write Markdown here, as for a pull request.", panel=_OUT, metavar="FILE")
    fail_on: str = option(
        "never", "Exit with 1 on a finding this severe or worse.", panel=_OUT, choices=("error", "warning", "never")
    )


def lengths(options: LengthsOptions, manner: Manner) -> int:
    """Predict output lengths. What each normalization teaches, from the data alone; no model is run.

    Example: sftloss lengths --data train.jsonl --batch-size 4 --grad-accum 8
    """
    from sftloss.analysis import LengthOptions
    from sftloss.cli.show import check_targets, note, progress, show, verdict
    from sftloss.pipeline import Run, lengths, normalization

    _check(options)
    check_targets(options.json, options.markdown, replace=options.overwrite)
    question = LengthOptions(
        tuple(map(normalization, options.normalization)),
        options.batch_size,
        options.grad_accum or 1,
        options.ranks or 1,
        options.target_mean,
        seed=options.seed,
    )
    kept = {name: getattr(options, name) for name in _RUN}
    with progress("reading", manner) as tell:
        run = Run(**kept, progress=tell, command=command_line("lengths", options))
        tokenizer = None if options.tokenizer is None else _tokenizer(options.tokenizer)
        report = lengths(options.data, tokenizer, unit=options.unit or "characters", question=question, run=run)
    show(report, json=options.json, markdown=options.markdown)
    if options.output is not None:
        note(f"wrote {options.output}/report.html", manner)
    return verdict(report, options.fail_on)


_RUN = ("columns", "format", "on_error", "max_examples", "max_length", "output", "overwrite")


def _check(options: LengthsOptions) -> None:
    """What the flags contradict, in the flags' own words."""
    if options.unit is not None and options.tokenizer is not None:
        raise ConfigError("--unit is for data without a tokenizer; with --tokenizer lengths count tokens. Drop one.")
    if options.max_length is not None and options.tokenizer is None:
        raise ConfigError("--max-length counts tokens: give --tokenizer with it.")
    if options.batch_size is None and (options.grad_accum is not None or options.ranks is not None):
        raise ConfigError("--grad-accum and --ranks need --batch-size, the sequences in a micro-batch.")
    if options.target_mean is not None and not options.target_mean > 0:
        raise ConfigError(f"--target-mean: expected a length above 0, got {options.target_mean:g}.")


def _tokenizer(name: str) -> object:
    from sftloss.data.tokenizer import load_tokenizer

    return load_tokenizer(name)

"""`sftloss lengths`: which output lengths are predicted under each normalization?"""

from __future__ import annotations

from dataclasses import dataclass

from sftloss.cli.options import (
    DATA,
    LOSS,
    NORMALIZATION_FLAG,
    TRAINING,
    BatchOptions,
    DataOptions,
    FolderOptions,
    ModelOptions,
    ShowOptions,
    StepOptions,
    Verbosity,
)
from sftloss.config import command_line, option, part
from sftloss.errors import ConfigError, mention


@dataclass(frozen=True)
class LengthsOptions:
    """Flags and YAML keys of `sftloss lengths`."""

    data: DataOptions = part(DataOptions())
    model: ModelOptions = part(ModelOptions(), optional=("model",))
    unit: str | None = option(
        None, "What a length counts without --model and --tokenizer (default: characters).", panel=DATA,
        choices=("characters", "words"),
    )  # fmt: skip
    normalization: tuple[str, ...] = option((), NORMALIZATION_FLAG)
    step: StepOptions = part(StepOptions())
    arrangement: BatchOptions = part(BatchOptions())
    ranks: int | None = option(
        None, "Number of data-parallel processes of the planned training.", panel=TRAINING, minimum=1
    )
    target_mean: float | None = option(
        None, "Mean output length to solve for: the report names the exponent that gives it.", panel=LOSS, metavar="L"
    )
    seed: int = option(0, "Seed of the confidence intervals.", panel=LOSS, minimum=0)
    folder: FolderOptions = part(FolderOptions())
    show: ShowOptions = part(ShowOptions())


def lengths(options: LengthsOptions, verbosity: Verbosity) -> int:
    """Predict output lengths. A range of the mean under each normalization, from the data alone; no weights are read.

    Lengths count tokens with --model or --tokenizer, characters or words without them. The first --normalization is
    the one in use.

    Example: sftloss lengths --data train.jsonl --batch-size 4 --grad-accum 8
    """
    from sftloss.analysis import LengthOptions
    from sftloss.cli.show import conclude, progress_bar
    from sftloss.data import load_tokenizer
    from sftloss.pipeline import Run, lengths, read_normalization

    name = options.model.tokenizer or options.model.model
    if options.unit is not None and name:
        raise ConfigError("a tokenizer counts tokens", option="unit", cure=f"leave {mention('unit')} out")
    question = LengthOptions(
        tuple(map(read_normalization, options.normalization)),
        options.step.batch_size,
        options.step.grad_accum or 1,
        options.ranks or 1,
        options.arrangement.batches,
        options.target_mean,
        seed=options.seed,
    )
    given = "tokenizer" if options.model.tokenizer else "model"
    with progress_bar("reading", verbosity) as progress:
        command = command_line("lengths", options)
        run = Run(**options.data.reading, **options.folder.place, progress=progress, command=command)
        tokenizer = load_tokenizer(name, revision=options.model.revision, option=given) if name else None
        report = lengths(options.data.data, tokenizer, unit=options.unit or "characters", question=question, run=run)
    return conclude(report, options.show, options.folder.output, verbosity)

"""`sftloss analyze`: what does each loss train on, for this model and this data?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sftloss.cli.options import (
    DEVICE,
    LOSS,
    OUTPUT,
    ROLES_FLAG,
    BatchOptions,
    DataOptions,
    DeviceOptions,
    FolderOptions,
    LossListOptions,
    ModelOptions,
    ShowOptions,
    StepOptions,
    Verbosity,
)
from sftloss.config import command_line, option, part
from sftloss.models import without_collecting

if TYPE_CHECKING:
    from sftloss.analysis import AnalysisOptions


@dataclass(frozen=True)
class AnalyzeOptions:
    """Flags and YAML keys of `sftloss analyze`."""

    model: ModelOptions = part(ModelOptions())
    data: DataOptions = part(DataOptions())
    losses: LossListOptions = part(LossListOptions(normalization=("token-mean", "example-mean")))
    roles: dict[str, str] = option({}, ROLES_FLAG)
    level: str = option(
        "S1", "Level of the signal: S0 is a token's coefficient, S1 is S0 times the gradient in the logits, S2 is S0 "
        "times the gradient in the last layer.", panel=LOSS, choices=("S0", "S1", "S2"),
    )  # fmt: skip
    signal: str = option(
        "table", "What is measured beside the table: grad adds the gradient norm of some examples, additive also their "
        "shares of the update.", panel=LOSS,
        choices=("table", "grad", "additive"),
    )  # fmt: skip
    signal_examples: int = option(
        200,
        "Number of examples whose gradients are measured (with --signal).",
        panel=LOSS,
        minimum=1,
    )
    optimizer: str = option(
        "sgd", "Optimizer whose update the shares are of (with --signal additive): adam is Adam's first step, "
        "checkpoint the next step of AdamW with the moments of the checkpoint that --model names.",
        panel=LOSS, choices=("sgd", "adam", "checkpoint"),
    )  # fmt: skip
    group_by: tuple[str, ...] = option(
        ("task", "language", "source"), "Group of examples by which the report breaks the shares of the signal down.",
        panel=LOSS, choices=("task", "language", "source"),
    )  # fmt: skip
    policy: str | None = option(
        None, "What should get an equal share of the training signal; findings are measured against it.", panel=LOSS,
        choices=("per-token", "per-example", "per-task"),
    )  # fmt: skip
    step: StepOptions = part(StepOptions())
    arrangement: BatchOptions = part(BatchOptions())
    device: DeviceOptions = part(DeviceOptions(device="cpu"))
    tokens_per_batch: int = option(4096, "Tokens per forward pass, padding included.", panel=DEVICE, minimum=1)
    rank_timeout: float = option(
        600.0, "Seconds to wait until all ranks have joined (with several processes).", panel=DEVICE, minimum=0
    )
    seed: int = option(0, "Seed of the confidence intervals and of the sampled examples.", panel=LOSS, minimum=0)
    folder: FolderOptions = part(FolderOptions("sftloss-report"))
    resume: bool = option(False, "Continue from the measured table in the output folder.", panel=OUTPUT)
    show: ShowOptions = part(ShowOptions())


def analyze(options: AnalyzeOptions, verbosity: Verbosity) -> int:
    """Show what each loss trains on. One forward pass over the data, then a report.

    Example: sftloss analyze --model MODEL --data train.jsonl --loss cross_entropy --loss "focal(gamma=2)"

    Under torchrun the processes share the work, and rank 0 prints the report.
    """
    with without_collecting():
        from sftloss.cli.show import conclude, progress_bar
        from sftloss.decoder import load_model
        from sftloss.pipeline import Run, analyze, check, take_part
        from sftloss.ranks import device_of_rank, launched_as

        question = _question(options)
    shard, losses = launched_as(), options.losses.loss
    shown = verbosity if shard.rank == 0 else replace(verbosity, quiet=True)
    with progress_bar("measuring", shown, "tokens") as progress:
        run = Run(
            **options.data.reading,
            **options.folder.place,
            resume=options.resume,
            reference=options.losses.reference,
            tokens_per_batch=options.tokens_per_batch,
            rank_timeout=options.rank_timeout,
            shard=shard,
            progress=progress,
            command=command_line("analyze", options),
        )
        check(options.data.data, losses=losses, question=question, run=run)
        name, device = options.model, device_of_rank(options.device.device)
        dtype, own, revision = options.device.dtype, name.tokenizer, name.revision
        model, tokenizer = load_model(name.model, device=device, dtype=dtype, tokenizer=own, revision=revision)
        if shard.rank != 0:
            take_part(model, tokenizer, options.data.data, losses=losses, question=question, run=run)
            return 0
        report = analyze(model, tokenizer, options.data.data, losses=losses, question=question, run=run)
    return conclude(report, options.show, options.folder.output, verbosity)


def _question(options: AnalyzeOptions) -> AnalysisOptions:
    from sftloss.analysis import AnalysisOptions
    from sftloss.pipeline import read_normalization, read_role_weights, step_normalizations

    compared = tuple(map(read_normalization, options.losses.normalization))
    return AnalysisOptions(
        normalization=compared[0],
        normalizations=compared
        + step_normalizations(options.step.batch_size, options.step.grad_accum, options.arrangement.batches),
        level=options.level,  # type: ignore[arg-type]
        policy=options.policy,  # type: ignore[arg-type]
        role_weights=read_role_weights(options.roles),
        signal=options.signal,  # type: ignore[arg-type]
        signal_examples=options.signal_examples,
        optimizer=options.optimizer,  # type: ignore[arg-type]
        group_by=options.group_by,
        seed=options.seed,
    )

"""`sftloss reference`: a reference model's log-probability of each token, computed once and stored."""

from __future__ import annotations

from dataclasses import dataclass

from sftloss.cli.options import (
    DEVICE,
    OUTPUT,
    DataOptions,
    DeviceOptions,
    ModelOptions,
    Verbosity,
)
from sftloss.config import command_line, option, part

VALUES = "Values"


@dataclass(frozen=True)
class ReferenceOptions:
    """Flags and YAML keys of `sftloss reference`."""

    model: ModelOptions = part(ModelOptions())
    data: DataOptions = part(DataOptions())
    top_k: int = option(
        0, "Number of likeliest tokens whose ids and log-probabilities are stored of each token (8 bytes each).",
        panel=VALUES, minimum=0,
    )  # fmt: skip
    entropy: bool = option(False, "Store the entropy of each token too.", panel=VALUES)
    name: str = option(
        "reference", "Name under which objectives read the values: reference, or old for the model before training.",
        panel=VALUES, choices=("reference", "old"),
    )  # fmt: skip
    device: DeviceOptions = part(DeviceOptions(device="cpu"))
    tokens_per_batch: int = option(4096, "Tokens per forward pass, padding included.", panel=DEVICE, minimum=1)
    output: str | None = option(
        None, "Folder of the stored values (default: the name of --data and .reference behind it).", panel=OUTPUT,
        short="-o", metavar="DIR", writes=("sftloss.json",),
    )  # fmt: skip
    overwrite: bool = option(False, "Replace an earlier folder of values when the new one is complete.", panel=OUTPUT)


def reference(options: ReferenceOptions, verbosity: Verbosity) -> None:
    """Store a reference model's log-probability of each token. One forward pass; training then needs none of its own.

    A run that is killed continues with the same command.

    Example: sftloss reference --model MODEL --data train.jsonl
    """
    from sftloss.cli.show import print_note, progress_bar
    from sftloss.data import Account
    from sftloss.decoder import load_model
    from sftloss.pipeline import Run, store_reference
    from sftloss.reference import Kept
    from sftloss.reference.store import check_output, default_output

    kept = Kept(options.top_k, options.entropy, options.name)
    output = options.output or default_output(options.data.data)
    check_output(output, overwrite=options.overwrite)  # a model may take minutes to load
    source, device = options.model, options.device
    with progress_bar("computing", verbosity, "tokens") as progress:
        run = Run(
            **options.data.reading,
            output=output,
            overwrite=options.overwrite,
            tokens_per_batch=options.tokens_per_batch,
            progress=progress,
            command=command_line("reference", options),
        )
        model, tokenizer = load_model(
            source.model, device=device.device, dtype=device.dtype, tokenizer=source.tokenizer, revision=source.revision
        )
        accounts: list[Account] = []
        stored = store_reference(model, tokenizer, options.data.data, kept=kept, run=run, on_rows=accounts.append)
    counts = "{tokens:,} tokens in {rows:,} different rows".format(**stored.facts[0])
    if accounts[0].unusable:
        print_note(accounts[0].summary(), verbosity)
    print_note(f"wrote {output}: {', '.join(stored.names)} of {counts}", verbosity)

"""A reference model over the data, once: its log-probability of each token, stored beside the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftloss.errors import ConfigError, DataError
from sftloss.pipeline.run import Run, records_of

if TYPE_CHECKING:
    from torch import nn

    from sftloss.data import Account
    from sftloss.reference import Kept, References


def store_reference(
    model: nn.Module,
    tokenizer: Any,
    rows: str | Path | Iterable[Mapping[str, Any]],
    *,
    kept: Kept | None = None,
    run: Run,
    on_rows: Callable[[Account], None] | None = None,
) -> References:
    """Compute a model's log-probability of each token of each row once, and store it.

    Rows that a killed run had finished are not computed again by the same call. Memory is one batch, the rows
    that wait to be written, and about 100 bytes a row.

    Args:
        model: A causal language model, as `transformers` loads it. Given back as it was.
        tokenizer: Its tokenizer.
        rows: A data file, a folder, a hub data set, or rows as mappings, in any of the usual formats.
        kept: What is stored beside the log-probability of each token.
        run: Which rows, how much at a time, and `output`, the folder. Its `resume` is not read.
        on_rows: Called at the end with what became of the rows: how many were read, used and refused.

    Returns:
        The stored values, as training reads them.

    Raises:
        ConfigError: If an option cannot be used, or `run.output` is taken.
        DataError: If there is no usable row, or a log-probability is not finite.
        ModelError: If the model is no causal language model or does not fit the tokenizer.

    Example:
        >>> store_reference(model, tokenizer, "data.jsonl", run=Run(output="data.jsonl.reference"))   # doctest: +SKIP
    """
    from sftloss.analysis import model_identity
    from sftloss.data import Examples, batches, encoding_of
    from sftloss.data.rendering.families import read_template
    from sftloss.data.tokenizer import pad_id_of
    from sftloss.decoder import open_decoder
    from sftloss.reference import Kept, open_references, vocabulary_identity, writing
    from sftloss.reference.compute import compute_rows

    if run.output is None:
        raise ConfigError("missing", option="output", cure="name the folder of the stored values")
    kept, output = kept or Kept(), Path(run.output).expanduser()
    encoding = {**encoding_of(run), "template": read_template(run.template, tokenizer)}
    decoder = open_decoder(model)
    if kept.top_k > decoder.vocab_size:
        raise ConfigError(f"the model has {decoder.vocab_size} tokens, got {kept.top_k}", option="top_k")
    facts = {
        "name": kept.name,
        "columns": kept.columns,
        "top_k": kept.top_k,
        "source": str(rows) if isinstance(rows, str | Path) else "rows",
        "model": model_identity(decoder),
        "tokenizer": vocabulary_identity(tokenizer),
        "encoding": encoding,
        "command": None if run.command is None else str(run.command),
    }
    examples = Examples(records_of(rows, run), tokenizer, **encoding_of(run))
    groups = batches(examples, pad_id=pad_id_of(tokenizer), tokens_per_batch=run.tokens_per_batch)
    with writing(output, facts, overwrite=run.overwrite) as writer:
        compute_rows(decoder, groups, kept, writer, run.progress)
        if not writer.lengths:
            raise DataError("there is no row to compute", cure="give at least one")
    if on_rows is not None:
        on_rows(examples.account)
    return open_references([output], tokenizer, encoding_of(run))

"""One analysis from end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftloss.document import Command, Document, Finding, by_severity, with_commands
from sftloss.errors import ConfigError, mention
from sftloss.models import weights_note
from sftloss.pipeline.folder import check_folder, folder, table_of
from sftloss.pipeline.meeting import meeting
from sftloss.pipeline.question import read_objectives
from sftloss.pipeline.run import Run, records_of
from sftloss.version import package_versions

# the flags by which any verb reads the same rows with the same model
_INPUTS = (
    "--model",
    "--data",
    "--tokenizer",
    "--columns",
    "--format",
    "--max-length",
    "--max-examples",
    "--truncate",
    "--template",
    "--chat-template-kwargs",
    "--think-weight",
    "--thinking",
)
_ANALYZE_ONLY = ("--roles", "--level", "--output", "--reference")

if TYPE_CHECKING:
    from torch import nn

    from sftloss.analysis import AnalysisOptions, MeasuredTable
    from sftloss.analysis.mask.inspect import Inspected
    from sftloss.data import Batch, Example, Examples
    from sftloss.finetune.checkpoint import SavedAdam
    from sftloss.reference import References
    from sftloss.report import Report


def analyze(
    model: nn.Module,
    tokenizer: Any,
    rows: str | Path | Iterable[Mapping[str, Any]],
    *,
    losses: Sequence[str] = ("cross_entropy",),
    question: AnalysisOptions | None = None,
    run: Run | None = None,
) -> Report:
    """What each loss trains on, for this model and this data, from one forward pass.

    Args:
        model: A causal language model, as `transformers` loads it. Given back as it was.
        tokenizer: Its tokenizer.
        rows: A data file, a folder, a hub data set, or rows as mappings, in any of the usual formats.
        losses: Objectives as expressions, ``"focal(gamma=2)"``; the first is the one taken to be trained.
        question: Normalizations to compare, the policy to measure against, groups, seed.
        run: Which rows, how much at a time, where results go, and rank 0's shard where several processes share the
            work; the others call :func:`take_part`.

    Returns:
        The report: findings, sections, and data frames by name: ``examples``, and each table of the sections by its id.

    Raises:
        ConfigError: If a loss or an option cannot be used, the output folder is taken, or a rank is missing.
        DataError: If there is no usable row, or most rows are unusable.
        ModelError: If the model is no causal language model or does not fit the tokenizer.

    Gradient:
        None; nothing is trained and no gradient of a parameter is formed.

    Example:
        >>> report = analyze(model, tokenizer, "data.jsonl", losses=["cross_entropy", "dft"])   # doctest: +SKIP
        >>> print(report)                                                                       # doctest: +SKIP
    """
    from sftloss.analysis import AnalysisOptions, describe_signal_with_frames
    from sftloss.data.tokenizer import pieces
    from sftloss.report import Report
    from sftloss.report.language import in_language

    run, question = run or Run(), question or AnalysisOptions()
    by_name = read_objectives(losses, has_reference=bool(run.reference))
    rank, world = run.shard
    if rank != 0:
        raise ConfigError(f"rank {rank} of {world} makes no report", option="shard", cure="call take_part there")
    if question.level == "S2":
        _check_hidden(model)
    adam = None
    if question.optimizer == "checkpoint":
        from sftloss.finetune.checkpoint import saved_adam

        adam = saved_adam(model)
    if question.signal != "table":
        _check_gradients(run)
        rows = rows if isinstance(rows, str | Path) else list(rows)  # they are read twice
    examples = _examples(rows, run, tokenizer)
    with folder(run, rows) as place:
        with meeting(run.shard, run.rank_timeout) as meet:
            meet()  # the folder is checked and cleared: the others may write
            inputs = _Inputs(model, tokenizer, examples, by_name, rows, run, place.table, question.role_weights)
            table = _measured(inputs)
            meet()
        if missing := table.missing(world):
            raise ConfigError(
                f"{place.table} lacks the shards of ranks {', '.join(map(str, missing))} of {world}",
                cure=f"choose an {mention('output')} that all ranks share, then start again with {mention('resume')}",
            )
        document, frames = describe_signal_with_frames(
            table,
            question,
            decode=partial(pieces, tokenizer=tokenizer),
            facts=_facts(model, examples.examples, run),
            gradients=None if question.signal == "table" else _gradients(inputs, adam),
        )
        document = with_run(document, run.command)
        findings = _with_inspected(document.findings, examples.findings(), has_roles=bool(question.role_weights))
        document = replace(document, findings=findings, provenance=(*_provenance(run), *document.provenance))
        report = Report(in_language(document, run.lang), frames)
        place.write(report)
    return report


def take_part(
    model: nn.Module,
    tokenizer: Any,
    rows: str | Path | Iterable[Mapping[str, Any]],
    *,
    losses: Sequence[str] = ("cross_entropy",),
    question: AnalysisOptions | None = None,
    run: Run,
) -> None:
    """Measure the shard of a rank other than 0, with the very arguments that rank 0 gives :func:`analyze`.

    Raises:
        ConfigError: As :func:`analyze`, or if this is rank 0.
        DataError, ModelError: As :func:`analyze`.

    Example:
        >>> run = Run(output="out", shard=(1, 2))                                    # doctest: +SKIP
        >>> take_part(model, tokenizer, "data.jsonl", losses=["cross_entropy"], run=run)   # doctest: +SKIP
    """
    if run.output is None or run.shard[0] == 0:
        raise ConfigError("only ranks from 1 on take part, with the output folder of rank 0", option="shard")
    by_name = read_objectives(losses, has_reference=bool(run.reference))
    examples = _examples(rows, run, tokenizer)
    with meeting(run.shard, run.rank_timeout) as meet:
        meet()
        roles = None if question is None else question.role_weights
        _measured(_Inputs(model, tokenizer, examples, by_name, rows, run, table_of(run), roles))
        meet()


def check(
    rows: str | Path | Iterable[Mapping[str, Any]],
    *,
    losses: Sequence[str],
    question: AnalysisOptions | None = None,
    run: Run,
) -> None:
    """Raise, on every rank, what `analyze` would raise before it touches the model, which may take minutes to load."""
    if question is not None and question.signal != "table":
        _check_gradients(run)
    by_name = read_objectives(losses, has_reference=bool(run.reference))
    _references(by_name, run, None)
    _examples(rows, run, None)
    if run.shard[0] == 0:
        check_folder(run, rows)


def _examples(rows: Any, run: Run, tokenizer: Any) -> Inspected:
    from sftloss.analysis.mask.inspect import Inspected
    from sftloss.data import Examples, encoding_of

    return Inspected(Examples(records_of(rows, run), tokenizer, **encoding_of(run)), tokenizer)


@dataclass(frozen=True)
class _Inputs:
    """What is measured: rows and examples, objectives by name, the run, the table's folder, and weights by role."""

    model: Any
    tokenizer: Any
    examples: Inspected
    by_name: Mapping[str, Any]
    rows: Any
    run: Run
    table: Path
    roles: tuple[tuple[str, float], ...] | None


def _measured(inputs: _Inputs) -> MeasuredTable:
    from sftloss.analysis import Settings, file_identity, measure, tokenizer_identity
    from sftloss.data import batches, encoding_of
    from sftloss.data.rendering.families import read_template
    from sftloss.data.tokenizer import pad_id_of
    from sftloss.decoder import open_decoder

    tokenizer, rows, run = inputs.tokenizer, inputs.rows, inputs.run
    encoding = encoding_of(run) | {"template": read_template(run.template, tokenizer)}
    source = Path(rows) if isinstance(rows, str | Path) else None
    identity = {
        "tokenizer": tokenizer_identity(tokenizer),
        "data": file_identity([source]) if source is not None and source.is_file() else str(source or "rows"),
        "reading": [run.max_examples, run.format, dict(run.columns), *encoding.values()],
    }
    grouped = partial(batches, pad_id=pad_id_of(tokenizer), tokens_per_batch=run.tokens_per_batch)
    references, lay = _laying(inputs.by_name, run, tokenizer)
    if references is not None:
        identity["reference"] = [{n: f[n] for n in ("name", "model", "files")} for f in references.facts]

    def laid(stream: Iterator[Example]) -> Iterator[Batch]:
        return map(lay, grouped(stream))

    settings = Settings(identity=identity, shard=run.shard, progress=run.progress, expected=_count(rows, run))
    decoder = open_decoder(inputs.model)
    by_role = None if inputs.roles is None else dict(inputs.roles)
    return measure(
        decoder, inputs.examples, inputs.by_name, inputs.table, batch=laid, settings=settings, by_role=by_role
    )


def _references(by_name: Mapping[str, Any], run: Run, tokenizer: Any) -> tuple[References | None, tuple[str, ...]]:
    """The reference models' values, and the columns of them that the objectives read; None where they read none."""
    from sftloss.data import encoding_of
    from sftloss.objectives import extras_of

    names = extras_of(*by_name.values())
    if not names:
        return None, ()
    from sftloss.reference import open_references

    references = open_references(run.reference, tokenizer, encoding_of(run))
    references.check_names(names)
    return references, names


def _laying(by_name: Mapping[str, Any], run: Run, tokenizer: Any) -> tuple[References | None, Callable[[Batch], Batch]]:
    """The reference models' values, and what adds those that the objectives read to a batch."""
    references, names = _references(by_name, run, tokenizer)
    return references, lambda batch: batch if references is None else references.lay(batch, names)


def _count(rows: Any, run: Run) -> int | None:
    """The number of usable rows, where progress is shown: read once more, which takes little time beside the model."""
    is_local = Path(rows).exists() if isinstance(rows, str | Path) else isinstance(rows, Sequence)
    if run.progress is None or not is_local:
        return None
    try:
        return sum(1 for _ in records_of(rows, run, on_error="count"))
    except Exception:  # whatever is wrong is reported by the pass that measures
        return None


def _gradients(inputs: _Inputs, adam: SavedAdam | None) -> Any:
    """What measures the gradients."""
    from sftloss.pipeline.gradients import GradientSource

    _, lay = _laying(inputs.by_name, inputs.run, inputs.tokenizer)
    examples, losses = inputs.examples.examples, inputs.by_name
    rest = (lay, inputs.run, inputs.table, adam)
    return GradientSource(inputs.model, inputs.tokenizer, examples, losses, *rest).measure


def _check_gradients(run: Run) -> None:
    if run.shard[1] > 1:
        raise ConfigError(
            "gradients of parameters are measured by one process", option="signal", cure="run without torchrun"
        )


def _check_hidden(model: Any) -> None:
    """Without hidden states there is no S2, and that is known before the data is run through the model."""
    from sftloss.decoder import open_decoder

    opened = open_decoder(model)
    if opened.head is None:
        raise ConfigError(f"S2 reads the last layer, and {opened.reason}", option="level", cure="choose S0 or S1")


def _with_inspected(
    measured: Sequence[Finding], inspected: Sequence[Finding], *, has_roles: bool
) -> tuple[Finding, ...]:
    """The findings of the table, and those that `inspect` reports about the same rows, which it alone decides on.

    Where both count the same share, the table's own wording stays, which has intervals and the share of the signal.
    With weights by role the table alone holds what is trained of other roles.
    """
    from sftloss.analysis.mask.rules import INSPECT_RULES
    from sftloss.data.account import ROW_RULES

    decided = {rule.id for rule in ROW_RULES} | {rule.id for rule in INSPECT_RULES}
    decided -= {"MASK010"} if has_roles else set()
    by_id = {finding.id: finding for finding in measured}
    kept = [finding for finding in measured if finding.id not in decided]
    for finding in inspected:
        own = by_id.get(finding.id)
        if finding.id in decided:
            is_same = own is not None and finding.id != "MASK007" and own.value == finding.value
            kept.append(replace(own, severity=finding.severity, rows=finding.rows) if own and is_same else finding)
    return by_severity(kept)


def _facts(model: Any, examples: Examples, run: Run) -> tuple[tuple[str, str], ...]:
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "")) or type(model).__name__
    note = weights_note(model)
    return (("model", name), *((("weights", note),) if note else ()), *examples.account.facts())


def _provenance(run: Run) -> tuple[tuple[str, str], ...]:
    """Enough to make the same report again; no clock, so equal runs give equal bytes."""
    names = ("sftloss", "python", "torch", "transformers", "polars")
    versions = ("versions", ", ".join(f"{name} {version}" for name, version in package_versions(*names).items()))
    return (*run.provenance, versions)


def with_run(document: Document, command: Command | None) -> Document:
    """The document with every command it advises made one that runs as it stands, on this run's model and data.

    Args:
        document: As the analysis made it.
        command: The command line of this run. None, or without model and data, where the run was asked for from
            Python: their names on a command line are not known there.
    """
    flags = dict(() if command is None else command.flags)
    if "--model" not in flags or "--data" not in flags:
        return document
    # an earlier report is never overwritten unasked, so the next one needs a folder of its own
    if "--output" in flags or command is not None and command.verb == "analyze":
        flags["--output"] = flags.get("--output", "sftloss-report") + "-next"
    inputs, own = (tuple((name, flags[name]) for name in names if name in flags) for names in (_INPUTS, _ANALYZE_ONLY))
    reference = tuple(pair for pair in own if pair[0] == "--reference" and pair[1])
    extra = {"analyze": own, "compare": reference}
    return with_commands(document, lambda one: one.on(inputs, extra.get(one.verb, ())))

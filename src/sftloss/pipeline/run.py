"""How an analysis runs: what is read, how much at a time, where it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sftloss.document import Command
from sftloss.errors import ConfigError, mention

if TYPE_CHECKING:
    from sftloss.data import Records


@dataclass(frozen=True)
class Run:
    """Which rows are analyzed, how much at a time, and where the results go.

    Attributes:
        columns: The data's own names of its columns, as ``{"prompt": "q", "response": "a"}``.
        format: The data's format; None finds it out for each row.
        on_error: What an unusable row does: ``"report"`` counts it and refuses data that is mostly unusable,
            ``"skip"`` counts it, ``"raise"`` stops at the first.
        max_examples: Examples read, from the start; None reads all.
        max_length, truncate, template, chat_template_kwargs, think_weight, thinking: How rows become tokens, as
            in :class:`sftloss.data.Encoding`.
        reference: Folders of values of reference models that the objectives read, as ``sftloss reference`` writes them.
        tokens_per_batch: Tokens of one forward pass, padding included; lower it where memory is short.
        output: Folder for ``report.html``, ``report.json`` and ``table/``; None writes nothing that stays.
        overwrite: Replace an earlier report in `output`. Files of other names there are never touched.
        resume: Go on from the table in `output`, as far as it got.
        progress: Called with the tokens done and the tokens in all, None where unknown.
        shard: ``(rank, world size)`` where several processes share the work: each runs the same call with its own
            rank, rank 0 :func:`analyze` and the others :func:`take_part`, and `output` is a folder that all can see.
        rank_timeout: Seconds in which all ranks must have joined.
        command: The command line that asks for this run, for the report's provenance.
        lang: Language of the report, ``"en"`` or ``"zh"``.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    on_error: str = "report"
    max_examples: int | None = None
    max_length: int | None = None
    truncate: str = "end"
    template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    think_weight: float | None = None
    thinking: str = "keep"
    reference: str | Path | tuple[str | Path, ...] = ()
    tokens_per_batch: int = 4096
    output: str | Path | None = None
    overwrite: bool = False
    resume: bool = False
    progress: Callable[[int, int | None], None] | None = None
    shard: tuple[int, int] = (0, 1)
    rank_timeout: float = 600.0
    command: Command | None = None
    lang: str = "en"

    @property
    def provenance(self) -> tuple[tuple[str, str], ...]:
        """The command as a line of the report's provenance; nothing where there is none."""
        return () if self.command is None else (("command", str(self.command)),)

    def __post_init__(self) -> None:
        if self.overwrite and self.resume:
            raise ConfigError(
                f"{mention('overwrite')} starts over and {mention('resume')} continues", cure="choose one"
            )
        if self.shard[1] > 1 and self.output is None:
            raise ConfigError("several ranks meet in the output folder", option="output", cure="name one")


def records_of(rows: Any, run: Run, *, on_error: str | None = None) -> Records:
    """The records of a data file, folder, hub data set or of rows at hand, read with the options of `run`.

    Args:
        rows: As `sftloss.data.read_records` takes them.
        run: Format, columns, policy and limit.
        on_error: A policy in place of the run's.
    """
    from sftloss.data import read_records

    policy = on_error or run.on_error
    return read_records(rows, format=run.format, columns=run.columns, on_error=policy, limit=run.max_examples)

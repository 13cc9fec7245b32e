"""`sftloss inspect`: what is trained on, and is the mask right?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sftloss.cli.exit import DATA
from sftloss.cli.options import (
    OUTPUT,
    DataOptions,
    FolderOptions,
    ModelOptions,
    ShowOptions,
    StepOptions,
    Verbosity,
)
from sftloss.config import command_line, option, part, to_yaml
from sftloss.errors import ConfigError, mention


@dataclass(frozen=True)
class InspectFlags:
    """Flags and YAML keys of `sftloss inspect`."""

    model: ModelOptions = part(ModelOptions(), optional=("model",))
    data: DataOptions = part(DataOptions())
    step: StepOptions = part(StepOptions())
    examples: int = option(3, "Number of examples shown token by token.", panel=OUTPUT, minimum=0)
    dry_run: bool = option(False, "Show the options and what would be trained, and write nothing.", panel=OUTPUT)
    folder: FolderOptions = part(FolderOptions())
    show: ShowOptions = part(ShowOptions())


def inspect(options: InspectFlags, verbosity: Verbosity) -> int:
    """Show what is trained on. The mask audit: it reads the tokenizer and the data, no weights.

    Example: sftloss inspect --model MODEL --data train.jsonl
    """
    from sftloss.analysis.mask.inspect import InspectOptions
    from sftloss.cli.show import in_brief, print_note, print_report, print_text, progress_bar, verdict
    from sftloss.data import load_tokenizer
    from sftloss.pipeline import Run, inspect

    name, show, folder = options.model.tokenizer or options.model.model, options.show, options.folder
    if not name:
        cure = f"give {mention('model')} or {mention('tokenizer')}"
        raise ConfigError("missing", option="tokenizer", cure=cure)
    if options.dry_run:
        show, folder = (
            replace(show, json="-" if show.json == "-" else None, markdown=None),
            replace(folder, output=None),
        )
    question = InspectOptions(options.examples, options.step.batch_size, options.step.grad_accum)
    given = "tokenizer" if options.model.tokenizer else "model"
    with progress_bar("reading", verbosity) as progress:
        command = command_line("inspect", options)
        run = Run(**options.data.reading, **folder.place, progress=progress, command=command)
        tokenizer = load_tokenizer(name, revision=options.model.revision, option=given)
        report = inspect(options.data.data, tokenizer, question=question, run=run)
    sections, brief = report.document.sections, in_brief(report) if show.brief else report.document
    if options.dry_run:
        if "-" not in (show.json, show.markdown):
            print_text(to_yaml(options))
        strips = tuple(strip for section in sections for strip in section.strips)[: options.examples]
        totals = (replace(section, strips=strips) for section in sections if section.id == "totals")
        brief = replace(brief, sections=tuple(totals))
    print_report(report, json=show.json, markdown=show.markdown, brief=brief)
    if folder.output is not None:
        print_note(f"wrote {folder.output}/report.html", verbosity)
    has_examples = any(section.id == "trained" for section in sections)
    return verdict(report, options.show.fail_on) if has_examples else DATA

"""From a record of options to the flags of a verb: one description serves flags, YAML keys and help."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperCommand

from sftloss.cli.exit import exit_codes
from sftloss.cli.log import log_to_stderr
from sftloss.config import Option, options_of, resolve, to_yaml


@dataclass(frozen=True)
class Verbosity:
    """How much a verb prints on stderr; given on the command line only."""

    quiet: bool = False
    verbose: bool = False


class Sectioned(TyperCommand):
    """A command whose help lists the options under headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the parameters, grouped by their panel in the order of its first option."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or "General", []).append(record)
        for name, records in panels.items():
            with formatter.section(name):
                formatter.write_dl(records)


def command(schema: type) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Make `verb(options, verbosity) -> exit code` a command with a flag for each option of `schema`.

    Flags the user did not give stay None, so that a YAML file given by ``-c`` can fill them; then defaults do.
    """
    options = list(options_of(schema))

    def wrap(verb: Callable[..., int | None]) -> Callable[..., None]:
        def run(**values: Any) -> None:
            verbosity = Verbosity(values.pop("quiet"), values.pop("verbose"))
            config, print_config = values.pop("config", None), values.pop("print_config", False)
            with (
                exit_codes(verbosity.verbose, options, config=config),
                log_to_stderr(quiet=verbosity.quiet, verbose=verbosity.verbose),
            ):
                # typer gives an empty list, not None, for a repeated flag that is absent
                flags = {name: None if value in ([], ()) else value for name, value in values.items()}
                resolved: Any = resolve(schema, flags, config=config)
                if print_config:
                    typer.echo(to_yaml(resolved), nl=False)
                    return
                code = verb(resolved, verbosity)
                sys.stdout.flush()
                raise typer.Exit(code or 0)

        parameters = [_parameter(one) for one in options] + _common(bool(options))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = verb.__name__, verb.__doc__
        return run

    return wrap


def _parameter(one: Option) -> inspect.Parameter:
    flag = one.flag
    annotation: Any = {tuple: list[str], dict: str}.get(one.base, one.base)
    metavar = flag.metavar or "|".join(flag.choices) or {bool: None, int: "N", float: "X"}.get(one.base, "NAME")
    if flag.is_positional:
        info: Any = typer.Argument(None, help=_help(one), metavar=metavar, show_default=False)
    else:
        name = f"--{one.key}/--no-{one.key}" if one.base is bool else f"--{one.key}"
        names = [name, flag.short] if flag.short else [name]
        info = typer.Option(
            None, *names, help=_help(one), metavar=metavar, rich_help_panel=flag.panel, show_default=False
        )
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation | None)


def _help(one: Option) -> str:
    """The sentence, whether the option may be repeated, and the default where it says something."""
    text = f"{one.flag.help} May be repeated." if one.base is tuple and not one.flag.is_positional else one.flag.help
    if one.flag.required and not one.default:
        return f"{text} [required]"
    if one.default in (None, "", (), False, {}):
        return text
    shown = ", ".join(one.default) if isinstance(one.default, tuple) else one.default
    return f"{text} [default: {shown:g}]" if isinstance(shown, float) else f"{text} [default: {shown}]"


def _common(has_options: bool) -> list[inspect.Parameter]:
    """The flags every verb has; those about a configuration only where there is something to configure."""
    flags: list[tuple[str, type, Any, tuple[str, ...], str]] = [
        ("quiet", bool, False, ("--quiet", "-q"), "Print no progress and no notes on stderr, only errors."),
        ("verbose", bool, False, ("--verbose", "-v"), "Print warnings, and the traceback of an error."),
    ]
    if has_options:
        text = "YAML file whose keys are the names of these flags; flags override it."
        flags.append(("config", str, None, ("--config", "-c"), text))
        text = "Print the resolved options as YAML and stop."
        flags.append(("print_config", bool, False, ("--print-config",), text))
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=typer.Option(
                default, *names, help=text, show_default=False, metavar="FILE" if kind is str else None,
                rich_help_panel="General",
            ),
            annotation=kind if default is not None else kind | None,
        )
        for name, kind, default, names, text in flags
    ]  # fmt: skip

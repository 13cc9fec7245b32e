"""From a record of options to the flags of a verb: one description serves flags, YAML keys and help."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from sftloss.cli.exit import exit_codes
from sftloss.cli.log import log_to_stderr
from sftloss.cli.options import Verbosity
from sftloss.config import Option, options_of, resolve, to_yaml, values_of
from sftloss.errors import ConfigError, mention
from sftloss.files import OptionPath, check_outputs
from sftloss.models import read_places


class Sectioned(TyperCommand):
    """A command whose help lists the options under headings, and whose line in a list of commands is a sentence."""

    def get_short_help_str(self, limit: int = 0) -> str:
        """The first sentence of the help, whatever its length: a list of commands breaks its lines."""
        return super().get_short_help_str(limit=10_000)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the parameters, grouped by their panel in the order of its first option."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                panel = getattr(parameter, "rich_help_panel", None) or "General"
                panels.setdefault(panel, []).append((record[0].partition(" <")[0], record[1]))  # without a Python type
        for name, records in panels.items():
            with formatter.section(name):
                formatter.write_dl(records)


def command(schema: type) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Make `verb(options, verbosity) -> exit code` a command with a flag for each option of `schema`.

    Flags that are absent stay None, so that a YAML file named by ``-c`` can fill them; then defaults do.
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
                flags |= {one.name: _number(flags[one.name]) for one in options if one.base in (int, float)}
                resolved: Any = resolve(schema, flags, config=config)
                if print_config:
                    typer.echo(to_yaml(resolved), nl=False)
                    return
                _check_places(options, values_of(resolved), config)
                code = verb(resolved, verbosity)
                sys.stdout.flush()
                raise typer.Exit(code or 0)

        parameters = [_parameter(one) for one in options] + _common(bool(options))
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = verb.__name__, verb.__doc__
        return run

    return wrap


def _number(text: str | None) -> int | float | str | None:
    """The number that a flag's text is, and any other text as it is."""
    for kind in (int, float):
        with suppress(TypeError, ValueError):
            return kind(text)  # type: ignore[arg-type]
    return text


def _check_places(options: Sequence[Option], values: dict[str, Any], config: str | None) -> None:
    """Refuse, before anything is computed, an output that is an input or another output, or that cannot be written.

    Files are written beside their place and renamed onto it, which would replace a device. Under a launcher the first
    rank writes, so it alone checks.

    Raises:
        ConfigError: For the first such output.
    """
    inputs, outputs = [] if config is None else [OptionPath("config", Path(config))], []
    for one in options:
        value = values[one.name]
        for name in (value if isinstance(value, tuple) else (value,)) if value else ():
            if one.flag.reads:
                inputs += read_places(one.name, name)
            outputs += [OptionPath(one.name, Path(name).expanduser() / part) for part in one.flag.writes if name != "-"]
    if values.get("dry_run") or os.environ.get("RANK", "0") != "0":
        return
    check_outputs(inputs, outputs)
    may_replace = "overwrite" not in values or values["overwrite"] or values.get("resume")
    files = {one.name for one in options if one.flag.writes == ("",)}
    for option, path in (place for place in outputs if place.option in files):
        if path.exists() and not path.is_file():
            cure = f"give the name of a file, or {mention('json', '-')} for standard output"
            raise ConfigError(f"{path} is not a file", option=option, cure=cure)
        if path.exists() and not may_replace:
            cure = f"choose another name, or add {mention('overwrite', True)}"
            raise ConfigError(f"{path} already exists", option=option, cure=cure)
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise ConfigError(f"{path}: the folder {path.parent} is missing or cannot be written", option=option)


def _parameter(one: Option) -> inspect.Parameter:
    flag = one.flag
    # numbers are parsed here, so that a wrong one gets the sentence that it gets in a YAML file
    annotation: Any = {tuple: list[str], dict: str, int: str, float: str}.get(one.base, one.base)
    metavar = flag.metavar or "|".join(flag.choices) or {bool: None, int: "N", float: "X"}.get(one.base, "NAME")
    details: dict[str, Any] = {"help": _help(one), "metavar": metavar, "show_default": False}
    if flag.is_positional:
        info = typer.Argument(None, **details)
    else:
        name = f"--{one.key}/--no-{one.key}" if one.base is bool else f"--{one.key}"
        info = typer.Option(None, name, *filter(None, [flag.short]), rich_help_panel=flag.panel, **details)
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation | None)


def _help(one: Option) -> str:
    """The sentence, whether the option may be repeated, and the default where there is one."""
    text = f"{one.flag.help} May be repeated." if one.base is tuple and not one.flag.is_positional else one.flag.help
    if one.flag.required and not one.default:
        return f"{text} [required]"
    if one.default in (None, "", (), False, {}):
        return text
    shown = ", ".join(one.default) if isinstance(one.default, tuple) else one.default
    return f"{text} [default: {shown:g}]" if isinstance(shown, float) else f"{text} [default: {shown}]"


def _common(has_options: bool) -> list[inspect.Parameter]:
    """The flags every verb has; those about a configuration only where there is something to configure."""
    flags: list[tuple[str, Any, Any, str, str]] = [
        ("quiet", bool, False, "-q", "Print no progress and no notes on stderr, only errors."),
        ("verbose", bool, False, "-v", "Print warnings, and the traceback of an error."),
        ("config", str | None, None, "-c", "YAML file whose keys are the names of these flags; flags override it."),
        ("print_config", bool, False, "", "Print the resolved options as YAML and stop."),
    ]
    parameters = []
    for name, annotation, default, short, text in flags if has_options else flags[:2]:
        names, metavar = [f"--{name.replace('_', '-')}", *filter(None, [short])], "FILE" if default is None else None
        info = typer.Option(default, *names, help=text, metavar=metavar, show_default=False, rich_help_panel="General")
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation))
    return parameters

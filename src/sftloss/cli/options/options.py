"""From a dataclass of options to the flags of a verb: one description serves flags, YAML keys and help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, get_args, get_type_hints

import typer

from sftloss.cli.exit import exit_codes
from sftloss.cli.log import heard
from sftloss.config import Flag, resolve, spelled, to_yaml


@dataclass(frozen=True)
class Manner:
    """How a verb speaks; said on the command line only."""

    quiet: bool = False
    verbose: bool = False


def takes(schema: type) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Make `verb(options, manner) -> exit code` a command with a flag for each field of `schema`.

    Flags the user did not give stay None, so that a YAML file given by ``-c`` can fill them; then defaults do.
    """

    def wrap(verb: Callable[..., int | None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            manner = Manner(given.pop("quiet"), given.pop("verbose"))
            config, print_config = given.pop("config", None), given.pop("print_config", False)
            heard_now = heard(quiet=manner.quiet, verbose=manner.verbose)
            with exit_codes(manner.verbose, [f.name for f in fields(schema)]), heard_now:
                # typer gives an empty list, not None, for a repeated flag that is absent
                flags = {name: None if value in ([], ()) else value for name, value in given.items()}
                options: Any = resolve(schema, flags, config=config)
                if print_config:
                    typer.echo(to_yaml(options), nl=False)
                    return
                raise typer.Exit(verb(options, manner) or 0)

        parameters = [_parameter(f, get_type_hints(schema)[f.name]) for f in fields(schema)] + _common(schema)
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__name__, command.__doc__ = verb.__name__, verb.__doc__
        return command

    return wrap


def _parameter(f: Field[Any], kind: Any) -> inspect.Parameter:
    flag: Flag = f.metadata["flag"]
    base = next((a for a in get_args(kind) if a is not type(None)), kind) if _is_optional(kind) else kind
    origin = getattr(base, "__origin__", None)
    annotation: Any = list[str] if origin is tuple else str if origin is dict else base
    name = spelled(f.name)
    names = [f"--{name}/--no-{name}" if base is bool else f"--{name}", *([flag.short] if flag.short else [])]
    metavar = flag.metavar or ("|".join(flag.choices) if flag.choices else None if base is bool else _metavar(f, base))
    if flag.is_positional:
        place: Any = typer.Argument(None, help=_help(f, flag), metavar=metavar, show_default=False)
        return inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=place, annotation=annotation | None)
    info = typer.Option(
        None, *names, help=_help(f, flag), metavar=metavar, rich_help_panel=flag.panel, show_default=False
    )
    return inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation | None)


_METAVARS = {"model": "DIR|NAME", "tokenizer": "DIR|NAME", "data": "FILE|DIR|NAME", "template": "FILE"}


def _metavar(f: Field[Any], base: Any) -> str:
    """What to write for a value, where the option itself does not say."""
    return _METAVARS.get(f.name, {int: "N", float: "X"}.get(base, "NAME"))


def _help(f: Field[Any], flag: Flag) -> str:
    """The sentence, and the default where it says something."""
    default = f.default if f.default is not MISSING else None
    if flag.required:
        return f"{flag.help} [required]"
    if default in (None, "", (), False):
        return flag.help
    shown = ", ".join(default) if isinstance(default, tuple) else default
    return f"{flag.help} [default: {shown}]"


def _is_optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _common(schema: type) -> list[inspect.Parameter]:
    """The flags every verb has; those about a configuration only where there is something to configure."""
    flags: list[tuple[str, type, Any, tuple[str, ...], str]] = [
        ("quiet", bool, False, ("--quiet", "-q"), "No progress and no notes on stderr, only errors."),
        ("verbose", bool, False, ("--verbose", "-v"), "Show warnings, and the traceback of an error."),
    ]
    if fields(schema):
        told = "A YAML file whose keys are these flags' names; flags win."
        flags.append(("config", str, None, ("--config", "-c"), told))
        flags.append(("print_config", bool, False, ("--print-config",), "Print the resolved options as YAML and stop."))
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=typer.Option(
                default, *spellings, help=told, show_default=False, metavar="FILE" if kind is str else None
            ),
            annotation=kind if default is not None else kind | None,
        )
        for name, kind, default, spellings, told in flags
    ]

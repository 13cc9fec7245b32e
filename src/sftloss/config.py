"""Options of a command as one frozen dataclass, filled from defaults, then a YAML file, then flags.

The dataclass is the only description: the command line, the YAML keys, ``--print-config`` and the help all read it.
YAML is read as its authors meant it: ``1e-5`` is a number, ``no`` is a word, ``010`` is ten; a key given twice, an
unknown key or a value of the wrong type is an error with its line, never a silent default.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from sftloss.document import Command
from sftloss.errors import ConfigError
from sftloss.yaml import Entry, read_yaml, write_yaml

Options = TypeVar("Options")


@dataclass(frozen=True)
class Flag:
    """What the command line and the help need to know about an option beyond its type and default.

    Attributes:
        help: One sentence, shown by ``--help``.
        panel: Heading under which the help lists it.
        short: A one-letter flag, as ``-o``.
        choices: The values allowed; empty for any.
        metavar: What stands for the value in the help.
        required: Whether a value must come from the file or a flag.
        minimum: Smallest number allowed.
        takes_numbers: Whether a text also accepts a bare number, as ``normalization: 0.5`` or ``roles: {prompt: 0.1}``.
        is_positional: Whether the command line takes it without a flag, as ``report A B``; in YAML it is a key still.
    """

    help: str
    panel: str = "Options"
    short: str = ""
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    required: bool = False
    minimum: float | None = None
    takes_numbers: bool = False
    is_positional: bool = False


def option(default: Any, help: str, **details: Any) -> Any:
    """A dataclass field that is also a flag and a YAML key; `details` are the fields of `Flag`."""
    flag = Flag(help, **details)
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"flag": flag})
    return field(default=default, metadata={"flag": flag})


def spelled(name: str) -> str:
    """The flag and YAML key of a field: ``max_length`` is written ``max-length``."""
    return name.replace("_", "-")


def resolve(schema: type[Options], flags: Mapping[str, Any], *, config: str | Path | None = None) -> Options:
    """The options of one run: defaults, overridden by the file `config`, overridden by `flags`.

    Args:
        schema: A frozen dataclass whose fields are made by `option`.
        flags: Field name to value; None means the flag was not given.
        config: A YAML file whose keys are flag names; ``max_length`` and ``max-length`` are the same key.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown or given twice, a value has the wrong type or is not
            among the choices, or a required option is missing.
    """
    known = {f.name: f.metadata["flag"] for f in fields(schema)}  # type: ignore[arg-type]
    kinds = get_type_hints(schema)
    values: dict[str, Any] = {}
    for key, entry in (read_yaml(config) if config is not None else {}).items():
        where = f"{config}:{entry.line}"
        name = _field_name(key, entry, known, values, where)
        values[name] = _checked(f"{where}: {spelled(name)}", entry.value, kinds[name], known[name])
    for name, value in flags.items():
        if value is not None:
            values[name] = _checked(f"--{spelled(name)}", value, kinds[name], known[name])
    for name, flag in known.items():
        if flag.required and values.get(name) in (None, ""):
            what = (flag.metavar or name.upper()) if flag.is_positional else f"--{spelled(name)}"
            raise ConfigError(f"{what} is missing: give it, or '{spelled(name)}:' in the -c file.")
    return schema(**values)


def to_yaml(options: Any) -> str:
    """The resolved options as a YAML file that gives the same run again."""
    plain = {}
    for f in fields(options):
        value = getattr(options, f.name)
        plain[spelled(f.name)] = list(value) if isinstance(value, tuple) else value
    return write_yaml(plain)


def command_line(verb: str, options: Any) -> Command:
    """The command that asks for these options: every flag whose value is not the default."""
    flags: list[tuple[str, str]] = []
    for f in fields(options):
        value, flag = getattr(options, f.name), f"--{spelled(f.name)}"
        default = f.default if f.default is not MISSING else {}
        if value == default:
            continue
        if f.metadata["flag"].is_positional:
            flags += [(str(item), "") for item in value]
            continue
        if isinstance(value, bool):
            flags.append((flag if value else f"--no-{spelled(f.name)}", ""))
        elif isinstance(value, dict):
            flags.append((flag, ",".join(f"{name}={column}" for name, column in value.items())))
        else:
            flags += [(flag, str(item)) for item in (value if isinstance(value, tuple) else (value,))]
    return Command(verb, tuple(flags), inputs=())


def _field_name(key: str, entry: Entry, known: Mapping[str, Flag], seen: Mapping[str, Any], where: str) -> str:
    name = key.replace("-", "_")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{spelled(close[0])}'?" if close else f"known keys: {', '.join(map(spelled, known))}."
        raise ConfigError(f"{where}: unknown key {key[:60]!r}; {hint}")
    if name in seen:
        raise ConfigError(f"{where}: key '{spelled(name)}' is given twice; keep one.")
    return name


def _checked(where: str, value: Any, kind: Any, flag: Flag) -> Any:
    """`value` as the field's type, or a ConfigError that says what was expected."""
    optional = type(None) in get_args(kind)
    if value is None:
        if optional:
            return None
        raise ConfigError(f"{where}: empty; give a value or leave the key out.")
    base = next(a for a in get_args(kind) if a is not type(None)) if optional else kind
    origin = getattr(base, "__origin__", None)
    if origin is tuple:
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return tuple(_text(where, item, flag) for item in items)
    if origin is dict:
        return _pairs(where, _with_numbers_as_text(value) if flag.takes_numbers else value)
    if base is str:
        return _text(where, value, flag)
    if base is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: expected true or false, got {_short(value)}.")
        return value
    return _number(where, value, base, flag)


def _text(where: str, value: Any, flag: Flag) -> str:
    if flag.takes_numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ConfigError(f"{where}: expected text, got {_short(value)}; quote it if it is meant as text.")
    if flag.choices and value not in flag.choices:
        close = difflib.get_close_matches(value, flag.choices, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        raise ConfigError(f"{where}: {_short(value)} is none of {', '.join(flag.choices)}{hint}")
    return value


def _number(where: str, value: Any, kind: type, flag: Flag) -> int | float:
    wanted = "a whole number" if kind is int else "a number"
    allowed = (int,) if kind is int else (int, float)
    if not isinstance(value, allowed) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"{where}: expected {wanted}, got {_short(value)}.")
    if flag.minimum is not None and value < flag.minimum:
        raise ConfigError(f"{where}: expected at least {flag.minimum:g}, got {value}.")
    return kind(value)


def _with_numbers_as_text(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    is_number = {name: isinstance(v, int | float) and not isinstance(v, bool) for name, v in value.items()}
    return {name: str(v) if is_number[name] else v for name, v in value.items()}


def _pairs(where: str, value: Any) -> dict[str, str]:
    """``prompt=q,response=a`` from a flag, or a mapping from YAML."""
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",")]
        if not all(sep and left.strip() and right.strip() for left, sep, right in parts):
            raise ConfigError(f"{where}: expected name=column pairs as prompt=q,response=a, got {_short(value)}.")
        if len({left.strip() for left, _, _ in parts}) < len(parts):
            raise ConfigError(f"{where}: a name is given twice in {_short(value)}.")
        return {left.strip(): right.strip() for left, _, right in parts}
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for pair in value.items() for v in pair):
        raise ConfigError(f"{where}: expected names and columns, as {{prompt: q, response: a}}, got {_short(value)}.")
    return dict(value)


def _short(value: Any) -> str:
    """The value in at most 60 characters: a nested YAML value may be huge when printed."""
    if isinstance(value, str | int | float | bool):
        return repr(value)[:60]
    return {"list": "a list", "dict": "a mapping"}.get(type(value).__name__, type(value).__name__)

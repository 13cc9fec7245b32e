"""Options of a command as one frozen dataclass, filled from defaults, then a YAML file, then flags.

The dataclass is the only description: the command line, the YAML keys, ``--print-config`` and the help all read it.
A field is an option (`option`) or a record of options shared by several commands (`part`), whose fields are options of
the command too. YAML is read as its authors meant it: ``1e-5`` is a number, ``no`` is a word, ``010`` is ten; a key
given twice, an unknown key or a value of the wrong type is an error with its line, never a silent default.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from sftloss.document import Command
from sftloss.errors import ConfigError
from sftloss.yaml import read_yaml, write_yaml

Options = TypeVar("Options")


@dataclass(frozen=True)
class Flag:
    """The properties of an option beyond its type and default.

    Attributes:
        help: One sentence, shown by ``--help``.
        panel: Heading under which the help lists it.
        short: A one-letter flag, as ``-o``.
        choices: The values allowed; empty for any.
        metavar: What stands for the value in the help.
        required: Whether a value must come from the file or a flag, unless there is a default.
        minimum: Smallest number allowed.
        takes_numbers: Whether a text also accepts a bare number, as ``normalization: 0.5`` or ``roles: {prompt: 0.1}``.
        argument: Name of the argument that library errors use, where it is not the option's own.
        is_device: Whether it names devices: ``gpu`` is then read as ``cuda``.
        reads: Whether it names a file or folder that is read.
        writes: What is written in the folder that it names; ``("",)`` where it names a file that is written.
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
    argument: str = ""
    is_device: bool = False
    reads: bool = False
    writes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """An option of a command: name in Python, type, default and flag, and the field that holds it with others."""

    name: str
    kind: Any
    default: Any
    flag: Flag
    part: str | None = None

    @property
    def key(self) -> str:
        """The YAML key, and the flag without its dashes: ``max_length`` is written ``max-length``."""
        return as_key(self.name)

    @property
    def base(self) -> Any:
        """The type without ``None``: str, int, float, bool, tuple or dict."""
        base = next((kind for kind in get_args(self.kind) if kind is not type(None)), self.kind)
        base = base if type(None) in get_args(self.kind) else self.kind
        return getattr(base, "__origin__", base)


def option(default: Any, help: str | Flag, **details: Any) -> Any:
    """A dataclass field that is also a flag and a YAML key; `details` are the fields of `Flag`."""
    flag = help if isinstance(help, Flag) else Flag(help, **details)
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"flag": flag})
    return field(default=default, metadata={"flag": flag})


def part(
    record: Options,
    *,
    optional: Sequence[str] = (),
    help: Mapping[str, str] | None = None,
    writes: Mapping[str, tuple[str, ...]] | None = None,
) -> Options:
    """A dataclass field that is a record of options; its own fields are flags and YAML keys of the command.

    Args:
        record: Its values are the defaults of this command. None there is always allowed.
        optional: Options that other commands require and this one does not.
        help: Option name to a sentence in place of the shared one.
        writes: Option name to what this command writes there.
    """
    return field(default=record, metadata={"optional": optional, "help": help or {}, "writes": writes or {}})


def options_of(schema: type | Any) -> Iterator[Option]:
    """Every option of a command, those of its parts in their place."""
    kinds = get_type_hints(schema)
    for f in fields(schema):
        if "flag" in f.metadata:
            default = f.default if f.default is not MISSING else {}
            yield Option(f.name, kinds[f.name], default, f.metadata["flag"])
            continue
        for inner in options_of(kinds[f.name]):
            is_required = inner.flag.required and inner.name not in f.metadata["optional"]
            help = f.metadata["help"].get(inner.name, inner.flag.help)
            writes = f.metadata["writes"].get(inner.name, inner.flag.writes)
            flag = replace(inner.flag, required=is_required, help=help, writes=writes)
            yield replace(inner, default=getattr(f.default, inner.name), flag=flag, part=f.name)


def values_of(options: Any) -> dict[str, Any]:
    """Every option's value by name, those of parts among them."""
    return {
        one.name: getattr(options if one.part is None else getattr(options, one.part), one.name)
        for one in options_of(type(options))
    }


def as_key(name: str) -> str:
    """The YAML key of an option: ``max_length`` is written ``max-length``."""
    return name.replace("_", "-")


def resolve(schema: type[Options], flags: Mapping[str, Any], *, config: str | Path | None = None) -> Options:
    """The options of one run: defaults, overridden by the file `config`, overridden by `flags`.

    Args:
        schema: A frozen dataclass whose fields are made by `option` and `part`.
        flags: Option name to value; None means the flag was not given.
        config: A YAML file whose keys are flag names; ``max_length`` and ``max-length`` are the same key.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown or given twice, a value has the wrong type or is not
            among the choices, or a required option is missing.
    """
    known = {one.name: one for one in options_of(schema)}
    values: dict[str, Any] = {}
    for name, (value, where) in _of_file(config, known).items():
        try:
            values[name] = _checked(value, known[name])
        except ConfigError as error:
            raise ConfigError(error.problem, option=name, cure=error.cure, where=where) from None
    values |= {name: _checked(value, known[name]) for name, value in flags.items() if value is not None}
    for one in known.values():
        if one.flag.required and not values.get(one.name, one.default):
            raise ConfigError("missing", option=one.name, cure=f"give it, or '{one.key}:' in the -c file")
    own = {name: value for name, value in values.items() if known[name].part is None}
    for f in fields(schema):  # type: ignore[arg-type]
        inside = {name: value for name, value in values.items() if known[name].part == f.name}
        if inside:
            own[f.name] = replace(f.default, **inside)  # type: ignore[type-var]
    return schema(**own)


def places_of(config: str | Path | None) -> dict[str, str]:
    """Option name to ``file:line`` of each key in a YAML file; nothing where the file cannot be read."""
    try:
        entries = {} if config is None else read_yaml(config)
    except ConfigError:
        return {}
    return {key.replace("-", "_"): f"{config}:{entry.line}" for key, entry in entries.items()}


def to_yaml(options: Any) -> str:
    """The resolved options as a YAML file that gives the same run again."""
    values = values_of(options).items()
    return write_yaml({as_key(name): list(value) if isinstance(value, tuple) else value for name, value in values})


def command_line(verb: str, options: Any) -> Command:
    """The command that asks for these options: every flag whose value is not the default."""
    flags: list[tuple[str, str]] = []
    values = values_of(options)
    for one in options_of(type(options)):
        value, flag = values[one.name], f"--{one.key}"
        if value == one.default:
            continue
        if one.flag.is_positional:
            flags += [(str(item), "") for item in value]
        elif isinstance(value, bool):
            flags.append((flag if value else f"--no-{one.key}", ""))
        elif isinstance(value, dict):
            flags.append((flag, ",".join(f"{name}={column}" for name, column in value.items())))
        else:
            flags += [(flag, str(item)) for item in (value if isinstance(value, tuple) else (value,))]
    return Command(verb, tuple(flags), inputs=())


def meant(text: str, known: Sequence[str]) -> str | None:
    """The known word that `text` most likely stands for, None where none is near."""
    return next(iter(difflib.get_close_matches(text, known, n=1)), None)


def _of_file(config: str | Path | None, known: Mapping[str, Option]) -> dict[str, tuple[Any, str]]:
    """Option name to value and place, of each key in the file."""
    values: dict[str, tuple[Any, str]] = {}
    for key, entry in (read_yaml(config) if config is not None else {}).items():
        name, where = key.replace("-", "_"), f"{config}:{entry.line}"
        if name not in known:
            close = meant(name, list(known))
            known_keys = f"known keys: {', '.join(map(as_key, known))}"
            cure = f"did you mean '{as_key(close)}'?" if close else known_keys
            raise ConfigError(f"unknown key {key[:60]!r}", where=where, cure=cure)
        if name in values:
            raise ConfigError(f"key '{as_key(name)}' is given twice", where=where, cure="keep one")
        values[name] = (entry.value, where)
    return values


def _checked(value: Any, one: Option) -> Any:
    """`value` as the option's type, or a ConfigError that names what was expected."""
    if value is None:
        if type(None) in get_args(one.kind) or one.default is None:
            return None
        raise ConfigError("empty", option=one.name, cure="give a value or leave the key out")
    if one.base is tuple:
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return tuple(_text(item, one) for item in items)
    if one.base is dict:
        return _pairs(value, one)
    if one.base is str:
        return _text(value, one)
    if one.base is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"expected true or false, got {_short(value)}", option=one.name)
        return value
    return _number(value, one)


def _text(value: Any, one: Option) -> str:
    if one.flag.takes_numbers and _is_number(value):
        value = str(value)
    if not isinstance(value, str):
        cure = "quote it if it is meant as text"
        raise ConfigError(f"expected text, got {_short(value)}", option=one.name, cure=cure)
    if "\0" in value:
        raise ConfigError(f"{_short(value)} has a NUL character, which no name has", option=one.name)
    if one.flag.is_device:
        value = re.sub(r"\bgpu\b", "cuda", value)
    if one.flag.choices and value not in one.flag.choices:
        close = meant(value, one.flag.choices)
        problem = f"{_short(value)} is none of {', '.join(one.flag.choices)}"
        raise ConfigError(problem, option=one.name, cure=f"did you mean '{close}'?" if close else None)
    return str(value)


def _number(value: Any, one: Option) -> int | float:
    is_whole = one.base is int
    if not _is_number(value) or (is_whole and not isinstance(value, int)) or not math.isfinite(value):
        expected = "a whole number" if is_whole else "a number"
        raise ConfigError(f"expected {expected}, got {_short(value)}", option=one.name)
    if one.flag.minimum is not None and value < one.flag.minimum:
        raise ConfigError(f"expected at least {one.flag.minimum:g}, got {value}", option=one.name)
    return int(value) if is_whole else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pairs(value: Any, one: Option) -> dict[str, str]:
    """``prompt=q,response=a`` from a flag, or a mapping from YAML."""
    if isinstance(value, str):
        parts = [part.partition("=") for part in value.split(",")]
        if not all(sep and left.strip() and right.strip() for left, sep, right in parts):
            problem = f"expected name=value pairs such as {one.flag.metavar or 'a=b'}, got {_short(value)}"
            raise ConfigError(problem, option=one.name)
        if len({left.strip() for left, _, _ in parts}) < len(parts):
            raise ConfigError(f"a name is given twice in {_short(value)}", option=one.name)
        return {left.strip(): right.strip() for left, _, right in parts}
    if isinstance(value, Mapping) and one.flag.takes_numbers:
        value = {name: json.dumps(item) if isinstance(item, int | float) else item for name, item in value.items()}
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for pair in value.items() for v in pair):
        problem = f"expected names and their values, such as {{prompt: q, response: a}}, got {_short(value)}"
        raise ConfigError(problem, option=one.name)
    return dict(value)


def _short(value: Any) -> str:
    """The value in at most 60 characters: a nested YAML value may be huge when printed."""
    if isinstance(value, str | int | float | bool):
        return repr(value)[:60]
    return {"list": "a list", "dict": "a mapping"}.get(type(value).__name__, type(value).__name__)

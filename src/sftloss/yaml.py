"""A YAML reader for configuration: plain values, no surprises, a line number for every key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sftloss.errors import ConfigError

_MAX_BYTES, _MAX_DEPTH, _MAX_ALIASES = 1_000_000, 20, 20

# YAML 1.2's core schema. PyYAML's own table is 1.1: there 1e-5 is text, no is false, 010 is eight, 12:30:00 is 45000.
_SCALARS = [
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+", [*"-+0123456789"]),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|nan)", [*"-+.0123456789"]),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),  # "": a key with nothing after it
    ("merge", r"<<", ["<"]),
]


@dataclass(frozen=True)
class Entry:
    """A value of the file and the line (from 1) its key stands on."""

    value: Any
    line: int


def read_yaml(path: str | Path) -> dict[str, Entry]:
    """The top-level keys of a YAML file, each with its line.

    Raises:
        ConfigError: If the file is missing, larger than 1 MB, no valid YAML, no mapping, has a key twice, or nests or
            aliases deeper than any configuration does.
    """
    import yaml

    text, loader = _text(Path(path)), None
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: expected 'key: value' lines, found a {node.id}.")
        entries: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in entries:
                raise ConfigError(f"{path}:{line}: key {key[:60]!r} is given twice; keep one.")
            entries[key] = Entry(loader.construct_object(value_node, deep=True), line)
        return entries
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, reason = f":{mark.line + 1}" if mark is not None else "", getattr(error, "problem", None)
        if isinstance(error, yaml.reader.ReaderError):
            line = f":{text.count(chr(10), 0, error.position) + 1}"
            reason = f"the character {error.character:#04x}, which YAML does not allow"
        raise ConfigError(reason or "not valid YAML", where=f"{path}{line}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        # a tag that the value does not fit, as !!bool maybe: PyYAML's constructors trust their input
        raise ConfigError(f"{path}: a value does not fit its !!tag; leave the tag out.") from None
    finally:
        if loader is not None:
            loader.dispose()


def write_yaml(values: dict[str, Any]) -> str:
    """`values` as YAML that `read_yaml` reads as the same values, and readers of YAML 1.1 too."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    # text is quoted wherever either table would read something else
    for tag, pattern, first in _SCALARS:
        Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first)
    Dumper.add_representer(str, _text_node)
    return str(yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True))


def _text_node(dumper: Any, text: str) -> Any:
    """Text in double quotes where a character must be escaped: PyYAML would fold a line separator into a blank."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()[: _MAX_BYTES + 1] if path.is_file() else None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    if raw is None:
        raise ConfigError(f"{path}: no such file; -c takes a YAML file.")
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{path}: larger than {_MAX_BYTES} bytes, which no configuration is.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8; save it as UTF-8.") from None


@lru_cache(maxsize=1)
def _loader() -> Any:
    """A safe loader of PyYAML's with the table above; built on first use, so that help needs no PyYAML."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}
        aliases = 0
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.aliases += self.check_event(yaml.AliasEvent)
            self.depth += 1
            if self.aliases > _MAX_ALIASES or self.depth > _MAX_DEPTH:
                problem = f"more than {_MAX_ALIASES} aliases or {_MAX_DEPTH} levels"
                raise yaml.composer.ComposerError(problem=problem, problem_mark=self.peek_event().start_mark)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            for key, _ in node.value:
                if keys.count(key.value) > 1:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key {str(key.value)[:60]!r} is given twice", problem_mark=key.start_mark
                    )
            return super().construct_mapping(node, deep)

    for tag, pattern, first in _SCALARS:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first)
    # "010" is ten: PyYAML's own constructor would read it as octal
    Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
    return Loader

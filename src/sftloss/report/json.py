"""A document as JSON and back, and the schema both keep: generated from the records, so they cannot drift apart."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import types
import typing
from typing import Any

from sftloss import document as records
from sftloss.document import Command, Document
from sftloss.errors import DataError

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def _plain(value: Any) -> Any:
    if isinstance(value, Command):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"to_json: a document holds text, numbers and records, got {type(value).__name__}.")


def to_json(document: Document) -> str:
    """The document as JSON: keys sorted, ASCII, NaN and infinities as null, so equal documents are equal bytes.

    Raises:
        TypeError: If a field holds anything but text, numbers, booleans, None and the records of ``analysis.document``.
    """
    return json.dumps(_plain(document), sort_keys=True, indent=1, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of :func:`to_json`'s output, generated from the records.

    Unknown keys are allowed: a later minor version may add some. A number that is not finite is null.
    """
    version = next(f.default for f in dataclasses.fields(Document) if f.name == "schema_version")
    kinds = [r for r in vars(records).values() if isinstance(r, type) and dataclasses.is_dataclass(r) and r != Command]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"sftloss report, version {version}",
        "$ref": "#/$defs/Document",
        "$defs": {kind.__name__: _object(kind) for kind in kinds},
    }


def _object(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    properties = {f.name: _schema_of(hints[f.name]) for f in dataclasses.fields(kind)}
    described = (kind.__doc__ or "").strip().split("\n")[0]
    return {"type": "object", "description": described, "properties": properties, "required": sorted(properties)}


def _schema_of(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Command:
        return {"type": "string"}
    if dataclasses.is_dataclass(hint):
        return {"$ref": f"#/$defs/{typing.cast(type, hint).__name__}"}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _schema_of(arguments[0])}
    if origin is tuple:
        items = [_schema_of(a) for a in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (typing.Union, types.UnionType):
        kinds = [_schema_of(a) for a in arguments if not (a is Command and str in arguments)]
        return {"anyOf": kinds} if len(kinds) > 1 else kinds[0]
    return {"type": ["number", "null"]} if hint is float else {"type": _PLAIN[hint]}


def from_json(text: str) -> Document:
    """The document that :func:`to_json` wrote. Null where a number is required (it was not finite) reads as NaN.

    Raises:
        DataError: If the text is not JSON, is of another major version, or a field is missing or of the wrong type.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"not JSON ({error})", cure="give the file that to_json wrote") from error
    if not isinstance(value, dict):
        raise DataError("a report is a JSON object", cure="give the file that to_json wrote")
    version, known = str(value.get("schema_version")), Document("", (), (), ()).schema_version
    if version.split(".")[0] != known.split(".")[0]:
        raise DataError(f"the report has schema version {version}, this release reads {known}", cure="write it anew")
    return typing.cast(Document, _read(value, Document, "report"))


def _read(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _read_record(value, typing.cast(type, hint), where)
    if origin is typing.Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(inner) == len(value):
            return tuple(_read(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(zip(value, inner, strict=True)))
    if origin in (typing.Union, types.UnionType):
        return _read_union(value, arguments, where)
    if hint is float and (value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))):
        return math.nan if value is None else float(value)
    if hint is str and isinstance(value, str):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    raise DataError(
        f"{where} is a {type(value).__name__}, which does not fit", cure="check it against the schema (sftloss schema)"
    )


def _read_union(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    scalar = next((c for c in choices if c is type(value)), None)
    if scalar is not None:
        return value
    rest = [c for c in choices if c is not type(None) and c is not int]
    for choice in rest:
        try:
            return _read(value, choice, where)
        except DataError:
            if choice is rest[-1]:
                raise
    raise DataError(f"{where} has a type that does not fit", cure="check it against the schema (sftloss schema)")


def _read_record(value: dict[str, Any], kind: type, where: str) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            fields[field.name] = _read(value[field.name], hints[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise DataError(f"{where} has no {field.name!r}", cure="check it against the schema (sftloss schema)")
    return kind(**fields)

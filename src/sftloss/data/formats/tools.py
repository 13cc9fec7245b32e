"""Tool calls and tool descriptions of every format, in the one shape that chat templates read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sftloss.data.reasons import BadRow, excerpt


def tool_calls(value: Any, where: str) -> tuple[Mapping[str, Any], ...]:
    """Calls as ``{"type": "function", "function": {"name", "arguments": object}}``, with the ``id`` if there is one.

    Args:
        value: One call or a list of them, as objects or as JSON text. A call is OpenAI's (``function``), or flat:
            ``name`` with ``arguments``, ``parameters`` or ``input``.
        where: The message, for the error.

    Raises:
        BadRow: ``bad-tool-call``.
    """
    value = _parsed(value, where)
    calls = value if isinstance(value, list | tuple) else [value]
    return tuple(_call(call, where) for call in calls)


def _call(call: Any, where: str) -> Mapping[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise BadRow("bad-tool-call", f"a tool call in {where} is {excerpt(call)}; write a name and arguments")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise BadRow("bad-tool-call", f"a tool call in {where} has no name; write one")
    keys = ("arguments", "parameters", "input")
    arguments: Any = next((function[key] for key in keys if function.get(key) is not None), {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments, where) if arguments.strip() else {}
    if not isinstance(arguments, Mapping):
        raise BadRow("bad-tool-call", f"the arguments of {excerpt(name)} in {where} are not an object; write one")
    canonical: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
    if isinstance(call.get("id"), str):
        canonical["id"] = call["id"]
    return canonical


def tools(value: Any) -> tuple[Mapping[str, Any], ...] | None:
    """The tools a row offers, each as ``{"type": "function", "function": {...}}``; None where it offers none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    value = _parsed(value, "the column tools", nouns="the text")
    offered = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(tool, Mapping) for tool in offered):
        raise BadRow("bad-tool-call", "tools is not a list of objects; write one object a tool")
    return tuple(_tool(tool) for tool in offered) or None


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    # chat templates expect OpenAI's envelope; ShareGPT files often give only what is inside it
    return {"type": "function", "function": dict(tool)} if "name" in tool and "function" not in tool else dict(tool)


def _parsed(value: Any, where: str, nouns: str = "a tool call") -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRow(
            "bad-tool-call", f"{nouns} in {where} is not JSON: {excerpt(value)}; write an object or its JSON text"
        ) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)

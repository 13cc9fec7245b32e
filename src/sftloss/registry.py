"""Functions by name: those of a room's own files, installed plug-ins, and ``module:name`` import paths.

Objectives and task strategies are found this way, so adding one needs its own file and no list.
"""

from __future__ import annotations

import difflib
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module, invalidate_caches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

_MANY = 15  # names that one error message lists
_IMPORTS = re.compile(r"( +# begin .*\n)(?:.*\n)*?( +# end .*\n)")


def attach_record(record: Any) -> Callable[[Function], Function]:
    """Return a decorator that stores `record` beside a function and leaves the function as it is."""

    def attach(function: Function) -> Function:
        function.__dict__["record"] = record
        return function

    return attach


def record_of(function: Callable[..., Any]) -> Any:
    """Return the record that a decorator stored beside the function, or None."""
    return getattr(function, "record", None)


def functions_with_records(package: str) -> dict[str, Callable[..., Any]]:
    """Import every module of a package, in alphabetical order, and return its functions that carry a record."""
    functions = {}
    names = sorted(entry.name for entry in pkgutil.iter_modules(sys.modules[package].__path__))
    for module_name in names:
        if module_name.startswith("_"):  # __main__ is run, not imported
            continue
        module = import_module(f"{package}.{module_name}")
        for name, value in vars(module).items():
            if record_of(value) is not None and value.__module__ == module.__name__:
                functions[name] = value
    return functions


def with_imports(source: str, functions: Mapping[str, Callable[..., Any]]) -> str:
    """Return the source of a room's ``__init__.py`` with an import for every function, between its two marks.

    Type checkers do not run the room's search for its files.
    """
    lines = sorted(f"    from {function.__module__} import {name} as {name}\n" for name, function in functions.items())
    return _IMPORTS.sub(lambda match: match[1] + "".join(lines) + match[2], source)


@cache
def plug_ins(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group by name. Nothing is imported."""
    return {entry.name: entry for entry in sorted(entry_points(group=group), key=lambda entry: entry.name)}


def function_named(
    name: str, known: Mapping[str, Callable[..., Any]], group: str, kind: str, listing: str = ""
) -> Callable[..., Any]:
    """Return the function of a name. Only a name with a colon, or a plug-in's own, imports anything.

    Args:
        name: A name of `known`, of a plug-in, or an import path as for :func:`function_at`.
        known: The room's own functions, which no plug-in replaces.
        group: The entry points by which installed packages add functions.
        kind: What the function should be, for messages: ``"objective"``.
        listing: Where the names are listed, for the message where there are too many to name: ``" (see: ...)"``.

    Raises:
        ValueError: If there is none, or it cannot be imported.
    """
    if name in known:
        return known[name]
    shown = repr(name if len(name) <= 60 else name[:57] + "...")
    try:
        if ":" in name:
            return function_at(name, kind)
        if name in plug_ins(group):
            return function_at(plug_ins(group)[name].value, kind)
    except ValueError as error:
        raise ValueError(f"{shown} cannot be used: {error}") from error.__cause__
    names = [*known, *plug_ins(group)]
    listed = f"there are: {', '.join(names)}" if len(names) <= _MANY else f"there are {len(names)}{listing}"
    raise ValueError(f"{shown} is no {kind}{closest(name, names)}; {listed}.")


def function_at(path: str, kind: str) -> Callable[..., Any]:
    """Import a function by its path, ``"my_module:my_loss"``. A module may be a file in the working directory.

    Args:
        path: Module and name, separated by a colon.
        kind: What the function should be, for messages: ``"objective"``.

    Raises:
        ValueError: If there is no such module, importing it fails, it has no such name, or the value is not callable.
    """
    module_name, _, name = path.partition(":")
    try:
        value: Any = sys.modules.get(module_name)
        if value is None:
            with _working_directory_on_the_path():
                value = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            where = "in the working directory or among the installed packages"
            raise ValueError(f"there is no module {error.name!r} {where}.") from None
        raise ValueError(f"the module {module_name!r} cannot be imported: {error}.") from error
    except Exception as error:  # whatever the module's own code raises
        raise ValueError(f"importing {module_name!r} raised {type(error).__name__}: {error}.") from error
    for part in name.split("."):
        if not hasattr(value, part):
            near = closest(part, [public for public in vars(value) if not public.startswith("_")])
            raise ValueError(f"{module_name!r} has no name {name!r}{near}.")
        value = getattr(value, part)
    if not callable(value):
        raise ValueError(f"{path} is no function (it is of type {type(value).__name__}), so it cannot be an {kind}.")
    function: Callable[..., Any] = value
    return function


@contextmanager
def _working_directory_on_the_path() -> Iterator[None]:
    """A console script does not have the working directory on its path, ``python -m`` has."""
    invalidate_caches()  # the file may be younger than the last look
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def path_of(function: Callable[..., Any], kind: str) -> str:
    """Return the import path of a function, which :func:`function_at` reads back.

    Raises:
        ValueError: If the path does not lead back to the function, as for a lambda or a function inside another.
    """
    module = getattr(function, "__module__", None)
    path = f"{module}:{getattr(function, '__qualname__', '?')}"
    try:
        is_same = "<" not in path and function_at(path, kind) is function
    except ValueError:
        is_same = False
    if not is_same:
        raise ValueError(f"{function!r} cannot be imported by a name; define it at the top level of a module.")
    return path


def closest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'focal'?)"`` where a known name is close, else an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""

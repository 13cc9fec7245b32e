"""The reader of expressions: ``"cross_entropy + 1e-4 * z_loss"`` becomes a function of token statistics.

Python's own parser reads the text and an allow-list of syntax nodes is walked; nothing is evaluated. A name without a
colon imports nothing but an installed plug-in of exactly that name; ``my_module:my_loss`` imports the module written.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeGuard

from torch import Tensor

from sftloss.objectives.record import OBJECTIVES, hyper_parameters, objective_record
from sftloss.objectives.terms import HyperValue, ObjectiveSum, Term, check_term, objective_function, shortened
from sftloss.registry import closest, path_of

MAX_LENGTH = 1000
MAX_DEPTH = 50
_EXAMPLE = "Write e.g. 'cross_entropy + 1e-4 * z_loss' or 'focal(gamma=2)'."
_FOREIGN = re.compile(r"[^A-Za-z0-9_ +\-*/().,='\"]")
_Key = tuple[str, tuple[tuple[str, HyperValue], ...]]
_Sum = dict[_Key | None, float]  # coefficients of terms; a number alone has the key None
_PRESET = re.compile(r"instruction-modelling|(prompt-weight|think)=[\d.]+")
_QUOTED = r"""('[^']*'|"[^"]*")"""  # passed over where paths and brackets are looked for
_PATH = re.compile(_QUOTED + r"|\b([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)")
_BRACKETED = re.compile(_QUOTED + r"|\[([\w.]+)\]")


def objective(loss: str | Callable[..., Tensor]) -> ObjectiveSum:
    """Read a loss: an expression of named objectives, or a function that can be imported.

    Args:
        loss: An expression: names of ``OBJECTIVES``, of plug-ins, or import paths ``my_module:my_loss``, with keyword
            hyper-parameters, combined by ``+``, ``-``, ``*`` and ``/`` with numbers, and parentheses; at most 1000
            characters. A module may be a file in the working directory. Or a function of :class:`TokenStats` at the
            top level of a module, or a ``functools.partial`` of one, which binds hyper-parameters.

    Returns:
        A callable from :class:`TokenStats` to the loss of each token, shape ``(tokens,)``, in nats. Its ``str`` is the
        expression in normal form (like terms added, terms with coefficient 0 dropped), which reads back to an equal
        value.

    Raises:
        TypeError: If `loss` is neither a string nor a function.
        ValueError: If it is not such an expression, or a function in it cannot be imported, mixes tokens, or refuses
            its hyper-parameters; the message says where and what to write instead.

    Gradient:
        The same sum of the objectives' gradients; a coefficient is a constant.

    Example:
        >>> objective("cross_entropy + 1e-4*z_loss")
        cross_entropy + 0.0001 * z_loss
        >>> objective("(cross_entropy + focal(gamma=2)) / 2")
        0.5 * cross_entropy + 0.5 * focal(gamma=2)
    """
    if isinstance(loss, ObjectiveSum):
        return loss
    if callable(loss):
        return ObjectiveSum((_of_function(loss),))
    if not isinstance(loss, str):
        raise TypeError(f"objective: expected an expression or a function, got {type(loss).__name__}. {_EXAMPLE}")
    coefficients = _read(_parse(loss))
    if None in coefficients:
        raise ValueError(f"objective: {shortened(loss)} is a constant, with no objective to train on. {_EXAMPLE}")
    terms = tuple(Term(coefficient, *key) for key, coefficient in coefficients.items() if key and coefficient)
    if not terms:
        raise ValueError(f"objective: {shortened(loss)} is zero everywhere; every coefficient is 0 or cancels.")
    return ObjectiveSum(terms)


def _of_function(function: Callable[..., Tensor]) -> Term:
    bound: Mapping[str, object] = {}
    if isinstance(function, partial):
        if function.args:
            raise ValueError(f"objective: {function!r} binds a value without its name; bind keywords only.")
        bound, function = function.keywords, function.func
    name = next((name for name, known in OBJECTIVES.items() if known is function), None)
    if name is None:
        try:
            name = path_of(function, "objective")
        except ValueError as error:
            raise ValueError(f"objective: {error}") from None
    return Term(1.0, *_key(name, {key: _Argument(value, shortened(repr(value))) for key, value in bound.items()}))


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise ValueError(f"objective: the expression has {len(text)} characters, at most {MAX_LENGTH} are read.")
    text = " ".join(text.split())
    if not text:
        raise ValueError(f"objective: the expression is empty. {_EXAMPLE}")
    if _PRESET.fullmatch(text):
        raise ValueError(f"objective: {shortened(text)} is a weight of roles; write --preset {text}, beside any loss.")
    # a quoted word may hold any printable character but a backslash, which would be an escape
    bare = _PATH.sub(lambda match: _blank(match[1]) if match[1] else match[0].replace(":", "."), text)
    foreign = _FOREIGN.search(bare)
    if foreign:
        at = foreign.start() + 1
        character = text[at - 1]
        raise ValueError(
            f"objective: character {ascii(character)} at {at} of {shortened(text)} has no meaning. {_EXAMPLE}"
        )
    # Python has no a:b, and brackets have just been refused: module:name is parsed as module[name]
    code = _PATH.sub(lambda match: match[1] or f"{match[2]}[{match[3]}]", text)
    try:
        tree = ast.parse(code, mode="eval").body
    except SyntaxError as error:
        added = len([match for match in _BRACKETED.finditer(code[: error.offset]) if match[2]])
        where = f" at character {error.offset - added}" if error.offset else ""
        raise ValueError(f"objective: {shortened(text)} cannot be read{where}: {error.msg}. {_EXAMPLE}") from None
    except (MemoryError, RecursionError):  # how the parser reports depth differs by version
        raise ValueError(f"objective: {shortened(text)} cannot be read: it is nested too deeply.") from None
    # counted before anything recurses; a sum nests to the left, one level a term
    level: list[ast.AST] = [tree]
    depth = 0
    while level:
        level, depth = [child for node in level for child in ast.iter_child_nodes(node)], depth + 1
        if depth > MAX_DEPTH:
            raise ValueError(f"objective: {shortened(text)} is nested, or has terms, more than {MAX_DEPTH} deep.")
    return tree


def _blank(quoted: str) -> str:
    """Return a quoted word with spaces for its characters, apart from those that may not stand there."""
    return "".join(c if c in "'\"\\" or not c.isprintable() else " " for c in quoted)


def _read(node: ast.expr) -> _Sum:
    """Return a number, or a sum of objectives."""
    if isinstance(node, ast.Constant) and _is_number(node.value):
        return {None: _number(node.value)}
    name = _name(node)
    if name is not None:
        return {_key(name, {}): 1.0}
    if isinstance(node, ast.Call):
        return {_call(node): 1.0}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return _scaled(_read(node.operand), lambda value: -value if isinstance(node.op, ast.USub) else value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
        return _binary(node, _read(node.left), _read(node.right))
    raise ValueError(f"objective: {_source(node)} is no part of an expression of objectives. {_EXAMPLE}")


def _binary(node: ast.BinOp, left: _Sum, right: _Sum) -> _Sum:
    if isinstance(node.op, ast.Div):
        if None not in right:
            raise ValueError(f"objective: {_source(node)} divides by an objective; divide by a number.")
        if right[None] == 0:
            raise ValueError(f"objective: {_source(node)} divides by zero.")
        return _scaled(left, lambda value: value / right[None])
    if isinstance(node.op, ast.Mult):
        number, other = (left, right) if None in left else (right, left)
        if None not in number:
            raise ValueError(
                f"objective: {_source(node)} multiplies two objectives; scale by a number, add objectives."
            )
        return _scaled(other, lambda value: value * number[None])
    if (None in left) != (None in right):
        raise ValueError(f"objective: {_source(node)} adds a constant, which has no gradient; give it an objective.")
    if isinstance(node.op, ast.Sub):
        right = _scaled(right, lambda value: -value)
    return left | {key: _finite(left.get(key, 0.0) + value) for key, value in right.items()}


def _scaled(values: _Sum, scale: Callable[[float], float]) -> _Sum:
    return {key: _finite(scale(value)) for key, value in values.items()}


def _call(node: ast.Call) -> _Key:
    name = _name(node.func)
    if name is None:
        raise ValueError(f"objective: {_source(node)} does not call an objective by its name. {_EXAMPLE}")
    if node.args:
        known = _hyper_parameters(name)
        advice = f"write {name}({next(iter(known))}=...)" if known else f"{name} has no hyper-parameters"
        raise ValueError(f"objective: {_source(node)} gives a value without its name; {advice}.")
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError(f"objective: {_source(node)} unpacks a mapping; write each hyper-parameter by name.")
    arguments: dict[str, _Argument] = {}
    for keyword in node.keywords:
        if keyword.arg in arguments:
            raise ValueError(f"objective: {name} is given {keyword.arg!r} twice.")
        arguments[str(keyword.arg)] = _Argument(_constant(keyword.value), _source(keyword.value))
    return _key(name, arguments)


class _Argument(NamedTuple):
    """A hyper-parameter as written.

    Attributes:
        value: Its value; a syntax node where it is no constant.
        source: How it was written, in quotes.
    """

    value: object
    source: str


def _name(node: ast.expr) -> str | None:
    """Return the name of an objective, bare or as an import path; None if the node is neither."""
    if isinstance(node, ast.Name):
        return node.id
    return _spelled(ast.unparse(node)) if isinstance(node, ast.Subscript) else None


def _constant(node: ast.expr) -> object:
    """Return a number with its signs, a word, True, False or None; the node itself if it is none of these."""
    sign, inner = 1, node
    while isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.USub | ast.UAdd):
        sign, inner = (-sign if isinstance(inner.op, ast.USub) else sign), inner.operand
    if not isinstance(inner, ast.Constant) or isinstance(inner.value, bytes | complex):
        return node
    if _is_number(inner.value):
        return sign * _number(inner.value)
    return inner.value if inner is node else node


def _key(name: str, arguments: Mapping[str, _Argument]) -> _Key:
    """Return the name of a term and its hyper-parameters, after it has been evaluated once."""
    known = _hyper_parameters(name)
    values: dict[str, HyperValue] = {}
    for key, argument in arguments.items():
        if key not in known:
            refused = objective_record(name, objective_function(name)).refused
            if key in refused:
                raise ValueError(f"objective: {name}({key}=...) is not computed: {refused[key]}.")
            names = ", ".join(known) or "none"
            raise ValueError(f"objective: {name} has no hyper-parameter {key!r}{closest(key, known)}; it has: {names}.")
        values[key] = _value(f"{name}({key}=...)", argument, known[key])
    hyper = tuple((key, values[key]) for key in known if key in values)
    check_term(Term(1.0, name, hyper))
    return name, hyper


def _hyper_parameters(name: str) -> dict[str, object]:
    function = objective_function(name)
    try:
        return hyper_parameters(function)
    except (TypeError, ValueError) as error:  # some functions written in C have no signature
        raise ValueError(f"objective: {shortened(name)} cannot be used: {error}.") from None


def _value(where: str, argument: _Argument, default: object) -> HyperValue:
    """Return a value of the default's type; integers become floats where the default is a float."""
    value, kind = argument.value, type(default)
    if default is inspect.Parameter.empty or default is None:
        kind = float if _is_number(value) else type(value)
    if kind in (int, float) and _is_number(value):
        number = _number(value) + 0.0  # -0.0 becomes 0.0, so that equal values have equal text
        if kind is float or number.is_integer():
            return int(number) if kind is int else number
    elif kind in (bool, str, type(None)) and type(value) is kind:
        return value
    expected = {bool: "True or False", str: "a quoted word", int: "a whole number"}.get(kind, "a number")
    raise ValueError(f"objective: {where} takes {expected}, got {argument.source}.")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float) -> float:
    try:
        return _finite(float(value))
    except OverflowError:  # an integer literal may have hundreds of digits
        return _finite(math.inf)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("objective: a number in the expression, or a product of them, is too large for a float.")
    return value


def _source(node: ast.AST) -> str:
    return shortened(_spelled(ast.unparse(node)))


def _spelled(code: str) -> str:
    """Return code with import paths as they were written."""
    return _BRACKETED.sub(lambda match: match[1] or f":{match[2]}", code)

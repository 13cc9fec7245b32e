"""``"cross_entropy + 1e-4 * z_loss"`` as a function: what the command line and YAML write.

The text is parsed by Python's own parser and walked by an allow-list of nodes; nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sftloss.objectives.registry import OBJECTIVES
from sftloss.statistics import FIELDS, TokenStats

Value = float | str | bool

MAX_LENGTH = 1000
MAX_DEPTH = 50
_EXAMPLE = "Write e.g. 'cross_entropy + 1e-4 * z_loss' or 'focal(gamma=2)'."
_FOREIGN = re.compile(r"[^A-Za-z0-9_ +\-*/().,='\"]")


@dataclass(frozen=True)
class Term:
    """One summand: a coefficient times a named objective with its hyper-parameters.

    Attributes:
        coefficient: Dimensionless factor, finite, not 0.
        name: Key of ``OBJECTIVES``.
        hyper_parameters: ``(name, value)`` pairs as written, in the order of the objective's signature.
    """

    coefficient: float
    name: str
    hyper_parameters: tuple[tuple[str, Value], ...] = ()

    def __call__(self, stats: TokenStats) -> Float[Tensor, " tokens"]:
        loss = OBJECTIVES[self.name](stats, **dict(self.hyper_parameters))
        return loss if self.coefficient == 1 else self.coefficient * loss

    def spelling(self) -> str:
        """The objective without its coefficient: ``"focal(gamma=2)"``."""
        inside = ", ".join(f"{name}={_show(value)}" for name, value in self.hyper_parameters)
        return f"{self.name}({inside})" if inside else self.name


@dataclass(frozen=True)
class ObjectiveSum:
    """A sum of objectives, itself an objective. Equal, hashed and pickled by value; ``str`` is the expression.

    Attributes:
        terms: The summands, in the order written; like terms are one.
    """

    terms: tuple[Term, ...]

    def __call__(self, stats: TokenStats) -> Float[Tensor, " tokens"]:
        first, *rest = (term(stats) for term in self.terms)
        return sum(rest, start=first)

    def __str__(self) -> str:
        text = ""
        for term in self.terms:
            minus, size = term.coefficient < 0, abs(term.coefficient)
            sign = (" - " if minus else " + ") if text else ("-" if minus else "")
            text += sign + ("" if size == 1 else f"{_show(size)} * ") + term.spelling()
        return text

    __repr__ = __str__


def objective(text: str) -> ObjectiveSum:
    """Read a loss from an expression: objectives by name, added, subtracted and scaled.

    Args:
        text: Objectives of ``OBJECTIVES`` with keyword hyper-parameters, combined by ``+``, ``-``, ``*`` and ``/``
            with numbers, and parentheses. At most 1000 characters.

    Returns:
        A callable from :class:`TokenStats` to the loss of each token, shape ``(tokens,)``, in nats. Its ``str`` is the
        expression in normal form (like terms added, terms with coefficient 0 dropped), which reads back to an equal
        value.

    Raises:
        TypeError: If `text` is not a string.
        ValueError: If it is not such an expression; the message says where and what to write instead.

    Gradient:
        The same sum of the objectives' gradients; a coefficient is a constant.

    Example:
        >>> objective("cross_entropy + 1e-4*z_loss")
        cross_entropy + 0.0001 * z_loss
        >>> objective("(cross_entropy + focal(gamma=2)) / 2")
        0.5 * cross_entropy + 0.5 * focal(gamma=2)
    """
    if not isinstance(text, str):
        raise TypeError(f"objective: expected an expression as a string, got {type(text).__name__}. {_EXAMPLE}")
    found = _read(_parse(text))
    if isinstance(found, float):
        raise ValueError(f"objective: {_cut(text)} is a constant, with no objective to train on. {_EXAMPLE}")
    merged: dict[tuple[str, tuple[tuple[str, Value], ...]], float] = {}
    for term in found:
        key = (term.name, term.hyper_parameters)
        merged[key] = _finite(merged.get(key, 0.0) + term.coefficient)
    terms = tuple(Term(coefficient, *key) for key, coefficient in merged.items() if coefficient)
    if not terms:
        raise ValueError(f"objective: {_cut(text)} is zero everywhere; every coefficient is 0 or cancels.")
    return ObjectiveSum(terms)


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_LENGTH:
        raise ValueError(f"objective: the expression has {len(text)} characters, at most {MAX_LENGTH} are read.")
    text = " ".join(text.split())
    if not text:
        raise ValueError(f"objective: the expression is empty. {_EXAMPLE}")
    foreign = _FOREIGN.search(text)
    if foreign:
        at, character = foreign.start() + 1, foreign.group()
        raise ValueError(f"objective: character {ascii(character)} at {at} of {_cut(text)} has no meaning. {_EXAMPLE}")
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        where = f" at character {error.offset}" if error.offset else ""
        raise ValueError(f"objective: {_cut(text)} cannot be read{where}: {error.msg}. {_EXAMPLE}") from None
    except (MemoryError, RecursionError):  # how the parser reports depth differs by version
        raise ValueError(f"objective: {_cut(text)} cannot be read: it is nested too deeply.") from None
    # counted before anything recurses; a sum nests to the left, one level a term
    level: list[ast.AST] = [tree]
    depth = 0
    while level:
        level, depth = [child for node in level for child in ast.iter_child_nodes(node)], depth + 1
        if depth > MAX_DEPTH:
            raise ValueError(f"objective: {_cut(text)} is nested, or has terms, more than {MAX_DEPTH} deep.")
    return tree


def _read(node: ast.expr) -> float | tuple[Term, ...]:
    """A number, or a sum of objectives."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return _number(node.value)
    if isinstance(node, ast.Name):
        return (_term(node.id, []),)
    if isinstance(node, ast.Call):
        return (_call(node),)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return _times(-1.0 if isinstance(node.op, ast.USub) else 1.0, _read(node.operand))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
        return _binary(node, _read(node.left), _read(node.right))
    raise ValueError(f"objective: {_source(node)} is no part of an expression of objectives. {_EXAMPLE}")


def _binary(
    node: ast.BinOp, left: float | tuple[Term, ...], right: float | tuple[Term, ...]
) -> float | tuple[Term, ...]:
    if isinstance(node.op, ast.Div):
        if not isinstance(right, float):
            raise ValueError(f"objective: {_source(node)} divides by an objective; divide by a number.")
        if right == 0:
            raise ValueError(f"objective: {_source(node)} divides by zero.")
        divisor = right  # a / b, not a * (1 / b): the second would round twice
        return _finite(left / divisor) if isinstance(left, float) else _scaled(left, lambda value: value / divisor)
    if isinstance(node.op, ast.Mult):
        if isinstance(left, float):
            return _times(left, right)
        if isinstance(right, float):
            return _times(right, left)
        raise ValueError(f"objective: {_source(node)} multiplies two objectives; scale by a number, add objectives.")
    if isinstance(node.op, ast.Sub):
        right = _times(-1.0, right)
    if isinstance(left, float) and isinstance(right, float):
        return _finite(left + right)
    if isinstance(left, float) or isinstance(right, float):
        raise ValueError(f"objective: {_source(node)} adds a constant, which has no gradient; give it an objective.")
    return left + right


def _times(factor: float, value: float | tuple[Term, ...]) -> float | tuple[Term, ...]:
    return _finite(factor * value) if isinstance(value, float) else _scaled(value, lambda old: factor * old)


def _scaled(terms: tuple[Term, ...], scale: Callable[[float], float]) -> tuple[Term, ...]:
    return tuple(Term(_finite(scale(term.coefficient)), term.name, term.hyper_parameters) for term in terms)


def _call(node: ast.Call) -> Term:
    if not isinstance(node.func, ast.Name):
        raise ValueError(f"objective: {_source(node)} does not call an objective by its name. {_EXAMPLE}")
    name = node.func.id
    if node.args:
        known = _hyper_parameters(name)
        say = f"write {name}({next(iter(known))}=...)" if known else f"{name} has no hyper-parameters"
        raise ValueError(f"objective: {_source(node)} gives a value without its name; {say}.")
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError(f"objective: {_source(node)} unpacks a mapping; write each hyper-parameter by name.")
    return _term(name, [(str(keyword.arg), keyword.value) for keyword in node.keywords])


def _term(name: str, written: list[tuple[str, ast.expr]]) -> Term:
    known = _hyper_parameters(name)
    values: dict[str, Value] = {}
    for key, node in written:
        if key not in known:
            have = ", ".join(known) or "none"
            raise ValueError(f"objective: {name} has no hyper-parameter {key!r}{_guess(key, known)}; it has: {have}.")
        if key in values:
            raise ValueError(f"objective: {name} is given {key!r} twice.")
        values[key] = _value(f"{name}({key}=...)", node, known[key])
    term = Term(1.0, name, tuple((key, values[key]) for key in known if key in values))
    try:
        term(_tiny())
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"objective: in {term.spelling()!r}, {error}") from None
    return term


def _hyper_parameters(name: str) -> dict[str, Value]:
    """Name and default of each, from the signature."""
    if name not in OBJECTIVES:
        have = ", ".join(OBJECTIVES)
        raise ValueError(f"objective: {_cut(name)} is no objective{_guess(name, OBJECTIVES)}; there are: {have}.")
    parameters = inspect.signature(OBJECTIVES[name]).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def _value(where: str, node: ast.expr, default: Value) -> Value:
    """A literal of the default's type; integers become floats where a number is due."""
    wanted = {bool: "True or False", str: "a quoted word"}.get(type(default), "a number")
    sign, inner = 1.0, node
    while wanted == "a number" and isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.USub | ast.UAdd):
        sign, inner = (-sign if isinstance(inner.op, ast.USub) else sign), inner.operand
    value = inner.value if isinstance(inner, ast.Constant) else None
    if wanted == "a number" and isinstance(value, int | float) and not isinstance(value, bool):
        return sign * _number(value) + 0.0  # -0.0 becomes 0.0, so that equal values have equal text
    if wanted != "a number" and type(value) is type(default):
        return value
    raise ValueError(f"objective: {where} takes {wanted}, got {_source(node)}.")


def _tiny() -> TokenStats:
    """One token's worth of every statistic: enough for an objective to refuse its hyper-parameters."""
    return TokenStats({name: torch.tensor([-0.5]) for name in FIELDS}, vocab_size=4)


def _number(value: float) -> float:
    try:
        return _finite(float(value))
    except OverflowError:  # an integer literal may have hundreds of digits
        return _finite(math.inf)


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("objective: a number in the expression, or a product of them, is too large for a float.")
    return value


def _show(value: Value) -> str:
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e6 else repr(value)
    return repr(value)


def _guess(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _source(node: ast.AST) -> str:
    return _cut(ast.unparse(node))


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")

"""Errors that are not bugs of this package: about an option, the data, a model or the machine, each with an exit code.

An error holds what it is about, and whoever shows it spells the options: ``str(error)`` writes arguments
(``max_length=8``), the command line writes flags (``--max-length 8``) and YAML keys with their line.
"""

from __future__ import annotations

import errno
import math
import re
import traceback
from collections.abc import Callable
from pathlib import Path

Spell = Callable[[str, str | None], str]
"""Write an option, given its name and, where a value is meant, the value."""

_BARE = (LookupError, AttributeError, TypeError, AssertionError, ArithmeticError)
_WORDS = 4
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_LIMIT = ("file too large", "os error 27")
_MEMORY = ("cannot allocate memory", "can't allocate memory", "out of memory")
# inline_container is how torch.save reports that a write came back short
_DISK = ("no space left on device", "disk quota exceeded", "os error 28", "inline_container.cc")
_PEER = ("gloo/transport", "nccl", "tcpstore", "remote process exited")

_PAIRS = re.compile(r"\w+=[^=,()]+(,\w+=[^=,()]+)*")
_MENTION = re.compile("\x00(\\w+)\x00([^\x00]*)\x00")


def mention(option: str, value: object = None) -> str:
    """An option inside a message, to be spelled when the message is shown.

    Example:
        >>> str(ConfigError(f"2 of 3 rows are unusable; {mention('on_error', 'skip')} leaves them out"))
        "2 of 3 rows are unusable; on_error='skip' leaves them out."
    """
    return f"\x00{option}\x00{'' if value is None else value}\x00"


def as_argument(option: str, value: str | None = None) -> str:
    """An option as Python writes it."""
    if value is None:
        return option
    if _PAIRS.fullmatch(value):
        return f"{option}=dict({value.replace(',', ', ')})"
    return f"{option}={value if _is_literal(value) else repr(value)}"


def as_flag(option: str, value: str | None = None) -> str:
    """An option as the command line writes it."""
    flag = f"--{option.replace('_', '-')}"
    return flag if value in (None, "True") else f"{flag} {value}"


def check_range(owner: str, **values: tuple[float, str]) -> None:
    """Check hyper-parameters of an objective or a strategy, each given with its limit.

    Args:
        owner: Name of the objective or strategy.
        values: By name a value and ``"> 0"``, ``">= 1"``, ``"in [0, 1)"``, or ``"any number"``.

    Raises:
        ValueError: If a value is outside its limit, infinite or NaN.

    Example:
        >>> check_range("coba", tau=(5.0, "> 0"), decay=(1.0, "in [0, 1)"))
        Traceback (most recent call last):
        ValueError: coba: decay must be finite and in [0, 1), got 1.0.
    """
    for name, (value, limit) in values.items():
        low, high, is_open, is_open_above = -math.inf, math.inf, False, False
        if bounds := re.fullmatch(r"in ([\[(])(\S+), (\S+)([\])])", limit):
            low, high, is_open, is_open_above = float(bounds[2]), float(bounds[3]), bounds[1] == "(", bounds[4] == ")"
        elif bound := re.fullmatch(r"(>=?) (\S+)", limit):
            low, is_open = float(bound[2]), bound[1] == ">"
        is_above = value > low if is_open else value >= low
        is_below = value < high if is_open_above else value <= high
        if not (math.isfinite(value) and is_above and is_below):
            raise ValueError(
                f"{owner}: {name} must be finite{'' if math.isinf(low) else f' and {limit}'}, got {value}."
            )


def spelled(text: str, spell: Spell) -> str:
    """The text with each option that `mention` put into it written by `spell`."""
    return _MENTION.sub(lambda match: spell(match[1], match[2] or None), text)


class SftlossError(Exception):
    """Base of all errors that are the input's or the machine's, not ours.

    Attributes:
        problem: What is wrong, as a sentence without its period.
        option: The option it is about, by its name in Python.
        cure: What to do about it, as the end of the sentence.
        where: File and line, row or folder.
    """

    exit_code = 5

    def __init__(
        self, problem: str, *, option: str | None = None, cure: str | None = None, where: object = None
    ) -> None:
        super().__init__(problem)
        self.problem, self.option, self.cure = problem, option, cure
        self.where = None if where is None else str(where)

    def __str__(self) -> str:
        return self.message(as_argument)

    def message(self, spell: Spell) -> str:
        """``where: option: problem; cure.``, every option written by `spell`."""
        option = None if self.option is None else spell(self.option, None)
        text = ": ".join(part for part in (self.where, option, self.problem) if part)
        text += f"; {self.cure}" if self.cure else ""
        text = spelled(text, spell)
        return text if text.endswith((".", "?", "!")) else f"{text}."


class ConfigError(SftlossError):
    """An option, a YAML key or an expression that cannot be used."""

    exit_code = 2


class DataError(SftlossError):
    """A data file without a usable row, or a row that must not be skipped."""

    exit_code = 3


class ModelError(SftlossError):
    """A model or tokenizer that cannot be loaded or used."""

    exit_code = 4


class MachineError(SftlossError):
    """A process that the machine ended, for example because memory ran out."""

    exit_code = 5


def quoted(error: BaseException, limit: int = 300) -> str:
    """The error of another library in one line, without a period.

    A message that does not name its cause by itself (``list index out of range``) has its type and place added.

    Example:
        >>> quoted(ValueError("no such file"))
        'ValueError: no such file'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if text.endswith(":") and len(lines) > 1:
        text = f"{text} {lines[1]}"
    if isinstance(error, _BARE) or len(text.split()) < _WORDS:
        frames = traceback.extract_tb(error.__traceback__)
        place = f" (in {'/'.join(Path(frames[-1].filename).parts[-3:])}, line {frames[-1].lineno})" if frames else ""
        text = f"{type(error).__name__}{': ' if text else ''}{text}{place}"
    return text[:limit].rstrip(".")


def machine_error(error: BaseException) -> MachineError | None:
    """The error, or one it was raised from, as what failed of the machine; None where it is no matter of the machine.

    Libraries report a full disk, exhausted memory and an ended process each in a type of their own.
    """
    chain: BaseException | None = error
    while chain is not None:
        text = str(chain).lower()
        if isinstance(chain, MemoryError) or type(chain).__name__ == "OutOfMemoryError" or _has(text, _MEMORY):
            return MachineError("out of memory" + (" on the device" if "OutOfMemory" in type(chain).__name__ else ""))
        if (isinstance(chain, OSError) and chain.errno in _FULL) or _has(text, _DISK):
            where = getattr(chain, "filename", None)
            return MachineError("No space left on device, or its quota is used up", where=where, cure="free some space")
        if (isinstance(chain, OSError) and chain.errno == errno.EFBIG) or _has(text, _LIMIT):
            cure = "raise the limit (ulimit -f), or choose another file system"
            return MachineError("a file is larger than allowed", where=getattr(chain, "filename", None), cure=cure)
        if _has(text, _PEER):
            return MachineError(
                "another rank ended, or cannot be reached",
                cure="its own message names the reason; start all ranks again",
            )
        chain = chain.__cause__ or chain.__context__
    return None


def _has(text: str, parts: tuple[str, ...]) -> bool:
    return any(part in text for part in parts)


def _is_literal(text: str) -> bool:
    return text in ("True", "False", "None") or text.replace(".", "", 1).replace("-", "", 1).isdigit()

"""One sentence on stderr and a code a script can act on, for everything that can end a run early."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import typer

from sftloss.config import Option, as_key, places_of
from sftloss.errors import SftlossError, Spell, as_argument, as_flag, machine_error, quoted

FINDINGS, USAGE, DATA, MODEL, INTERNAL, INTERRUPTED = 1, 2, 3, 4, 5, 130
_SMALLER = ("tokens_per_batch", "batch_size", "max_length", "max_examples")


@contextmanager
def exit_codes(verbose: bool, options: Sequence[Option] = (), *, config: str | None = None) -> Iterator[None]:
    """Turn exceptions into a sentence and an exit code; with `verbose` also the traceback.

    Args:
        verbose: Whether to print the traceback.
        options: The options of the verb; sentences call them by their flags.
        config: The YAML file that options may come from; sentences about those name its line.
    """
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        _end("interrupted; files written so far are complete, the remaining ones are missing.", INTERRUPTED, verbose)
    except SftlossError as error:
        _end(_sentence(error, options, config), error.exit_code, verbose)
    except BrokenPipeError:
        drop_output()
        raise typer.Exit(0) from None
    except Exception as error:
        _end(_of_others(error, options, verbose), INTERNAL, verbose)


def flags_of(options: Sequence[Option]) -> Spell:
    """How a verb with these options writes one: ``max_length`` is ``--max-length``."""
    flags: dict[str, str] = {}
    for one in options:
        flag = one.flag.metavar or "NAME" if one.flag.is_positional else as_flag(one.name)
        flags |= {one.name: flag, one.flag.argument or one.name: flag}

    def spell(name: str, value: str | None = None) -> str:
        if name not in flags:
            return as_argument(name, value)
        return flags[name] if value in (None, "True") else f"{flags[name]} {value}"

    return spell


def say(sentence: str) -> None:
    """A sentence on stderr after the name of this program, which is not repeated where the sentence begins with it."""
    # it may quote a user's data: no character of it may steer the terminal
    safe = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in sentence.removeprefix("sftloss: "))
    with suppress(BrokenPipeError):
        print(f"sftloss: {safe}", file=sys.stderr, flush=True)


def _sentence(error: SftlossError, options: Sequence[Option], config: str | None) -> str:
    """The error in flags; an option that the YAML file sets is named by its key and line."""
    spell = flags_of(options)
    names = {one.flag.argument or one.name: one.name for one in options}
    option = None if error.option is None else names.get(error.option, error.option)
    place = error.where or places_of(config).get(option or "")
    if option is None or place is None or not place.startswith(f"{config}:"):
        return error.message(spell)
    about = type(error)(error.problem, cure=error.cure, where=f"{place}: {as_key(option)}")
    return about.message(spell)


def _of_others(error: Exception, options: Sequence[Option], verbose: bool) -> str:
    """An error that is none of ours: the machine's, a file's, or one that nobody has foreseen."""
    known = machine_error(error)
    if known is not None and known.problem.startswith("out of memory"):
        flags = [as_flag(one.name) for one in options if one.name in _SMALLER]
        smaller = f"; try a smaller {' or '.join(flags)}" if flags else ""
        return f"{known.problem}{smaller}."
    if known is not None or isinstance(error, OSError):
        where = getattr(error, "filename", None)
        sentence = (
            str(known) if known is not None else f"{where or 'a file'}: {getattr(error, 'strerror', None) or error}"
        )
        free = f" ({_free(str(where))} free there)" if known is not None and where else ""
        return f"{sentence.rstrip('.')}{free}. Results of earlier runs are unchanged."
    hint = "" if verbose else " Run it again with -v for the traceback."
    kind, text = type(error).__name__, quoted(error)
    return f"internal error, not your doing: {text if text.startswith(kind) else f'{kind}: {text}'}.{hint}"


def _free(path: str) -> str:
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(folder):  # a folder that the failed run made is gone again
        folder = os.path.dirname(folder)
    return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB"


def drop_output() -> None:
    """Send what is still to be printed nowhere: the reader (head, less) has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(sentence: str, code: int, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    say(sentence)
    raise typer.Exit(code)

"""One sentence on stderr and a code a script can act on, for everything that can end a run early."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import typer

from sftloss.cli.flags import in_flags
from sftloss.errors import SftlossError

FINDINGS, USAGE, DATA, MODEL, INTERNAL, INTERRUPTED = 1, 2, 3, 4, 5, 130


@contextmanager
def exit_codes(verbose: bool, names: Iterable[str] = ()) -> Iterator[None]:
    """Turn exceptions into a sentence and an exit code; with `verbose` also the traceback.

    `names` are the options of the verb, which the sentence then calls by their flags.
    """
    try:
        yield
        sys.stdout.flush()
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        _end("interrupted; what was written is complete, the rest is not there.", INTERRUPTED, verbose)
    except SftlossError as error:
        _end(in_flags(str(error), names), error.exit_code, verbose)
    except BrokenPipeError:
        # the reader (head, less) has left: nothing to say, and Python's own flush at exit must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as error:
        _end(_about_files(error), INTERNAL, verbose)
    except MemoryError:
        _end(_about_memory("out of memory", names), INTERNAL, verbose)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            _end(_about_memory("out of memory on the device", names), INTERNAL, verbose)
        told = f"{type(error).__name__}: {(_bare(str(error)) or 'no message').splitlines()[0][:300]}"
        hint = "" if verbose else " Run it again with -v for the traceback."
        _end(f"internal error, not your doing: {told}.{hint}", INTERNAL, verbose)


def _about_memory(what: str, names: Iterable[str]) -> str:
    """With the flags of this verb that help."""
    known = {"tokens_per_batch", "max_length", "max_examples"} & set(names)
    flags = " or ".join(f"--{name.replace('_', '-')}" for name in sorted(known, reverse=True))
    return f"{what}; try a smaller {flags}." if flags else f"{what}."


def _about_files(error: OSError) -> str:
    where = error.filename or "a file"
    reason = error.strerror or str(error)
    free = ""
    if error.filename:
        parent = os.path.dirname(os.path.abspath(str(error.filename)))
        while not os.path.isdir(parent):  # a folder that the failed run made is gone again
            parent = os.path.dirname(parent)
        if error.errno == errno.ENOSPC:
            free = f" ({shutil.disk_usage(parent).free / 1e6:,.0f} MB free there)"
    return f"{where}: {reason}{free}; a file that stood there before is untouched."


def _end(sentence: str, code: int, verbose: bool) -> None:
    if verbose:
        traceback.print_exc()
    say(sentence)
    raise typer.Exit(code)


def say(sentence: str) -> None:
    """A sentence on stderr that says once whose it is; those of the training room say so by themselves."""
    # it may quote a user's data: no character of it may steer the terminal
    safe = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in _bare(sentence))
    print(f"sftloss: {safe}", file=sys.stderr, flush=True)


def _bare(sentence: str) -> str:
    return sentence.removeprefix("sftloss: ")

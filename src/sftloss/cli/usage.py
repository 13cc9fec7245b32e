"""A command line that cannot be parsed ends in one sentence on stderr and exit code 2, as every other wrong input."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from sftloss.cli.exit import INTERRUPTED, USAGE, say
from sftloss.config import meant

# click's class, or that of the copy of click in newer versions of typer, which typer exports no name for
UsageError: Any = typer.BadParameter.__base__


class Verbs(TyperGroup):
    """A group of commands whose usage errors are one sentence that names the nearest option or command."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Parse the command line and run the command; exit with its code."""
        try:
            code = super().main(*args, **more | {"standalone_mode": False})
        except UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                say(_sentence(error))
            sys.exit(USAGE)
        except typer.Abort:
            sys.exit(INTERRUPTED)
        sys.exit(code or 0)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first argument names."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise UsageError(
                f"{args[0]}: {ctx.command_path} has no such command{_nearest(args[0], self.commands)}", ctx
            )
        return super().resolve_command(ctx, args)


def _sentence(error: Any) -> str:
    """What is wrong with the command line, and what to type."""
    ctx, option = error.ctx, getattr(error, "option_name", "")
    path = ctx.command_path if ctx is not None else "sftloss"
    if hasattr(error, "possibilities"):
        flags = [name for one in ctx.command.get_params(ctx) for name in (*one.opts, *one.secondary_opts)]
        text = f"{option}: {path} has no such option{_nearest(option, flags)}"
    elif option:
        is_short = "requires" in error.message
        return f"{option}: {'a value is missing after it' if is_short else 'it takes no value; remove what follows ='}."
    elif error.message.startswith("Got unexpected"):
        text = f"{error.message.rpartition(' (')[2].rstrip(')')}: not expected by {path}"
    else:
        text = error.format_message()
    text = text.rstrip(".")
    return text if text.endswith("?") else f"{text}; {path} --help lists what it takes."


def _nearest(word: str, known: Any) -> str:
    near = meant(word, list(known))
    return f"; did you mean {near}?" if near else ""

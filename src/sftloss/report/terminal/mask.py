"""Token strips of a mask on a terminal: trained tokens green, the rest dim, a line and a letter for each role."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from itertools import groupby

from sftloss.document import TokenStrip
from sftloss.report.terminal.terminal import encodable
from sftloss.report.text import clean, visible

if typing.TYPE_CHECKING:
    from rich.console import Console

_TRAINED, _PARTLY, _UNTRAINED, _ROLE = "bold green", "green", "dim", "bold magenta"


def render_mask(strips: Sequence[TokenStrip], console: Console) -> None:
    """Print what is trained in each example. Without colours trained tokens stand in brackets.

    Args:
        strips: Examples whose first measure is the weight.
        console: Colour and encoding are the console's (it honours ``NO_COLOR``).
    """
    from rich.text import Text

    if not strips:
        return
    is_plain = console.color_system is None or console.no_color
    letters = ", ".join(f"{role[0].upper()} {role}" for role in dict.fromkeys(r for s in strips for r in s.roles))
    legend = "[trained] not trained" if is_plain else "green is trained, dim is not"
    console.print()
    console.print(Text("Examples token by token", style="bold underline"))
    console.print(Text(f"{legend}; {letters}"))
    for strip in strips:
        console.print()
        console.print(encodable(Text(clean(strip.title), style="bold"), console))
        console.print(encodable(_line(strip, is_plain), console))


def _line(strip: TokenStrip, is_plain: bool) -> typing.Any:
    from rich.text import Text

    line, speaker, is_open = Text(), "", False
    kinds = zip(strip.tokens, strip.roles, strip.values[0], strict=True)
    for (role, value), part in groupby(kinds, key=lambda kind: kind[1:]):
        is_trained = value > 0
        if is_plain and is_open and (not is_trained or role != speaker):
            line.append("]")
            is_open = False
        if role != speaker:
            line.append("\n" if speaker else "").append(f"{role[0].upper()}>", style="" if is_plain else _ROLE).append(
                " "
            )
            speaker = role
        if is_plain and is_trained and not is_open:
            line.append("[")
            is_open = True
        style = "" if is_plain else _UNTRAINED if not is_trained else _TRAINED if value > 0.5 else _PARTLY
        line.append("".join(visible(token) for token, _, _ in part), style=style)
    return line.append("]" if is_open else "")

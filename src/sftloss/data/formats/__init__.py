"""The formats that rows of training data are written in, one file each.

A file of this room whose `FORMAT` is a :class:`Format` (or a tuple of them) is found by itself.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from sftloss.data.formats.format import FORMATS, Format, detect_format, format_kinds, register_format

__all__ = ["FORMATS", "Format", "detect_format", "format_kinds", "register_format"]

for _name in sorted({entry.name for entry in pkgutil.iter_modules(__path__)} - {"__main__"}):
    _own = getattr(import_module(f"{__name__}.{_name}"), "FORMAT", ())
    for _format in _own if isinstance(_own, tuple) else (_own,):
        register_format(_format)

"""The formats that rows of training data are written in, one file each.

A :class:`Format` at the top level of a file of this room, or a tuple of them, is registered by itself.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from sftloss.data.formats.format import FORMATS, Format, detect_format, format_kinds, register_format

__all__ = ["FORMATS", "Format", "detect_format", "format_kinds", "register_format"]

for _name in sorted({entry.name for entry in pkgutil.iter_modules(__path__)} - {"__main__"}):
    for _value in list(vars(import_module(f"{__name__}.{_name}")).values()):
        for _format in _value if isinstance(_value, tuple) else (_value,):
            if isinstance(_format, Format):
                register_format(_format)

"""What matplotlib writes, turned into an inline picture: accessible, themed by CSS variables, its ids its own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

# Okabe-Ito, in the order that stays apart for every kind of colour blindness; the two lightest are deepened to
# be seen on white. Drawn as stand-in colours, so that the page (light, dark, print) decides.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b57f00", "#3f4a54")
_FALLBACK = {"ink": "#1c2024", "muted": "#5c6670", "grid": "#e3e6e9", "reference": "#98a1aa", "paper": "#fdfdfc"}


def stand_in(name: str) -> str:
    """The colour drawn for a CSS variable: one of `ink`, `muted`, `grid`, `reference`, `paper`, `c0` to `c5`."""
    if name[0] == "c":
        return f"#0102{int(name[1:]) + 16:02x}"
    return f"#0101{list(_FALLBACK).index(name) + 16:02x}"


def _variables() -> dict[str, str]:
    colours = {f"c{i}": colour for i, colour in enumerate(SERIES)} | _FALLBACK
    return {stand_in(name): f"var(--{name},{colour})" for name, colour in colours.items()}


_VARIABLES = _variables()
_COLOUR = re.compile(r"#010[12][0-9a-f]{2}")
_FONT = re.compile(r"font: (?:normal )*([0-9.]+px) [^;]*")
_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_LONG = re.compile(r"(\d+\.\d{2})\d+")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _used_ids(root: ElementTree.Element) -> set[str]:
    used: set[str] = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            if _local(name) == "href":
                used.add(value[1:])
            used.update(_REFERENCE.findall(value))
    return used


def _attribute(name: str, value: str, ids: dict[str, str]) -> tuple[str, str] | None:
    name = _local(name)
    if name == "id":
        return ("id", ids[value]) if value in ids else None
    if name == "href":
        return "href", f"#{ids[value[1:]]}"
    if name == "style":
        value = _FAMILY.sub("", _FONT.sub(r"font-size: \1", value))  # the page's own fonts
        value = _COLOUR.sub(lambda m: _VARIABLES[m.group()], value)
    if name == "transform" and value.startswith("rotate(-0"):
        return None
    if name in ("d", "transform", "x", "y", "points"):
        value = _LONG.sub(r"\1", value).replace("\n", " ").strip()
    return name, _REFERENCE.sub(lambda m: f"url(#{ids[m.group(1)]})", value)


def inline(svg: str, *, prefix: str, title: str, description: str) -> str:
    """One `<svg role="img">` for a page.

    Args:
        svg: A file as matplotlib writes it.
        prefix: Begins every id that stays, so that two charts of a page share none.
        title, description: The text alternative. Plain text.
    """
    root = ElementTree.fromstring(svg)
    ids = {old: f"{prefix}-{i}" for i, old in enumerate(sorted(_used_ids(root)))}
    for element in list(root.iter()):
        for child in list(element):
            if _local(child.tag) in ("metadata", "style"):
                element.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        kept = (_attribute(name, value, ids) for name, value in element.attrib.items())
        element.attrib = dict(pair for pair in kept if pair is not None)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{prefix}-title",
        "aria-describedby": f"{prefix}-desc",
    }
    for index, (tag, text) in enumerate((("title", title), ("desc", description))):
        label = ElementTree.Element(tag, {"id": f"{prefix}-{tag}"})
        label.text = text
        root.insert(index, label)
    for element in root.iter():
        if element.tag not in ("text", "title", "desc") and not (element.text or "").strip():
            element.text = None
        element.tail = None
    return ElementTree.tostring(root, encoding="unicode")

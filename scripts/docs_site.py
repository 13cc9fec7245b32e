"""The documentation site: pages of the repository as pages of the site, and the reference from docstrings.

`mkdocs.yml` names this file as a hook, and `make docs` builds the site. The tests use the functions without mkdocs.
"""

from __future__ import annotations

import html
import importlib
import inspect
import os
import pkgutil
import re
from pathlib import Path
from typing import Any

import sftloss
from sftloss.docstrings import docstring_of, markdown

ROOT = Path(__file__).resolve().parents[1]

# pages of the repository that are outside of docs/, by their address in the site
OUTSIDE = {
    "index.md": "README.md",
    "index.zh.md": "README.zh.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks/README.md": "benchmarks/README.md",
    "statistics.md": "src/sftloss/statistics/README.md",
    **{f"studies/{path.name}": f"studies/{path.name}" for path in sorted((ROOT / "studies").glob("*.md"))},
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")


def source_of(page: str) -> str:
    """Path in the repository of a page of the site; empty where the page is made from docstrings."""
    if page in OUTSIDE:
        return OUTSIDE[page]
    return "" if page.startswith("reference/") else f"docs/{page}"


def pages() -> list[str]:
    """Address of every page of the site that is a file of the repository."""
    written = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    return sorted([*written, *OUTSIDE])


def with_links_of_the_site(text: str, page: str) -> str:
    """Return a page with links to the addresses of the site; a link to a file that is no page keeps its words only.

    Raises:
        FileNotFoundError: If a link leads to a file that does not exist.
    """
    source, addresses = source_of(page), {path: address for address, path in OUTSIDE.items()}
    here = os.path.dirname(source)

    def replace(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        path, mark, anchor = target.partition("#")
        if "://" in target or not path or target.startswith("mailto:"):
            return match[0]
        file = os.path.normpath(os.path.join(here, path))
        if not (ROOT / file).exists():
            raise FileNotFoundError(f"{source}: the link to {target} leads nowhere")
        address = addresses.get(file) or (file[5:] if file.startswith("docs/") else file)
        if not image and (not file.endswith(".md") or address not in pages()):
            return words
        return f"{image}[{words}]({os.path.relpath(address, os.path.dirname(page) or '.')}{mark}{anchor})"

    parts = re.split(r"(^```.*?^```$|`[^`\n]+`)", text, flags=re.MULTILINE | re.DOTALL)
    # a link whose words are code is split at its code: join what a bracket holds together
    joined, code = [""], {}
    for number, part in enumerate(parts):
        if number % 2:
            code[f"\0{number}\0"] = part
            joined.append(f"\0{number}\0")
        else:
            joined.append(part)
    text = LINK.sub(replace, "".join(joined))
    return re.sub(r"\0\d+\0", lambda match: code[match[0]], text)


# ---- the reference ----


def public_modules() -> list[str]:
    """Modules with an ``__all__``, in the order of their names."""
    walked = (module.name for module in pkgutil.walk_packages(sftloss.__path__, "sftloss."))
    names = ["sftloss", *(name for name in walked if not name.endswith("__main__"))]
    return sorted(name for name in names if _public_names(name))


def _public_names(module: str) -> list[str]:
    """The names in a module's ``__all__``, read from its source."""
    path = ROOT / "src" / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if "__all__" not in path.read_text(encoding="utf-8"):
        return []
    return list(getattr(importlib.import_module(module), "__all__", []))


def reference_pages() -> dict[str, str]:
    """Markdown of each page of the reference by its address."""
    modules = public_modules()
    rows = [f"| [`{name}`]({name}.md) | {_summary(importlib.import_module(name))} |" for name in modules]
    overview = (
        "# Python reference\n\nPublic names are those in the `__all__` of `sftloss` and of its packages. All others "
        "may change. These pages are made from the docstrings.\n\n| package | holds |\n|---|---|\n"
    )
    homes = _homes(modules)
    made = {f"reference/{name}.md": _module_page(name, homes) for name in modules}
    return {"reference/index.md": overview + "\n".join(rows) + "\n", **made}


def _homes(modules: list[str]) -> dict[int, str]:
    """The package that documents an object: of those that name it the one whose code it is, else the longest name."""
    homes: dict[int, str] = {}
    for module in modules:
        for name in _public_names(module):
            value = getattr(importlib.import_module(module), name)
            if inspect.isclass(value) or inspect.isfunction(value):
                old = homes.get(id(value))
                if old is None or len(module) > len(old):
                    homes[id(value)] = module
    return homes


def _module_page(module: str, homes: dict[int, str]) -> str:
    """One page: what the package is for, then each public name."""
    room = importlib.import_module(module)
    parts = [f"# `{module}`", _text(inspect.getdoc(room) or "")]
    for name in sorted(_public_names(module), key=lambda name: (name.isupper(), not name[0].isupper(), name)):
        value = getattr(room, name)
        parts.append(f"## `{name}` {{#{name}}}")
        home = homes.get(id(value), module)
        if inspect.ismodule(value):
            parts.append(f"{_summary(value)} See [`{value.__name__}`]({value.__name__}.md).")
        elif home != module:
            parts.append(f"{_summary(value)} See [`{home}.{name}`]({home}.md#{name}).")
        elif inspect.isclass(value):
            parts += [_code(_signature(name, value)), _sections(value), *_methods(value)]
        elif inspect.isfunction(value):
            parts += [_code(_signature(name, value)), _sections(value)]
        else:
            parts.append(_constant(value))
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(value: Any) -> str:
    return _prose(" ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()))


def _prose(text: str) -> str:
    """Markdown of words, code and formulas in which nothing is taken for HTML."""
    parts = re.split(r"(`[^`]*`|\$[^$]*\$)", markdown(text))
    return "".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(parts))


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _constant(value: Any) -> str:
    if isinstance(value, (str, int, float)):
        return f"`{value!r}`"
    if hasattr(value, "__args__"):
        return f"A type: `{value}`."
    names = [str(getattr(entry, "name", entry)) for entry in value] if hasattr(value, "__iter__") else []
    kind = "A mapping" if hasattr(value, "keys") else "A value of type `" + type(value).__name__ + "`"
    if not names:
        return f"{kind}: `{value}`." if len(str(value)) < 200 else f"{kind}."
    listed = ", ".join(f"`{name}`" for name in names)
    return (
        f"{kind} with {len(names)} entries: {listed}." if len(listed) < 2000 else f"{kind} with {len(names)} entries."
    )


def _signature(name: str, value: Any) -> str:
    """The call with its annotations, one argument a line where it is long."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    texts: list[str] = []
    kinds = inspect.Parameter
    star = False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is kinds.VAR_POSITIONAL:
            star = True
        if parameter.kind is kinds.KEYWORD_ONLY and not star:
            texts.append("*")
            star = True
        prefix = {kinds.VAR_POSITIONAL: "*", kinds.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        text = f"{prefix}{parameter.name}"
        if parameter.annotation is not kinds.empty:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not kinds.empty:
            shown = re.sub(r" at 0x\w+", "", repr(parameter.default))
            text += f" = {shown}" if len(shown) < 80 else " = ..."
        texts.append(text)
    returns = ""
    if signature.return_annotation is not inspect.Signature.empty and not inspect.isclass(value):
        returns = f" -> {_annotation(signature.return_annotation)}"
    line = f"{name}({', '.join(texts)}){returns}"
    return line if len(line) <= 88 else f"{name}(\n    " + ",\n    ".join(texts) + f",\n){returns}"


def _annotation(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation)


def _sections(value: Any) -> str:
    """A docstring as Markdown."""
    text = inspect.getdoc(value) or ""
    if text.startswith(f"{getattr(value, '__name__', '')}("):  # a dataclass without a docstring has its signature
        return ""
    docstring = docstring_of(value)
    parts = [_prose(docstring.summary)]
    parts += [f"$$\n{docstring.formula}\n$$"] if docstring.formula else []
    parts.append(_text(docstring.body))
    for title, block in docstring.sections.items():
        if title in ("Args", "Attributes", "Raises"):
            entries = re.findall(r"^(\*{0,2}[\w, *]+): (.*(?:\n(?: .*)?)*)", block, re.MULTILINE)
            listed = "\n".join(f"- `{name}`: {_prose(' '.join(meaning.split()))}" for name, meaning in entries)
            parts.append(f"**{title}**\n\n{listed or _text(block)}")
        elif title.startswith("Example"):
            parts.append(
                f"**{title}**\n\n{_code(block.strip())}" if ">>>" in block else f"**{title}**\n\n{_text(block)}"
            )
        else:
            parts.append(f"**{title}**\n\n{_text(block)}")
    return "\n\n".join(part for part in parts if part)


def _text(text: str) -> str:
    """The reStructuredText of our docstrings as Markdown: formulas, literal blocks, code."""
    formula = re.compile(r"^( *)\.\. math::((?: .*)?(?:\n\n? +.*)*)\n?", re.MULTILINE)
    text = formula.sub(lambda match: f"\n$$\n{' '.join(match[2].split())}\n$$\n", text)
    literal = re.compile(r"::\n\n((?: {4}.*\n?|\n)+)")
    text = literal.sub(lambda match: f":\n\n{_code(inspect.cleandoc(match[1]))}\n\n", text)
    blocks = re.split(r"(```.*?```)", text, flags=re.DOTALL)
    text = "".join(block if number % 2 else _prose(block) for number, block in enumerate(blocks))
    doctest = re.compile(r"((?:^>>> .*\n?(?:^(?!>>>|\s*$).*\n?)*)+)", re.MULTILINE)
    return doctest.sub(lambda match: f"{_code(match[1].strip())}\n", text).strip()


def _methods(value: type) -> list[str]:
    """Methods and properties that the class itself defines and documents."""
    parts = []
    for name, member in sorted(vars(value).items()):
        inner = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if name.startswith("_") or not inspect.getdoc(inner):
            continue
        if isinstance(inner, property):
            parts.append(f"**`{name}`**: {_summary(inner)}")
        elif inspect.isfunction(inner):
            parts.append(f"{_code(_signature(f'{value.__name__}.{name}', inner))}\n\n{_sections(inner)}")
    return ["**Methods**", *parts] if parts else []


# ---- what mkdocs calls ----


def unnamed_pages() -> dict[str, list[str]]:
    """Pages that the navigation gets by themselves, by the first page of their section: new studies, the reference."""
    named = nav_pages()
    studies = [page for page in pages() if page.startswith("studies/") and page not in named]
    return {"reference/index.md": [page for page in reference_pages() if page not in named], "studies.md": studies}


def on_config(config: Any) -> Any:
    """List the pages that the navigation does not name."""
    unnamed = unnamed_pages()
    for section in _sections_of(config.nav):
        for entry in list(section):
            first = next(iter(entry.values())) if isinstance(entry, dict) else entry
            section += unnamed.get(first, []) if isinstance(first, str) else []
    return config


def _sections_of(nav: Any) -> list[Any]:
    """Every list of a navigation."""
    inner = [value for entry in nav for value in (entry.values() if isinstance(entry, dict) else [])]
    return [nav, *(found for value in inner if isinstance(value, list) for found in _sections_of(value))]


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside of docs/, their pictures, and the reference."""
    from mkdocs.structure.files import File

    for address, path in OUTSIDE.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / path)))
    for picture in (ROOT / "benchmarks" / "results").glob("*.svg"):
        address = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, address, abs_src_path=str(picture)))
    for address, text in reference_pages().items():
        files.append(File.generated(config, address, content=text))
    return files


def on_page_markdown(text: str, page: Any, config: Any, files: Any) -> str:
    """Point links at the site, and remove the comments with sources and code for the tests."""
    if not page.parent:
        page.meta["hide"] = ["navigation"]  # a section of one page: its list would show itself alone
    # results and docstrings repeat each term often, and are not where a reader begins
    boosts = {"studies": 0.3, "benchmarks": 0.3, "reference": 0.6}
    page.meta["search"] = {"boost": boosts.get(page.file.src_uri.split("/")[0], 1.0)}
    if source_of(page.file.src_uri):
        text = with_links_of_the_site(text, page.file.src_uri)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Write formulas as MathML, which browsers show without a script or a font."""
    return with_mathml(content)


def with_mathml(content: str) -> str:
    """Return HTML with each formula that arithmatex marked as MathML."""
    from latex2mathml.converter import convert

    def replace(match: re.Match[str]) -> str:
        latex = html.unescape(match[2].strip()[2:-2])
        latex = re.sub(
            r"\\[bB]ig[lrg]?[lr]?(?![a-zA-Z])", "", " ".join(latex.split())
        )  # sizes, which MathML sets itself
        mathml = convert(latex, display="block" if match[1] == "div" else "inline")
        # "log p", not "logp"
        return re.sub(r"(?<!<msu[bp]>)(<mi>(?:log|exp)</mi>)(?!<mo|</)", r'\1<mspace width="0.167em" />', mathml)

    return re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', replace, content, flags=re.DOTALL)


def nav_pages(config: Path = ROOT / "mkdocs.yml") -> list[str]:
    """The pages that the navigation of `mkdocs.yml` names, in its order."""
    nav = config.read_text(encoding="utf-8").split("\nnav:\n")[1].split("\n\n")[0]
    return re.findall(r"[\w./-]+\.md\b", nav)


def public_names() -> set[tuple[str, str]]:
    """Every public name with its module."""
    return {(module, name) for module in public_modules() for name in _public_names(module)}

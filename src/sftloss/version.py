"""The version of this package, and of those that decide its results."""

from __future__ import annotations

__version__ = "0.1.0"


def package_versions(*names: str) -> dict[str, str]:
    """Versions by name of the installed ones among `names`, in order; ``"python"`` is the interpreter's.

    Example:
        >>> package_versions("sftloss", "no-such-package") == {"sftloss": __version__}
        True
    """
    import platform
    from importlib import metadata

    versions = {}
    for name in names:
        try:
            own = {"sftloss": __version__, "python": platform.python_version()}
            versions[name] = own.get(name) or metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions

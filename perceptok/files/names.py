"""Names from outside that become files: inside their folder, and no two the same."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from perceptok.errors import OutputError

__all__ = ["distinct_targets", "inside"]


def inside(folder: str | os.PathLike[str], name: str, *, suffix: str | None = None) -> Path:
    """The file of a name in a folder, wherever symbolic links lead.

    Args:
        folder: Where the file must be; it need not exist.
        name: A relative name with subfolders, as records have them.
        suffix: Takes the place of the name's own.

    Raises:
        OutputError: The name is empty, absolute, has a NUL, names a folder (`.`, `..`), or leads out of the folder, be
            it through a symbolic link.
    """
    path = Path(name)
    if not path.name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise OutputError(f"the name {name!r} is no file of {folder}; names are relative, without '..'")
    target = Path(folder) / path
    if suffix is not None:
        target = target.with_suffix(suffix)
    if not target.resolve().is_relative_to(Path(folder).resolve()):
        raise OutputError(f"the name {name!r} leads out of {folder}, through a symbolic link")
    return target


def distinct_targets(names: Iterable[str], folder: str | os.PathLike[str], *, suffix: str | None = None) -> list[Path]:
    """The file of each name; see `inside`.

    Raises:
        OutputError: Two names lead to one file; nothing has been written yet.
    """
    first: dict[Path, str] = {}
    targets: list[Path] = []
    for name in names:
        target = inside(folder, name, suffix=suffix)
        other = first.setdefault(target.resolve(), name)
        if len(first) == len(targets):
            raise OutputError(f"{other!r} and {name!r} would both be written to {target}; rename one of them")
        targets.append(target)
    return targets

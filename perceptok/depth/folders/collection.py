"""Which files a command works on: folders, patterns and list files, resolved to depth maps with names."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from perceptok.depth.maps.depth_map import DepthMap, Kind, Nearness, NearnessRange, Sky, Unit
from perceptok.depth.maps.formats import FORMATS
from perceptok.errors import DepthMapError

__all__ = ["MapFile", "MapFiles", "find_maps"]

_LISTS = (".csv", ".txt")


@dataclass(frozen=True)
class MapFile:
    """One depth map on disk and how to read it.

    Attributes:
        path: The file.
        name: Its name in records and mirrored folders: relative to the folder or list that it was found by, with `/`.
        source: What it belongs to (a sensor, a scene): the column of a list file, else the folder's name.
        kind: "metric", "inverse" or "relative"; None where the file itself says.
        unit: Of a metric map.
        scale: Instead of a unit, metres per value in the file.
        invalid: Values in the file that mark holes.
        sky: What +inf in depth means; see `DepthMap.read`.
        sky_values: Values in the file that mark the sky.
        range: Which of its values become nearness 0 and 1.
        in_metres: False where a metric map's scale is unknown: its order and shape are right, its metres are not.
    """

    path: Path
    name: str
    source: str = ""
    kind: Kind | None = None
    unit: Unit | None = None
    scale: float | None = None
    invalid: tuple[float, ...] = ()
    sky: Sky = "far"
    sky_values: tuple[float, ...] = ()
    range: NearnessRange = field(default_factory=NearnessRange)
    in_metres: bool = True

    def read(self) -> DepthMap:
        """The map; raises DepthMapError naming the file."""
        return DepthMap.read(
            self.path,
            kind=self.kind,
            unit=self.unit,
            scale=self.scale,
            invalid=self.invalid,
            sky=self.sky,
            sky_values=self.sky_values,
        )

    def nearness(self) -> Nearness:
        """The map's nearness in its range; raises DepthMapError naming the file."""
        depth = self.read()
        try:
            return depth.to_nearness(self.range)
        except DepthMapError as error:
            raise DepthMapError(f"{self.path}: {error}") from error


@dataclass(frozen=True)
class MapFiles(Sequence[Any]):
    """Files as a source of training maps: (nearness, valid) pairs, read when asked for."""

    files: tuple[MapFile, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        nearness = self.files[index].nearness()
        return nearness.values, nearness.valid


def find_maps(
    paths: Iterable[str | Path],
    *,
    kind: Kind | None = None,
    unit: Unit | None = None,
    scale: float | None = None,
    invalid: Sequence[float] = (),
    sky: Sky = "far",
    sky_values: Sequence[float] = (),
    range: NearnessRange | None = None,  # noqa: A002 - the name of the thing
    sources: Sequence[str] = (),
) -> list[MapFile]:
    """Resolve what a user names to depth maps, in a stable order.

    Args:
        paths: Depth map files; folders, searched through for every supported format; patterns such as `maps/*.png`;
            list files: `.txt` with a path a line, or `.csv` with the column `file` and, where known, `kind`, `unit`
            or `metres_per_value`, and `source`. Paths in a list are relative to it.
        kind: For every file whose list does not say.
        unit: The same.
        scale: The same.
        invalid: Values in the files that mark holes.
        sky: What +inf in depth means; see `DepthMap.read`.
        sky_values: Values in the files that mark the sky.
        range: Which values become nearness 0 and 1; by default each map's own extremes.
        sources: Keep these sources only.

    Raises:
        DepthMapError: Something named does not exist, has no depth maps in it, or two files have one name.
    """
    default = MapFile(
        Path(),
        "",
        kind=kind,
        unit=unit,
        scale=scale,
        invalid=tuple(invalid),
        sky=sky,
        sky_values=tuple(sky_values),
        range=range or NearnessRange(),
    )
    found: list[MapFile] = []
    for path in paths:
        found += _expanded(str(path), default)
    if sources:
        unknown = set(sources) - {file.source for file in found}
        if unknown:
            raise DepthMapError(f"no depth maps of the source {', '.join(sorted(unknown))} in what was named")
        found = [file for file in found if file.source in sources]
    first: dict[str, MapFile] = {}
    for file in found:
        other = first.setdefault(file.name, file)
        if other is not file:
            raise DepthMapError(
                f"{other.path} and {file.path} would both be called {file.name}; name a folder above both"
            )
    return found


def _expanded(named: str, default: MapFile) -> list[MapFile]:
    path = Path(named)
    if path.is_dir():
        return _in_folder(path, default)
    if path.is_file():
        if path.suffix.lower() == ".csv":
            return _in_table(path, default)
        if path.suffix.lower() == ".txt":
            return _in_lines(path, default)
        return [replace(default, path=path, name=path.name, source=path.parent.name)]
    if any(mark in named for mark in "*?["):
        root = Path(path.anchor) if path.is_absolute() else Path()
        matches = sorted(one for one in root.glob(str(path.relative_to(root))) if one.is_file())
        if matches:
            common = _fixed_part(path)
            return [_within(common, one, default) for one in matches]
        raise DepthMapError(f"{named}: no file matches")
    raise DepthMapError(f"{named}: no such file or folder")


def _in_folder(folder: Path, default: MapFile) -> list[MapFile]:
    try:
        maps = sorted(path for path in folder.rglob("*") if path.suffix.lower() in FORMATS and path.is_file())
        next(folder.iterdir(), None)
    except PermissionError as error:
        raise DepthMapError(f"{folder}: no permission to list it ({error.strerror})") from error
    if not maps:
        raise DepthMapError(f"{folder}: no depth maps in it; supported are {', '.join(sorted(FORMATS))}")
    return [_within(folder, path, default) for path in maps]


def _in_lines(path: Path, default: MapFile) -> list[MapFile]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise DepthMapError(f"{path}: the list is empty")
    return [_within(path.parent, path.parent / line, default) for line in lines]


def _in_table(path: Path, default: MapFile) -> list[MapFile]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "file" not in (reader.fieldnames or ()):
            raise DepthMapError(f"{path}: a list of depth maps has a column named file; found {reader.fieldnames}")
        rows = list(reader)
    if not rows:
        raise DepthMapError(f"{path}: the list is empty")
    return [_from_row(path.parent, row, default) for row in rows]


def _from_row(folder: Path, row: dict[str, str], default: MapFile) -> MapFile:
    file = _within(folder, folder / row["file"], default)
    kind = cast("Kind | None", row.get("kind") or default.kind)
    unit = cast("Unit | None", row.get("unit") or default.unit)
    scale, in_metres = default.scale, True
    if kind == "metric" and "metres_per_value" in row:
        # A list that leaves the column empty says that the scale is unknown: any one gives the same nearness.
        scale, unit, in_metres = float(row["metres_per_value"] or 1), None, bool(row["metres_per_value"])
    return replace(
        file, kind=kind, unit=unit, scale=scale, in_metres=in_metres, source=row.get("source") or file.source
    )


def _within(folder: Path, path: Path, default: MapFile) -> MapFile:
    inside = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    source = inside.parts[0] if len(inside.parts) > 1 else folder.resolve().name
    return replace(default, path=path, name=inside.as_posix(), source=source)


def _fixed_part(pattern: Path) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts: list[str] = []
    for part in pattern.parts[:-1]:
        if any(mark in part for mark in "*?["):
            break
        parts.append(part)
    return Path(*parts)

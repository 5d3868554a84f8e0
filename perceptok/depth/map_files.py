"""Which files a command works on: folders, patterns and list files, resolved to depth maps with names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from perceptok.depth.formats.registry import FORMATS
from perceptok.depth.formats.stored import MOST_PIXELS, Kind
from perceptok.depth.maps import DepthMap, Nearness, NearnessRange
from perceptok.depth.units import Packing, Sky, Unit
from perceptok.errors import DepthMapError

__all__ = ["MapFile", "MapFiles", "find_maps"]


_MASK_ENDING = re.compile(r"[-_.](mask|valid|valid_mask)$", re.IGNORECASE)


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
        key: Of an NPZ with several arrays, which one.
        mask_key: Of an NPZ, the array that says what is valid.
        channel: Of an EXR with several channels, which one.
        mask: A file that is not 0 where the map is valid, or a folder of such files, named as the maps are.
        packing: How the file packs its numbers; see `DepthMap.read`.
        in_metres: False where a metric map's scale is unknown: its order and shape are right, its metres are not.
        max_pixels: More values than these in a file are refused; see `DepthMap.read`.
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
    key: str | None = None
    mask_key: str | None = None
    channel: str | None = None
    mask: Path | None = None
    packing: Packing | None = None
    in_metres: bool = True
    max_pixels: int = MOST_PIXELS

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
            key=self.key,
            mask_key=self.mask_key,
            channel=self.channel,
            mask=self._mask_file(),
            packing=self.packing,
            max_pixels=self.max_pixels,
        )

    def _mask_file(self) -> Path | None:
        if self.mask is None or not _is_there(self.mask) or not self.mask.is_dir():
            return self.mask
        exact = self.mask / self.name
        stem = exact.with_suffix("")
        tried = [exact, *(stem.with_suffix(suffix) for suffix in (*FORMATS, ".jpg", ".bmp"))]
        found = next((path for path in tried if path.is_file()), None)
        if found is None:
            raise DepthMapError(f"{self.path}: there is no mask of this name in {self.mask}")
        return found

    def nearness(self) -> Nearness:
        """The map's nearness in its range; raises DepthMapError naming the file."""
        depth = self.read()
        try:
            return depth.to_nearness(self.range)
        except DepthMapError as error:
            raise DepthMapError(f"{self.path}: {error}") from error


@dataclass(frozen=True)
class MapFiles(Sequence[Any]):
    """Files as a source of training maps, read when asked for: nearness, valid, and (name, what is odd) or None."""

    files: tuple[MapFile, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        file = self.files[index]
        nearness = file.nearness()
        few = nearness.few_pixels()
        return nearness.values, nearness.valid, (file.name, str(few)) if few else None


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
    key: str | None = None,
    mask_key: str | None = None,
    channel: str | None = None,
    max_pixels: int = MOST_PIXELS,
    mask: Path | None = None,
    packing: Packing | None = None,
    sources: Sequence[str] = (),
    frames: bool = False,
) -> list[MapFile]:
    """Resolve what a user names to depth maps, in a stable order.

    Args:
        paths: Depth map files; folders, searched through for every supported format; patterns such as `maps/*.png`;
            list files: `.txt` with a path a line, or `.csv` with the column `file` and, where known, `kind`, `unit`
            or `metres_per_value` (also `1/5000`), `source`, `invalid` (numbers) and `mask` (a file). Paths in a list
            are relative to it. Hidden files, and the masks of maps beside them (`a_mask.npy`), are no maps.
        kind: For every file whose list does not say.
        unit: The same.
        scale: The same.
        invalid: Values in the files that mark holes.
        sky: What +inf in depth means; see `DepthMap.read`.
        sky_values: Values in the files that mark the sky.
        range: Which values become nearness 0 and 1; by default each map's own extremes.
        key: See `DepthMap.read`.
        mask_key: The same.
        channel: The same.
        max_pixels: More values than these in a file are refused.
        mask: A file that is not 0 where maps are valid, or a folder of such files, named as the maps are.
        packing: How the files pack their numbers; see `DepthMap.read`.
        sources: Keep these sources only.
        frames: The maps are frames of clips: in the order of a list, and elsewhere by the numbers in their names, `9`
            before `10`.

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
        key=key,
        mask_key=mask_key,
        channel=channel,
        max_pixels=max_pixels,
        mask=mask,
        packing=packing,
    )
    found: list[MapFile] = []
    listed: list[MapFile] = []
    for path in paths:
        (listed if frames and _is_list(Path(path)) else found).extend(_expanded(str(path), default))
    if frames:
        found = sorted(found, key=lambda file: _counted(file.name)) + listed
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


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".txt") and _is_there(path) and path.is_file()


def _counted(name: str) -> list[tuple[str, int]]:
    """A name as letters and numbers by turns, so that 9 comes before 10."""
    parts = re.split(r"(\d+)", name)
    return [(text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)]


def _expanded(named: str, default: MapFile) -> list[MapFile]:
    path = Path(named)
    if not _is_there(path) and not any(mark in named for mark in "*?["):
        raise DepthMapError(f"{named[:200]}: no such file or folder")
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
        next(folder.iterdir(), None)
    except PermissionError as error:
        raise DepthMapError(f"{folder}: no permission to list it ({error.strerror})") from error
    files = sorted(path for path in _walked(folder, frozenset()) if path.suffix.lower() in FORMATS)
    stems = {path.with_suffix("") for path in files}
    maps = [path for path in files if not _is_mask(path, stems)]
    if not maps:
        raise DepthMapError(f"{folder}: no depth maps in it; supported are {', '.join(sorted(FORMATS))}")
    return [_within(folder, path, default) for path in maps]


def _walked(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """The files below a folder; hidden ones are passed over, links to folders followed, unless they lead back up."""
    real = folder.resolve()
    if real in above:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walked(path, above | {real})
        elif path.is_file():
            yield path


def _is_mask(path: Path, stems: set[Path]) -> bool:
    """Whether a file is the mask of a map beside it, as `a_mask.npy` beside `a.npy`."""
    whole = path.with_suffix("").name
    short = _MASK_ENDING.sub("", whole)
    return short != whole and path.with_name(short) in stems


def _in_lines(path: Path, default: MapFile) -> list[MapFile]:
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not lines:
        raise DepthMapError(f"{path}: the list is empty")
    return [_within(path.parent, _of_line(path.parent, line), default) for line in lines]


def _of_line(folder: Path, line: str) -> Path:
    """The map of a line: the line itself, or, as in AiT's lists, the second of image, map and perhaps a number."""
    words = line.split()
    if len(words) in (2, 3) and not _is_there(folder / line) and Path(words[1]).suffix.lower() in FORMATS:
        # Their paths begin with a slash and mean the data set's folder.
        return folder / words[1] if _is_there(folder / words[1]) else folder / words[1].lstrip("/")
    return folder / line


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return False


def _text(path: Path) -> str:
    """A list's text: UTF-8 with or without a byte order mark, or else Latin-1, as spreadsheets write it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DepthMapError(f"{path}: the list cannot be read ({error.strerror})") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _in_table(path: Path, default: MapFile) -> list[MapFile]:
    text = _text(path)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        if "file" not in names:
            raise DepthMapError(f"{path}: a list of depth maps has a column named file; found {names}")
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DepthMapError(f"{path}: not a table that can be read ({error}); export it as CSV again") from error
    rows = [(line, row) for line, row in rows if any(row.values())]
    if not rows:
        raise DepthMapError(f"{path}: the list is empty")
    found = []
    for line, row in rows:
        try:
            found.append(_from_row(path.parent, row, default))
        except (DepthMapError, ValueError, ArithmeticError) as error:  # 1/0, 1e999
            raise DepthMapError(f"{path}, line {line}: {error}") from error
    return found


def _from_row(folder: Path, row: dict[str, str | None], default: MapFile) -> MapFile:
    cells = {name: (value or "").strip() for name, value in row.items() if isinstance(name, str)}
    if not cells["file"]:
        raise DepthMapError("the column file is empty")
    file = _within(folder, folder / cells["file"], default)
    kind = cast("Kind | None", cells.get("kind") or default.kind)
    unit = cast("Unit | None", cells.get("unit") or default.unit)
    scale, in_metres = default.scale, True
    if kind == "metric" and "metres_per_value" in cells:
        # A list that leaves the column empty says that the scale is unknown: any one gives the same nearness.
        told = cells["metres_per_value"]
        scale, unit, in_metres = float(Fraction(told)) if told else 1.0, None, bool(told)
    marks = cells.get("invalid", "").replace(";", " ").replace(",", " ").split()
    return replace(
        file,
        kind=kind,
        unit=unit,
        scale=scale,
        in_metres=in_metres,
        invalid=tuple(float(mark) for mark in marks) or default.invalid,
        mask=folder / cells["mask"] if cells.get("mask") else default.mask,
        source=cells.get("source") or file.source,
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

"""Depth map files: how they are read, and which files the folders, patterns and lists of a user name."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from perceptok.depth.formats.registry import FORMATS, OTHER_SUFFIXES
from perceptok.depth.maps import DepthMap, Nearness, NearnessRange
from perceptok.depth.stored_maps import MAX_PIXELS, Kind, Packing, Sky, Unit
from perceptok.errors import DepthMapError
from perceptok.files import read_input, spell_name, walk_files
from perceptok.jobs import stamp_of

__all__ = ["MapFailure", "MapFile", "MapFiles", "ReadOptions", "find_maps", "try_reading"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class ReadOptions:
    """How depth map files are read, and which of their values become nearness 0 and 1.

    Attributes:
        kind: "metric" (larger = farther), "inverse" (larger = nearer) or "relative" (larger = farther, no unit); None
            where the files state it.
        unit: Unit of metric maps.
        scale: Metres per value in the file, instead of a unit.
        invalid: Values in the file that mark holes.
        sky: What +infinity in depth means: "far" (nearness 0, beyond everything else) or "hole".
        sky_values: Values in the file that mark the sky.
        key: The array of an NPZ with several arrays that holds depth.
        mask_key: The array of an NPZ that is True, or not 0, where the map is valid.
        channel: The channel of an EXR with several channels that holds depth.
        part: The part of an EXR with several parts, by its name or its number from 0.
        mask: A file that is not 0 where maps are valid; a folder of such files, named as the maps are; or a name with
            `*` for the map's own, such as `*_mask.npy`, of a file beside it (with a folder: in that folder).
        packing: How the file packs its numbers: "sunrgbd", "carla24", "rgb24", "bgr24", "rgba_float" or "bgra_float",
            as in `DepthMap.read`.
        max_pixels: A file that declares more values is refused before it is unpacked; the default takes 0.5 GB.
        range: Which values become nearness 0 and 1; by default each map's own extremes.
    """

    kind: Kind | None = None
    unit: Unit | None = None
    scale: float | None = None
    invalid: tuple[float, ...] = ()
    sky: Sky = "far"
    sky_values: tuple[float, ...] = ()
    key: str | None = None
    mask_key: str | None = None
    channel: str | None = None
    part: str | None = None
    mask: Path | None = None
    packing: Packing | None = None
    max_pixels: int = MAX_PIXELS
    range: NearnessRange = field(default_factory=NearnessRange)

    def check_mask(self) -> None:
        """Raise DepthMapError for a mask that does not exist, unless it is a name with `*`."""
        if self.mask is not None and "*" not in self.mask.name and not _exists(self.mask):
            raise DepthMapError(f"{self.mask}: no such file or folder of masks; check the path (--mask)")


@dataclass(frozen=True)
class MapFile:
    """A depth map on disk and how it is read.

    Attributes:
        path: The file.
        name: Its name in records and mirrored folders: relative to the folder or list that names it, with `/`. Bytes
            that are not UTF-8 are written as %XX (`perceptok.files.spell_name`).
        source: The sensor, scene or data set that it belongs to: the column of a list, else the folder's name.
        options: How it is read.
        in_metres: False where a metric map's scale is unknown: order and shape are right, metres are not.
    """

    path: Path
    name: str
    source: str = ""
    options: ReadOptions = ReadOptions()
    in_metres: bool = True

    def read(self) -> DepthMap:
        """Read the map, with a warning where a mask beside it is not used; raises DepthMapError naming the file."""
        arguments = asdict(replace(self.options, mask=self._find_mask()))
        del arguments["range"]
        depth = DepthMap.read(self.path, **arguments)
        if self.options.mask is None and (mask := self._find_unused_mask()):
            name = f"*{mask.name.removeprefix(self.path.stem)}"
            warning = f"the mask beside it, {mask.name}, is not used; to use such masks name them (--mask '{name}')"
            depth = replace(depth, warnings=(*depth.warnings, warning))
        return depth

    def read_nearness(self) -> Nearness:
        """Read the map's nearness in its range; raises DepthMapError naming the file."""
        depth = self.read()
        try:
            return depth.to_nearness(self.options.range)
        except DepthMapError as error:
            raise DepthMapError(f"{self.path}: {error}") from error

    def stamp(self) -> list[Any]:
        """What the map is made of: the options, and what changes with the content of the file and of its mask."""
        try:
            mask = self._find_mask()
        except DepthMapError:  # of a map that cannot be read
            mask = None
        return [repr(self), stamp_of(self.path), None if mask is None else stamp_of(mask)]

    def _find_mask(self) -> Path | None:
        mask = self.options.mask
        if mask is not None and "*" in mask.name:
            stem = Path(self.name).with_suffix("") if mask.parent != Path() else Path(self.path.stem)
            folder = mask.parent / stem.parent if mask.parent != Path() else self.path.parent
            return folder / mask.name.replace("*", stem.name)
        if mask is None or not _exists(mask) or not mask.is_dir():
            return mask
        same_name = mask / self.name
        stem = same_name.with_suffix("")
        candidates = [same_name, *(stem.with_suffix(suffix) for suffix in (*FORMATS, ".jpg", ".bmp"))]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise DepthMapError(
                f"{self.path}: no mask of this name, whatever its suffix, in {mask}; add one, or name one file (--mask)"
            )
        return found

    def _find_unused_mask(self) -> Path | None:
        """A mask of the map that lies beside it, as `a_mask.npy` beside `a.npy`."""
        names = (f"{self.path.stem}{ending}{suffix}" for ending in _MASK_ENDINGS for suffix in FORMATS)
        folder = f"{self.path.parent}{os.sep}"
        # Some sixty names a map, as strings: paths took a tenth of the time of a folder.
        return next((self.path.with_name(name) for name in names if os.path.exists(folder + name)), None)  # noqa: PTH110


class MapFailure(NamedTuple):
    """A map or a record that could not be processed, and why."""

    name: str
    reason: str


def try_reading(file: MapFile, read: Callable[[MapFile], Result]) -> Result | MapFailure:
    """Read a map by a method of `MapFile`; a file that cannot be read becomes a `MapFailure`."""
    try:
        return read(file)
    except DepthMapError as error:
        return MapFailure(file.name, str(error))
    except MemoryError:
        return MapFailure(file.name, "there is not enough memory for it")


@dataclass(frozen=True)
class MapFiles(Sequence[Any]):
    """Files as a source of training maps, read on access.

    An item is (nearness (H, W) float32, valid (H, W) bool, warning), where the warning is None or a pair of the map's
    name and what is odd about it.
    """

    files: tuple[MapFile, ...]

    @property
    def recipe(self) -> list[Any]:
        """What the maps are made of, which changes with the options and the files, their masks included."""
        return [file.stamp() for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        file = self.files[index]
        nearness = file.read_nearness()
        warnings = nearness.find_warnings()
        return nearness.values, nearness.valid, (file.name, "; ".join(warnings)) if warnings else None


def find_maps(
    paths: Iterable[str | Path],
    options: ReadOptions | None = None,
    *,
    sources: Sequence[str] = (),
    frames: bool = False,
    warn: Callable[[str], object] = lambda _: None,
) -> list[MapFile]:
    """Find the depth maps that paths name, in a stable order.

    Args:
        paths: Depth map files; folders, searched recursively for every supported format; patterns such as `maps/*.png`;
            list files: `.txt` with a path a line, or `.csv` with the column `file` and, where known, `kind`, `unit`
            or `metres_per_value` (also `1/5000`), `source`, `invalid` (numbers) and `mask` (a file). Paths in a list
            are relative to it; those outside its folder have their names relative to their common parent. Where files
            of several paths share a name, all names are relative to the files' common parent. Hidden files and the
            masks beside maps (`a_mask.npy`) are skipped.
        options: How the files are read, except where a list says otherwise.
        sources: Only maps of these sources; empty: of all.
        frames: The maps are frames of clips: in the order of a list, and elsewhere by the numbers in their names, `9`
            before `10`.
        warn: Called with the number of files in folders that may hold depth in a format that is not read.

    Raises:
        DepthMapError: A path or the mask does not exist, a folder has no depth maps in it, or a file is named twice.
    """
    options = options or ReadOptions()
    options.check_mask()
    found: list[MapFile] = []
    listed: list[MapFile] = []
    skipped: Counter[str] = Counter()
    for path in paths:
        files = _find_files(str(path), options, skipped)
        (listed if frames and _is_list(Path(path)) else found).extend(files)
    if frames:
        found = sorted(found, key=lambda file: _split_numbers(file.name)) + listed
    if sources:
        unknown = set(sources) - {file.source for file in found}
        if unknown:
            raise DepthMapError(f"no depth maps of the source {', '.join(sorted(unknown))} were found")
        found = [file for file in found if file.source in sources]
    if skipped:
        numbers = ", ".join(f"{number} {suffix}" for suffix, number in skipped.most_common())
        warn(f"skipped, as depth maps are not read from these formats: {numbers}; naming such a file says what to do")
    return _name_apart(found)


def _name_apart(files: list[MapFile]) -> list[MapFile]:
    """Give files of one name their names relative to the common parent of all files."""
    names = Counter(file.name for file in files)
    if len(names) == len(files):
        return files
    absolute = [Path(os.path.abspath(file.path)) for file in files]  # noqa: PTH100 - links are not followed
    repeated = [path for path, number in Counter(absolute).items() if number > 1]
    if repeated:
        raise DepthMapError(f"{repeated[0]} is named {absolute.count(repeated[0])} times; name each depth map once")
    parent = Path(os.path.commonpath([path.parent for path in absolute]))
    return [
        replace(file, name=spell_name(path.relative_to(parent).as_posix()))
        for file, path in zip(files, absolute, strict=True)
    ]


def _split_numbers(name: str) -> list[tuple[str, int]]:
    """Alternate letters and numbers of a name, as a sort key with 9 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)]


def _find_files(named: str, options: ReadOptions, skipped: Counter[str]) -> list[MapFile]:
    path = Path(named)
    if _exists(path):
        if path.is_dir():
            return _find_in_folder(path, options, skipped)
        if path.suffix.lower() == ".csv":
            return _parse_table(path, options)
        if path.suffix.lower() == ".txt":
            return _parse_lines(path, options)
        if path.is_file():
            return [MapFile(path, spell_name(path.name), path.parent.name, options)]
    elif any(wildcard in named for wildcard in "*?["):
        root = Path(path.anchor) if path.is_absolute() else Path()
        matches = sorted(match for match in root.glob(str(path.relative_to(root))) if match.is_file())
        if not matches:
            raise DepthMapError(f"{named}: no file matches")
        return [_make_map_file(_find_pattern_root(path), match, options) for match in matches]
    raise DepthMapError(f"{named[:200]}: no such file or folder")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return False


def _is_list(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".txt") and _exists(path) and path.is_file()


def _make_map_file(folder: Path, path: Path, options: ReadOptions) -> MapFile:
    """A file that is named relative to a folder, whose source is the first folder of that name."""
    relative = path.relative_to(folder) if _lies_in(path, folder) else Path(path.name)
    source = relative.parts[0] if len(relative.parts) > 1 else folder.resolve().name
    return MapFile(path, spell_name(relative.as_posix()), source, options)


def _find_pattern_root(pattern: Path) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts: list[str] = []
    for part in pattern.parts[:-1]:
        if any(wildcard in part for wildcard in "*?["):
            break
        parts.append(part)
    return Path(*parts)


_MASK_ENDINGS = tuple(f"{mark}{word}" for mark in "_-." for word in ("mask", "valid", "valid_mask"))
_MASK_ENDING = re.compile("(?:" + "|".join(map(re.escape, _MASK_ENDINGS)) + ")$", re.IGNORECASE)


def _find_in_folder(folder: Path, options: ReadOptions, skipped: Counter[str]) -> list[MapFile]:
    try:
        every_file = sorted(folder / name for name in walk_files(folder, hidden=False))
    except OSError as error:
        raise DepthMapError(f"{error.filename or folder}: cannot be listed ({error.strerror})") from error
    files = [path for path in every_file if path.suffix.lower() in FORMATS]
    others = Counter(suffix for path in every_file if (suffix := path.suffix.lower()) in OTHER_SUFFIXES)
    skipped += others
    stems = {path.with_suffix("") for path in files}

    def is_mask(path: Path) -> bool:
        """Whether a file is the mask of a map beside it, as `a_mask.npy` beside `a.npy`."""
        stem = path.with_suffix("").name
        map_stem = _MASK_ENDING.sub("", stem)
        return map_stem != stem and path.with_name(map_stem) in stems

    maps = [path for path in files if not is_mask(path)]
    if not maps:
        hint = "".join(f"; {number} {suffix} files in it are of another format" for suffix, number in others.items())
        raise DepthMapError(f"{folder}: no depth maps in it; supported are {', '.join(sorted(FORMATS))}{hint}")
    return [_make_map_file(folder, path, options) for path in maps]


def _parse_lines(path: Path, options: ReadOptions) -> list[MapFile]:
    lines = [line.strip() for line in _read_text(path).splitlines() if line.strip()]
    if not lines:
        raise DepthMapError(f"{path}: the list is empty")
    resolved = [_resolve_line(path.parent, _decode_name(path.parent, line)) for line in lines]
    return _mirror_from_common_parent(path.parent, [_make_map_file(path.parent, file, options) for file in resolved])


def _mirror_from_common_parent(folder: Path, files: list[MapFile]) -> list[MapFile]:
    """Name the files of a list that lie outside its folder relative to their common parent."""
    outside = {file.path: Path(os.path.abspath(file.path)) for file in files if not _lies_in(file.path, folder)}  # noqa: PTH100 - not links
    if not outside:
        return files
    parent = Path(os.path.commonpath([path.parent for path in outside.values()]))
    return [
        replace(file, name=spell_name(outside[file.path].relative_to(parent).as_posix()))
        if file.path in outside
        else file
        for file in files
    ]


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, by its name alone."""
    return path.is_relative_to(folder) and ".." not in path.relative_to(folder).parts


def _resolve_line(folder: Path, line: str) -> Path:
    """The map of a line: the line itself or, as in AiT's lists, the second of image, map and an optional number."""
    words = line.split()
    if len(words) in (2, 3) and not _exists(folder / line) and Path(words[1]).suffix.lower() in FORMATS:
        # AiT's paths begin with a slash that means the folder of the data set.
        return folder / words[1] if _exists(folder / words[1]) else folder / words[1].lstrip("/")
    return folder / line


def _read_text(path: Path) -> str:
    """A list's text: UTF-8 with or without a byte order mark, or UTF-16 with one; other bytes are escaped."""
    try:
        data = read_input(path)
    except OSError as error:
        raise DepthMapError(f"{path}: the list cannot be read ({error.strerror})") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="surrogateescape")


def _decode_name(folder: Path, text: str) -> str:
    """A name in a list whose bytes are not UTF-8: as they are where a file has this name, else as Latin-1.

    Old archives have such names, and spreadsheets write lists in Latin-1.
    """
    if text.isascii() or _exists(folder / text):
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1") if _has_escapes(text) else text


def _has_escapes(text: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in text)


def _parse_table(path: Path, options: ReadOptions) -> list[MapFile]:
    text = _read_text(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        reader.fieldnames = names = [name.strip() for name in reader.fieldnames or ()]
        if "file" not in names:
            raise DepthMapError(_describe_table(path, names))
        rows = [(reader.line_num, row) for row in reader if any(row.values())]
    except csv.Error as error:
        raise DepthMapError(f"{path}: not a table that can be read ({error}); export it as CSV again") from error
    if not rows:
        raise DepthMapError(f"{path}: the list is empty")
    found = []
    for line, row in rows:
        try:
            found.append(_parse_row(path.parent, row, options))
        except (DepthMapError, ValueError, ArithmeticError) as error:  # 1/0, 1e999
            raise DepthMapError(f"{path}, line {line}: {error}") from error
    return _mirror_from_common_parent(path.parent, found)


def _describe_table(path: Path, names: Sequence[str]) -> str:
    """Say why a table is not a list of files; one of numbers alone is a depth map as text."""
    try:
        [float(name) for name in names]
    except ValueError:
        return f"{path}: a list of depth maps has a column named file; found {list(names)[:10]}"
    convert = "import numpy, sys; numpy.save(sys.argv[2], numpy.loadtxt(sys.argv[1], delimiter=','))"
    return (
        f"{path}: a table of numbers, not a list of files with a column named file; if the numbers are a depth map, "
        f'convert it: python -c "{convert}" {shlex.quote(str(path))} {shlex.quote(str(path.with_suffix(".npy")))}'
    )


def _parse_row(folder: Path, row: dict[str, str | None], options: ReadOptions) -> MapFile:
    cells = {name: _decode_name(folder, (value or "").strip()) for name, value in row.items() if isinstance(name, str)}
    if not cells["file"]:
        raise DepthMapError("the column file is empty")
    marks = cells.get("invalid", "").replace(";", " ").replace(",", " ").split()
    options = replace(
        options,
        kind=cast("Kind | None", cells.get("kind") or options.kind),
        unit=cast("Unit | None", cells.get("unit") or options.unit),
        invalid=tuple(float(mark) for mark in marks) or options.invalid,
        mask=folder / cells["mask"] if cells.get("mask") else options.mask,
    )
    in_metres = True
    if options.kind == "metric" and "metres_per_value" in cells:
        # An empty cell says that the scale is unknown: any scale gives the same nearness.
        scale = cells["metres_per_value"]
        options = replace(options, scale=_parse_ratio(scale) if scale else 1.0, unit=None)
        in_metres = bool(scale)
    file = _make_map_file(folder, folder / cells["file"], options)
    return replace(file, source=cells.get("source") or file.source, in_metres=in_metres)


def _parse_ratio(text: str) -> float:
    """Parse a number or a ratio of two, such as 1/5000; raises ValueError or ArithmeticError."""
    number, slash, divisor = text.partition("/")
    return float(number) / float(divisor) if slash else float(number)

"""Folders of depth maps: which file is the map of an image, and how it is read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from perceptok.data.orientation import Exif, choose_turn, turn_array
from perceptok.depth import FORMATS, DepthMap, MapFile, ReadOptions
from perceptok.errors import DataError, DepthMapError

__all__ = ["DepthFolder", "ImageView", "join_inside", "name_settings", "quote_name"]

ESTIMATE_STAMP = "estimator.json"
"""File beside the maps that `estimate_maps` writes, which are always of upright images."""

_MAX_QUOTED = 100
"""Characters of a name that a message quotes."""

_OTHER_SUFFIXES = (".h5", ".hdf5", ".mat", ".pgm", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pt", ".pth")
"""Formats that hold depth, or should not, and are refused with what to do."""

_RANGE_OPTIONS = ("--percentiles", "--near", "--far", "--no-normalize")
_OPTION = re.compile(r"--[a-z][a-z-]+")


class ImageView(NamedTuple):
    """What a map is compared with: the image's file, its upright width and height, and its EXIF orientation."""

    path: Path
    size: tuple[int, int]
    orientation: int = 1


class DepthFolder:
    """A folder of depth maps with the names of a folder of images, except for the suffix.

    A map may also be called `NAME_depth`, `NAME.depth` or `NAME-depth`, or as the image with `depth` in place of a word
    such as `rgb` or `color` (`0.depth.png` of `0.color.jpg`); and it may lie in the folder itself and be called
    `NAME_depth`, as Depth Anything writes them: AURORA's do. An image is never its own map.

    Args:
        folder: Of the maps.
        options: How maps are read.
        names: Pattern of image names -> pattern of map names, for maps of other names: each `*` of the map's stands for
            what the `*` at the same place of the image's matches, such as {"*rgb_*.jpg": "*sync_depth_*.png"}.
        exif: What maps of photos with an EXIF orientation are of, where their size does not tell.

    Raises:
        DataError: The folder is missing, or two patterns have different numbers of `*`.
    """

    def __init__(
        self,
        folder: str | Path,
        options: ReadOptions | None = None,
        *,
        names: Mapping[str, str] | None = None,
        exif: Exif | None = None,
    ) -> None:
        self.folder, self.options, self.exif = Path(folder), options or ReadOptions(), exif
        self.patterns = [(_compile_pattern(image, depth), depth) for image, depth in (names or {}).items()]
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: folder of depth maps not found")
        try:
            self.options.check_mask()
        except DepthMapError as error:
            raise DataError(name_settings(str(error))) from error

    def find(self, name: str, image: Path) -> list[Path]:
        """Find the files that may be the map of an image, the image itself among them; several are ambiguous.

        Args:
            name: Of the image.
            image: Its file, which is left out where another file may be the map.

        Raises:
            DataError: The name leads out of the folder.
        """
        stem = join_inside(self.folder, name).with_suffix("")
        if self.patterns:
            groups: Iterable[list[Path]] = [self._find_by_pattern(name)]
        else:
            stems = [stem, *(stem.with_name(other) for other in _list_map_stems(stem.name))]
            groups = map(_find_maps, [*stems, self.folder / f"{stem.name}_depth"])
        found: list[Path] = []
        for group in groups:
            if others := [path for path in group if not _is_same_file(path, image)]:
                return others
            found = found or group
        return found

    def read(self, name: str, view: ImageView, *, namesakes: Sequence[str] = ()) -> DepthMap | None:
        """Read the map of an image; None where it has none.

        Args:
            name: Of the image.
            view: The image; the map may have another resolution, but not another aspect ratio.
            namesakes: Other images with the same name except for folder and suffix; a map that may be of one of them
                is refused.

        Raises:
            DataError: The map cannot be read, there are two, it is the image itself or may be of another image, its
                aspect ratio differs by more than a pixel, or the name leads out of the folder.
        """
        paths = self.find(name, view.path)
        if not paths:
            paths = self._find_other_formats(name, view.path)  # reading one says how it is converted
        if not paths:
            return None
        path = paths[0]
        if _is_same_file(path, view.path):
            raise DataError("this image has no depth map: only the image file itself has the name of one")
        folder = (self.folder / name).parent
        if (path.parent == folder and folder != self.folder) or path.with_suffix("") == (
            self.folder / name
        ).with_suffix(""):
            namesakes = [other for other in namesakes if (self.folder / other).parent == folder]
        if namesakes and not self.patterns:
            raise DataError(
                f"the depth map {path.relative_to(self.folder)} may be of this image or of {namesakes[0]}; give "
                "each its own map, with the image's relative name except for the suffix, or exclude one of the images"
            )
        if len(paths) > 1:
            raise DataError(
                f"two depth maps: {path.name} and {paths[1].name}; move one away, or name the maps by depth_names"
            )
        try:
            depth = MapFile(path, path.relative_to(self.folder).as_posix(), options=self.options).read()
        except DepthMapError as error:
            raise DataError(name_settings(str(error))) from error
        return self._turn(depth, view)

    def find_path(self, name: str, image: Path) -> Path | None:
        """Find the map of an image; None where there is none but the image itself, or the name is not valid."""
        try:
            paths = self.find(name, image)
        except DataError:
            return None
        return paths[0] if paths and not _is_same_file(paths[0], image) else None

    def _find_other_formats(self, name: str, image: Path) -> list[Path]:
        """Files of the image's name, in another folder than the image, of formats that depth is not read from."""
        stem = join_inside(self.folder, name).with_suffix("")
        if self.patterns or _is_same_file(stem.parent, image.parent):
            return []
        paths = (stem.with_name(f"{stem.name}{suffix}") for suffix in _OTHER_SUFFIXES)
        return [path for path in paths if os.path.isfile(path)][:1]  # noqa: PTH113 - False for a name that is too long

    def _find_by_pattern(self, name: str) -> list[Path]:
        for pattern, depth in self.patterns:
            if match := pattern.fullmatch(name):
                parts = iter(match.groups())
                target = join_inside(self.folder, re.sub(r"\*", lambda _, parts=parts: next(parts), depth))  # type: ignore[misc]
                return [target] if os.path.isfile(target) else []  # noqa: PTH113 - False for a name that is too long
        return []

    @cached_property
    def _are_estimates(self) -> bool:
        return (self.folder / ESTIMATE_STAMP).is_file()

    def _turn(self, depth: DepthMap, view: ImageView) -> DepthMap:
        """Turn a map upright; raises DataError where its shape is not that of the image."""
        rows, columns = depth.values.shape
        exif = "apply" if self._are_estimates else self.exif
        orientation = choose_turn((columns, rows), view.size, view.orientation, exif, "depth maps")
        if orientation is None:
            width, height = view.size
            raise DataError(
                f"the depth map has {columns}x{rows} pixels, the image {width}x{height}: another shape, so another "
                "view; crop one to the other, or exclude the image"
            )
        if orientation == 1:
            return depth
        return replace(
            depth,
            values=turn_array(depth.values, orientation),
            valid=turn_array(depth.valid, orientation),
            sky=None if depth.sky is None else turn_array(depth.sky, orientation),
            warnings=(*depth.warnings, "the depth map is that of the stored photo; turned by its EXIF orientation"),
        )


def _compile_pattern(image: str, depth: str) -> re.Pattern[str]:
    if image.count("*") != depth.count("*"):
        raise DataError(
            f"depth_names: {image!r} and {depth!r} have different numbers of *; each * of a map's name stands for the "
            "text of one * of the image's"
        )
    return re.compile(re.escape(image).replace(r"\*", "(.*)"))


_PHOTO_WORD = re.compile(r"(?<![a-z0-9])(?:rgb|colou?r|image|img|photo)(?![a-z])", re.IGNORECASE)


def _list_map_stems(stem: str) -> list[str]:
    """The stems, besides the image's own, that a map of an image of this stem may have."""
    stems = [f"{stem}{mark}depth" for mark in "_.-"]
    replaced = _PHOTO_WORD.sub("depth", stem)
    return stems if replaced == stem else [*stems, replaced]


def _find_maps(stem: Path) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in FORMATS]
    return [path for path in paths if os.path.isfile(path)]  # noqa: PTH113 - False for a name that is too long


def _is_same_file(first: Path, second: Path) -> bool:
    try:
        return first == second or first.samefile(second)
    except OSError:
        return False


def join_inside(folder: Path, name: str) -> Path:
    """Join a relative name to a folder; links in the folder are followed, as `find_images` does.

    Raises:
        DataError: The name is empty, absolute, or contains NUL or `..`.
    """
    path = Path(name)
    if not path.name or "\0" in name or path.anchor or ".." in path.parts:
        raise DataError(
            f"the name {quote_name(name)} is not that of a file inside {folder}; names are relative, without '..'"
        )
    return folder / path


def quote_name(name: str) -> str:
    """Quote a name in a message, at most its first hundred characters."""
    return repr(name) if len(name) <= _MAX_QUOTED else f"{name[:_MAX_QUOTED]!r}... ({len(name)} characters)"


def name_settings(message: str) -> str:
    """Replace the options of the command line in a message about a depth map by the settings of a recipe's source."""
    settings = {f"--{option.name.replace('_', '-')}": option.name for option in fields(ReadOptions)}
    settings |= {"--sky-value": "sky_values"} | dict.fromkeys(_RANGE_OPTIONS, "range")

    def replace_option(match: re.Match[str]) -> str:
        name = settings.get(match[0])
        return match[0] if name is None else f"depth_options.{name}"

    return _OPTION.sub(replace_option, message)

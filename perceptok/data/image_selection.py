"""Selection of images: which image files of a folder are photos, and which are maps, masks or labels of others."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from perceptok.data.depth_folders import DepthFolder
from perceptok.depth import FORMATS
from perceptok.errors import ImageError
from perceptok.files import open_input, spell_name
from perceptok.images import MAX_IMAGE_PIXELS, find_images

__all__ = ["ImageSelection", "select_images"]

_STRONG = re.compile(
    r"(?:class|depth|disp|disparity|instance|inst|panoptic|semantic|sem|segm?|segmentation|annotations?|groundtruth|gt)"
    r"(?:s|maps?|masks?|gt|class|object|ids?|trainids?|colou?rs?|fine|coarse|images?|segmentation|seg)?\d*"
    r"|(?:label|mask)(?:ids?|trainids?|maps?|imgs?|images?)|(?:sem|inst)?seg|colou?rmasks?"
)
"""Words that say that an image is a map of another image; as names of folders they are not classes of photos."""

_WEAK = re.compile(
    r"(?:masks?|labels?|parts?|normals?|valid|mattes?|alphas?|trimaps?|edges?|confidence|conf|flow)\d*(?:n?occ)?"
)
"""Words that say so in the name of a file that lies beside the other image, but may be the subject of a photo too."""

_PHOTO = re.compile(r"(?:jpe?g|png)?(?:images?|imgs?|photos?|pictures?|frames?|rgb|colou?r)|leftimg8bit|tonemap|rgbs")
_DETAIL = re.compile(r"vi[sz]|raw|filled|pretty|colou?red|colou?ri[sz]ed|gr[ae]y|met(?:er|re)s|nearest|proj|maps?|l")
"""What photos, and maps and masks of them, have in their names besides."""

_CITYSCAPES = re.compile(r".+_gt(?:Fine|Coarse)_\w+")
_GREY_MODES = ("1", "F", "I", "L", "LA", "P", "PA")
_LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")
_SEPARATORS = re.compile(r"[-_. ]+")
_SHOWN = 3

_MAX_LABELS = 256
"""Colours of a label map; photos have thousands."""

_MAX_NAMESAKES = 100
"""Photos of one name in other folders that a map is compared with."""


class _Name(NamedTuple):
    """The name of an image without the words that say what kind of image it is.

    Attributes:
        parent: Its folder.
        folders: The words of its folders that are left.
        stems: The words of its stem that are left; with a number that may be that of a map, such as `mask_0`, also
            without it.
        stem_strength: Whether its stem says that it is a map of another image: 0 no, 1 perhaps, 2 yes.
        folder_strength: Whether one of its folders says so.
        num_kinds: How many of its folders and its stem say so.
    """

    parent: PurePosixPath
    folders: tuple[str, ...]
    stems: frozenset[str]
    stem_strength: int
    folder_strength: int
    num_kinds: int


def _parse_name(name: str) -> _Name:
    path = PurePosixPath(name)
    folders, kinds, strength = _parse_folders(str(path.parent))
    words, stem_strength = _remove_kind(path.stem, is_map=strength > 0)
    stems = {words}
    if stem_strength and any(map(str.isdigit, path.stem)):
        stems.add(_remove_kind(path.stem, is_map=True, numbers=True)[0])
    return _Name(path.parent, folders, frozenset(stems), stem_strength, strength, kinds + (stem_strength > 0))


@lru_cache(maxsize=1024)
def _parse_folders(parent: str) -> tuple[tuple[str, ...], int, int]:
    """The words of a path's folders that are left; how many of the folders say that they hold maps; how strongly."""
    parts = [_remove_kind(part) for part in PurePosixPath(parent).parts]
    strengths = [strength for _, strength in parts if strength]
    return tuple(words for words, _ in parts if words), len(strengths), max(strengths, default=0)


def _remove_kind(text: str, *, is_map: bool = False, numbers: bool = False) -> tuple[str, int]:
    """Remove the words of a name that say what kind of image it is; the others, and whether it is a map (0..2).

    Args:
        text: The name of a folder, or a stem.
        is_map: Its folders say that it is a map.
        numbers: Remove numbers that follow such a word too.
    """
    words = [word for word in _SEPARATORS.split(text.lower()) if word]
    kinds = [None if word.isdecimal() else _find_kind(word) for word in words]
    strength = max((_STRENGTHS.get(kind, 0) for kind in kinds), default=0)
    left = []
    for index, (word, kind) in enumerate(zip(words, kinds, strict=True)):
        is_number = numbers and index > 0 and _STRENGTHS.get(kinds[index - 1], 0) > 0 and word.isdecimal()
        is_detail = kind == "detail" and (strength > 0 or is_map)
        if not (is_number or is_detail or kind in ("strong", "weak", "photo")):
            left.append(word)
    return "_".join(left), strength


_STRENGTHS: dict[str | None, int] = {"weak": 1, "strong": 2}


@lru_cache(maxsize=4096)
def _find_kind(word: str) -> str | None:
    for kind, pattern in (("strong", _STRONG), ("weak", _WEAK), ("photo", _PHOTO), ("detail", _DETAIL)):
        if pattern.fullmatch(word):
            return kind
    return None


@dataclass(frozen=True)
class ImageSelection:
    """The images of a folder that are used, and those that are not.

    Attributes:
        files: Name with `/`, relative to the folder, spelled in UTF-8 (`spell_name`) -> name of the file. Sorted.
        left_out: Reason -> names.
        skipped: Suffix of image formats that are not read -> number of files.
    """

    files: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def describe(self, remedy: str = "") -> list[str]:
        """Say in sentences what was left out, and how to use it all the same."""
        remarks = [
            f"{len(names)} files are not used as images, as they are {reason}: {', '.join(names[:_SHOWN])}"
            f"{', ...' if len(names) > _SHOWN else ''}{remedy}"
            for reason, names in self.left_out.items()
        ]
        if self.skipped:
            numbers = ", ".join(f"{number} {suffix}" for suffix, number in self.skipped.items())
            remarks.append(f"files of formats that are not read are skipped: {numbers}; convert them to JPEG or PNG")
        return remarks


def select_images(folder: Path, depth: DepthFolder | None = None) -> ImageSelection:
    """Select the photos of a folder and its subfolders.

    Left out are: the depth maps of `depth`, and its masks, that lie among the images; files whose names are an image's
    but for a word such as `seg`, `mask` or `depth`, beside it or in a folder of its own (`x_seg.png`, `depth_7.png` of
    `rgb_7.png`, `masks/x.png`, `panoptic_val/x.png` of `val/x.jpg`); files without colours in a folder, or of a name,
    with such a word; files in a folder with an image's name beside the image (ADE20K's instances); and, of files of one
    name with other suffixes or in other folders, those without colours where others have them (label maps).

    Args:
        folder: The folder.
        depth: The maps of its images.

    Raises:
        ImageError: The folder is missing, cannot be read, has no images, or all are left out.
    """
    skipped: Counter[str] = Counter()
    files = {spell_name(name): name for name in find_images(folder, skipped)}
    reasons: dict[str, str] = {}
    if depth is not None:
        reasons |= _find_maps_among(folder, files, depth)
    names = {name: _parse_name(name) for name in files if name not in reasons}
    reasons |= dict.fromkeys(
        _find_derived(folder, files, names), "maps, masks or labels of other images, by their names"
    )
    reasons |= dict.fromkeys(
        _find_grey_maps(folder, files, {name: parsed for name, parsed in names.items() if name not in reasons}),
        "maps, masks or labels, by their names and without colours",
    )
    reasons |= dict.fromkeys(
        _find_label_maps(folder, {name: file for name, file in files.items() if name not in reasons}),
        "label maps of an image of the same name",
    )
    left_out: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        left_out.setdefault(reason, []).append(name)
    used = {name: file for name, file in files.items() if name not in reasons}
    if not used:
        described = "; ".join(f"{len(names)} are {reason}" for reason, names in left_out.items())
        raise ImageError(f"{folder}: none of its {len(files)} image files is used: {described}")
    return ImageSelection(used, left_out, dict(skipped.most_common()))


def _find_maps_among(folder: Path, files: dict[str, str], depth: DepthFolder) -> dict[str, str]:
    """The images that are depth maps or masks, with the reason."""
    images = Path(os.path.realpath(folder))
    maps = Path(os.path.realpath(depth.folder))
    reasons: dict[str, str] = {}
    mask = depth.options.mask
    if mask is not None and (inside := Path(os.path.realpath(mask))).is_relative_to(images) and inside != images:
        real = {name: Path(os.path.realpath(folder / file)) for name, file in files.items()}
        reasons |= {name: "masks of depth maps" for name, path in real.items() if path.is_relative_to(inside)}
    if not (maps.is_relative_to(images) or images.is_relative_to(maps)):
        return reasons
    real_paths = {name: os.path.realpath(folder / file) for name, file in files.items()}
    owners: dict[str, str] = {}
    for name, file in files.items():
        if map_path := depth.find_path(file, folder / file):
            owners.setdefault(os.path.realpath(map_path), name)
    names_by_path = {path: name for name, path in real_paths.items()}
    for path, owner in owners.items():
        name = names_by_path.get(path, owner)
        # Where each has the name of the other's map, the photo is the one with colours.
        is_photo = owners.get(real_paths[owner]) == name and _has_colours(folder / files[name])
        if name != owner and not is_photo:
            reasons.setdefault(name, "depth maps of other images")
    with_map = {*owners.values()}
    for name, file in files.items():
        is_candidate = maps == images and name not in with_map and PurePosixPath(name).suffix.lower() in FORMATS
        if is_candidate and not _has_colours(folder / file):
            reasons.setdefault(name, "their own depth maps")
    if maps != images and maps.is_relative_to(images):
        for name, real_path in real_paths.items():
            if Path(real_path).is_relative_to(maps) and PurePosixPath(name).suffix.lower() in FORMATS:
                reasons.setdefault(name, "in the folder of depth maps")
    return reasons


def _has_colours(path: Path) -> bool:
    """Whether an image file has colour channels, by its header; False for a file that cannot be opened."""
    try:
        with open_input(path) as file, Image.open(file) as image:
            return not (image.mode in _GREY_MODES or image.mode.startswith("I;"))
    except Exception:  # noqa: BLE001 - Pillow's decoders raise errors of any kind; the file is reported when it is read
        return False


def _find_derived(folder: Path, files: Mapping[str, str], names: Mapping[str, _Name]) -> list[str]:
    """The names that another image explains: its own with a word for a map, or in a folder with its name."""
    photos: dict[tuple[Any, str], list[_Name]] = {}
    for photo in names.values():
        for stem in () if photo.stem_strength else photo.stems:
            for place in (photo.parent, photo.folders, None):
                photos.setdefault((place, stem), []).append(photo)
    full_stems = {str(PurePosixPath(name).with_suffix("")) for name in names}
    derived = []
    for name, parsed in names.items():
        path = PurePosixPath(name)
        is_part = path.parent.name != "" and path.parent.name in path.stem and str(path.parent) in full_stems
        is_derived = is_part or _CITYSCAPES.fullmatch(path.stem) or _has_photo(parsed, photos)
        if is_derived or (_has_namesake(parsed, photos) and _has_few_colours(folder / files[name])):
            derived.append(name)
    return derived


def _has_photo(name: _Name, photos: Mapping[tuple[Any, str], Sequence[_Name]]) -> bool:
    """Whether an image is a map of a photo, by its name and folders.

    Args:
        name: Of the image.
        photos: Photos by their folder, by the words of their folders, and by None, each with a word of their stem.
    """
    if name.stem_strength and any((name.parent, stem) in photos for stem in name.stems):
        return True
    if any(photo.num_kinds < name.num_kinds for stem in name.stems for photo in photos.get((name.folders, stem), ())):
        return True
    return 2 in (name.stem_strength, name.folder_strength) and any(
        _is_subsequence(name.folders, photo.folders) for photo in _find_namesakes(name, photos)
    )


def _has_namesake(name: _Name, photos: Mapping[tuple[Any, str], Sequence[_Name]]) -> bool:
    """Whether a photo of the same stem lies in any other folder, and the image's own name has a word for a map."""
    return next(iter(_find_namesakes(name, photos)), None) is not None


def _find_namesakes(name: _Name, photos: Mapping[tuple[Any, str], Sequence[_Name]]) -> Iterator[_Name]:
    for stem in name.stems:
        for photo in photos.get((None, stem), ())[:_MAX_NAMESAKES] if stem else ():
            if photo.num_kinds < name.num_kinds:
                yield photo


def _is_subsequence(part: Sequence[str], whole: Sequence[str]) -> bool:
    remaining = iter(whole)
    return all(word in remaining for word in part)


def _find_grey_maps(folder: Path, files: Mapping[str, str], names: Mapping[str, _Name]) -> list[str]:
    """The images without colours that are maps by a word of their names or folders, where others have colours."""
    candidates = [
        name
        for name, parsed in names.items()
        if parsed.folder_strength
        or parsed.stem_strength == 2
        or (parsed.stem_strength and name.lower().endswith(_LOSSLESS))
    ]
    grey = [name for name in candidates if not _has_colours(folder / files[name])]
    if not grey:
        return []
    others = (name for name in names if name not in {*grey})
    if not any(_has_colours(folder / files[name]) for name in others):
        return []
    with_colours = {names[name].parent for name in {*candidates} - {*grey}}
    return [name for name in grey if names[name].stem_strength or names[name].parent not in with_colours]


def _has_few_colours(path: Path) -> bool:
    """Whether an image file without loss has so few colours as a label map; False for one that cannot be opened."""
    try:
        with open_input(path) as file, Image.open(file) as image:
            is_lossless = path.suffix.lower() in _LOSSLESS and image.size[0] * image.size[1] <= MAX_IMAGE_PIXELS
            return is_lossless and image.convert("RGB").getcolors(_MAX_LABELS) is not None
    except Exception:  # noqa: BLE001 - Pillow's decoders raise errors of any kind; the file is reported when it is read
        return False


def _find_label_maps(folder: Path, files: dict[str, str]) -> list[str]:
    """Of files of one name with other suffixes or in other folders, those without colours where others have them."""
    names_by_stem: dict[str, list[str]] = {}
    for name in files:
        names_by_stem.setdefault(PurePosixPath(name).stem, []).append(name)
    label_maps: list[str] = []
    for names in names_by_stem.values():
        if len(names) < 2 or not any(name.lower().endswith(_LOSSLESS) for name in names):
            continue
        with_colours = {name for name in names if _has_colours(folder / files[name])}
        if with_colours:
            label_maps += [name for name in names if name not in with_colours and name.lower().endswith(_LOSSLESS)]
    return label_maps

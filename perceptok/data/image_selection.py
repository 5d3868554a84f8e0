"""Selection of images: which image files of a folder are photos, and which are maps, masks or labels of others."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from perceptok.data.depth_folders import DepthFolder
from perceptok.depth import FORMATS
from perceptok.errors import ImageError
from perceptok.files import open_input, spell_name
from perceptok.images import find_images

__all__ = ["ImageSelection", "count_reasons", "select_images"]

_DERIVED = re.compile(
    r"(?P<base>.+?)[-_.](?:seg|segm|segmentation|semantic|semseg|panoptic|parts?_\d+|masks?|valid|valid_masks?|"
    r"depth_(?:masks?|valid)|labels?|label_?ids|label_?train_?ids|instance_?ids|instances?|depth|depth_?maps?|disp|"
    r"disparity|normals?|matte|trimap|edges?|confidence|gt)",
    re.IGNORECASE,
)
"""A stem that an image's maps and masks have: the image's own stem, and what they are."""

_PHOTO_ENDINGS = ("", *(f"{mark}{word}" for mark in "._-" for word in ("color", "colour", "rgb", "image", "img")))
"""What photos may have in place of such an ending, as `frame-0.color.png` beside `frame-0.depth.png`."""

_CITYSCAPES = re.compile(r".+_gt(?:Fine|Coarse)_\w+")
_GREY_MODES = ("1", "F", "I", "L", "LA", "P", "PA")
_LOSSLESS = (".png", ".tif", ".tiff", ".bmp", ".gif")
_SHOWN = 3


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

    Left out are: the depth maps of `depth`, and its masks, that lie among the images; files beside an image with its
    name and an ending such as `_seg`, `_mask` or `_depth`; files in a folder with an image's name beside the image
    (ADE20K's instances); and, of files of one name with other suffixes or in other folders, those without colours where
    others have them (label maps).

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
    reasons |= dict.fromkeys(_find_derived(files), "maps, masks or labels of an image beside them")
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


def _find_derived(names: Iterable[str]) -> list[str]:
    """The names that an image beside them explains: its stem with an ending, or a folder with its name."""
    stems = {str(PurePosixPath(name).with_suffix("")) for name in names}
    derived = []
    for name in names:
        path = PurePosixPath(name)
        parent, stem = path.parent, path.stem
        match = _DERIVED.fullmatch(stem)
        is_beside = match is not None and any(
            str(parent / f"{match['base']}{ending}") in stems for ending in _PHOTO_ENDINGS
        )
        is_part = parent.name != "" and parent.name in stem and str(parent) in stems
        if is_beside or is_part or _CITYSCAPES.fullmatch(stem):
            derived.append(name)
    return derived


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


def count_reasons(reasons: Sequence[str]) -> dict[str, int]:
    """Count like reasons together, the most frequent first: numbers and paths in them are replaced by #."""

    def generalize(reason: str) -> str:
        words = [
            f"#{word[-1] if word[-1] in ',;:' else ''}" if any(map(str.isdigit, word)) or "/" in word else word
            for word in reason.split()
        ]
        return " ".join(words)

    return dict(Counter(map(generalize, reasons)).most_common())

"""Estimation: depth maps of a folder of images, made by a specialist and written to a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from perceptok.data.depth_folders import ESTIMATE_STAMP
from perceptok.data.image_selection import select_images
from perceptok.data.specialists.specialist import DepthSpecialist, estimate_each
from perceptok.depth import DepthMap, MapFailure
from perceptok.errors import DataError, DepthMapError, ImageError, OutputError
from perceptok.files import atomic_write, parse_json, read_input, resolve_inside, spell_name
from perceptok.images import open_image
from perceptok.locks import lock_output

__all__ = ["estimate_maps"]


def estimate_maps(
    specialist: DepthSpecialist,
    images: str | Path,
    output: str | Path,
    *,
    names: Sequence[str] | None = None,
    batch_size: int = 1,
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> list[MapFailure]:
    """Estimate the depth of every image in a folder, as AURORA does with Depth Anything's `--pred-only --grayscale`.

    A map is a 16-bit PNG of the image's name and size (bilinear): `a/b.jpg` becomes `a/b.png`. Estimates of inverse
    depth are stretched to 0..1 by their own minimum and maximum (nearness, 1 = nearest); metric ones are written in
    millimetres. An interrupted call is resumed by the same call: maps that are not older than their images are kept.

    Args:
        specialist: Estimates depth.
        images: Folder of images, with subfolders.
        output: Folder for the maps.
        names: Only these images, relative to `images`; default: all but maps, masks and label maps among them.
        batch_size: Images in a batch.
        force: Remove the maps of another specialist first; other PNG files are never removed.
        advance: Called after every image.

    Returns:
        The images without a map and why: files that cannot be opened, or estimates that are not maps.

    Raises:
        ImageError: The folder is missing, or has no images.
        DataError: Two images would have the same map, such as a.jpg and a.png.
        SpecialistError: The specialist cannot be loaded or run.
        OutputError: The folder lies in that of the images, has maps of another specialist or other PNG files, another
            process writes it, or it cannot be written.
    """
    source, target = Path(images), Path(output)
    if target.resolve().is_relative_to(source.resolve()):
        raise OutputError(f"{target} lies in the folder of images; choose another folder for the maps")
    names = list(select_images(source).files.values()) if names is None else names
    paths = _choose_paths(names, target)
    fingerprint = specialist.fingerprint
    target.mkdir(parents=True, exist_ok=True)
    failures = []
    with lock_output(target):
        _claim_folder(target, fingerprint, force=force)
        todo = [name for name in names if not _is_current(paths[name], source / name)]
        for _ in range(len(names) - len(todo)):
            advance()
        for start in range(0, len(todo), batch_size):
            failures += _estimate_batch(specialist, source, {n: paths[n] for n in todo[start : start + batch_size]})
            for _ in todo[start : start + batch_size]:
                advance()
    return failures


def _choose_paths(names: Sequence[str], target: Path) -> dict[str, Path]:
    paths = {name: resolve_inside(target, name, suffix=".png") for name in names}
    first: dict[Path, str] = {}
    for name, path in paths.items():
        if first.setdefault(path, name) != name:
            raise DataError(f"{first[path]} and {name} would both have the map {path}; rename one or move it away")
    return paths


def _claim_folder(target: Path, fingerprint: str, *, force: bool) -> None:
    """Refuse a folder with other maps, or remove them, and write down whose maps it holds from now on."""
    stamp, maps = target / ESTIMATE_STAMP, sorted(target.rglob("*.png"))
    if stamp.exists():
        if parse_json(read_input(stamp), str(stamp), OutputError) == {"specialist": fingerprint}:
            return
        if maps and not force:
            raise OutputError(f"{target} holds maps of another specialist; choose another folder, or use --force")
        for path in maps:
            path.unlink()
    elif maps:
        raise OutputError(f"{target} holds PNG files that are not known to be estimates; choose another folder")
    with atomic_write(stamp, force=True) as file:
        file.write((json.dumps({"specialist": fingerprint}) + "\n").encode())


def _is_current(path: Path, image: Path) -> bool:
    return path.exists() and image.exists() and path.stat().st_mtime_ns >= image.stat().st_mtime_ns


def _estimate_batch(specialist: DepthSpecialist, source: Path, paths: dict[str, Path]) -> list[MapFailure]:
    failures, opened = [], {}
    for name in paths:
        try:
            opened[name] = open_image(source / name)
        except ImageError as error:
            failures.append(MapFailure(spell_name(name), str(error)))
    for name, depth_map in zip(opened, estimate_each(specialist, list(opened.values())), strict=True):
        try:
            if isinstance(depth_map, str):
                raise DepthMapError(depth_map)
            _write_map(depth_map, opened[name].size, paths[name])
        except DepthMapError as error:
            failures.append(MapFailure(spell_name(name), str(error)))
    return failures


def _write_map(depth_map: DepthMap, size: tuple[int, int], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not depth_map.valid.all():
        raise DepthMapError("the estimate has pixels that are not numbers")
    values = np.asarray(Image.fromarray(depth_map.values).resize(size, Image.Resampling.BILINEAR))
    depth_map = replace(depth_map, values=values, valid=np.ones_like(values, dtype=bool))
    if depth_map.kind == "inverse":
        nearness = depth_map.to_nearness()
        depth_map = DepthMap(nearness.values, nearness.valid, "inverse")
    depth_map.write(path, force=True)

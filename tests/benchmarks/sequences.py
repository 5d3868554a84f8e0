"""How many codes change in cells of constant depth, and at what error: real and procedural clips.

Run by hand, some minutes: python tests/benchmarks/sequences.py ../shared/data/depth

A cell is static between two frames where its true depth does not change. Procedural clips know it without noise: with a
still camera no pixel of the cell may change at all (1e-6 of its depth); with a moving one nearly every pixel's depth
changes a little, so that 90 % of them must by less than 1 %. Real clips have only what was measured: 90 % of the cell's
known pixels, at least half of it, change by less than 1 %. The error is that of the decoded codes against the frame's
own nearness in the clip's range, over its valid pixels.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import perceptok as pt
from perceptok.depth import DepthCodec, encode_sequence, resize_nearest
from perceptok.depth.probe import find_static_cells
from perceptok.scenes import Scene, render, sample_scene

SIDE = 160
Frame = tuple[pt.DepthMap, np.ndarray]
"""What the sensor gives, and the true metres, 0 where nothing is known."""

CURVE = [
    (hold, deadband)
    for hold, deadband in (
        (0, 0), (0.005, 0), (0.01, 0), (0.02, 0), (0.05, 0), (0.1, 0),
        (0, 0.01), (0, 0.02), (0, 0.03), (0.01, 0.02), (0.02, 0.02),
    )
]  # fmt: skip


def walk(folder: Path, source: str, most: int) -> list[Frame]:
    """Consecutive frames of a real sensor, or of a renderer in a scanned room."""
    with (folder / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == source][:most]
    maps = [pt.DepthMap.read(folder / row["file"], kind="metric", scale=float(row["metres_per_value"])) for row in rows]
    return [(depth, np.where(depth.valid, depth.values, 0)) for depth in maps]


def moving_camera(scene: Scene, step: int) -> Scene:
    """The same scene from 1 cm to the right and 0.5 cm forward a frame."""
    view = scene.camera
    moved = view.position + step * (0.01 * view.rotation[:, 0] + 0.005 * view.rotation[:, 2])
    return replace(scene, camera=replace(view, position=moved))


def moving_object(scene: Scene, step: int) -> Scene:
    """The largest object with less than 15 % of the image moves by 3.6 cm a frame."""
    seen = render(scene, SIDE, SIDE).instance
    counts = {
        int(number): int(count) for number, count in zip(*np.unique(seen[seen >= 0], return_counts=True), strict=True)
    }
    small = {number: count for number, count in counts.items() if count < 0.15 * SIDE * SIDE} or counts
    mover, shift = max(small, key=lambda number: small[number]), step * np.array([0.03, 0.02, 0.0])
    thing = scene.objects[mover]
    moved = replace(thing, primitives=tuple(replace(part, center=part.center + shift) for part in thing.primitives))
    return replace(scene, objects=(*scene.objects[:mover], moved, *scene.objects[mover + 1 :]))


def rendered(seed: int, kind: str, change: Callable[[Scene, int], Scene], frames: int, noise: float) -> list[Frame]:
    """A procedural clip with noise of every pixel."""
    scene, rng = sample_scene(11, seed, kind), np.random.default_rng(seed)
    clip = []
    for step in range(frames):
        depth = render(change(scene, step), SIDE, SIDE).depth
        depth = np.where(np.isfinite(depth), depth, np.float32(0))
        noisy = depth * (1 + noise * rng.standard_normal(depth.shape))
        clip.append((pt.DepthMap.from_array(noisy, kind="metric", unit="m"), depth))
    return clip


def passing(seed: int, kind: str, side: int, step: int, share: float, frames: int, noise: float) -> list[Frame]:
    """A still scene with a square plate that moves to the right before it.

    Args:
        seed: Of the scene.
        kind: Of the scene.
        side: Side of the plate in pixels of 160.
        step: Pixels that it moves a frame.
        share: Its distance, as a share of that of the nearest pixel of the scene.
        frames: Number of frames.
        noise: Of every pixel, as a share of its depth.
    """
    scene, rng = sample_scene(11, seed, kind), np.random.default_rng(seed)
    still = render(scene, SIDE, SIDE).depth
    still = np.where(np.isfinite(still), still, np.float32(0))
    clip = []
    for number in range(frames):
        depth, left, top = still.copy(), 10 + step * number, (SIDE - side) // 2
        depth[top : top + side, left : left + side] = share * still[still > 0].min()
        noisy = depth * (1 + noise * rng.standard_normal(depth.shape))
        clip.append((pt.DepthMap.from_array(noisy, kind="metric", unit="m"), depth))
    return clip


def static(before: np.ndarray, after: np.ndarray, *, exact: bool) -> np.ndarray:
    """(10, 10) bool: the cells whose true depth stays."""
    tolerance, moving = (1e-6, 0.0) if exact else (0.01, 0.1)
    return find_static_cells(before, after, tolerance=tolerance, moving=moving)


def measured(codec: DepthCodec, clip: list[Frame], hold: float, deadband: float, *, exact: bool) -> np.ndarray:
    """Changed codes and all codes in static cells, changed share of all cells, RMSE."""
    out = list(encode_sequence(codec, (depth for depth, _ in clip), hold=hold, deadband=deadband))
    stays = [static(first[1], second[1], exact=exact) for first, second in pairwise(clip)]
    changed = [frame.changed for frame in out[1:]]
    errors = []
    for frame in out:
        truth = resize_nearest(frame.nearness.values, 320, 320)
        valid = resize_nearest(frame.nearness.valid, 320, 320)
        errors.append(float(np.sqrt(np.mean(np.square(codec.decode(frame.codes)[0] - truth)[valid]))))
    in_static = sum(int((change & stay).sum()) for change, stay in zip(changed, stays, strict=True))
    return np.array([in_static, sum(int(stay.sum()) for stay in stays), np.mean(changed), np.mean(errors)])


def groups(shared: Path) -> Iterator[tuple[str, list[list[Frame]], bool]]:
    """Name, clips, and whether static cells are known exactly."""
    kinds = ("room", "table", "street", "hall")
    for title, change, exact in (("moving object", moving_object, True), ("moving camera", moving_camera, False)):
        yield f"{title}, 1 % noise", [rendered(seed, kind, change, 8, 0.01) for seed, kind in enumerate(kinds)], exact
    for title, side, step, share in (("small slow plate", 16, 1, 1.5), ("large near plate", 80, 6, 0.6)):
        clips = [passing(seed, kind, side, step, share, 8, 0.01) for seed, kind in enumerate(kinds)]
        yield f"{title}, 1 % noise", clips, True
    yield "Replica office 0", [walk(shared / "val", "replica_office0", 34)], False
    yield "RGB-D SLAM rig", [walk(shared / "train", "aims_slam", 20)], False
    yield "crop rows", [walk(shared / "val", "strawberry_field", 20)], False


def main() -> None:
    """Print the curve of every group as a table."""
    torch.set_num_threads(1)
    codec = DepthCodec.from_pretrained()
    for title, clips, exact in groups(Path(sys.argv[1])):
        print(f"\n{title}\n| hold | deadband | static cells | all cells | RMSE |\n|---|---|---|---|---|")
        alone = 0.0
        for hold, deadband in CURVE:
            figures = [measured(codec, clip, hold, deadband, exact=exact) for clip in clips]
            in_static, of, changed, rmse = np.sum(figures, 0)
            changed, rmse = changed / len(clips), rmse / len(clips)
            alone = alone or rmse
            share = f"{in_static / max(of, 1):.2%} of {of:.0f}"
            print(
                f"| {hold} | {deadband} | {share} | {changed:.1%} | {rmse:.4f} ({rmse / alone - 1:+.1%}) |", flush=True
            )


if __name__ == "__main__":
    main()

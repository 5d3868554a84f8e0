"""People: capsule limbs, standing on z = 0 (or sitting on a seat) about the origin, facing +x, in metres."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from perceptok.scenes.primitives import Parts, box, capsule, ellipsoid


def person(rng: Generator, *, sitting: bool = False) -> Parts:
    """A person of 1.2 to 1.95 m in a random everyday pose.

    Args:
        rng: The random generator.
        sitting: Sitting on something 0.45 m high instead of standing or walking.
    """
    tall = rng.uniform(1.2, 1.95)
    unit = tall / 1.75
    wide = rng.uniform(0.85, 1.25)
    hip = 0.5 if sitting else 0.9 * unit
    lean = np.array([rng.uniform(-0.05, 0.2), rng.uniform(-0.06, 0.06), 0.0])
    pelvis = np.array([0.0, 0.0, hip])
    chest = pelvis + np.array([0, 0, 0.38 * unit]) + lean
    neck = chest + np.array([0, 0, 0.17 * unit]) + lean * 0.4
    head = neck + np.array([0.02, 0, 0.17 * unit]) + lean * 0.2
    parts = [
        ellipsoid(pelvis, (0.13 * wide, 0.17 * wide, 0.15 * unit)),
        capsule(pelvis, chest, 0.125 * unit * wide),
        ellipsoid(chest, (0.13 * wide, 0.2 * unit * wide, 0.2 * unit)),
        capsule(chest, neck, 0.055 * unit),
        ellipsoid(head, (0.1, 0.08, 0.12)),
    ]
    if rng.random() < 0.3:
        parts.append(ellipsoid(head + np.array([-0.03, 0, 0.02]), (0.11, 0.1, 0.13)))
    stride = rng.uniform(-0.35, 0.35)
    for side in (-1, 1):
        parts += _leg(rng, pelvis, side, unit, wide, stride * side, sitting)
        parts += _arm(rng, chest, side, unit, wide)
    if rng.random() < 0.25:
        parts.append(box(chest - [0.2, 0, 0.05], (0.16, 0.3, 0.42)))
    return parts


def _leg(
    rng: Generator, pelvis: np.ndarray, side: int, unit: float, wide: float, stride: float, sitting: bool
) -> Parts:
    hip = pelvis + np.array([0, side * 0.09 * wide, 0])
    if sitting:
        knee = hip + np.array([0.42 * unit, side * rng.uniform(0.0, 0.12), 0.02])
        ankle = np.array([knee[0] + rng.uniform(-0.15, 0.2), knee[1], 0.07])
    else:
        knee = hip + np.array([stride * 0.6 + rng.uniform(0, 0.06), side * 0.02, -0.42 * unit])
        ankle = np.array([knee[0] + stride * 0.4 - 0.05, knee[1], 0.07])
    thick = 0.075 * unit * wide
    return [
        capsule(hip, knee, thick),
        capsule(knee, ankle, thick * 0.75),
        capsule(ankle - [0.03, 0, 0.02], ankle + np.array([0.15, side * 0.03, -0.03]), 0.045),
    ]


def _arm(rng: Generator, chest: np.ndarray, side: int, unit: float, wide: float) -> Parts:
    shoulder = chest + np.array([0, side * 0.2 * unit * wide, 0.1 * unit])
    raised, swing = rng.uniform(-1.4, 0.6) if rng.random() < 0.5 else -1.35, rng.uniform(-0.5, 0.9)
    upper = np.array([np.cos(raised) * swing, side * np.cos(raised) * 0.6, np.sin(raised)])
    elbow = shoulder + upper / np.linalg.norm(upper) * 0.3 * unit
    bend = np.array([rng.uniform(0.0, 1.0), side * rng.uniform(-0.6, 0.3), rng.uniform(-1.0, 0.5)])
    hand = elbow + bend / np.linalg.norm(bend) * 0.27 * unit
    thick = 0.05 * unit * wide
    return [capsule(shoulder, elbow, thick), capsule(elbow, hand, thick * 0.8), ellipsoid(hand, (0.06, 0.045, 0.06))]

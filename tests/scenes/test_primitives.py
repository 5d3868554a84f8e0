"""Every shape against a slow reference: march along each ray in float64, then bisect."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from perceptok.scenes.primitives import Bowl, Box, Capsule, Disc, Frustum, Leaf, Quad, Shape, Sphere

Field = Callable[[np.ndarray], np.ndarray]
Membership = Callable[[np.ndarray], np.ndarray]

LENGTH, STEPS = 8.0, 4000


def cone(top: float) -> Field:
    def field(p: np.ndarray) -> np.ndarray:
        return np.asarray(np.hypot(p[..., 0], p[..., 1]) - ((1 + top) / 2 + (top - 1) / 2 * p[..., 2]))

    return field


def segment(half: float) -> Field:
    def field(p: np.ndarray) -> np.ndarray:
        beyond = p[..., 2] - p[..., 2].clip(-half, half)
        return np.asarray(np.sqrt(p[..., 0] ** 2 + p[..., 1] ** 2 + beyond**2) - 1)

    return field


def plane(p: np.ndarray) -> np.ndarray:
    return p[..., 2]


def sphere(p: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(p, axis=-1) - 1)


def between(p: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(p[..., 2]) <= 1)


def everywhere(p: np.ndarray) -> np.ndarray:
    return np.ones(p.shape[:-1], dtype=bool)


CASES: dict[str, tuple[Shape, Field, Membership]] = {
    "quad": (Quad(), plane, lambda p: np.abs(p[..., :2]).max(axis=-1) <= 1),
    "disc": (Disc(), plane, lambda p: np.hypot(p[..., 0], p[..., 1]) <= 1),
    "leaf": (Leaf(), plane, lambda p: np.abs(p[..., 1]) <= 1 - p[..., 0] ** 2),
    "box": (Box(), lambda p: np.abs(p).max(axis=-1) - 1, everywhere),
    "sphere": (Sphere(), sphere, everywhere),
    "bowl": (Bowl(0.2), sphere, lambda p: p[..., 2] <= 0.2),
    "cylinder": (Frustum(), lambda p: np.maximum(cone(1.0)(p), np.abs(p[..., 2]) - 1), everywhere),
    "frustum": (Frustum(0.4), lambda p: np.maximum(cone(0.4)(p), np.abs(p[..., 2]) - 1), everywhere),
    "cone": (Frustum(0.0), lambda p: np.maximum(cone(0.0)(p), np.abs(p[..., 2]) - 1), everywhere),
    "tube": (Frustum(1.0, closed=False), cone(1.0), between),
    "lamp shade": (Frustum(0.5, closed=False), cone(0.5), between),
    "capsule": (Capsule(1.5), segment(1.5), everywhere),
}


def rays(count: int, inside: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    away = rng.normal(size=(count, 3))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    origins = away * (0.3 if inside else 3.5)
    towards = rng.uniform(-1.1, 1.1, (count, 3)) - origins
    return origins, towards / np.linalg.norm(towards, axis=1, keepdims=True)


def march(field: Field, belongs: Membership, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """First crossing of field = 0 at which the point belongs to the surface; inf where there is none."""
    s = np.linspace(0, LENGTH, STEPS + 1)
    values = field(origins[:, None] + s[:, None] * directions[:, None])
    found = np.full(len(origins), np.inf)
    for ray, step in zip(*np.nonzero(values[:, :-1] * values[:, 1:] <= 0), strict=True):
        low, high = s[step], s[step + 1]
        for _ in range(30):
            middle = (low + high) / 2
            same = field(origins[ray] + middle * directions[ray]) * values[ray, step] > 0
            low, high = (middle, high) if same else (low, middle)
        if belongs(origins[ray] + low * directions[ray]):
            found[ray] = min(found[ray], low)
    return found


@pytest.mark.parametrize(
    ("name", "inside"),
    [(name, inside) for name in CASES for inside in (False, True) if (name, inside) != ("capsule", True)],
)
def test_intersections_agree_with_marching(name: str, inside: bool) -> None:
    shape, field, belongs = CASES[name]
    origins, directions = rays(250, inside)
    expected = march(field, belongs, origins, directions)
    assert np.isfinite(expected).sum() > 20
    columns = [column.astype(np.float32) for column in (*origins.T, *directions.T)]
    with np.errstate(all="ignore"):
        found = shape.intersect(tuple(columns[:3]), tuple(columns[3:]), 0.0, shape.parameter)
    found = np.where(np.isnan(found), np.inf, found).astype(np.float64)
    assert (found <= expected + 2e-3).all()
    earlier = found < expected - 2e-3
    # Marching misses chords shorter than its step; what it misses must still be on the surface.
    assert earlier.sum() <= 3
    hit = np.isfinite(found)
    points = origins[hit] + found[hit, None] * directions[hit]
    assert np.abs(field(points)).max() < 1e-3


@pytest.mark.parametrize("name", CASES)
def test_hits_before_the_start_do_not_count(name: str) -> None:
    shape = CASES[name][0]
    origins, directions = rays(200, inside=False)
    columns = [column.astype(np.float32) for column in (*origins.T, *directions.T)]
    with np.errstate(all="ignore"):
        first = shape.intersect(tuple(columns[:3]), tuple(columns[3:]), 0.0, shape.parameter)
        later = shape.intersect(tuple(columns[:3]), tuple(columns[3:]), 3.5, shape.parameter)
    assert not (later < 3.5).any()
    behind = first >= 3.5
    np.testing.assert_array_equal(later[behind], first[behind])


@pytest.mark.parametrize("name", CASES)
def test_the_surface_lies_within_its_extents(name: str) -> None:
    shape = CASES[name][0]
    origins, directions = rays(400, inside=False)
    columns = [column.astype(np.float32) for column in (*origins.T, *directions.T)]
    with np.errstate(all="ignore"):
        found = shape.intersect(tuple(columns[:3]), tuple(columns[3:]), 0.0, shape.parameter)
    hit = np.isfinite(found)
    points = origins[hit] + found[hit, None] * directions[hit]
    assert (np.abs(points) <= np.array(shape.extents) + 1e-4).all()


@pytest.mark.parametrize("name", CASES)
def test_normals_are_the_gradient_of_the_reference(name: str) -> None:
    shape, field, _ = CASES[name]
    origins, directions = rays(200, inside=False)
    columns = [column.astype(np.float32) for column in (*origins.T, *directions.T)]
    with np.errstate(all="ignore"):
        found = shape.intersect(tuple(columns[:3]), tuple(columns[3:]), 0.0, shape.parameter)
    hit = np.isfinite(found)
    points = origins[hit] + found[hit, None] * directions[hit]
    step = 1e-4
    gradient = np.stack([field(points + step * e) - field(points - step * e) for e in np.eye(3)], axis=1)
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    normals = np.stack(np.broadcast_arrays(*shape.compute_gradients(*points.T, shape.parameter)), axis=1)
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    agree = np.abs((gradient * normals).sum(axis=1))
    assert np.mean(agree > 0.999) > 0.97  # finite differences fail across a rim

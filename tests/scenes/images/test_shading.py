"""Textures, shadows, ambient occlusion and the camera."""

from __future__ import annotations

import numpy as np
import pytest

from perceptok.scenes import Camera, Rendering, Scene, SceneObject, box, ellipsoid, quad, render
from perceptok.scenes.images.materials import EDGE, PATTERNS, make_textures, sample_textures
from perceptok.scenes.images.shading import Light, cast_shadow, expose, measure_occlusion, upsample

FLOOR = SceneObject("floor", (quad((0, 0, 0), (5, 0, 0), (0, 5, 0)),))


def points_of_pixels(view: Rendering) -> np.ndarray:
    """World points of every pixel, (3, H, W), of a scene without sky."""
    points = np.empty((3, view.depth.size), dtype=np.float32)
    points[:, view.surfaces.pixels] = view.surfaces.points
    return points.reshape(3, *view.depth.shape)


def from_above(*things: SceneObject) -> Scene:
    return Scene(things, Camera.aimed((0.0, 0.0, 6.0), pitch=-90, fov=60))


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_repeat_without_a_seam_and_are_not_constant(name: str) -> None:
    textures = make_textures()
    start = textures.numbers[name] * textures.length
    tile = textures.texels[start : start + EDGE**2].reshape(EDGE, EDGE).astype(int)
    assert tile.std() > 5
    # Across the seam neighbours differ no more than within: of noise, of joints, of stripes.
    for axis in (0, 1):
        within = np.abs(np.diff(tile, axis=axis)).mean(axis=1 - axis)
        seam = np.abs(np.take(tile, 0, axis) - np.take(tile, -1, axis)).mean()
        assert seam <= max(within.max() * 1.1, 12)


def test_sampling_is_bilinear_and_periodic() -> None:
    textures, number = make_textures(), make_textures().numbers["clouds"]
    rng = np.random.default_rng(0)
    u, v = rng.uniform(-3, 3, (2, 500)).astype(np.float32)
    start = number * textures.length
    tile = textures.texels[start : start + EDGE**2].reshape(EDGE, EDGE) / 255
    x, y = u.astype(float) * EDGE, v.astype(float) * EDGE
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    dx, dy = x - left, y - top
    slow = np.zeros(500)
    for row, weight_y in ((top, 1 - dy), (top + 1, dy)):
        for column, weight_x in ((left, 1 - dx), (left + 1, dx)):
            slow += weight_x * weight_y * tile[row % EDGE, column % EDGE]
    pattern = np.full(500, number, dtype=np.int32)
    fine = np.full(500, 1e-3, dtype=np.float32)
    np.testing.assert_allclose(sample_textures(pattern, u, v, fine), slow, atol=2e-3)
    np.testing.assert_allclose(sample_textures(pattern, u + 1, v - 2, fine), slow, atol=2e-3)


def test_far_textures_fade_into_their_mean() -> None:
    textures = make_textures()
    for name, number in textures.numbers.items():
        start = number * textures.length
        mean = textures.texels[start : start + EDGE**2].mean() / 255
        u = np.linspace(0, 1, 50, dtype=np.float32)
        far = sample_textures(np.full(50, number, np.int32), u, u, np.full(50, 3.0, dtype=np.float32))
        np.testing.assert_allclose(far, mean, atol=0.02, err_msg=name)


@pytest.mark.parametrize("reference", [3.0, np.inf], ids=["lamp", "sun"])
def test_a_ball_throws_its_shadow_away_from_the_light(reference: float) -> None:
    ball = SceneObject("ball", (ellipsoid((0, 0, 1), 0.4),))
    way = np.array([0.0, 1.0, 1.0]) / np.sqrt(2)
    light = Light(way * (4 if np.isfinite(reference) else 400), (1, 1, 1), reference, True, 1.0)
    view = render(from_above(FLOOR, ball), 120, 120)
    surfaces = view.surfaces
    lit = cast_shadow(view.scene, light, surfaces.points, surfaces.normals)
    on_floor = surfaces.expand(np.arange(2)) == 0
    x, y, _ = surfaces.points.astype(float)
    # The ball's shadow on the floor is about the point opposite to the light.
    if np.isfinite(reference):
        ray_foot = light.position[1] - light.position[2] * (light.position[1] - 0) / (light.position[2] - 1)
    else:
        ray_foot = -1.0
    distance = np.hypot(x, y - ray_foot)
    assert lit[on_floor & (distance < 0.25)].max() < 0.1
    assert lit[on_floor & (distance > 1.6)].min() > 0.9
    assert lit[~on_floor & (surfaces.normals[1] > 0.8)].min() > 0.9


def test_corners_are_darker_than_open_ground() -> None:
    wall = SceneObject("wall", (box((0, 1, 0.5), (4, 0.2, 1.0)),))
    view = render(from_above(FLOOR, wall), 128, 128)
    points = points_of_pixels(view)
    normals = np.moveaxis(view.normals, -1, 0)
    open_sky = measure_occlusion(points, normals, 0.6)
    floor = (view.instance == 0) & (np.abs(points[0]) < 1.5)
    away = 0.9 - points[1]
    assert open_sky[floor & (away > 0) & (away < 0.12)].mean() < 0.85
    assert open_sky[floor & (away > 0.8)].mean() > 0.97
    assert open_sky.min() >= 0
    assert open_sky.max() <= 1


def test_spreading_keeps_to_the_depth_of_the_neighbours() -> None:
    depth = np.full((12, 12), 2.0, dtype=np.float32)
    depth[:, 7:] = 5.0
    maps = np.where(depth[::2, ::2] > 3, 1.0, 0.25).astype(np.float32)[None]
    np.testing.assert_allclose(upsample(maps, depth[::2, ::2], depth)[0], np.where(depth > 3, 1.0, 0.25), atol=1e-3)


def test_more_light_is_brighter_and_noise_is_drawn_from_the_generator() -> None:
    ramp = np.broadcast_to(np.linspace(0.02, 0.6, 64, dtype=np.float32), (3, 64, 64))
    image = expose(ramp, np.random.default_rng(3))
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    columns = image.astype(float).mean(axis=(0, 2))
    assert (np.diff(columns[::8]) > 0).all()
    np.testing.assert_array_equal(image, expose(ramp, np.random.default_rng(3)))
    assert not np.array_equal(image, expose(ramp, np.random.default_rng(4)))

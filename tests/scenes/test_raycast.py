"""The camera, culling, and renderings of simple scenes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from perceptok.errors import ConfigError
from perceptok.scenes import Camera, Scene, SceneObject, box, ellipsoid, quad, render, sample_scene
from perceptok.scenes.layouts.scene_sampling import LAYOUTS
from perceptok.scenes.primitives import capsule, disc, turn

angles = st.floats(-180, 180)


def scene_along_x(*objects: SceneObject, fov: float = 60.0, aspect: float = 1.0) -> Scene:
    return Scene(objects, Camera.aimed((0.0, 0.0, 0.0), fov=fov, aspect=aspect))


@settings(max_examples=50, deadline=None)
@given(yaw=angles, pitch=st.floats(-90, 90), roll=angles, fov=st.floats(20, 120), aspect=st.floats(0.5, 2))
def test_unproject_inverts_project(yaw: float, pitch: float, roll: float, fov: float, aspect: float) -> None:
    camera = Camera.aimed((1.0, -2.0, 3.0), yaw=yaw, pitch=pitch, roll=roll, fov=fov, aspect=aspect)
    pixels = np.random.default_rng(0).uniform((0, 0, 0.3), (64, 48, 30), (20, 3))
    points = camera.unproject(pixels, 48, 64)
    np.testing.assert_allclose(camera.project(points, 48, 64), pixels, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(camera.rotation.T @ camera.rotation, np.eye(3), atol=1e-12)


def test_the_axes_of_a_level_camera() -> None:
    camera = Camera.aimed((0.0, 0.0, 0.0), fov=90)
    left, above = np.array([1.0, 0.5, 0.0]), np.array([1.0, 0.0, 0.5])
    np.testing.assert_allclose(camera.project(left, 100, 100), (25, 50, 1))
    np.testing.assert_allclose(camera.project(above, 100, 100), (50, 25, 1))
    down = Camera.aimed((0.0, 0.0, 2.0), pitch=-90)
    np.testing.assert_allclose(down.rotation[:, 2], (0, 0, -1), atol=1e-12)
    clockwise = Camera.aimed((0.0, 0.0, 0.0), roll=90, fov=90)
    np.testing.assert_allclose(clockwise.project(above, 100, 100), (25, 50, 1), atol=1e-9)


def test_depth_of_a_sphere_is_the_closed_form() -> None:
    """z-depth of a sphere in float64, straight from the quadratic with the ray (x, y, 1)."""
    scene = scene_along_x(SceneObject("ball", (ellipsoid((3, 0.4, 0.2), 0.9),)))
    depth = render(scene, 61, 61).depth
    t = np.tan(np.radians(30))
    x = ((np.arange(61) + 0.5) / 61 * 2 - 1) * t
    d = np.stack(np.broadcast_arrays(x[None, :], x[:, None], 1.0), axis=-1)
    center = np.array([-0.4, -0.2, 3.0])
    a, b, c = (d * d).sum(-1), d @ center, center @ center - 0.81
    root = b * b - a * c
    expected = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    hit = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(depth), hit)
    np.testing.assert_allclose(depth[hit], expected[hit], rtol=1e-5)


def test_a_small_far_sphere_keeps_its_precision() -> None:
    ball = ellipsoid((500.0, 0.0, 0.0), 0.05)
    depth = render(scene_along_x(SceneObject("ball", (ball,)), fov=1.0), 4001, 1).depth
    seen = np.isfinite(depth)
    assert abs(seen.sum() - 0.1 / (2 * 500 * np.tan(np.radians(0.5))) * 4001) < 2
    assert depth[seen].min() == pytest.approx(499.95, abs=1e-4)


def test_a_box_is_seen_from_inside_too() -> None:
    room = SceneObject("room", (box((0, 0, 0), (8, 4, 3)),))
    depth = render(scene_along_x(room, fov=90), 33, 33).depth
    assert depth[16, 16] == pytest.approx(4.0, rel=1e-6)
    assert depth.max() <= 4.0001
    assert np.isfinite(depth).all()


def test_depth_is_z_and_not_the_distance_along_the_ray() -> None:
    wall = SceneObject("wall", (quad((2, 0, 0), (0, 50, 0), (0, 0, 50)),))
    np.testing.assert_allclose(render(scene_along_x(wall, fov=120), 20, 30).depth, 2.0, rtol=1e-6)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_culling_changes_nothing(kind: str) -> None:
    scene = sample_scene(3, 1, kind)
    fast, slow = render(scene, 60, 80), render(scene, 60, 80, cull=False)
    np.testing.assert_array_equal(fast.depth, slow.depth)
    np.testing.assert_array_equal(fast.primitive, slow.primitive)


@pytest.mark.parametrize("index", range(4))
def test_boxes_and_masks_agree(index: int) -> None:
    rendering = render(sample_scene(5, index, "room"), 90, 120)
    boxes = rendering.boxes()
    assert {item.instance for item in boxes} == set(np.unique(rendering.instance[rendering.instance >= 0]))
    assert set(rendering.masks) == {item.instance for item in boxes}
    for item in boxes:
        rows, columns = np.nonzero(rendering.mask(item.instance))
        assert item.xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert item.pixels == rows.size
        assert item.category == rendering.scene.objects[item.instance].category
    np.testing.assert_array_equal(rendering.instance >= 0, np.isfinite(rendering.depth))
    assert sum(mask.sum() for mask in rendering.masks.values()) == (rendering.instance >= 0).sum()


def test_an_object_of_many_primitives_is_one_instance() -> None:
    left = SceneObject("dumbbell", (ellipsoid((3, 1, 0), 0.3), ellipsoid((3, -1, 0), 0.3)))
    right = SceneObject("stick", (capsule((4, -1, 0), (4, 1, 0), 0.1),))
    rendering = render(scene_along_x(left, right), 64, 64)
    assert set(np.unique(rendering.instance)) == {-1, 0, 1}
    assert [item.category for item in rendering.boxes()] == ["dumbbell", "stick"]
    assert [item.category for item in rendering.boxes("stick")] == ["stick"]
    assert rendering.boxes(min_pixels=10_000) == []


def test_normals_of_a_sphere_and_of_a_wall() -> None:
    ball = SceneObject("ball", (ellipsoid((3, 0, 0), (0.9, 0.5, 0.7), turn(30)),))
    wall = SceneObject("wall", (disc((6, 0, 0), (1, 0.5, 0.2), 9),))
    rendering = render(scene_along_x(ball, wall), 50, 50)
    normals = rendering.normals
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1)[rendering.instance >= 0], 1, rtol=1e-5)
    facing = -np.array([1, 0.5, 0.2]) / np.linalg.norm([1, 0.5, 0.2])
    np.testing.assert_allclose(
        normals[rendering.mask(1)], np.broadcast_to(facing, (rendering.mask(1).sum(), 3)), atol=1e-5
    )
    rows, columns = np.nonzero(rendering.mask(0))
    pixels = np.stack([columns + 0.5, rows + 0.5, rendering.depth[rows, columns]], axis=1).astype(np.float64)
    local = (rendering.scene.camera.unproject(pixels, 50, 50) - (3, 0, 0)) @ turn(30)
    expected = (local / np.array([0.9, 0.5, 0.7]) ** 2) @ turn(30).T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(normals[rows, columns], expected, atol=1e-3)


def test_the_image_is_lit_from_the_light() -> None:
    ball = SceneObject("ball", (ellipsoid((3, 0, 0), 1.0),), color=(1.0, 0.0, 0.0))
    scene = Scene((ball,), Camera.aimed((0.0, 0.0, 0.0)), light=(-0.3, 0.0, 1.0))
    rendering = render(scene, 64, 64)
    image = rendering.rgb()
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    red = image[..., 0].astype(int)
    assert red[22, 32] > red[42, 32] + 50
    assert (image[rendering.mask(0)][:, 1:] == 0).all()


def test_an_empty_scene_is_all_sky() -> None:
    rendering = render(scene_along_x(), 8, 9)
    assert np.isinf(rendering.depth).all()
    assert (rendering.instance == -1).all()
    assert rendering.boxes() == []
    assert rendering.rgb().shape == (8, 9, 3)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one row"):
        render(scene_along_x(), 0, 5)
    with pytest.raises(ConfigError, match="fov"):
        Camera.aimed((0.0, 0.0, 0.0), fov=0.5)
    with pytest.raises(ConfigError, match="aspect"):
        Camera.aimed((0.0, 0.0, 0.0), aspect=0.0)
    with pytest.raises(ConfigError, match="instances"):
        render(scene_along_x(), 4, 4).mask(0)

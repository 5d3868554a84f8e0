"""From maps of any size and form to the networks' square; what can be read in two ways is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from perceptok.depth import MAP_SIZE, Preprocessing, resize_nearest
from perceptok.depth.preprocessing import validate_nearness
from perceptok.errors import ConfigError, DepthMapError

SIDES = st.integers(1, 50)


def inside(length: int, size: int) -> np.ndarray:
    """Whether the centre of each target pixel lies inside a source pixel, not between two."""
    return np.asarray((2 * np.arange(size) + 1) * length % (2 * size) != 0)


class TestNearest:
    @given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**32 - 1))
    @settings(max_examples=60)
    def test_picks_what_pillow_picks(self, height: int, width: int, to_height: int, to_width: int, seed: int) -> None:
        values = np.random.default_rng(seed).random((height, width), dtype=np.float32)
        image = Image.fromarray(values).resize((to_width, to_height), Image.Resampling.NEAREST)
        # Where a pixel's centre falls on the edge of two, only Pillow's accumulated rounding decides.
        rows, columns = inside(height, to_height), inside(width, to_width)
        got, expected = resize_nearest(values, to_height, to_width), np.asarray(image)
        np.testing.assert_array_equal(got[rows][:, columns], expected[rows][:, columns])

    @given(SIDES, SIDES, st.integers(0, 2**32 - 1))
    @settings(max_examples=30)
    def test_square_and_resize_agree(self, height: int, width: int, seed: int) -> None:
        values = np.random.default_rng(seed).random((2, height, width), dtype=np.float32)
        squares = Preprocessing(size=17).squash(torch.from_numpy(values)).numpy()
        np.testing.assert_array_equal(squares, np.stack([resize_nearest(one, 17, 17) for one in values]))

    def test_masks_stay_masks(self) -> None:
        mask = np.array([[True, False], [False, True]])
        same = resize_nearest(mask, *mask.shape)
        assert np.array_equal(same, mask)
        assert not np.shares_memory(same, mask)
        grown = resize_nearest(mask, 4, 6)
        assert grown.dtype == np.bool_
        np.testing.assert_array_equal(grown, np.kron(mask, np.ones((2, 3), bool)))


class TestSquare:
    @pytest.mark.parametrize("resize", ["nearest", "area"])
    def test_the_right_size_is_left_alone(self, resize: str) -> None:
        maps = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
        settings = Preprocessing.from_dict({"size": 8, "resize": resize})
        torch.testing.assert_close(settings.squash(maps), maps, rtol=0, atol=0)

    @pytest.mark.parametrize("shape", [(1, 1), (3, 50), (50, 3), (31, 33)])
    def test_area_keeps_a_constant_and_the_range(self, shape: tuple[int, int]) -> None:
        area = Preprocessing(size=10, resize="area")
        torch.testing.assert_close(area.squash(torch.full((1, *shape), 0.3)), torch.full((1, 10, 10), 0.3))
        mixed = area.squash(torch.rand(1, *shape, generator=torch.Generator().manual_seed(1)))
        assert 0 <= float(mixed.min()) <= float(mixed.max()) <= 1

    def test_area_sees_what_nearest_skips(self) -> None:
        maps = torch.zeros(1, 100, 100)
        maps[:, ::10] = 1.0
        assert float(Preprocessing(size=10, resize="area").squash(maps).mean()) == pytest.approx(0.1, abs=0.02)
        assert set(Preprocessing(size=10).squash(maps).unique().tolist()) <= {0.0, 1.0}


class TestScale:
    def test_the_reference_scale(self) -> None:
        maps = torch.tensor([0.0, 0.25, 1.0])
        assert Preprocessing().to_network(maps).tolist() == [-1.0, -0.5, 1.0]
        assert Preprocessing().size == MAP_SIZE == 320

    @given(st.floats(-10, 10), st.floats(0.1, 10))
    @settings(max_examples=30)
    def test_there_and_back(self, low: float, span: float) -> None:
        settings = Preprocessing(low=low, high=low + span)
        maps = torch.linspace(0, 1, 11)
        torch.testing.assert_close(settings.from_network(settings.to_network(maps)), maps, rtol=0, atol=1e-4)

    def test_nothing_is_clamped(self) -> None:
        assert Preprocessing().from_network(torch.tensor([-3.0, 3.0])).tolist() == [-1.0, 2.0]


class TestConfig:
    def test_there_and_back(self) -> None:
        settings = Preprocessing(size=64, resize="area", low=0.0, high=2.0)
        assert Preprocessing.from_dict(settings.to_dict()) == settings

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"sizes": 320}, "Preprocessing: unknown key 'sizes'"),
            ({"resize": "bicubic"}, "expected 'area', 'nearest' or 'pillow-bilinear'; got 'bicubic'"),
            ({"size": 0}, "size >= 1"),
            ({"low": 1.0, "high": 1.0}, "low < high"),
            ({"low": float("nan")}, "low: expected a finite number; got nan"),
        ],
    )
    def test_what_is_refused(self, values: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Preprocessing.from_dict(values)


MAP = np.linspace(0, 1, 96 * 128, dtype=np.float32).reshape(96, 128)


@pytest.mark.parametrize(
    "form", [MAP, MAP[None], MAP[..., None], MAP[None, None], MAP[None, ..., None], MAP[None, ..., None].tolist()]
)
def test_one_map_in_any_form(form: object) -> None:
    for maps in (form, torch.tensor(form)):
        assert torch.equal(validate_nearness(maps), torch.from_numpy(MAP)[None])  # type: ignore[arg-type]


def test_batches_in_either_form() -> None:
    batch = np.stack([MAP, MAP[::-1]])
    for form in (batch, batch[:, None], batch[..., None]):
        assert np.array_equal(validate_nearness(form).numpy(), batch)


@pytest.mark.parametrize(
    "shape",
    [
        *((96, 1, 128), (96, 128, 2), (96, 128, 3), (96, 128, 4)),
        *((2, 1, 96, 1), (2, 96, 128, 3), (2, 3, 96, 128), (1, 1, 1, 96, 128)),
    ],
)
def test_two_readings_or_none_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DepthMapError, match=r"\(B, "):
        validate_nearness(np.zeros(shape))


def test_empty_batches() -> None:
    assert validate_nearness(np.zeros((0, 4, 5))).shape == (0, 4, 5)
    assert validate_nearness(np.zeros((0, 1, 4, 5))).shape == (0, 4, 5)


def test_masked_arrays_are_sent_to_the_door_that_takes_masks() -> None:
    masked = np.ma.masked_less(MAP, 0.5)
    for form in (masked, [masked, masked]):
        with pytest.raises(DepthMapError, match=r"DepthMap\.from_array"):
            validate_nearness(form)

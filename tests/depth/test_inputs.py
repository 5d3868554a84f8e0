"""Shapes and types of what is encoded: one map is one map, and what can be read in two ways is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perceptok.depth import DepthMap
from perceptok.depth.preprocessing import checked_nearness
from perceptok.errors import DepthMapError

MAP = np.linspace(0, 1, 96 * 128, dtype=np.float32).reshape(96, 128)


@pytest.mark.parametrize(
    "form", [MAP, MAP[None], MAP[..., None], MAP[None, None], MAP[None, ..., None], MAP[None, ..., None].tolist()]
)
def test_one_map_in_any_form(form: object) -> None:
    for given in (form, torch.tensor(form)):
        assert torch.equal(checked_nearness(given), torch.from_numpy(MAP)[None])  # type: ignore[arg-type]


def test_batches_in_either_form() -> None:
    batch = np.stack([MAP, MAP[::-1]])
    for form in (batch, batch[:, None], batch[..., None]):
        assert np.array_equal(checked_nearness(form).numpy(), batch)


@pytest.mark.parametrize(
    "shape",
    [
        *((96, 1, 128), (96, 128, 2), (96, 128, 3), (96, 128, 4)),
        *((2, 1, 96, 1), (2, 96, 128, 3), (2, 3, 96, 128), (1, 1, 1, 96, 128)),
    ],
)
def test_two_readings_or_none_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DepthMapError, match=r"\(B, "):
        checked_nearness(np.zeros(shape))


def test_empty_batches() -> None:
    assert checked_nearness(np.zeros((0, 4, 5))).shape == (0, 4, 5)
    assert checked_nearness(np.zeros((0, 1, 4, 5))).shape == (0, 4, 5)


def test_masked_arrays_are_sent_to_the_door_that_takes_masks() -> None:
    masked = np.ma.masked_less(MAP, 0.5)
    for form in (masked, [masked, masked]):
        with pytest.raises(DepthMapError, match=r"DepthMap\.from_array"):
            checked_nearness(form)


class TestFromArray:
    @pytest.mark.parametrize(("dtype", "largest"), [("u1", 255), ("u2", 65535)])
    def test_integers_of_either_byte_order_are_scaled(self, dtype: str, largest: int) -> None:
        numbers = np.array([[0, 77, largest]])
        for order in "<>=":
            depth = DepthMap.from_array(numbers.astype(np.dtype(dtype).newbyteorder(order)), kind="inverse")
            assert np.array_equal(depth.values, (numbers / largest).astype(np.float32))
        assert DepthMap.from_array(np.array([[4998]], ">u2"), kind="inverse").values[0, 0] == np.float32(4998 / 65535)

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_metric_numbers_of_either_byte_order(self, order: str) -> None:
        for dtype in ("u2", "i4", "f4", "f8"):
            depth = DepthMap.from_array(np.array([[1500, 2500]], f"{order}{dtype}"), kind="metric", unit="mm")
            assert depth.values.tolist() == [[1.5, 2.5]]

    def test_masks_of_masked_arrays_are_holes(self) -> None:
        array = np.ma.array([[1.0, -5.0, 3.0]], mask=[[False, True, False]])
        depth = DepthMap.from_array(array, kind="metric", unit="m")
        assert depth.valid.tolist() == [[True, False, True]]
        both = DepthMap.from_array(array, kind="metric", unit="m", valid=[[True, True, False]])
        assert both.valid.tolist() == [[True, False, False]]
        hidden = np.ma.array([[True, True, True]], mask=[[True, False, False]])
        assert DepthMap.from_array([[1, 2, 3]], kind="inverse", valid=hidden).valid.tolist() == [[False, True, True]]

    def test_a_masked_array_without_holes(self) -> None:
        assert DepthMap.from_array(np.ma.array([[1.0, 2.0]]), kind="inverse").valid.all()

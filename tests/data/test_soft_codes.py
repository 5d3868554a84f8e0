"""Soft codes: what the codec says of a map, nearest beside its codes in a record and brought back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from perceptok.data import Evidence, PerceptionRecord, SoftCodes, Turn, code_spread
from perceptok.data.soft_codes import find_soft_codes
from perceptok.depth import DepthCodec
from perceptok.errors import RecordError


@pytest.fixture(scope="module")
def codec() -> DepthCodec:
    return DepthCodec.from_pretrained()


@pytest.fixture(scope="module")
def maps() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = [ndimage.gaussian_filter(rng.random((320, 320)), 12) for _ in range(2)]
    return [((noise - noise.min()) / np.ptp(noise)).astype(np.float32) for noise in smooth]


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_all_codes_give_the_codecs_distribution(codec: DepthCodec, maps: list[np.ndarray], temperature: float) -> None:
    expected = codec.encode_soft(maps, temperature=temperature * code_spread(codec.codebook)).reshape(2, 100, 128)
    codes = codec.encode(maps)
    for soft, distribution, map_codes in zip(find_soft_codes(codec, maps, codes, 128), expected, codes, strict=True):
        np.testing.assert_allclose(soft.probabilities(temperature), distribution, atol=2e-3)
        assert soft.nearest == tuple(map_codes.ravel().tolist())


def test_nearest_codes_are_renormalized(codec: DepthCodec, maps: list[np.ndarray]) -> None:
    whole = codec.encode_soft(maps, temperature=0.05 * code_spread(codec.codebook)).reshape(-1, 128)
    found = np.concatenate([soft.probabilities(0.05) for soft in find_soft_codes(codec, maps, codec.encode(maps), 8)])
    nearest = np.where(whole >= np.sort(whole, axis=1)[:, -8:-7], whole, 0)
    np.testing.assert_allclose(found, nearest / nearest.sum(axis=1, keepdims=True), atol=2e-3)


def record(soft: SoftCodes, codes: tuple[int, ...]) -> PerceptionRecord:
    turns = (Turn("user", "Depth?"), Turn("assistant", "That."))
    return PerceptionRecord("r", ("a.png",), turns, "depth", "atomic", evidence=Evidence(codes, "x", soft=soft))


def test_record_round_trip(codec: DepthCodec, maps: list[np.ndarray]) -> None:
    codes = codec.encode(maps[:1])
    (soft,) = find_soft_codes(codec, maps[:1], codes, 4)
    original = record(soft, soft.nearest)
    assert PerceptionRecord.from_json(original.to_json()) == original
    assert "soft" not in replace(original, evidence=Evidence(soft.nearest)).to_json()
    with pytest.raises(RecordError, match=r"soft.codes: expected the code of evidence.codes first in each cell"):
        record(soft, ((soft.nearest[0] + 1) % 128, *soft.nearest[1:]))


@pytest.mark.parametrize(
    ("codes", "distances", "message"),
    [
        ((1,) * 99, (0.0,) * 99, "k codes and k distances for each of 100 cells; got 99"),
        ((1,) * 100, (0.0,) * 200, "got 100 and 200"),
        ((128,) * 100, (0.0,) * 100, r"codes: expected integers 0..127; got 128"),
        ((1,) * 100, (float("nan"),) * 100, "finite numbers >= 0; got nan"),
        ((1, 1) * 100, (0.0, 0.5) * 100, "lists a code twice"),
        ((1, 2) * 100, (0.5, 0.0) * 100, "expected 0 for a cell's nearest code"),
    ],
)
def test_invalid_soft_codes(codes: tuple[int, ...], distances: tuple[float, ...], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        SoftCodes(codes, distances)

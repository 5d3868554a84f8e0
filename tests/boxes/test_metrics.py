"""Overlap against pycocotools and pixels, matches against every permutation, scores by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from pycocotools import mask

from perceptok.boxes import BoxScores, compute_iou, match_boxes, score_boxes
from perceptok.errors import BoxError, ConfigError

SEEDS = st.integers(0, 2**32 - 1)


def random_boxes(rng: np.random.Generator, count: int, most: int = 12) -> np.ndarray:
    return np.sort(rng.integers(0, most, (count, 2, 2)), axis=1).reshape(count, 4)


class TestOverlap:
    def test_as_pycocotools_on_the_coco_sample(self, shared: Path) -> None:
        annotations = json.loads((shared / "data/coco/instances.json").read_text())["annotations"]
        by_image = defaultdict(list)
        for annotation in annotations:
            by_image[annotation["image_id"]].append(annotation)
        rng = np.random.default_rng(0)
        pairs = 0
        for found in by_image.values():
            xywh = np.array([annotation["bbox"] for annotation in found], dtype=np.float64)
            crowd = [annotation["iscrowd"] for annotation in found]
            moved = np.concatenate([xywh, np.abs(xywh * rng.uniform(0.8, 1.2, xywh.shape))])
            for flags in (crowd, [0] * len(crowd)):
                expected = mask.iou(moved, xywh, flags)
                got = compute_iou(corners(moved), corners(xywh), crowd=flags)
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
                pairs += got.size
        assert pairs > 10_000

    @given(SEEDS)
    def test_pixels_counted_one_by_one(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        first, second = random_boxes(rng, 5), random_boxes(rng, 4)
        images = [[painted(box) for box in boxes] for boxes in (first, second)]
        expected = [[(a & b).sum() / max((a | b).sum(), 1) for b in images[1]] for a in images[0]]
        np.testing.assert_allclose(compute_iou(first, second), expected, atol=1e-12)
        np.testing.assert_array_equal(compute_iou(second, first), compute_iou(first, second).T)

    @pytest.mark.parametrize(
        ("first", "second", "expected"),
        [
            ([0, 0, 2, 2], [0, 0, 2, 2], 1.0),
            ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3),
            ([0, 0, 2, 2], [2, 0, 3, 2], 0.0),
            ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
            ([0, 0, 0, 5], [0, 0, 5, 5], 0.0),
            ([-2, -2, 2, 2], [0, 0, 2, 2], 0.25),
        ],
    )
    def test_by_hand(self, first: list[float], second: list[float], expected: float) -> None:
        assert compute_iou([first], [second])[0, 0] == pytest.approx(expected, abs=1e-15)

    def test_no_boxes(self) -> None:
        assert compute_iou([], [[0, 0, 1, 1]]).shape == (0, 1)
        assert compute_iou([[0, 0, 1, 1]], np.empty((0, 4))).shape == (1, 0)
        assert compute_iou([], []).shape == (0, 0)

    def test_tensors(self) -> None:
        boxes = torch.tensor([[0, 0, 2, 2], [1, 0, 3, 2]])
        np.testing.assert_allclose(compute_iou(boxes, boxes.numpy()), [[1, 1 / 3], [1 / 3, 1]])

    @pytest.mark.parametrize(
        ("boxes", "message"),
        [
            ([[5, 0, 4, 1]], "true box 0 is inverted"),
            ([[0, 0, math.nan, 1]], "finite"),
            ([0, 0, 1, 1], r"true boxes have shape \(N, 4\)"),
        ],
    )
    def test_bad_boxes(self, boxes: Any, message: str) -> None:
        with pytest.raises(BoxError, match=message):
            compute_iou([[0, 0, 1, 1]], boxes)

    def test_one_crowd_flag_a_box(self) -> None:
        with pytest.raises(BoxError, match="one flag per true box"):
            compute_iou([[0, 0, 1, 1]], [[0, 0, 1, 1]], crowd=[0, 1])


class TestMatches:
    @given(SEEDS, st.sampled_from([0.0, 0.1, 0.5]))
    @settings(max_examples=60)
    def test_hungarian_has_the_largest_sum_of_all_pairings(self, seed: int, threshold: float) -> None:
        rng = np.random.default_rng(seed)
        first, second = random_boxes(rng, 4), random_boxes(rng, 5)
        iou = compute_iou(first, second)
        allowed = np.where(iou >= threshold, iou, 0)
        best = max(
            sum(allowed[row, column] for row, column in enumerate(columns))
            for columns in itertools.permutations(range(5), 4)
        )
        matches = match_boxes(first, second, threshold=threshold)
        assert matches.iou.sum() == pytest.approx(best, abs=1e-12)
        for method in ("greedy", "hungarian"):
            found = match_boxes(first, second, method=method, threshold=threshold)  # type: ignore[arg-type]
            assert len(set(found.predicted)) == len(set(found.true)) == len(found.iou)
            np.testing.assert_array_equal(found.iou, iou[found.predicted, found.true])
            assert (found.iou >= threshold).all()
            assert (found.iou > 0).all()
            assert (np.diff(found.iou) <= 0).all()

    @given(SEEDS)
    def test_greedy_takes_the_best_pair_that_is_left(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        first, second = random_boxes(rng, 6), random_boxes(rng, 5)
        left = compute_iou(first, second)
        expected = []
        while left.max() >= 0.2:
            row, column = divmod(int(left.argmax()), 5)
            expected.append((row, column))
            left[row], left[:, column] = 0, 0
        found = match_boxes(first, second, method="greedy", threshold=0.2)
        assert list(zip(found.predicted.tolist(), found.true.tolist(), strict=True)) == expected

    def test_they_differ(self) -> None:
        """The best pair first leaves the second prediction with nothing; the sum is larger the other way round."""
        true = [[0, 0, 10, 10], [6, 0, 16, 10]]
        predicted = [[3.4, 0, 13.4, 10], [5, 0, 5.5, 10]]
        iou = compute_iou(predicted, true)
        assert iou[0, 1] > iou[0, 0]
        assert match_boxes(predicted, true, method="greedy", threshold=0).true.tolist() == [1, 0]
        crossed = [[0, 0, 10, 10], [4, 0, 14, 10]]
        true = [[3, 0, 13, 10], [20, 0, 30, 10]]
        assert match_boxes(crossed, true, threshold=0).predicted.tolist() == [1]

    def test_nothing_to_match(self) -> None:
        for method in ("greedy", "hungarian"):
            for first, second in (([], [[0, 0, 1, 1]]), ([[0, 0, 1, 1]], []), ([[0, 0, 1, 1]], [[2, 2, 3, 3]])):
                found = match_boxes(first, second, method=method, threshold=0)  # type: ignore[arg-type]
                assert [len(part) for part in found] == [0, 0, 0]

    def test_settings(self) -> None:
        with pytest.raises(ConfigError, match="method is one of greedy, hungarian; got 'best'"):
            match_boxes([], [], method="best")  # type: ignore[arg-type]
        for threshold in (-0.1, 1.1, math.nan):
            with pytest.raises(ConfigError, match="threshold is an IoU"):
                match_boxes([], [], threshold=threshold)


class TestScores:
    true = ((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    predicted = ((0, 0, 10, 10), (20, 0, 30, 6), (100, 0, 110, 10), (200, 0, 210, 10))

    def test_by_hand(self) -> None:
        scores = score_boxes(self.predicted, self.true, invalid=1)
        assert (scores.images, scores.predicted, scores.invalid, scores.total, scores.true) == (1, 4, 1, 5, 3)
        assert (scores.hits_50, scores.hits_75) == (2, 1)
        assert scores.mean_iou == pytest.approx((1 + 0.6 + 0) / 3)
        assert (scores.precision_50, scores.recall_50) == pytest.approx((2 / 5, 2 / 3))
        assert (scores.precision_75, scores.recall_75) == pytest.approx((1 / 5, 1 / 3))
        assert (scores.count_error, scores.exact_count) == (1, 0)

    def test_images_add_up(self) -> None:
        first = score_boxes(self.predicted, self.true)
        second = score_boxes(self.true, self.true, invalid=2)
        both = sum([first, second], BoxScores())
        assert both == first + second
        assert (both.images, both.true, both.total, both.hits_50) == (2, 6, 9, 5)
        assert both.mean_iou == pytest.approx((1.6 + 3) / 6)
        assert (both.count_error, both.exact_count) == (0.5, 0.5)

    def test_malformed_answers_never_help(self) -> None:
        clean, spoilt = (score_boxes(self.true, self.true, invalid=count) for count in (0, 3))
        assert clean.precision_50 == 1
        assert spoilt.precision_50 == 0.5
        assert spoilt.recall_50 == 1

    def test_nothing(self) -> None:
        scores = score_boxes([], [])
        assert scores.exact_count == 1
        assert all(math.isnan(value) for value in (scores.mean_iou, scores.precision_50, scores.recall_75))
        assert math.isnan(BoxScores().count_error)
        none = score_boxes([], self.true)
        assert (none.recall_50, none.mean_iou, none.count_error) == (0, 0, 3)

    def test_json(self) -> None:
        values = json.loads(json.dumps(score_boxes([], self.true).to_dict(), allow_nan=False))
        assert values["precision_50"] is None
        assert values["recall_50"] == 0
        assert values["total"] == 0

    def test_refused(self) -> None:
        with pytest.raises(BoxError, match="invalid is the number of malformed boxes"):
            score_boxes([], [], invalid=-1)
        with pytest.raises(ConfigError, match="method"):
            score_boxes([], [], method="x")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            _ = BoxScores() + 1  # type: ignore[operator]


def corners(xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def painted(box: np.ndarray) -> np.ndarray:
    image = np.zeros((12, 12), dtype=bool)
    image[box[1] : box[3], box[0] : box[2]] = True
    return image

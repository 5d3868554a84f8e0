"""Conversions stay within the errors that they state, and spell as the models' own processors do."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers.models.florence2.processing_florence2 import Florence2PostProcessor
from transformers.models.kosmos2.processing_kosmos2 import (
    clean_text_and_extract_entities_with_bboxes,
    coordinate_to_patch_index,
    patch_index_to_coordinate,
)

from perceptok.boxes import BoxScheme, convert_spelling
from perceptok.errors import BoxError, MalformedBoxError

SCHEMES: tuple[BoxScheme, ...] = get_args(BoxScheme)
SIZE = (640, 427)
TWO = [[10, 20, 110, 220], [0, 0, 335, 335]]

EDGES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@st.composite
def fraction_boxes(draw: st.DrawFn) -> np.ndarray:
    boxes = draw(st.lists(st.tuples(EDGES, EDGES).map(lambda e: (e[0][0], e[1][0], e[0][1], e[1][1])), max_size=5))
    return np.array(boxes).reshape(-1, 4)


def spoken(text: str, scheme: BoxScheme) -> np.ndarray:
    """What a text says, as fractions, each model read by a few obvious lines of its own."""
    import json
    import re

    if scheme == "qwen":
        return np.array([item["bbox_2d"] for item in json.loads(text)]).reshape(-1, 4) / [*SIZE, *SIZE]
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    if scheme == "kosmos2":
        pairs = [patch_index_to_coordinate(numbers[at], numbers[at + 1], 32) for at in range(0, len(numbers), 2)]
        return np.array(pairs).reshape(-1, 4)
    fours = np.array(numbers).reshape(-1, 4)
    if scheme == "paligemma":
        return fours[:, [1, 0, 3, 2]] / 1023
    return (fours + 0.5) / (1000 if scheme == "florence2" else 336)


class TestStatedErrors:
    @given(fraction_boxes(), st.sampled_from(SCHEMES), st.sampled_from(SCHEMES))
    @settings(max_examples=150)
    def test_between_all(self, boxes: np.ndarray, source: BoxScheme, target: BoxScheme) -> None:
        # A source text within the source's own error of the boxes: by way of Qwen pixels of a huge image.
        huge = 2**30
        pixels = np.floor(boxes * huge).astype(np.int64)
        written = (
            convert_spelling(pixels, source="qwen", target=source, image_size=(huge, huge))
            if source != "qwen"
            else None
        )
        text = (
            written.text
            if written
            else convert_spelling(pixels, source="qwen", target="aurora", image_size=(huge, huge)).text
        )
        if written is None:
            text = convert_spelling(text, source="aurora", target="qwen", image_size=SIZE).text
            boxes = spoken(text, "qwen")
        result = convert_spelling(text, source=source, target=target, image_size=SIZE)
        assert result.codes.shape == (len(boxes), 2 if target == "kosmos2" else 4)
        added = np.abs(spoken(result.text, target) - spoken(text, source))
        assert (added <= np.tile(result.added, 2) + 1e-9).all()
        total = np.abs(spoken(result.text, target) - boxes)
        assert (total <= np.tile(result.total, 2) + 1e-8).all()

    @pytest.mark.parametrize(
        ("target", "error"),
        [
            ("aurora", (1 / 672, 1 / 672)),
            ("paligemma", (1 / 2046, 1 / 2046)),
            ("florence2", (1 / 2000, 1 / 2000)),
            ("kosmos2", (1 / 32, 1 / 32)),
            ("qwen", (0.5 / 640, 0.5 / 427)),
        ],
    )
    def test_golden_errors(self, target: BoxScheme, error: tuple[float, float]) -> None:
        result = convert_spelling(TWO, source="aurora", target=target, image_size=SIZE)
        assert result.added == pytest.approx(error)
        assert result.total == pytest.approx(np.add(error, 1 / 672))

    @pytest.mark.parametrize("target", ["compact", "numeral", "paligemma", "florence2", "qwen"])
    def test_codes_survive_what_is_finer_than_they(self, target: BoxScheme) -> None:
        edges = np.arange(336)
        codes = np.stack([edges, edges[::-1], np.full(336, 335), np.full(336, 335)], axis=1)
        there = convert_spelling(codes, source="aurora", target=target, image_size=SIZE)
        back = convert_spelling(there.text, source=target, target="aurora", image_size=SIZE)
        np.testing.assert_array_equal(back.codes, codes)


class TestSpellings:
    def test_golden(self) -> None:
        labels = ["a dog", "cat"]
        texts = {
            one: convert_spelling(TWO, source="aurora", target=one, labels=labels, image_size=SIZE).text
            for one in SCHEMES
        }
        assert texts["aurora"] == (
            "a dog: (<PIXEL_10>,<PIXEL_20>,<PIXEL_110>,<PIXEL_220>)\ncat: (<PIXEL_0>,<PIXEL_0>,<PIXEL_335>,<PIXEL_335>)"
        )
        assert texts["compact"].startswith("a dog: <PIXEL_10><PIXEL_20>")
        assert texts["numeral"] == "a dog: (10,20,110,220)\ncat: (0,0,335,335)"
        # y first: 20.5 / 336 * 1023 = 62.4, 10.5 / 336 * 1023 = 31.97.
        assert texts["paligemma"] == (
            "<loc0062><loc0032><loc0671><loc0336> a dog ; <loc0002><loc0002><loc1021><loc1021> cat"
        )
        assert texts["florence2"] == "a dog<loc_31><loc_61><loc_328><loc_656>cat<loc_1><loc_1><loc_998><loc_998>"
        assert texts["kosmos2"] == (
            "<phrase>a dog</phrase><object><patch_index_0033><patch_index_0650></object>"
            "<phrase>cat</phrase><object><patch_index_0000><patch_index_1023></object>"
        )
        assert texts["qwen"] == (
            '[{"bbox_2d": [20, 26, 210, 280], "label": "a dog"}, {"bbox_2d": [1, 1, 639, 426], "label": "cat"}]'
        )

    @pytest.mark.parametrize(("source", "target"), list(product(SCHEMES, SCHEMES)))
    def test_labels_travel(self, source: BoxScheme, target: BoxScheme) -> None:
        for labels in (("a dog", "caf\u00e9"), ("", "")):
            text = convert_spelling(TWO, source="aurora", target=source, labels=labels, image_size=SIZE).text
            result = convert_spelling(text, source=source, target=target, image_size=SIZE)
            assert result.labels == labels
            assert convert_spelling(result.text, source=target, target=source, image_size=SIZE).labels == labels

    @pytest.mark.parametrize(("source", "target"), list(product(SCHEMES, SCHEMES)))
    def test_no_box(self, source: BoxScheme, target: BoxScheme) -> None:
        none = "[]" if source == "qwen" else ""
        for given_ in (none, np.zeros((0, 4), dtype=np.int64)):
            result = convert_spelling(given_, source=source, target=target, image_size=SIZE)
            assert result.text == ("[]" if target == "qwen" else "")
            assert result.codes.shape == (0, 2 if target == "kosmos2" else 4)

    def test_what_the_models_write_besides(self) -> None:
        several = "dog<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>"
        assert convert_spelling(several, source="florence2", target="aurora").labels == ("dog", "dog")
        fenced = '```json\n[\n\t{"bbox_2d": [1, 2, 3, 4], "label": "dog", "sub_label": "x"}\n]\n```'
        assert convert_spelling(fenced, source="qwen", target="qwen", image_size=SIZE).codes.tolist() == [[1, 2, 3, 4]]
        spaced = (
            "<phrase> a snowman</phrase> <object> <patch_index_0044> <patch_index_0863> "
            "</delimiter_of_multi_objects/> <patch_index_0005> <patch_index_0911> </object>"
        )
        result = convert_spelling(spaced, source="kosmos2", target="kosmos2")
        assert result.labels == ("a snowman", "a snowman")
        unlabelled = "<loc0001><loc0002><loc0003><loc0004>;<loc0001><loc0002><loc0003><loc0004> cat"
        assert convert_spelling(unlabelled, source="paligemma", target="paligemma").labels == ("", "cat")


class TestTheirOwnProcessors:
    @given(fraction_boxes())
    @settings(max_examples=60)
    def test_florence2(self, boxes: np.ndarray) -> None:
        pixels = np.floor(boxes * np.tile(SIZE, 2)).astype(np.int64)
        result = convert_spelling(pixels, source="qwen", target="florence2", image_size=SIZE)
        theirs = Florence2PostProcessor.quantize(
            _Bins(),
            torch.from_numpy(pixels.astype(np.float64)),
            SIZE,  # type: ignore[arg-type]
        )
        np.testing.assert_array_equal(result.codes, theirs.numpy().reshape(-1, 4))

    @given(fraction_boxes())
    @settings(max_examples=60)
    def test_kosmos2(self, boxes: np.ndarray) -> None:
        pixels = np.floor(boxes * 1000).astype(np.int64)
        pixels[:, 2:] = np.minimum(np.maximum(pixels[:, 2:], pixels[:, :2] + 1), 1000)
        pixels = pixels[(pixels[:, 2:] > pixels[:, :2]).all(axis=1)]  # theirs refuses boxes without area
        result = convert_spelling(pixels, source="qwen", target="kosmos2", image_size=(1000, 1000))
        theirs = [coordinate_to_patch_index(tuple(box), 32) for box in (pixels / 1000).tolist()]
        assert result.codes.tolist() == [list(pair) for pair in theirs]

    def test_kosmos2_text(self) -> None:
        text = convert_spelling(TWO, source="aurora", target="kosmos2", labels=["a dog", "cat"]).text
        _, entities = clean_text_and_extract_entities_with_bboxes(text)
        assert [entity[0] for entity in entities] == ["a dog", "cat"]
        ours = spoken(text, "kosmos2")
        np.testing.assert_allclose([entity[2][0] for entity in entities], ours)


class _Bins:
    quantize_bins = (1000, 1000)


class TestRefused:
    @pytest.mark.parametrize(
        ("boxes", "source", "message"),
        [
            ("(1,2,3)", "numeral", "3 coordinates"),
            ("<loc0001><loc0002><loc0003> cat", "paligemma", "four <loc0000> tokens"),
            ("<loc0001><loc0002><loc0003><loc1024>", "paligemma", "box 0: 1024 is outside 0..1023"),
            ("<loc0005><loc0002><loc0003><loc0004>", "paligemma", "box 0 has its far edge before"),
            ("<loc001><loc0002><loc0003><loc0004>", "paligemma", "found '<loc001>"),
            ("dog<loc_1><loc_2><loc_3>", "florence2", "at character 0, found 'dog<loc_1>"),
            ("dog", "florence2", "found 'dog'"),
            ("d<loc_1><loc_2><loc_3><loc_1000>", "florence2", "outside 0..999"),
            ("<object><patch_index_0001></object>", "kosmos2", "two <patch_index_0000>"),
            ("<object><patch_index_0001><patch_index_1024></object>", "kosmos2", "1024 is outside 0..1023"),
            ("<object><patch_index_0001><patch_index_0032></object>", "kosmos2", "far edge before"),
            ("{}", "qwen", "a JSON list"),
            ("[", "qwen", "a JSON list"),
            ("[" * 100_000, "qwen", "a JSON list"),
            ('[{"bbox_2d": [1, 2, 3]}]', "qwen", "in whole pixels"),
            ('[{"bbox_2d": [1, 2, 3, 4.5]}]', "qwen", "in whole pixels"),
            ('[{"bbox_2d": [1, 2, 3, true]}]', "qwen", "in whole pixels"),
            ('[{"bbox_2d": [1, 2, 3, NaN]}]', "qwen", "in whole pixels"),
            ('[{"bbox_2d": [1, 2, 3, 1e400]}]', "qwen", "in whole pixels"),
            ('[{"bbox_2d": [1, 2, 3, ' + "9" * 30 + "]}]", "qwen", "less than 2**31"),
            ('[{"bbox_2d": [1, 2, 641, 4]}]', "qwen", "641 is outside 0..640"),
            ("[7]", "qwen", "in whole pixels"),
            ([[1, 2, 3]], "aurora", "shape (N, 4)"),
            ([[1.0, 2, 3, 4]], "aurora", "got float64"),
            ([[1, 2, 3, 336]], "aurora", "336 is outside 0..335"),
            ([[1, 2, 3, 4]], "kosmos2", "shape (N, 2)"),
        ],
    )
    def test_what_the_source_does_not_write(self, boxes: Any, source: BoxScheme, message: str) -> None:
        with pytest.raises(MalformedBoxError) as refused:
            convert_spelling(boxes, source=source, target="aurora", image_size=SIZE)
        assert message in str(refused.value)
        assert len(str(refused.value)) < 400

    @pytest.mark.parametrize("image_size", [None, (0, 480), (640, -1)])
    def test_pixels_of_no_image(self, image_size: Any) -> None:
        for source, target in (("qwen", "aurora"), ("aurora", "qwen")):
            with pytest.raises(BoxError, match="image_size"):
                convert_spelling("[]" if source == "qwen" else "", source=source, target=target, image_size=image_size)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("target", "labels"),
        [
            ("paligemma", ["a;b", "c"]),
            ("florence2", ["<b>", "c"]),
            ("florence2", ["", "c"]),
            ("kosmos2", ["</phrase>", "c"]),
            ("aurora", ["a\nb", "c"]),
            ("aurora", ["", "c"]),
            ("qwen", ["c"]),
        ],
    )
    def test_labels_that_the_target_cannot_hold(self, target: BoxScheme, labels: list[str]) -> None:
        with pytest.raises(MalformedBoxError, match="label"):
            convert_spelling(TWO, source="aurora", target=target, labels=labels, image_size=SIZE)

    def test_labels_of_a_text(self) -> None:
        with pytest.raises(MalformedBoxError, match="own labels"):
            convert_spelling("", source="aurora", target="qwen", labels=[], image_size=SIZE)

    def test_another_scheme(self) -> None:
        with pytest.raises(ValueError, match="schemes are aurora"):
            convert_spelling("", source="shikra", target="aurora")  # type: ignore[arg-type]

"""What other models really write: boxes are found with their places, and what is none is told by kind."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from perceptok.boxes import BoxCodec, BoxScheme, convert_spelling, parse_spelling
from perceptok.errors import BoxError, MalformedBoxError

SIZE = (640, 427)
SCHEMES: tuple[BoxScheme, ...] = get_args(BoxScheme)
TWO = [[10, 20, 110, 220], [0, 0, 335, 335]]
LOC = "<loc0062><loc0032><loc0671><loc0336>"
FLORENCE = "<loc_31><loc_61><loc_328><loc_656>"
PAIR = "<patch_index_0033><patch_index_0650>"
ITEM = '{"bbox_2d": [20, 26, 210, 280], "label": "dog"}'

READ: list[tuple[BoxScheme, str, list[str]]] = [
    ("aurora", "Sure.\n dog: (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)</s>", ["dog"]),
    ("aurora", "Here are the boxes:\n Bounding box 1: (<PIXEL_1>, <PIXEL_2>, <PIXEL_3>, <PIXEL_4>)", [""]),
    ("compact", "<s> the dog <PIXEL_1><PIXEL_2><PIXEL_3><PIXEL_4><eos>", [""]),
    ("numeral", "I see a cat: (1, 2, 3, 4).", ["I see a cat"]),
    ("paligemma", f"detect dog ; cat\n{LOC} dog ; {LOC} cat;<eos><pad>", ["dog", "cat"]),
    ("paligemma", f"<bos>{LOC} dog ;{LOC} dog ; ", ["dog", "dog"]),
    ("paligemma", f"{LOC} {LOC} dog<eos>", ["dog", "dog"]),
    ("paligemma", f"{LOC}<seg001><seg002> dog", ["dog"]),
    ("florence2", f"</s><s>dog{FLORENCE}{FLORENCE}cat{FLORENCE}</s><pad>", ["dog", "dog", "cat"]),
    ("florence2", f"<OD>a red dog {FLORENCE} ", ["a red dog"]),
    ("kosmos2", f"<grounding> A dog: <phrase> a dog</phrase><object>{PAIR}</object> on it</s>", ["a dog"]),
    (
        "kosmos2",
        f"<phrase>dogs</phrase> <object> {PAIR} </delimiter_of_multi_objects/> {PAIR}</object><object>{PAIR}</object>",
        ["dogs", "dogs", ""],
    ),
    ("qwen", f"Here you are:\n```json\n[{ITEM},\n{ITEM}]\n```\nAnything else?<|im_end|>", ["dog", "dog"]),
    ("qwen", f"[{ITEM}, " + '{"bbox_2d": [1, 2', ["dog"]),
    ("qwen", f'{{"objects": [{ITEM}], "note": "a {{brace}}"}}', ["dog"]),
    ("qwen", '{"label": null, "bbox_2d": [1, 2, 3, 4]} {"bbox_2d": [1, 2, 3, 4]}', ["", ""]),
    ("qwen", '{"bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]], "label": "a {dog}"}', ["a {dog}", "a {dog}"]),
    *[(scheme, "There is nothing here.", []) for scheme in SCHEMES],
    *[(scheme, "", []) for scheme in SCHEMES],
]

WRONG: list[tuple[BoxScheme, str, list[str]]] = [
    ("aurora", "(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>", ["coordinates"]),
    ("aurora", "(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_336>)", ["range"]),
    ("paligemma", "<loc0001><loc0002><loc0003> dog", ["coordinates"]),
    ("paligemma", "<loc0001><loc0002><loc0003><loc1025> dog", ["range"]),
    ("paligemma", "<loc0005><loc0002><loc0003><loc0004> dog", ["order"]),
    ("florence2", f"dog{FLORENCE}<loc_1><loc_2>", ["coordinates"]),
    ("florence2", "dog<loc_1><loc_2><loc_3><loc_1001>", ["range"]),
    ("kosmos2", "<object><patch_index_0001></object>", ["coordinates"]),
    ("kosmos2", "<object><patch_index_0001><patch_index_1024></object>", ["range"]),
    ("kosmos2", "<object><patch_index_0040><patch_index_0004></object>", ["order"]),
    ("qwen", '[{"bbox_2d": [1, 2', ["bracket"]),
    ("qwen", '{"bbox_2d": [1, 2, 3]}', ["coordinates"]),
    (
        "qwen",
        '{"bbox_2d": [1, 2, 3, "x"]}{"bbox_2d": [1, 2, 3, true]}{"bbox_2d": 7}',
        ["token", "token", "coordinates"],
    ),
    ("qwen", '{"bbox_2d": [1, 2, 3, NaN]}{"bbox_2d": [1, 2, 3, 1e999]}', ["token", "token"]),
    ("qwen", '{"bbox_2d": [1, 2, 642, 4]}{"bbox_2d": [1, 2, 3, 429]}', ["range", "range"]),
    ("qwen", '{"bbox_2d": [5, 2, 3, 4]}', ["order"]),
    ("qwen", "{'bbox_2d': [5, 2, 3, 4]} {\"bbox_2d\": [1, 2, 3, 4}", ["token"]),
]

REPAIRED: list[tuple[BoxScheme, str, list[list[int]], str]] = [
    ("qwen", '{"bbox_2d": [1.4, 2.5, 3.0, 4]}', [[1, 3, 3, 4]], "fractions of a pixel"),
    ("qwen", '{"bbox_2d": ["1", "2", "3", "4"]}', [[1, 2, 3, 4]], "written as text"),
    ("qwen", '{"bbox_2d": [-1, 0, 641, 428]}', [[0, 0, 640, 427]], "one pixel beyond the image"),
    ("paligemma", "<loc0001><loc0002><loc1024><loc1024> dog", [[1, 2, 1023, 1023]], "1024 is one beyond 0..1023"),
    ("florence2", "dog<loc_1><loc_2><loc_1000><loc_4>", [[1, 2, 999, 4]], "1000 is one beyond 0..999"),
]


@pytest.mark.parametrize(("scheme", "text", "labels"), READ)
def test_boxes_in_company(scheme: BoxScheme, text: str, labels: list[str]) -> None:
    parsed = parse_spelling(text, scheme, image_size=SIZE)
    assert list(parsed.labels) == labels
    assert len(parsed.codes) == len(parsed.spans) == len(labels)
    for start, end in parsed.spans.tolist():
        alone = parse_spelling(text[start:end], scheme, image_size=SIZE)
        assert len(alone.codes) >= 1
        assert not alone.malformed
    result = (
        convert_spelling(text, source=scheme, target="florence2", image_size=SIZE, strict=False)
        if all(labels)
        else None
    )
    assert result is None or (result.labels == tuple(labels) and result.malformed == parsed.malformed)


@pytest.mark.parametrize(("scheme", "text", "flaws"), WRONG)
def test_what_is_no_box(scheme: BoxScheme, text: str, flaws: list[str]) -> None:
    parsed = parse_spelling(text, scheme, image_size=SIZE)
    assert [piece.flaw for piece in parsed.malformed] == flaws
    for piece in parsed.malformed:
        assert text[piece.start : piece.end] == piece.text
        assert piece.reason
    result = convert_spelling(text, source=scheme, target="qwen", image_size=SIZE, strict=False)
    assert result.malformed == parsed.malformed
    assert len(result.codes) == len(parsed.codes)


@pytest.mark.parametrize(("scheme", "text", "codes", "reason"), REPAIRED)
def test_repairs_are_reported(scheme: BoxScheme, text: str, codes: list[list[int]], reason: str) -> None:
    with pytest.raises(MalformedBoxError):
        convert_spelling(text, source=scheme, target="aurora", image_size=SIZE)
    parsed = parse_spelling(text, scheme, image_size=SIZE)
    assert parsed.codes.tolist() == codes
    assert parsed.malformed == ()
    assert reason in parsed.repaired[0].reason
    result = convert_spelling(text, source=scheme, target="aurora", image_size=SIZE, strict=False)
    assert result.repaired == parsed.repaired


@given(st.data(), st.sampled_from(SCHEMES), st.booleans())
@settings(max_examples=100)
def test_what_is_written_is_found_in_any_text(data: st.DataObject, scheme: BoxScheme, named: bool) -> None:
    edges = st.tuples(st.integers(0, 335), st.integers(0, 335)).map(sorted)
    sides = data.draw(st.lists(st.tuples(edges, edges), min_size=1, max_size=4))
    codes = np.array([[x[0], y[0], x[1], y[1]] for x, y in sides])
    labels = ["a dog"] * len(codes) if named else None
    written = convert_spelling(codes, source="aurora", target=scheme, labels=labels, image_size=SIZE)
    before = data.draw(st.sampled_from(["", "Yes.\n", "<s>\n", "\n\n"]))
    after = data.draw(st.sampled_from(["", "</s>", "\nYes.", "\n\n"]))
    parsed = parse_spelling(before + written.text + after, scheme, image_size=SIZE)
    np.testing.assert_array_equal(parsed.codes, written.codes)
    assert parsed.labels == written.labels
    assert parsed.malformed == parsed.repaired == ()


@given(st.text(alphabet='<>{}[]()"loc_0123456789patchindex,;: bbox2d\n', max_size=60), st.sampled_from(SCHEMES))
@settings(max_examples=200)
def test_nothing_raises(text: str, scheme: BoxScheme) -> None:
    parsed = parse_spelling(text, scheme, image_size=SIZE)
    assert len(parsed.codes) == len(parsed.labels) == len(parsed.spans)
    convert_spelling(text, source=scheme, target="qwen", image_size=SIZE, strict=False)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "piece", ["{", '{"bbox_2d": [', "<loc0001>", "<patch_index_0001>", "<loc_1>", "<PIXEL_1>", "(", "<"]
)
def test_long_texts_take_linear_time(scheme: BoxScheme, piece: str, cpu_seconds: Any) -> None:
    short, long = (cpu_seconds(lambda n=n: parse_spelling(piece * n, scheme, image_size=SIZE)) for n in (500, 4000))
    assert long < 40 * short + 0.2


@pytest.mark.parametrize("source", SCHEMES)
def test_a_missing_label_stays_missing(source: BoxScheme) -> None:
    none = convert_spelling(TWO, source="aurora", target=source, image_size=SIZE).text
    numbered = "\n".join(f"Bounding box {at}: {box}" for at, box in enumerate(["(1,2,3,4)", "(5,6,7,8)"], 1))
    for text, scheme in ((none, source), (numbered, "numeral")):
        for target in SCHEMES:
            for strict in (True, False):
                result = convert_spelling(text, source=scheme, target=target, image_size=SIZE, strict=strict)  # type: ignore[arg-type]
                assert result.labels == ("", "")
    null = json.dumps([{"bbox_2d": [1, 2, 3, 4], "label": None}])
    assert convert_spelling(null, source="qwen", target="paligemma", image_size=SIZE).labels == ("",)
    assert "None" not in convert_spelling(null, source="qwen", target="paligemma", image_size=SIZE).text


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        ("florence2", f"dog{FLORENCE}{FLORENCE}cat{FLORENCE}"),
        ("paligemma", f"{LOC} dog ; {LOC} dog ; {LOC} cat"),
        ("paligemma", f"{LOC} ; {LOC}"),
    ],
)
def test_their_own_forms_of_several_boxes_come_back_as_they_were(scheme: BoxScheme, text: str) -> None:
    for strict in (True, False):
        assert convert_spelling(text, source=scheme, target=scheme, strict=strict).text == text


def test_refused() -> None:
    with pytest.raises(BoxError, match="image_size"):
        parse_spelling("", "qwen")
    with pytest.raises(ValueError, match="schemes are aurora"):
        parse_spelling("", "shikra")  # type: ignore[arg-type]


class TestFormsInTheField:
    def test_qwen2_vl_writes_thousandths(self) -> None:
        text = "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(100,100),(500,500)<|box_end|> <|box_start|>(1"
        converted = convert_spelling(text, source="qwen", target="aurora", image_size=(1000, 1000), strict=False)
        assert converted.labels == ("dog",)
        box = BoxCodec(decode="center").decode(converted.codes, image_size=(1920, 1080))
        np.testing.assert_allclose(box, [[192, 108, 960, 540]], atol=1920 / 336)
        assert [piece.reason for piece in converted.malformed] == ["expected <|box_start|>(x1,y1),(x2,y2)<|box_end|>"]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ('[{"bbox": [10, 20, 110, 220]}]', "bbox"),
            ("[{'bbox_2d': [10, 20, 110, 220], 'label': 'dog'}]", "double quotes"),
            ('[{"bbox_2d": [0.1, 0.2, 0.4, 0.5]}]', "fractions of the image"),
            ("<|box_start|>(10,20),(110)<|box_end|>", "3 numbers where a box has four"),
            ("<|box_start|>10,20,110,220<|box_end|>", "expected <|box_start|>"),
            ("<ref>dog</ref><box>[[100, 200, 300, 400]]</box>", "InternVL's boxes, thousandths"),
            ("<|ref|>dog<|/ref|><|det|>[[100, 200, 300, 400]]<|/det|>", "DeepSeek-VL2's boxes, 0..999"),
            ("<|begin_of_box|>[100, 200, 300, 400]<|end_of_box|>", "GLM-4V's boxes, thousandths"),
            ("a dog [[100,200,300,400]] runs", "as CogVLM writes thousandths"),
            ("two dogs [[100,200,300,400;100,200,300,400]]", "as CogVLM writes thousandths"),
            ("a dog [0.125,0.250,0.500,0.750] runs", "whose unit the text does not name"),
            ("The dog is at (100, 200, 300, 400).", "scheme numeral"),
            ('<point x="50.1" y="20.0" alt="dog">dog</point>', "points_from_molmo"),
            ("<loc0100><loc0200><loc0300><loc0400> dog", "scheme paligemma"),
            ("dog<loc_10><loc_20><loc_30><loc_40>", "scheme florence2"),
            ("<patch_index_0033><patch_index_0650>", "scheme kosmos2"),
            ("(<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>)", "scheme aurora"),
        ],
    )
    def test_what_is_not_read_is_reported(self, text: str, reason: str) -> None:
        parsed = parse_spelling(text, "qwen", image_size=(1000, 1000))
        assert len(parsed.codes) == 0
        assert reason in parsed.malformed[-1].reason

    @pytest.mark.parametrize("scheme", ["aurora", "paligemma", "florence2", "kosmos2"])
    def test_another_models_boxes_are_reported_in_every_scheme(self, scheme: BoxScheme) -> None:
        for text in ('[{"bbox_2d": [1, 2, 3, 4]}]', "<box>[[1, 2, 3, 4]]</box>", "a dog [[100,200,300,400]]"):
            parsed = parse_spelling(text, scheme)
            assert [piece.reason.partition(";")[0] for piece in parsed.malformed] == [f"not in scheme {scheme}"]
        for prose in ("", "There is no dog.", "The dogs 1, 2, 3, 4 and 5 [sic] (2 of them brown)."):
            assert parse_spelling(prose, scheme).malformed == ()

    def test_paligemma_segments_are_kept_beside_the_label(self) -> None:
        segment = "".join(f"<seg{code:03}>" for code in range(16))
        text = f"<loc0010><loc0020><loc0110><loc0220>{segment} dog ; <loc0010><loc0020><loc0110><loc0220> cat"
        parsed = parse_spelling(text, "paligemma")
        assert parsed.labels == ("dog", "cat")
        assert parsed.segments == (segment, "")
        assert convert_spelling(text, source="paligemma", target="florence2").labels == ("dog", "cat")

    @pytest.mark.parametrize(
        ("numbers", "boxes"),
        [
            ([10, 20, 110, 22, 108, 60, 8, 58], [[8, 20, 110, 60]]),
            ([10, 20, 110, 20, 110, 60, 50, 90, 5, 60], [[5, 20, 110, 90]]),
            ([10, 20, 30, 40, 50, 60, 70, 80], [[10, 20, 30, 40], [50, 60, 70, 80]]),
        ],
    )
    def test_florence2_polygons_are_read_as_the_box_around(self, numbers: list[int], boxes: list[list[int]]) -> None:
        text = "EXIT" + "".join(f"<loc_{number}>" for number in numbers)
        parsed = parse_spelling(text, "florence2")
        assert parsed.codes.tolist() == boxes
        assert len(parsed.repaired) == (len(boxes) == 1)


class TestLabelsThatAreLists:
    TEXT = '[{"bbox_2d": [1, 2, 3, 4], "label": %s}, {"bbox_2d": [5, 6, 7, 8], "label": "cow"}]'

    @pytest.mark.parametrize(("label", "expected"), [('["dog"]', "dog"), ("[]", ""), ("3", "3"), ("null", "")])
    def test_lists_of_one_are_read(self, label: str, expected: str) -> None:
        parsed = parse_spelling(self.TEXT % label, "qwen", image_size=(99, 99))
        assert (parsed.labels, parsed.malformed) == ((expected, "cow"), ())
        converted = convert_spelling(self.TEXT % label, source="qwen", target="qwen", image_size=(99, 99))
        assert converted.labels == (expected, "cow")

    @pytest.mark.parametrize("label", ['["dog", "cat"]', '{"a": 1}', "true", "[true]", '[["dog"]]'])
    def test_others_are_refused_alone(self, label: str) -> None:
        parsed = parse_spelling(self.TEXT % label, "qwen", image_size=(99, 99))
        assert parsed.labels == ("cow",)
        assert [(piece.flaw, "expected a label that is text" in piece.reason) for piece in parsed.malformed] == [
            ("token", True)
        ]
        with pytest.raises(MalformedBoxError, match="expected a label that is text"):
            convert_spelling(self.TEXT % label, source="qwen", target="aurora", image_size=(99, 99))

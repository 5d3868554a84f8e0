"""The page in a real browser: content, keys, and strings that must remain text."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perceptok.depth import block_to_text
from perceptok.errors import EvaluationError, OutputError
from perceptok.pages import Case, Figure, Table, figure_to_svg, write_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\u2028\x00\ud800'\"`${alert(3)}<!--"
CODES = (np.arange(100) % 128).reshape(10, 10)
BLOCK = block_to_text(CODES)


def make_image(width: int = 64, height: int = 48, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    values = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    Image.fromarray(values.astype(np.uint8)).save(out, form)
    return out.getvalue()


def make_ramp(size: int = 40) -> np.ndarray:
    return np.linspace(0, 1, size, dtype=np.float32)[None].repeat(size, 0)


def make_cases(count: int = 6) -> list[Case]:
    verdicts = ("right", "wrong", "unparsed")
    return [
        Case(
            f"case {number}",
            make_image(),
            f"The depth map for the image is {BLOCK}. (<PIXEL_1>,<PIXEL_2>,<PIXEL_3>,<PIXEL_4>) the answer is B",
            prompt="Which point is the closest?",
            markers=[("A", 10, 20), ("B", 300, 100)],
            boxes=[(10, 10, 100, 200)],
            true_boxes=[(12, 8, 100, 190)],
            frame=(336, 336),
            codes=CODES.ravel().tolist(),
            depth=make_ramp(),
            teacher=make_ramp()[:, ::-1],
            verdict=verdicts[number % 3],
            invalid=number in (0, 2, 3),
            facts={"RMSE": 1 / (number + 1), "kind": "even" if number % 2 == 0 else "odd"},
        )
        for number in range(count)
    ]


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    tables = [Table("Accuracy", ["system", "3", "4"], [["ours", "80.1", "70.2"]], note="in percent")]
    path = tmp_path / "page.html"
    assert write_page(path, make_cases(), title="A page", note="about it", tables=tables) == 6
    return path


def test_a_case_is_shown(page_file: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_file, fragment="#2")
    assert page.inner_text("#detail h2") == "case 1"
    assert page.inner_text(".badge") == "wrong"
    stages = page.locator(".stage")
    assert stages.count() == 4  # the image, the decoded map, the teacher's, the difference
    page.wait_for_function("[...document.querySelectorAll('.stage img')].every(image => image.naturalWidth > 0)")
    first = stages.first
    assert first.locator(".marker").count() == 2
    assert first.locator(".box").count() == 2
    # Frame pixels 300, 100 of 336 on an image of 64 x 48.
    circle = first.locator(".marker circle").last
    assert float(circle.get_attribute("cx")) == pytest.approx(300 * 64 / 336)
    assert float(circle.get_attribute("cy")) == pytest.approx(100 * 48 / 336)
    assert page.locator("dt", has_text="RMSE").count() == 1


def test_overlays_fit_the_images_of_the_gallery(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    """Images of all proportions are shown whole in a 4:3 card, and their overlays lie where they belong."""
    sizes = ((120, 120), (300, 40), (40, 300))
    cases = [replace(make_cases()[0], image=make_image(*size), frame=None, markers=[("A", *size)]) for size in sizes]
    write_page(tmp_path / "page.html", cases, title="A page")
    page = open_page(tmp_path / "page.html")
    page.wait_for_function("document.querySelectorAll('.thumb img').length === 3")
    for number, (width, height) in enumerate(sizes):
        card = page.locator(".thumb").nth(number)
        image, drawn = (card.locator(kind).first.bounding_box() for kind in ("img", "svg"))
        assert image == pytest.approx(drawn, abs=1)
        assert card.locator("img").evaluate("node => getComputedStyle(node).objectFit") == "contain"
        # The marker at the image's last pixel is at the corner of what is shown of it.
        scale = min(image["width"] / width, image["height"] / height)
        circle = card.locator(".marker circle").last.bounding_box()
        shown = (
            image["x"] + image["width"] / 2 + scale * width / 2,
            image["y"] + image["height"] / 2 + scale * height / 2,
        )
        assert circle["x"] + circle["width"] / 2 == pytest.approx(shown[0], abs=2)
        assert circle["y"] + circle["height"] / 2 == pytest.approx(shown[1], abs=2)


def test_a_page_opens_on_its_images(page_file: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_file)
    page.wait_for_selector(".thumb img")
    assert not page.is_visible("#summary")
    assert page.locator(".tabs button").all_inner_texts() == ["Images", "Cases", "Summary"]
    page.keyboard.press("s")
    assert page.is_visible("#summary table")


def test_chips_count_verdicts_and_what_is_invalid(page_file: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_file)
    chips = page.locator(".filter").all_inner_texts()
    assert chips == ["all6", "right2", "wrong2", "unparsed2", "invalid3"]
    page.keyboard.press("5")
    assert page.locator(".thumb").count() == 3
    page.locator(".thumb").first.click()
    assert page.locator(".badge").all_inner_texts() == ["right", "invalid"]


def test_numbers_are_aligned_right_and_text_left(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    rows = [["HardBLINK", "ours", "80.1", "72.4 to 86.2", "0.0 (0.0 to 32.4)"], ["BLINK", "theirs", "", "-", "+1.5"]]
    table = Table("t", ["benchmark", "system", "accuracy", "interval", "changed"], rows)
    write_page(tmp_path / "page.html", [], title="t", tables=[table])
    page = open_page(tmp_path / "page.html")
    for kind in ("th", "td"):
        aligned = page.locator(kind).evaluate_all("nodes => nodes.map(node => getComputedStyle(node).textAlign)")
        assert aligned[:5] == ["left", "left", "right", "right", "right"]


def test_markers_that_the_image_shows_are_drawn_on_maps_alone(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    case = replace(make_cases()[0], markers_in_image=True)
    write_page(tmp_path / "page.html", [case], title="t")
    page = open_page(tmp_path / "page.html")
    page.wait_for_selector(".stage")
    counts = [page.locator(".stage").nth(number).locator(".marker").count() for number in range(3)]
    assert counts == [0, 2, 2]


def test_a_case_without_an_image_says_what_it_has(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    cases = [Case("lost", invalid=True, facts={"failed": "image file not found"}), make_cases()[0]]
    write_page(tmp_path / "page.html", cases, title="t")
    page = open_page(tmp_path / "page.html")
    page.wait_for_selector(".thumb img")
    assert page.locator(".thumb .pic").first.inner_text() == "failed: image file not found"


def test_the_overlay_is_switched_off(page_file: Path, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_file, fragment="#1")
    marks = page.locator("#detail :is(.marker, .box)")
    assert marks.count() > 0
    page.click("text=Overlay")
    assert not any(mark.is_visible() for mark in marks.all())
    assert page.locator("#detail img").first.is_visible()
    page.keyboard.press("l")
    assert all(mark.is_visible() for mark in marks.all())
    write_page(tmp_path / "plain.html", [replace(make_cases()[0], markers=(), boxes=(), true_boxes=())], title="Plain")
    assert open_page(tmp_path / "plain.html").locator("text=Overlay").count() == 0


def test_tokens_are_folded(page_file: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_file, fragment="#1")
    text = page.inner_text(".said")
    assert "depth block, 100 tokens" in text
    assert "<DEPTH" not in text
    assert page.locator(".pixel").all_inner_texts() == ["1", "2", "3", "4"]
    assert page.locator(".codes").count() == 0
    page.click(".fold > button")
    assert page.locator(".codes span").count() == 100
    page.keyboard.press("j")
    assert page.locator(".codes span").count() == 100  # remains unfolded
    page.keyboard.press("o")
    assert page.locator(".codes").count() == 0


def test_the_pointer_reads_the_maps(page_file: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_file, fragment="#1")
    page.keyboard.press("o")
    page.wait_for_timeout(200)
    box = page.locator(".stage").first.bounding_box()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.33 * box["height"])
    readout = page.inner_text(".readout")
    assert "x 252 y 111" in readout
    assert "code 37" in readout
    decoded, teacher = (float(part.split()[1]) for part in readout.split("·")[1:3])
    assert decoded == pytest.approx(0.75, abs=0.03)
    assert teacher == pytest.approx(0.25, abs=0.03)
    assert page.locator(".codes .lit").inner_text() == "37"


def test_filter_search_order_and_keys(page_file: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(page_file)
    page.keyboard.press("s")
    assert page.inner_text("table td >> nth=1") == "80.1"
    rows = page.locator(".row span")
    page.keyboard.press("3")
    assert rows.all_text_contents() == ["case 1", "case 4"]
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#detail h2") == "case 4"
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#detail .of") == "2 of 2"
    page.keyboard.press("1")
    page.keyboard.press("/")
    page.keyboard.type("kind: odd")
    assert rows.all_text_contents() == ["case 1", "case 3", "case 5"]
    page.keyboard.press("Enter")
    page.select_option("select", "+RMSE")
    assert rows.all_text_contents() == ["case 5", "case 3", "case 1"]
    page.fill("input", "nothing at all")
    assert "No case matches" in page.inner_text("#detail")
    page.fill("input", "")
    page.keyboard.press("Enter")
    page.keyboard.press("g")
    assert page.locator(".thumb").count() == 6
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1


def test_light_and_dark(page_file: Path, open_page: Callable[..., Any]) -> None:
    colors = {}
    for theme in ("light", "dark"):
        page = open_page(page_file, theme=theme)
        colors[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.keyboard.press("t")
        colors[f"turned {theme}"] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colors["light"] == colors["turned dark"] != colors["dark"] == colors["turned light"]


def test_hostile_strings_stay_text(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    case = Case(
        HOSTILE,
        make_image(),
        HOSTILE,
        prompt=HOSTILE,
        markers=[(HOSTILE, 3, 4)],
        boxes=[(1, 2, 3, 4)],
        box_labels=[HOSTILE],
        verdict="wrong",
        facts={HOSTILE: HOSTILE},
    )
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(9)</script></svg>'
    table = Table(HOSTILE, [HOSTILE], [[HOSTILE]], HOSTILE)
    figure = Figure(HOSTILE, svg, note=HOSTILE)
    path = tmp_path / "page.html"
    write_page(path, [case], title=HOSTILE, note=HOSTILE, tables=[table], figures=[figure])
    page = open_page(path)
    page.wait_for_timeout(100)
    for key in "gc":
        page.keyboard.press(key)
        page.wait_for_timeout(100)
    assert page.locator("#detail h2").text_content().startswith("</script><script>alert(1)</script><img src=x")
    assert page.locator("script:not([type])").count() == 1
    assert page.locator("img[onerror]").count() == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BLOCK.replace("<DEPTH_END>", ""), "broken depth block, 100 of 100 codes"),
        (BLOCK.replace("<DEPTH_7>", ""), "depth block, 99 of 100 codes"),
        (BLOCK.replace("<DEPTH_7>", "<DEPTH_128>"), "depth block, 100 of 100 codes"),
        (BLOCK * 2, "depth block, 100 tokens"),
        ("<DEPTH_3>" * 40, "broken depth block, 40 of 100 codes"),
    ],
)
def test_malformed_blocks_are_marked(text: str, expected: str, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    write_page(tmp_path / "page.html", [Case("one", text=text)], title="t")
    page = open_page(tmp_path / "page.html")
    folds = page.locator(".fold > button")
    assert folds.first.inner_text().endswith(expected)
    assert page.locator(".fold.bad").count() == (0 if text == BLOCK * 2 else 1)
    assert folds.count() == (2 if text == BLOCK * 2 else 1)


def test_long_texts_are_shortened_until_expanded(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    write_page(tmp_path / "page.html", [Case("one", text="word " * 20_000 + "end.")], title="t")
    page = open_page(tmp_path / "page.html")
    assert len(page.inner_text(".words")) < 7000
    page.click(".more")
    assert page.inner_text(".words").endswith("end.")


def test_of_a_thousand_cases_only_visible_images_are_loaded(tmp_path: Path, open_page: Callable[..., Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG", quality=92)  # 17 kB, as a photo of 336 x 336 has
    case = make_cases(1)[0]
    all_cases = [Case(f"case {n}", out.getvalue(), case.text, codes=case.codes, depth=case.depth) for n in range(1000)]
    write_page(tmp_path / "page.html", all_cases, title="many")
    page = open_page(tmp_path / "page.html")
    page.wait_for_function("document.querySelectorAll('.thumb img').length > 3")
    assert page.locator(".thumb").count() == 1000
    assert page.locator(".thumb img").count() < 100
    # What opening builds is a few elements per case, not their texts, maps and overlays.
    assert page.evaluate("document.querySelectorAll('*').length") < 15 * 1000


def test_equal_bytes_each_time_and_no_overwriting(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure as Plot

    for name in ("a.html", "b.html"):
        plot = Plot()
        plot.subplots().plot([1, 2, 3])
        write_page(tmp_path / name, make_cases(), title="t", figures=[Figure("f", figure_to_svg(plot))])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        write_page(tmp_path / "a.html", make_cases(), title="t")


def test_no_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="nothing to show"):
        write_page(tmp_path / "page.html", [], title="t")
    assert not (tmp_path / "page.html").exists()


def test_broken_images_are_reported_and_the_other_cases_kept(tmp_path: Path) -> None:
    for number, data in enumerate((b"", b"no image", make_image(form="JPEG")[:200])):
        path = tmp_path / f"{number}.html"
        write_page(path, [Case("kitchen", data), Case("hall", make_image())], title="t")
        text = path.read_text("utf-8")
        described = re.search(r'id="cases">(.*)</script>', text)
        assert described is not None
        ((name, problem),) = json.loads(described[1])[0]["facts"]
        assert name == "image"
        assert "case 'kitchen' cannot be read" in problem
        assert 'id="image-0"' not in text
        assert 'id="image-1"' in text


@pytest.mark.parametrize(
    "fields",
    [
        {"verdict": "maybe"},
        {"markers": [("A", 1)]},
        {"boxes": [(1, 2, 3)]},
        {"boxes": [(1, 2, 3, float("nan"))]},
        {"boxes": [(1, 2, 3, 4)], "box_labels": ["a", "b"]},
        {"frame": (0, 5)},
        {"depth": np.zeros((2, 3, 4), dtype=np.float32)},
        {"teacher": np.zeros((2, 3), dtype=np.uint8)},
    ],
)
def test_bad_cases_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match="case 'x'"):
        Case("x", **fields)


def test_a_table_has_as_many_cells_as_columns() -> None:
    with pytest.raises(EvaluationError, match="2 columns"):
        Table("t", ["a", "b"], [["1"]])

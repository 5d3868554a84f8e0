"""The page at / in a real browser: a map that appears row by row, boxes, the answer, problems, keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from perceptok.llava import PerceptionPipeline, ServingConfig
from tests.llava.answering import make_image
from tests.llava.serving.conftest import Served, run_server

DONE = re.compile(r"Complete\.|Cut off at the maximum number of tokens\.")


def wait_for_text(page: Any, selector: str, text: str | re.Pattern[str]) -> None:
    """`wait_for_function` needs eval, which the page's policy forbids."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text, timeout=60_000)


@pytest.fixture
def open_served(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a server's page; afterwards there must be no errors, dialogs or requests to other places."""
    problems: list[str] = []
    pages = []

    def open_url(url: str, theme: str = "light", width: int = 1400) -> Any:
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        pages.append(page)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda sent: sent.url.startswith((url, "data:", "blob:")) or problems.append(sent.url))
        page.goto(url)
        wait_for_text(page, "#model", "perceptok")
        return page

    make_image(120, 80).save(tmp_path / "room.png")
    yield open_url
    for page in pages:
        page.close()
    assert problems == []


RECORD_ROWS = """
() => {
  window.rows = [];
  const map = document.getElementById("map");
  new MutationObserver(() => window.rows.push(map.dataset.rows)).observe(map, { attributeFilter: ["data-rows"] });
}
"""


def test_a_photo_is_asked_about(
    served: Served, pipe: PerceptionPipeline, open_served: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_served(served.url)
    page.set_input_files("#file", str(tmp_path / "room.png"))
    wait_for_text(page, "#status", "Ready.")
    assert "room.png (120 \N{MULTIPLICATION SIGN} 80)" in page.inner_text("#drop-text")
    page.fill("#question", "Return the bounding boxes of all cars.")
    page.check("#force")
    page.evaluate(RECORD_ROWS)
    page.keyboard.press("Control+Enter")
    wait_for_text(page, "#status", DONE)
    expected = pipe(tmp_path / "room.png", "Return the bounding boxes of all cars.", force_block="first")
    rows = [int(row) for row in page.evaluate("window.rows")]
    assert list(dict.fromkeys(rows)) == list(range(11))[-len(set(rows)) :]
    assert {1, 5, 10} <= set(rows)
    assert page.evaluate("[document.getElementById('map').width, document.getElementById('map').height]") == [120, 80]
    colour = page.evaluate("[...document.getElementById('map').getContext('2d').getImageData(60, 40, 1, 1).data]")
    assert expected.depth is not None
    from perceptok.images import colorize_nearness

    shown = colorize_nearness((expected.depth.values * 255).round() / 255)[40, 60].tolist()
    assert max(abs(a - b) for a, b in zip(colour, [*shown, 255], strict=True)) <= 2
    assert page.locator("#boxes .box").count() == len(expected.boxes)
    if len(expected.boxes):
        corner = float(page.locator("#boxes .box rect").first.get_attribute("x"))
        assert corner == pytest.approx(expected.boxes[0][0], abs=0.01)
    assert page.locator("#text .chip", has_text="depth map").count() == 1
    assert page.inner_text("#facts").split("\n")[1] == ("valid" if expected.valid else "not valid")
    listed = page.locator("#problems li").all_inner_texts()
    assert listed == list(expected.problems)
    assert page.get_attribute("#map", "aria-label") == "Depth map: 10 of 10 rows"


def test_broken_blocks_and_stopping(served: Served, open_served: Callable[..., Any], tmp_path: Path) -> None:
    page = open_served(served.url, theme="dark", width=420)
    page.set_input_files("#file", str(tmp_path / "room.png"))
    wait_for_text(page, "#status", "Ready.")
    page.uncheck("#constraints")
    page.click("#ask")
    page.locator("#problems li").first.wait_for(state="attached")
    if page.is_enabled("#stop"):
        page.keyboard.press("Escape")
    wait_for_text(page, "#status", re.compile(rf"Stopped\.|{DONE.pattern}"))
    assert page.is_enabled("#ask")
    # The numbers of the text are those of the drawn boxes; what is not drawn is called broken.
    chips = page.locator("#text .chip").all_inner_texts()
    numbers = [chip for chip in chips if chip.startswith("box")]
    assert numbers == [f"box {number + 1}" for number in range(page.locator("#boxes .box").count())]
    # Nothing is wider than a narrow screen, and the page is dark.
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", background))) < 60


DROP = """
async ([names, place]) => {
  const transfer = new DataTransfer();
  for (const name of names) {
    const content = name.endsWith(".png") ? document.getElementById("file").files[0] : "text";
    transfer.items.add(new File([content], name, { type: name.endsWith(".png") ? "image/png" : "text/plain" }));
  }
  for (const kind of ["dragover", "drop"]) {
    const options = { bubbles: true, cancelable: true, dataTransfer: transfer };
    document.querySelector(place).dispatchEvent(new DragEvent(kind, options));
  }
}
"""


def test_images_are_dropped(served: Served, open_served: Callable[..., Any], tmp_path: Path) -> None:
    """Anywhere on the page; what is not an image is refused; another image stops the answer about the one before."""
    page = open_served(served.url, width=320)
    page.set_input_files("#file", str(tmp_path / "room.png"))
    wait_for_text(page, "#status", "Ready.")
    page.evaluate(
        "document.getElementById('photo').src = URL.createObjectURL(document.getElementById('file').files[0])"
    )
    page.evaluate(DROP, [["notes.txt"], "#drop"])
    wait_for_text(page, "#error", "notes.txt: not an image that this browser can read")
    page.evaluate(DROP, [[], "main"])
    wait_for_text(page, "#error", re.compile("Links are not fetched"))
    page.check("#force")
    page.click("#ask")
    page.evaluate(DROP, [["other.png"], "main"])
    wait_for_text(page, "#status", "Ready.")
    assert "other.png" in page.inner_text("#drop-text")
    assert page.locator("#error").is_hidden()
    assert page.get_attribute("#map", "data-rows") == "0"
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    # A block cannot be forced without constraints.
    page.uncheck("#constraints")
    assert page.is_disabled("#force")
    assert not page.is_checked("#force")


def test_keyboard_and_labels(served: Served, open_served: Callable[..., Any]) -> None:
    page = open_served(served.url)
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["file", "question", "force", "constraints", "ask"]
    unlabelled = "[...document.querySelectorAll('input, textarea')].filter(input => !input.labels.length).length"
    assert page.evaluate(unlabelled) == 0
    page.keyboard.press("Enter")
    assert page.inner_text("#error") == "Choose an image first."
    assert page.evaluate("document.activeElement.id") == "file"


def test_an_api_key_is_asked_for(pipe: PerceptionPipeline, chromium: Any) -> None:
    with run_server(pipe, ServingConfig(api_key="key")) as guarded:
        page = chromium.new_page()
        page.goto(guarded.url)
        wait_for_text(page, "#model", "this server needs an API key")
        page.fill("#key", "key")
        page.keyboard.press("Tab")
        wait_for_text(page, "#model", "perceptok")
        page.close()


def test_headers(served: Served) -> None:
    response = httpx.get(served.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    for name in ("", "page.js", "page.css"):
        text = httpx.get(f"{served.url}/{name}").text
        assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[\w.-]+\.\w+/", text)
        assert "style=" not in text
        assert not re.findall(r"\son\w+=", text)

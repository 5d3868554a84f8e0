"""HTML pages of results: one self-contained file with tables, figures, and cases to step through."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from perceptok.errors import EvaluationError, ImageError, MissingExtraError
from perceptok.files import atomic_write
from perceptok.images import colorize_nearness, open_image

__all__ = ["Case", "Fact", "Figure", "Table", "Verdict", "figure_to_svg", "write_page"]

IMAGE_SIDE = 512
"""Longer side of an embedded image; a larger one is scaled down."""

MAP_SIDE = 192
"""Longer side of an embedded map; a decoded map has 10x10 codes and nothing finer than this."""

_MEDIA_TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_MAX_BYTES = 48_000
"""A smaller file is embedded unchanged."""

_ORIENTATION = 0x0112
"""The EXIF tag."""

Verdict = Literal["right", "wrong", "unparsed"]
"""Of an answer; "unparsed": no answer could be read from the text."""

CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Source Han Sans SC", "PingFang SC",
    "Hiragino Sans", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei", "Arial Unicode MS",
)  # fmt: skip
"""Fonts of Chinese, Japanese and Korean of the usual systems, tried in this order after the first font of a text."""

Fact = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Case:
    """One case of a page: an image, a question about it, the answer of a model, and how it was judged.

    Strings may hold anything: they are shown as text, never as markup.

    Attributes:
        name: Its heading, which can be searched for.
        image: The bytes of an image file.
        text: What a model wrote, or an answer of a record; perception tokens in it are folded and drawn.
        prompt: The question.
        markers: Letter, x, y of each lettered point.
        markers_in_image: Whether the image itself shows the markers already; they are then drawn on the maps alone.
        boxes: x1, y1, x2, y2 of each box.
        box_labels: A label for each box, or empty.
        true_boxes: The boxes that should have been found.
        frame: Width and height of the frame of the markers' and boxes' coordinates; default: the image's own.
        codes: The codes of a depth block, row-major.
        depth: (H, W) float, nearness in [0, 1] that the codes decode to, or any map to show; NaN = unknown.
        teacher: (H, W) float, the true nearness.
        verdict: "right", "wrong", "unparsed", or None if the answer was not judged.
        invalid: Whether the answer is malformed, incomplete or missing, whatever its verdict.
        facts: Further values by name; cases can be sorted by the numbers among them.

    Raises:
        EvaluationError: Coordinates, codes or maps of another shape, or not finite.
    """

    name: str
    image: bytes | None = None
    text: str = ""
    prompt: str = ""
    markers: Sequence[tuple[str, float, float]] = ()
    boxes: Sequence[Sequence[float]] = ()
    box_labels: Sequence[str] = ()
    true_boxes: Sequence[Sequence[float]] = ()
    frame: tuple[float, float] | None = None
    codes: Sequence[int] | None = None
    depth: np.ndarray | None = None
    teacher: np.ndarray | None = None
    verdict: Verdict | None = None
    invalid: bool = False
    markers_in_image: bool = False
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict is not None and self.verdict not in get_args(Verdict):
            raise self._error(f"a verdict is one of {', '.join(get_args(Verdict))}, or None; got {self.verdict!r}")
        numbers = [*(marker[1:] for marker in self.markers), *self.boxes, *self.true_boxes]
        if any(len(point) != (2 if index < len(self.markers) else 4) for index, point in enumerate(numbers)):
            raise self._error("a marker is (letter, x, y) and a box is (x1, y1, x2, y2)")
        if not np.isfinite([value for point in numbers for value in point]).all():
            raise self._error("markers and boxes are finite numbers")
        if self.box_labels and len(self.box_labels) != len(self.boxes):
            raise self._error(f"{len(self.boxes)} boxes have {len(self.box_labels)} labels; give one for each, or none")
        if self.frame is not None and not min(self.frame) > 0:
            raise self._error(f"the frame has a width and a height above 0; got {self.frame}")
        for name, values in (("depth", self.depth), ("teacher", self.teacher)):
            if values is None:
                continue
            if values.ndim != 2 or not values.size or not np.issubdtype(values.dtype, np.floating):
                raise self._error(f"{name} is a map (H, W) of floats; got {values.dtype} of shape {values.shape}")

    def _error(self, reason: str) -> EvaluationError:
        return EvaluationError(f"case {self.name!r}: {reason}")


@dataclass(frozen=True)
class Table:
    """A table of the summary.

    Attributes:
        title: Its heading.
        header: Names of the columns.
        rows: Rows with one cell for each column.
        note: A sentence below it: what was measured and how.

    Raises:
        EvaluationError: A row has another number of cells.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise EvaluationError(f"table {self.title!r} has {len(self.header)} columns; this row differs: {row}")


@dataclass(frozen=True)
class Figure:
    """A figure of the summary: an SVG file, as `figure_to_svg` renders one."""

    title: str
    svg: bytes
    note: str = ""


def write_page(
    path: str | os.PathLike[str],
    cases: Iterable[Case],
    *,
    title: str,
    tables: Sequence[Table] = (),
    figures: Sequence[Figure] = (),
    note: str = "",
    force: bool = False,
) -> int:
    """Write a page of tables, figures and cases: one HTML file that any browser opens without a network.

    Its content security policy allows no network address and only its own script, by hash. Cases are written one by
    one, so that memory does not grow with their number; the browser decodes an image only when it is shown.

    Args:
        path: The file to write.
        cases: The cases to step through. An image that cannot be read is reported as a fact of its case, "image".
        title: The page's heading.
        tables: Tables of the summary. The page opens on the images of the cases, or on the only case.
        figures: Figures of the summary, after the tables.
        note: A sentence under the heading.
        force: Replace the file if it exists already.

    Returns:
        The number of cases.

    Raises:
        EvaluationError: Cases, tables and figures are all empty.
        OutputError: The file exists and `force` is not given, or it cannot be written.
    """
    style, script = (
        files("perceptok.pages").joinpath("assets", name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    descriptions: list[dict[str, Any]] = []
    with atomic_write(path, force=force) as file:
        file.write(_encode(_render_head(title, style, script)))
        file.write(_encode(_render_header(title, note)))
        file.write(_encode(_render_summary(tables, figures)))
        file.write(b"</main>\n")
        for number, case in enumerate(cases):
            description, uris = _describe_case(case)
            descriptions.append(description)
            for kind, uri in uris.items():
                file.write(_encode(f'<script type="text/plain" id="{kind}-{number}">{uri}</script>\n'))
        if not descriptions and not tables and not figures:
            raise EvaluationError("nothing to show: a page needs a case, a table or a figure")
        file.write(_encode(f'<script type="application/json" id="cases">{_json_for_script(descriptions)}</script>\n'))
        file.write(_encode(f"<script>{script}</script>\n</body>\n</html>\n"))
    return len(descriptions)


def _describe_case(case: Case) -> tuple[dict[str, Any], dict[str, str]]:
    """The values that the page's script needs, and the data URIs of image and maps by kind."""
    uris: dict[str, str] = {}
    size = None
    problem = ""
    if case.image is not None:
        try:
            uris["image"], *size = embed_image(case.image, case.name)
        except EvaluationError as error:  # the other cases are kept
            problem = str(error)
    # Without an image the teacher's map has the proportions of the scene; a decoded map is square.
    for kind, values in (("teacher", case.teacher), ("depth", case.depth)):
        if values is not None:
            uris[kind], *shape = embed_map(values)
            size = size or shape
    description: dict[str, Any] = {
        "name": case.name,
        "has": list(uris),
        "size": size,
        "frame": list(case.frame) if case.frame else size,
        "markers": [[letter, _round(x), _round(y)] for letter, x, y in case.markers],
        "boxes": [[_round(value) for value in box] for box in case.boxes],
        "trueBoxes": [[_round(value) for value in box] for box in case.true_boxes],
        "labels": list(case.box_labels),
        "codes": None if case.codes is None else [int(code) for code in case.codes],
        "prompt": case.prompt,
        "text": case.text,
        "verdict": case.verdict,
        "invalid": case.invalid or None,
        "marked": case.markers_in_image or None,
        # JSON has no NaN; a sort puts unknown values last.
        "facts": [
            [name, None if isinstance(value, float) and not math.isfinite(value) else value]
            for name, value in {**case.facts, **({"image": problem} if problem else {})}.items()
        ],
    }
    return {key: value for key, value in description.items() if value not in (None, [], "")}, uris


def _round(value: float) -> float:
    return round(float(value), 2)


def _render_head(title: str, style: str, script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{style}</style>
</head>
"""


def _render_header(title: str, note: str) -> str:
    stops = colorize_nearness(np.linspace(0, 1, 33)) / 255
    channels = "".join(
        f'<feFunc{name} type="table" tableValues="{" ".join(f"{value:.3f}" for value in stops[:, index])}"/>'
        for index, name in enumerate("RGB")
    )
    paragraph = f"<p>{html.escape(note)}</p>" if note else ""
    return f"""<body>
<svg class="off" aria-hidden="true"><filter id="turbo" color-interpolation-filters="sRGB">
<feComponentTransfer>{channels}</feComponentTransfer></filter></svg>
<header class="top"><div class="title"><h1>{html.escape(title)}</h1>{paragraph}</div><div id="controls"></div></header>
<main id="main">
"""


def _render_summary(tables: Sequence[Table], figures: Sequence[Figure]) -> str:
    return "\n".join(['<section id="summary">', *_render_tables(tables), *_render_figures(figures), "</section>\n"])


def _render_tables(tables: Sequence[Table]) -> Iterator[str]:
    for table in tables:
        # Numbers are aligned on the right, text on the left.
        kinds = [' class="number"' if _is_numeric(column) else "" for column in zip(*table.rows, strict=True)]
        kinds = kinds or [""] * len(table.header)
        head = "".join(
            f'<th scope="col"{kind}>{html.escape(name)}</th>' for name, kind in zip(table.header, kinds, strict=True)
        )
        rows = "".join(
            "<tr>"
            + "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
            + "</tr>\n"
            for row in table.rows
        )
        yield (
            f'<article class="card table"><h2>{html.escape(table.title)}</h2><div class="scroll"><table><thead><tr>'
            f"{head}</tr></thead><tbody>\n{rows}</tbody></table></div>{_render_note(table.note)}</article>"
        )


_NUMBER = r"[-+\u2212]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?: ?%)?"
_NUMERIC_CELL = re.compile(rf"{_NUMBER}(?: to {_NUMBER})?(?: \({_NUMBER}(?: to {_NUMBER})?\))?")
"""A number or an interval, with an interval in brackets or without."""


def _is_numeric(column: Sequence[str]) -> bool:
    cells = [cell.strip() for cell in column if cell.strip() not in ("", "-", "\u2013", "unknown", "nan")]
    return bool(cells) and all(_NUMERIC_CELL.fullmatch(cell) for cell in cells)


def _render_figures(figures: Sequence[Figure]) -> Iterator[str]:
    # As an image: scripts in an SVG do not run.
    for figure in figures:
        yield (
            f'<figure class="card"><h2>{html.escape(figure.title)}</h2><img class="plot" '
            f'alt="{html.escape(figure.title)}" src="{_data_uri("image/svg+xml", figure.svg)}">'
            f"{_render_note(figure.note)}</figure>"
        )


def _render_note(note: str) -> str:
    return f'<p class="note">{html.escape(note)}</p>' if note else ""


def _json_for_script(value: object) -> str:
    """JSON that cannot leave its script element: ASCII without `<`, `>` and `&`."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _encode(text: str) -> bytes:
    # Half a surrogate pair, from a damaged file name, is written as an escape.
    return text.encode("utf-8", "backslashreplace")


class EmbeddedImage(NamedTuple):
    """A data URI, and the width and height of the image before it was scaled down."""

    uri: str
    width: int
    height: int


def embed_image(data: bytes, name: str) -> EmbeddedImage:
    """Make a data URI of an image file: of the file itself if it is small, else of a WebP of at most 512 pixels a side.

    Args:
        data: The bytes of the file.
        name: The case's name, for the message.

    Raises:
        EvaluationError: Not a readable image.
    """
    try:
        image = open_image(data)
        with Image.open(io.BytesIO(data)) as stored:
            media_type = _MEDIA_TYPES.get(stored.format or "")
            # A browser shows the same pixels only where nothing had to be converted.
            is_plain = stored.mode in ("RGB", "L") and "transparency" not in stored.info
            is_upright = stored.getexif().get(_ORIENTATION, 1) == 1
    except ImageError as error:
        raise EvaluationError(f"the image of case {name!r} cannot be read: {error}") from error
    width, height = image.size
    is_small = len(data) <= _MAX_BYTES and max(image.size) <= IMAGE_SIDE
    if media_type and is_plain and is_upright and is_small:
        return EmbeddedImage(_data_uri(media_type, data), width, height)
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE), reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=80)
    return EmbeddedImage(_data_uri("image/webp", out.getvalue()), width, height)


def embed_map(nearness: np.ndarray) -> EmbeddedImage:
    """Make a grey data URI, which the page colours, of a map (H, W) in [0, 1]; NaN is transparent.

    JPEG if all pixels are known (a smooth map has 2 kB), PNG otherwise; values outside [0, 1] are shown as 0 or 1.
    """
    height, width = nearness.shape
    known = np.isfinite(nearness)
    grey = np.where(known, np.rint(np.clip(np.where(known, nearness, 0), 0, 1) * 255), 0).astype(np.uint8)
    scale = min(1.0, MAP_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    out = io.BytesIO()
    if known.all():
        Image.fromarray(grey).resize(size, Image.Resampling.BOX).save(out, "JPEG", quality=90)
        return EmbeddedImage(_data_uri("image/jpeg", out.getvalue()), width, height)
    # The nearest pixel: an average over a hole would be a depth that was never measured.
    grey_alpha = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(known.astype(np.uint8) * 255)])
    grey_alpha.resize(size, Image.Resampling.NEAREST).save(out, "PNG", optimize=True)
    return EmbeddedImage(_data_uri("image/png", out.getvalue()), width, height)


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def figure_to_svg(figure: Any) -> bytes:
    """Render a matplotlib figure as an SVG file without a background: the same bytes each time.

    Args:
        figure: A `matplotlib.figure.Figure`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "a figure") from error
    out = io.BytesIO()
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    families = ["DejaVu Sans", *(name for name in CJK_FONTS if name in installed)]
    with mpl.rc_context({"svg.hashsalt": "perceptok", "svg.fonttype": "path", "font.family": families}):
        figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    return out.getvalue()

"""What a page shows: cases, tables and figures."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from perceptok.errors import EvaluationError, ImageError, MissingExtraError
from perceptok.files import atomic_write
from perceptok.images import colorize_nearness, open_image

__all__ = [
    "Case",
    "Embedded",
    "Fact",
    "Figure",
    "Table",
    "Verdict",
    "embed_image",
    "embed_map",
    "figure_svg",
    "svg_uri",
    "write_page",
]


Verdict = Literal["right", "wrong", "invalid"]
"""invalid: what was written could not be read as an answer, or its evidence is malformed."""

Fact = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Case:
    """One thing to look at: a picture, what was asked and written about it, and what it means.

    Strings may hold anything: they are shown as text, never as markup.

    Attributes:
        name: Its heading; what a person searches for.
        image: The picture, the bytes of any file that Pillow reads.
        text: What a model wrote, or an answer of a record; perception tokens in it are folded and drawn.
        prompt: What was asked.
        markers: Letter, x, y of each lettered point.
        boxes: x1, y1, x2, y2 of each box.
        box_labels: A label for each box, or nothing.
        true_boxes: The boxes that should have been found.
        frame: Width and height of the picture that markers and boxes are measured in; default: the image's own.
        codes: The codes of a depth block, row-major.
        depth: (H, W) nearness in [0, 1] that the codes decode to, or any map to show; NaN where nothing is known.
        teacher: (H, W) what it should be, in the same terms.
        verdict: "right", "wrong", "invalid", or None where nothing is judged.
        facts: More about it, name -> value: numbers can be sorted by.

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
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict is not None and self.verdict not in get_args(Verdict):
            raise self._error(f"a verdict is one of {', '.join(get_args(Verdict))}, or None; got {self.verdict!r}")
        numbers = [*(marker[1:] for marker in self.markers), *self.boxes, *self.true_boxes]
        if any(len(one) != (2 if index < len(self.markers) else 4) for index, one in enumerate(numbers)):
            raise self._error("a marker is (letter, x, y) and a box is (x1, y1, x2, y2)")
        if not np.isfinite([value for number in numbers for value in number]).all():
            raise self._error("markers and boxes are finite numbers")
        if self.box_labels and len(self.box_labels) != len(self.boxes):
            raise self._error(f"{len(self.boxes)} boxes have {len(self.box_labels)} labels; give one for each, or none")
        if self.frame is not None and not min(self.frame) > 0:
            raise self._error(f"the frame has a width and a height above 0; got {self.frame}")
        for what, one in (("depth", self.depth), ("teacher", self.teacher)):
            if one is not None and (one.ndim != 2 or not one.size or not np.issubdtype(one.dtype, np.floating)):
                raise self._error(f"{what} is a map (H, W) of floats; got {one.dtype} of shape {one.shape}")

    def _error(self, reason: str) -> EvaluationError:
        return EvaluationError(f"case {self.name!r}: {reason}")


@dataclass(frozen=True)
class Table:
    """A table of the summary.

    Attributes:
        title: Its heading.
        header: Names of the columns.
        rows: As many cells each; shown as they are.
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
    """A picture of the summary: an SVG file, such as `figure_svg` makes of a matplotlib figure."""

    title: str
    svg: bytes
    note: str = ""


IMAGE_SIDE = 512
"""Longer side of an embedded image; a larger one is made smaller."""

MAP_SIDE = 192
"""Longer side of an embedded map; a decoded map has 10x10 codes and nothing finer than this."""

_AS_IT_IS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_SMALL_ENOUGH = 48_000
_ORIENTATION = 0x0112


class Embedded(NamedTuple):
    """A data URI, and the width and height of the picture before it was made smaller."""

    uri: str
    width: int
    height: int


def embed_image(data: bytes, name: str) -> Embedded:
    """An image file as a data URI: as it is where it is small, else WebP with a longer side of 512.

    Args:
        data: The bytes of the file; a rotation in its EXIF is applied.
        name: Whose image it is, for the message.

    Raises:
        EvaluationError: Not a readable image.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            plain = opened.getexif().get(_ORIENTATION, 1) == 1
            if plain and opened.format in _AS_IT_IS and len(data) <= _SMALL_ENOUGH and max(opened.size) <= IMAGE_SIDE:
                opened.load()
                return Embedded(_uri(_AS_IT_IS[opened.format], data), *opened.size)
            picture = open_image(data)
            width, height = picture.size
            picture.thumbnail((IMAGE_SIDE, IMAGE_SIDE), reducing_gap=2.0)
    except (ImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EvaluationError(f"the image of case {name!r} cannot be read: {error}") from error
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=80)
    return Embedded(_uri("image/webp", out.getvalue()), width, height)


def embed_map(nearness: np.ndarray) -> Embedded:
    """A map (H, W) in [0, 1] as a grey data URI, which the page colours; NaN is transparent.

    JPEG where all is known (a smooth map has 2 kB), PNG otherwise; values outside [0, 1] are shown as its ends.
    """
    height, width = nearness.shape
    known = np.isfinite(nearness)
    grey = np.where(known, np.rint(np.clip(np.where(known, nearness, 0), 0, 1) * 255), 0).astype(np.uint8)
    scale = min(1.0, MAP_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    out = io.BytesIO()
    if known.all():
        Image.fromarray(grey).resize(size, Image.Resampling.BOX).save(out, "JPEG", quality=90)
        return Embedded(_uri("image/jpeg", out.getvalue()), width, height)
    # The nearest pixel: an average with a hole would be a depth that nobody measured.
    both = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(known.astype(np.uint8) * 255)])
    both.resize(size, Image.Resampling.NEAREST).save(out, "PNG", optimize=True)
    return Embedded(_uri("image/png", out.getvalue()), width, height)


def figure_svg(figure: Any) -> bytes:
    """A matplotlib figure as an SVG file without a background, the same bytes each time.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "a figure") from error
    out = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "perceptok", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    return out.getvalue()


def svg_uri(svg: bytes) -> str:
    """An SVG file as the data URI of an image: scripts in it do not run."""
    return _uri("image/svg+xml", svg)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


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
    """Write a page of tables, figures and cases: one HTML file that any browser opens, with or without a network.

    Its content security policy allows no address at all, and no script but its own, whose hash it names. Cases are
    taken one by one, so that many cost the memory of one; the browser decodes a picture only when it is seen.

    Args:
        path: The file to write.
        cases: What to step through.
        title: The page's heading.
        tables: Shown first.
        figures: Shown after the tables.
        note: A sentence under the heading: what this is.
        force: Replace the file if it exists already.

    Returns:
        How many cases were written.

    Raises:
        EvaluationError: An image cannot be read, or there is nothing to show.
        OutputError: As for `atomic_write`.
    """
    style, script = (
        files("perceptok.pages").joinpath("assets", name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    told: list[dict[str, Any]] = []
    with atomic_write(path, force=force) as file:
        file.write(_text(_head(title, style, script)))
        file.write(_text(_shell(title, note)))
        file.write(_text(_summary(tables, figures)))
        file.write(b"</main>\n")
        for number, case in enumerate(cases):
            about, pictures = _case(case)
            told.append(about)
            for kind, uri in pictures.items():
                file.write(_text(f'<script type="text/plain" id="{kind}-{number}">{uri}</script>\n'))
        if not told and not tables and not figures:
            raise EvaluationError("there is nothing to show: no case, no table and no figure")
        file.write(_text(f'<script type="application/json" id="cases">{_json(told)}</script>\n'))
        file.write(_text(f"<script>{script}</script>\n</body>\n</html>\n"))
    return len(told)


def _case(case: Case) -> tuple[dict[str, Any], dict[str, str]]:
    """What the script knows of a case, and its pictures by kind."""
    about: dict[str, Any] = {"name": case.name}
    pictures: dict[str, str] = {}
    size = None
    if case.image is not None:
        pictures["image"], *size = embed_image(case.image, case.name)
    # Without a picture the teacher's map has the proportions of the scene; a decoded one is square.
    for kind, one in (("teacher", case.teacher), ("depth", case.depth)):
        if one is not None:
            pictures[kind], *shape = embed_map(one)
            size = size or shape
    about["has"] = list(pictures)
    about["size"] = size
    about["frame"] = list(case.frame) if case.frame else size
    about["markers"] = [[letter, _number(x), _number(y)] for letter, x, y in case.markers]
    for kind, boxes in (("boxes", case.boxes), ("trueBoxes", case.true_boxes)):
        about[kind] = [[_number(value) for value in box] for box in boxes]
    about["labels"] = list(case.box_labels)
    about["codes"] = None if case.codes is None else [int(code) for code in case.codes]
    about["prompt"], about["text"], about["verdict"] = case.prompt, case.text, case.verdict
    about["facts"] = [[name, _fact(value)] for name, value in case.facts.items()]
    return {key: value for key, value in about.items() if value not in (None, [], "")}, pictures


def _number(value: float) -> float:
    return round(float(value), 2)


def _fact(value: Fact) -> Fact:
    # JSON has no NaN; a sort puts what is unknown last.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _head(title: str, style: str, script: str) -> str:
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


def _shell(title: str, note: str) -> str:
    stops = colorize_nearness(np.linspace(0, 1, 33)) / 255
    channels = "".join(
        f'<feFunc{name} type="table" tableValues="{" ".join(f"{value:.3f}" for value in stops[:, index])}"/>'
        for index, name in enumerate("RGB")
    )
    about = f"<p>{html.escape(note)}</p>" if note else ""
    return f"""<body>
<svg class="off" aria-hidden="true"><filter id="turbo" color-interpolation-filters="sRGB">
<feComponentTransfer>{channels}</feComponentTransfer></filter></svg>
<header class="top"><div class="title"><h1>{html.escape(title)}</h1>{about}</div><div id="controls"></div></header>
<main id="main">
"""


def _summary(tables: Sequence[Table], figures: Sequence[Figure]) -> str:
    return "\n".join(['<section id="summary">', *_tables(tables), *_figures(figures), "</section>\n"])


def _tables(tables: Sequence[Table]) -> Iterator[str]:
    for table in tables:
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.header)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows
        )
        yield (
            f'<article class="card table"><h2>{html.escape(table.title)}</h2><div class="scroll"><table><thead><tr>'
            f"{head}</tr></thead><tbody>\n{rows}</tbody></table></div>{_note(table.note)}</article>"
        )


def _figures(figures: Sequence[Figure]) -> Iterator[str]:
    for figure in figures:
        yield (
            f'<figure class="card"><h2>{html.escape(figure.title)}</h2><img class="plot" '
            f'alt="{html.escape(figure.title)}" src="{svg_uri(figure.svg)}">{_note(figure.note)}</figure>'
        )


def _note(note: str) -> str:
    return f'<p class="note">{html.escape(note)}</p>' if note else ""


def _json(value: object) -> str:
    """JSON that cannot leave its script element: ASCII without `<`, `>` and `&`."""
    plain = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text(text: str) -> bytes:
    # A lone surrogate of a damaged file name is spelled out.
    return text.encode("utf-8", "backslashreplace")

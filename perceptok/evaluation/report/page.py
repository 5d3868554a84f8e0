"""The page: one HTML file that needs nothing else, neither a network nor another file."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from perceptok.depth.scores.colours import coloured_nearness
from perceptok.errors import EvaluationError
from perceptok.evaluation.report.cases import Case, Fact, Figure, Table
from perceptok.evaluation.report.pictures import embed_image, embed_map, svg_uri
from perceptok.files import atomic_write

__all__ = ["write_page"]


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
        files("perceptok.evaluation.report").joinpath("assets", name).read_text(encoding="utf-8")
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
    stops = coloured_nearness(np.linspace(0, 1, 33)) / 255
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

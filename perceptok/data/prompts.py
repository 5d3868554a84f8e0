"""Questions and answers as versioned templates: AURORA's, named variants of them, and a pool of other wordings."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from perceptok.config import config_from_dict
from perceptok.errors import ConfigError

__all__ = ["PROMPTS", "PromptSet"]

_VARIABLES = {
    "depth_atomic": (),
    "depth_atomic_answer": ("block",),
    "depth_question": (),
    "pair_question": (),
    "depth_thinking": ("size",),
    "point": ("letter",),
    "depth_map": ("block",),
    "depth_evidence": ("letter", "nearness"),
    "depth_conclusion": ("answer",),
    "depth_direct": ("answer",),
    "reading_question": ("block", "points"),
    "boxes_atomic": ("plural",),
    "boxes_listed": ("plural", "boxes"),
    "boxes_none": ("plural",),
    "count_question": ("plural",),
    "count_thinking": ("plural",),
    "count_listed": ("plural", "boxes"),
    "count_conclusion": ("plural", "count"),
    "count_none": ("plural",),
    "count_direct": ("count",),
}
"""Template -> its variables, which it must have, except for those in `_OPTIONAL`."""

_OPTIONAL = ("size", "plural")

_PLACES = (("x", "y"), ("row", "column"))
"""Variables of which `point` has those of one line or more, and `depth_evidence` any."""

_STEPS = (
    "\nTo answer this question, let's think through it step by step, and we know the image is {size} x {size}. "
    "First, what are the coordinates of points in the image? Second, what is the depth map for the image? "
    "Which point has a higher pixel value on the depth map? "
    "Remember, higher values indicate that the point is closer to the camera."
)


@dataclass(frozen=True)
class PromptSet:
    """The templates of questions and answers.

    Braces enclose variables; `{{` and `}}` are literal braces. An empty `point`, `depth_map` or `depth_evidence` leaves
    that step of the chain of thought out. The attributes that are not listed here are the templates.

    A point has `letter`, its place as `x` and `y` (pixels of the frame) or as `row` and `column` (0..9) of its cell in
    the block, and, in `depth_evidence`, its `nearness` by the block, two digits 00..99, and `nearest`, the letter of
    the nearest of the points so far: the last one's is the conclusion's.

    Attributes:
        name: Name of the set; records state it in their provenance.
        version: Raised whenever a text changes; records state it too.
        numerals: Write codes and coordinates as decimal numbers instead of tokens.
        box_numerals: Write the coordinates of boxes as decimal numbers instead of tokens.
        wordings: Question template -> other wordings of it. Where a set of records has `wording: pool`, each record's
            wording is drawn from these and the template itself.

    Raises:
        ConfigError: A template has an unknown variable or lacks one.
    """

    name: str
    version: int = 2
    numerals: bool = False
    box_numerals: bool = False
    depth_atomic: str = "What is the depth map for the image?"
    depth_atomic_answer: str = "The depth map for the image is {block}."
    depth_question: str = (
        "Multiple points are circled on the image, labeled by letters beside each circle. "
        "Which point is the closest to the camera?"
    )
    pair_question: str = (
        "Two points are circled on the image, labeled by A and B beside each circle. "
        "Which point is closer to the camera?\n"
        "Select from the following choices.\n(A) A is closer\n(B) B is closer"
    )
    depth_thinking: str = _STEPS
    point: str = "Point {letter} is located at (x = {x} y = {y})"
    depth_map: str = "The depth map for the image is {block}."
    depth_conclusion: str = (
        "Since point {answer} has a higher pixel value on the depth map, "
        "the answer is that point {answer} is closer to the camera."
    )
    depth_evidence: str = ""
    depth_direct: str = "({answer})"
    reading_question: str = (
        "The depth map for the image is {block}. {points}. Which point is the closest to the camera?"
    )
    boxes_atomic: str = "Return the bounding boxes of {plural}."
    boxes_listed: str = "Here are the bounding boxes for the {plural}:\n{boxes}"
    boxes_none: str = "There are no {plural} in the image."
    count_question: str = "How many {plural} are in the image?"
    count_thinking: str = (
        ".\n To solve this, let\u2019s carefully analyze the image. First, identify the bounding boxes associated with "
        "the {plural}. After that, count how many distinct bounding boxes correspond to {plural}."
    )
    count_listed: str = "Based on the analysis, here are the bounding boxes for the {plural}:\n{boxes}"
    count_conclusion: str = (
        "Since there are {count} distinct bounding boxes and masks, we conclude there are {count} {plural}."
    )
    count_none: str = "There are no {plural} in the image. We conclude there are 0 {plural}."
    count_direct: str = "{count}"
    wordings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in _VARIABLES:
            for text in (getattr(self, key), *self.wordings.get(key, ())):
                _check_template(f"template {key} of {self.name}", key, text)
        unknown = sorted(self.wordings.keys() - _VARIABLES.keys())
        if unknown:
            raise ConfigError(
                f"wordings of {self.name}: unknown template {unknown[0]!r}; templates are {', '.join(_VARIABLES)}"
            )

    @property
    def label(self) -> str:
        """Name and version, as records state them."""
        return f"{self.name}/{self.version}"

    @classmethod
    def from_name(cls, name: str, changes: Mapping[str, Any] | None = None) -> PromptSet:
        """Take a set of `PROMPTS` and replace some of its texts; raises ConfigError for an unknown name or text."""
        if name not in PROMPTS:
            raise ConfigError(f"prompts are {', '.join(PROMPTS)}; got {name!r}")
        prompts = PROMPTS[name]
        if not changes:
            return prompts
        values = {field.name: getattr(prompts, field.name) for field in fields(cls)}
        return config_from_dict(cls, {**values, "name": f"{name}, changed", **changes})

    def write(self, key: str, **values: object) -> str:
        """Fill in a template."""
        return str(getattr(self, key)).format(**values)

    def ask(self, key: str, rng: np.random.Generator | None = None, **values: object) -> str:
        """Fill in a question; with `rng`, a wording of it that is drawn at random."""
        pool = (getattr(self, key), *self.wordings.get(key, ()))
        template = pool[0] if rng is None else pool[int(rng.integers(len(pool)))]
        return str(template).format(**values)


def _check_template(name: str, key: str, text: str) -> None:
    required = _VARIABLES[key]
    places = [variable for place in _PLACES for variable in place] if key in ("point", "depth_evidence") else []
    allowed = (*required, *places, *(["nearest"] if key == "depth_evidence" else []))
    try:
        parsed = [field for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError as error:
        raise ConfigError(f"{name}: {error}; write a literal brace twice") from error
    found = {str(variable) for _, variable, _, _ in parsed}
    if formatted := [variable for _, variable, form, conversion in parsed if form or conversion]:
        raise ConfigError(
            f"{name}: the variable {formatted[0]} has a format; write {{{formatted[0]}}}. Got {text!r:.200}"
        )
    if unknown := sorted(found - {*allowed}):
        raise ConfigError(
            f"{name}: unknown variable {{{unknown[0]}}}; its variables are {', '.join(allowed) or 'none'}. Got {text!r}"
        )
    missing = [variable for variable in required if variable not in found and variable not in _OPTIONAL]
    if key == "point" and not any(found.issuperset(place) for place in _PLACES):
        missing.append("x} and {y} or {row} and {column")
    if missing and text:
        raise ConfigError(f"{name}: lacks {{{missing[0]}}}; got {text!r}")


_RELEASED_BOX_QUESTIONS = (
    "Please perform bounding box prediction for each instance of {plural} in the image.",
    "Find instances of {plural}, return the x1 y1 x2 y2 coordinates of each instance.",
    "Find instances of {plural} in the image and return their bounding boxes.",
    "Please locate all of the {plural} in this image.",
)
"""AURORA's other four box questions; with "Return the bounding boxes of {plural}." it draws one of the five."""

_VARIED_WORDINGS = {
    "depth_atomic": (
        "Generate the depth map of this image.",
        "How far away is everything in the image? Answer with its depth map.",
        "Describe the image by its depth map.",
        "Write down the depth tokens of the image.",
    ),
    "depth_question": (
        "Several circled points carry a letter. Which of them is nearest to the camera?",
        "Look at the lettered circles. Which one marks the point closest to the viewer?",
        "Of the points circled in the image, which one has the smallest distance to the camera?",
        "The image shows red circles with letters. Which one lies closest to us?",
    ),
    "boxes_atomic": (
        *_RELEASED_BOX_QUESTIONS,
        "Where are the {plural} in the image? Give their bounding boxes.",
        "Locate all {plural}.",
        "List a bounding box for each of the {plural}.",
    ),
    "count_question": (
        "Can you count the {plural} in the image?",
        "What is the number of {plural} in this image?",
        "How many {plural} can you see?",
    ),
}

_AURORA = PromptSet("aurora", wordings={"boxes_atomic": _RELEASED_BOX_QUESTIONS})
_VARIED = replace(_AURORA, name="varied", wordings=_VARIED_WORDINGS)

PROMPTS = {
    "aurora": _AURORA,
    "varied": _VARIED,
    "evidence": replace(_VARIED, name="evidence", depth_evidence="{letter} {nearness}"),
    "evidence_places": replace(_VARIED, name="evidence_places", depth_evidence="{letter} (x = {x} y = {y}) {nearness}"),
    "evidence_cells": replace(
        _VARIED,
        name="evidence_cells",
        point="Point {letter} is located at (row = {row} column = {column})",
        depth_evidence="{letter} (row = {row} column = {column}) {nearness}",
    ),
    "evidence_running": replace(
        _VARIED,
        name="evidence_running",
        depth_evidence="{letter} (x = {x} y = {y}) {nearness}, so far {nearest}",
    ),
    "no_coordinates": replace(
        _AURORA,
        name="no_coordinates",
        depth_thinking=_STEPS.replace(
            "First, what are the coordinates of points in the image? Second, what", "First, what"
        ),
        point="",
    ),
    "no_depth": replace(
        _AURORA,
        name="no_depth",
        depth_thinking=(
            "\nTo answer this question, let's think through it step by step, and we know the image is {size} x {size}. "
            "First, what are the coordinates of points in the image? Which point is closer to the camera?"
        ),
        depth_map="",
        depth_conclusion=" The answer is that point {answer} is closer to the camera.",
    ),
    "numerals": replace(_AURORA, name="numerals", numerals=True),
    "box_numerals": replace(_AURORA, name="box_numerals", box_numerals=True),
}
"""Name -> prompts. "aurora" has the texts of AURORA's released code and, for the atomic depth question, of its paper
(arXiv 2412.03548, section 6.3); "varied" adds other wordings of the questions. "evidence" states, before the
conclusion, each point's nearness by the block; "evidence_places" with its place again; "evidence_cells" with places as
rows and columns of the block; "evidence_running" with its place and the nearest point so far. "no_coordinates" and
"no_depth" omit a step of the depth chain of thought; "numerals" is the ablation without tokens, "box_numerals" that
without PIXEL tokens."""

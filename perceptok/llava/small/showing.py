"""The demonstration's page: held-out pictures, their true depth, and the depth that the model wrote."""

from __future__ import annotations

import io
import os

import numpy as np
from PIL import Image

from perceptok.errors import MissingExtraError
from perceptok.evaluation.report.cases import Case, Figure, Table
from perceptok.evaluation.report.page import write_page
from perceptok.evaluation.report.pictures import figure_svg
from perceptok.llava.small.answers import DepthAnswer, map_error
from perceptok.llava.small.samples import QUESTION
from perceptok.llava.small.scoring import DemoResult
from perceptok.llava.small.views import Views

__all__ = ["DEMO_NOTE", "write_demo_page"]

DEMO_NOTE = (
    "A small LLaVA (first layers of SmolLM2-135M-Instruct, ImageNet MobileNetV2, a projector) was trained on "
    "procedural scenes in a haze, and asked for the depth of scenes it never saw. The teacher is the exact depth. "
    "The world is simple by design: one camera, a floor, a wall, things on the floor, colours that fade with distance."
)


def write_demo_page(
    path: str | os.PathLike[str],
    held_out: Views,
    answers: list[DepthAnswer],
    result: DemoResult,
    *,
    note: str = DEMO_NOTE,
) -> None:
    """Write the page; an existing one is replaced.

    Args:
        path: Where to.
        held_out: What was asked about.
        answers: What was written about it.
        result: The figures.
        note: What was taught by whom, in words.

    Raises:
        OutputError: It cannot be written.
    """
    cases = (_case(number, held_out, answer) for number, answer in enumerate(answers))
    write_page(
        path,
        cases,
        title="Depth that a small LLaVA wrote",
        tables=_tables(result),
        figures=_figures(result),
        note=note,
        force=True,
    )


def _case(number: int, views: Views, answer: DepthAnswer) -> Case:
    picture = io.BytesIO()
    Image.fromarray(views.pictures[number]).save(picture, format="PNG")
    truth = views.nearness[number].astype(np.float32)
    facts: dict[str, str | int | float | bool | None] = {"RMSE": None, "codes right": None}
    if answer.depth is not None and answer.codes is not None:
        facts["RMSE"] = map_error(answer.depth[None], truth[None])
        facts["codes right"] = float(np.mean(answer.codes == views.codes[number].numpy()))
    return Case(
        f"held-out scene {number}",
        picture.getvalue(),
        text=answer.text,
        prompt=QUESTION,
        codes=None if answer.codes is None else answer.codes.tolist(),
        depth=answer.depth,
        teacher=truth,
        verdict="invalid" if answer.codes is None else None,
        facts=facts,
    )


def _tables(result: DemoResult) -> list[Table]:
    return [
        Table(
            "Depth on held-out scenes",
            ("depth map", "RMSE of nearness (0..1)"),
            [(name, f"{value:.4f}") for name, value in result.rmse.items()],
            "generated: what the model wrote, decoded (an invalid answer counts as the mean map); codec: the true map "
            "encoded and decoded, the best that 100 tokens can be; mean map: the average of the training maps.",
        ),
        Table(
            "Valid depth blocks",
            ("decoding", "share"),
            [(name, f"{value:.1%}") for name, value in result.valid.items()],
        ),
        Table(
            "Which marked point is nearest, read from the generated map",
            ("points", "right", "by the mean map", "by chance"),
            [
                (count, f"{value:.1%}", f"{result.chance[count]:.1%}", f"{1 / int(count):.1%}")
                for count, value in result.order.items()
            ],
            "Points at mid height, as HardBLINK places them; the answer is read from the decoded map by rule.",
        ),
        Table(
            "Processor seconds",
            ("stage", "seconds"),
            [(name, f"{value:.0f}") for name, value in result.seconds.items()],
        ),
    ]


def _figures(result: DemoResult) -> list[Figure]:
    try:
        from matplotlib.figure import Figure as Plot
    except ImportError as error:
        raise MissingExtraError("matplotlib", "demo", "the page's learning curve") from error

    plot = Plot(figsize=(6, 3))
    axes = plot.add_subplot()
    axes.plot([one.step for one in result.curve], [one.held_out for one in result.curve], marker="o", ms=3)
    axes.axhline(float(np.log(128)), color="grey", linestyle=":", label="knows nothing (ln 128)")
    axes.set_xlabel("updates")
    axes.set_ylabel("nats a code, held out")
    axes.legend()
    return [Figure("Learning curve", figure_svg(plot), "Cross entropy of the true codes, the true ones before given.")]

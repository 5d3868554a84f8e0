"""The demonstration: data, training, constrained inference, a page of pictures; from installed packages alone."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from perceptok.depth import DepthCodec
from perceptok.errors import MissingExtraError
from perceptok.files import atomic_folder, atomic_write
from perceptok.llava.loading import load_llava
from perceptok.llava.small.learning import (
    CurvePoint,
    DepthAnswer,
    SmallTraining,
    answer_depth,
    map_error,
    point_order,
    train_depth,
)
from perceptok.llava.small.model import QUESTION, SmallLlavaConfig, build_small_llava
from perceptok.llava.small.views import Views, make_views, normalised, view_yard
from perceptok.pages import Case, Figure, Table, figure_to_svg, write_page

__all__ = [
    "DEMO_NOTE",
    "DemoConfig",
    "DemoResult",
    "held_out_views",
    "marked_points",
    "run_demo",
    "scored",
    "starting_model",
    "training_views",
    "write_demo_page",
]


_TRIES = 200


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Attributes:
        curve: The learning curve.
        rmse: Error on held-out scenes of "generated" depth, of the true map encoded and decoded ("codec"), and of the
            average training map ("mean map").
        valid: Share of valid blocks, "constrained" and "free".
        order: Number of points -> share of questions in which the nearest point on the generated map truly is.
        chance: Number of points -> the same, from the mean map.
        seconds: Processor seconds of each stage.
    """

    curve: tuple[CurvePoint, ...]
    rmse: dict[str, float]
    valid: dict[str, float]
    order: dict[str, float]
    chance: dict[str, float]
    seconds: dict[str, float]


def scored(
    codec: DepthCodec,
    known: Views,
    held_out: Views,
    answers: list[DepthAnswer],
    free: list[DepthAnswer],
    curve: list[CurvePoint],
    seconds: dict[str, float],
) -> DemoResult:
    """Set what was written about held-out scenes against the truth; `known` gives the mean map."""
    truth = held_out.nearness.astype(np.float32)
    mean = known.nearness.mean(axis=0, dtype=np.float32)
    decoded = codec.decode(held_out.codes.reshape(-1, 10, 10)).numpy()[:, ::2, ::2]
    written = np.stack([mean if one.depth is None else one.depth for one in answers])
    order, chance = {}, {}
    for count in (2, 3, 4, 5):
        right, by_mean, asked = 0, 0, 0
        for number, depth in enumerate(truth):
            points = marked_points(depth, count, np.random.default_rng([count, number]))
            if points is not None:
                asked += 1
                right += point_order(written[number], points, depth)
                by_mean += point_order(mean, points, depth)
        if asked:
            order[str(count)], chance[str(count)] = right / asked, by_mean / asked
    return DemoResult(
        tuple(curve),
        {
            "generated": map_error(written, truth),
            "codec": map_error(decoded, truth),
            "mean map": map_error(np.broadcast_to(mean, truth.shape), truth),
        },
        {
            "constrained": float(np.mean([one.codes is not None for one in answers])),
            "free": float(np.mean([one.codes is not None for one in free])),
        },
        order,
        chance,
        seconds,
    )


def marked_points(depth: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """Points as AURORA marks them, in the band of height of HardBLINK's.

    They lie 20 pixels of a 336-pixel frame and 20 grey levels of 255 apart, and never on grey level 0.

    Args:
        depth: (S, S) nearness.
        count: How many.
        rng: What is drawn from.

    Returns:
        (count, 2) int64, x and y in pixels of the map; None where none were found in 200 tries.
    """
    side = len(depth)
    grey = np.rint(depth * 255)
    for _ in range(_TRIES):
        across, down = rng.integers(0, side, count), rng.integers(side * 95 // 336, side * 228 // 336, count)
        points = np.stack([across, down], axis=1)
        levels = grey[points[:, 1], points[:, 0]]
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + side * np.eye(count)
        gaps = np.abs(levels[:, None] - levels[None]) + 255 * np.eye(count)
        if levels.min() > 0 and apart.min() >= 20 * side / 336 and gaps.min() >= 20:
            return points.astype(np.int64)
    return None


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
    return [
        Figure("Learning curve", figure_to_svg(plot), "Cross entropy of the true codes, the true ones before given.")
    ]


_CALIBRATION = 64
_TRAINING_SEED, _HELD_OUT_SEED, _CALIBRATION_SEED = 1, 2, 3
"""Families of scenes that share none."""

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""What to show progress with: a name and a count give a context whose value is called after each item."""


def _silent(_: str, __: int) -> AbstractContextManager[Callable[..., None]]:
    return nullcontext(lambda *_: None)


@dataclass(frozen=True)
class DemoConfig:
    """Everything the demonstration depends on.

    Attributes:
        model: Sizes of the model.
        training: Its training.
        scenes: Training scenes.
        held_out: Scenes of another seed that are asked about.
        temperature: Of the codec's soft codes (Eq. 1).
    """

    model: SmallLlavaConfig = field(default_factory=SmallLlavaConfig)
    training: SmallTraining = field(default_factory=SmallTraining)
    scenes: int = 2400
    held_out: int = 64
    temperature: float = 0.02


def run_demo(
    folder: str | os.PathLike[str],
    config: DemoConfig | None = None,
    *,
    progress: Progress = _silent,
) -> tuple[DemoResult, Path]:
    """Build the small LLaVA, make scenes, train, ask about held-out scenes, and write a page.

    Model and scenes are kept in the folder and used again; `trained` holds the trained checkpoint, which `load_llava`
    loads, `result.json` the figures.

    Args:
        folder: Where everything goes; made where it is missing.
        config: What to do.
        progress: Shows how far it is.

    Returns:
        The figures, and the page.

    Raises:
        CheckpointError: A package that carries weights is not installed; the message says how.
        MissingExtraError: The extra `demo` is not installed.
    """
    config = config or DemoConfig()
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    codec = DepthCodec.from_pretrained()
    clock = _Clock()
    model, processor, vocab = starting_model(place, codec, config)
    clock.lap("model")
    known = training_views(place, codec, config, model, progress=progress)
    held_out = held_out_views(place, codec, config, model, progress=progress)
    clock.lap("scenes")
    with progress("training", config.training.steps) as advance:
        curve = train_depth(model, processor, vocab, known, held_out, config.training, advance)
    clock.lap("training")
    for part in (model, processor, vocab):
        part.save_pretrained(place / "trained")
    bfloat16 = config.training.bfloat16
    answers = answer_depth(model, processor, vocab, codec, held_out, bfloat16=bfloat16)
    free = answer_depth(model, processor, vocab, codec, held_out, constrained=False, bfloat16=bfloat16)
    clock.lap("inference")
    result = scored(codec, known, held_out, answers, free, curve, clock.laps)
    with atomic_write(place / "result.json", force=True) as file:
        file.write((json.dumps({"config": asdict(config), **asdict(result)}, indent=2) + "\n").encode())
    page = place / "demo.html"
    write_demo_page(page, held_out, answers, result)
    return result, page


def starting_model(folder: str | os.PathLike[str], codec: DepthCodec, config: DemoConfig) -> tuple[Any, Any, Any]:
    """The untrained model of a demonstration's folder, processor and vocabulary; built where it is not there yet."""
    place = Path(folder) / _name("model", [asdict(config.model), codec.fingerprint])
    if not (place / "config.json").is_file():
        size = config.model.image_size
        pictures = [view_yard(_CALIBRATION_SEED, number, size).picture for number in range(_CALIBRATION)]
        with atomic_folder(place) as building:
            build_small_llava(building, codec, normalised(np.stack(pictures)), config.model)
    return load_llava(place, codec=codec, dtype=torch.float32)


def training_views(
    folder: str | os.PathLike[str], codec: DepthCodec, config: DemoConfig, model: Any, progress: Progress = _silent
) -> Views:
    """The scenes that are trained on; kept in the folder."""
    return _views(Path(folder), codec, config, model, (_TRAINING_SEED, config.scenes), progress)


def held_out_views(
    folder: str | os.PathLike[str], codec: DepthCodec, config: DemoConfig, model: Any, progress: Progress = _silent
) -> Views:
    """The scenes that are asked about, of another seed; kept in the folder."""
    return _views(Path(folder), codec, config, model, (_HELD_OUT_SEED, config.held_out), progress)


def _views(
    place: Path, codec: DepthCodec, config: DemoConfig, model: Any, which: tuple[int, int], progress: Progress
) -> Views:
    facts = [asdict(config.model), codec.fingerprint, *which, config.temperature]
    with progress("scenes", which[1]) as advance:
        return make_views(
            *which,
            model.model.vision_tower,
            codec,
            temperature=config.temperature,
            cache=place / f"{_name('views', facts)}.npz",
            advance=advance,
        )


def _name(stem: str, facts: object) -> str:
    import hashlib

    return f"{stem}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]}"


class _Clock:
    """Processor seconds of stages, all threads together."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.laps[name], self._last = round(now - self._last, 1), now

"""The demonstration: data, training, constrained inference and a page of images, from installed packages alone."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
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

from perceptok.checkpoints import CHECKPOINT_FILES
from perceptok.config import config_from_dict
from perceptok.depth import DepthCodec
from perceptok.errors import ConfigError, MissingExtraError, OutputError
from perceptok.files import atomic_folder, atomic_write, parse_json, read_input
from perceptok.llava.loading import load_llava
from perceptok.llava.small.model import QUESTION, SmallLlavaConfig, build_small_llava
from perceptok.llava.small.training import (
    CurvePoint,
    DepthAnswer,
    SmallDataset,
    SmallTraining,
    answer_depth,
    compute_rmse,
    finds_nearest,
    make_dataset,
    normalize_images,
    render_yard,
    train_depth,
)
from perceptok.locks import lock_output
from perceptok.pages import Case, Figure, Table, figure_to_svg, write_page
from perceptok.vocabulary import MANIFEST

_ATTEMPTS = 200
_CALIBRATION_IMAGES = 64
_TRAINING_SEED, _HELD_OUT_SEED, _CALIBRATION_SEED = 1, 2, 3
"""Seeds of families of scenes, which share no scene."""

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
"""A progress bar: a stage's name and a count give a context whose value is called after each item."""

STAGES = ("model", "scenes", "held-out scenes", "training", "answers")
"""Names of the stages of `run_demo`, in their order, as its progress bars have them."""

_WORK, _RESULT, _PAGE, _TRAINED = "work", "result.json", "demo.html", "trained"
"""Names in the output folder: what only an unfinished demonstration needs, the figures, the page, the checkpoint."""


def _show_no_progress(_: str, __: int) -> AbstractContextManager[Callable[..., None]]:
    return nullcontext(lambda *_: None)


@dataclass(frozen=True)
class DemoResult:
    """The results of the demonstration.

    Attributes:
        curve: The learning curve.
        rmse: Error on held-out scenes of "generated" depth, of the true map encoded and decoded ("codec"), and of the
            mean training map ("mean map").
        valid: Share of valid blocks, "constrained" and "free".
        order: Number of points -> share of questions in which the generated map has the correct nearest point.
        chance: Number of points -> the same share for the mean map.
        seconds: Processor seconds of each stage.
    """

    curve: tuple[CurvePoint, ...]
    rmse: dict[str, float]
    valid: dict[str, float]
    order: dict[str, float]
    chance: dict[str, float]
    seconds: dict[str, float]


def score_answers(
    codec: DepthCodec,
    dataset: SmallDataset,
    held_out: SmallDataset,
    answers: list[DepthAnswer],
    free: list[DepthAnswer],
    curve: list[CurvePoint],
    seconds: dict[str, float],
) -> DemoResult:
    """Compare constrained and free answers with the ground truth; the training `dataset` gives the mean map."""
    truth = held_out.nearness.astype(np.float32)
    mean = dataset.nearness.mean(axis=0, dtype=np.float32)
    decoded = codec.decode(held_out.codes.reshape(-1, 10, 10)).numpy()[:, ::2, ::2]
    generated = np.stack([mean if answer.depth is None else answer.depth for answer in answers])
    order, chance = {}, {}
    for count in (2, 3, 4, 5):
        correct, correct_by_mean, questions = 0, 0, 0
        for number, depth in enumerate(truth):
            points = sample_points(depth, count, np.random.default_rng([count, number]))
            if points is not None:
                questions += 1
                correct += finds_nearest(generated[number], points, depth)
                correct_by_mean += finds_nearest(mean, points, depth)
        if questions:
            order[str(count)], chance[str(count)] = correct / questions, correct_by_mean / questions
    return DemoResult(
        tuple(curve),
        {
            "generated": compute_rmse(generated, truth),
            "codec": compute_rmse(decoded, truth),
            "mean map": compute_rmse(np.broadcast_to(mean, truth.shape), truth),
        },
        {
            "constrained": float(np.mean([answer.codes is not None for answer in answers])),
            "free": float(np.mean([answer.codes is not None for answer in free])),
        },
        order,
        chance,
        seconds,
    )


def sample_points(depth: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """Sample points as AURORA marks them, at the heights of HardBLINK's.

    They are 20 pixels of a 336-pixel frame and 20 grey levels of 255 apart, and never on grey level 0.

    Args:
        depth: (S, S) nearness.
        count: Number of points.
        rng: The random generator.

    Returns:
        (count, 2) int64, x and y in pixels of the map; None after 200 failed attempts.
    """
    side = len(depth)
    grey = np.rint(depth * 255)
    for _ in range(_ATTEMPTS):
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
    "procedural scenes in haze, and generated the depth of held-out scenes. The teacher is the exact depth. The scenes "
    "are simple by design: a fixed camera, a floor, a wall, objects on the floor, colors that fade with distance."
)


def write_demo_page(
    path: str | os.PathLike[str],
    held_out: SmallDataset,
    answers: list[DepthAnswer],
    result: DemoResult,
    *,
    note: str = DEMO_NOTE,
) -> None:
    """Write the page; an existing one is replaced.

    Args:
        path: The file.
        held_out: The held-out scenes.
        answers: The answers about them.
        result: The figures.
        note: Which model was trained on what.

    Raises:
        OutputError: The file cannot be written.
    """
    cases = (_make_case(number, held_out, answer) for number, answer in enumerate(answers))
    write_page(
        path,
        cases,
        title="Depth generated by a small LLaVA",
        tables=_make_tables(result),
        figures=_make_figures(result),
        note=note,
        force=True,
    )


def _make_case(number: int, held_out: SmallDataset, answer: DepthAnswer) -> Case:
    png = io.BytesIO()
    Image.fromarray(held_out.images[number]).save(png, format="PNG")
    truth = held_out.nearness[number].astype(np.float32)
    facts: dict[str, str | int | float | bool | None] = {"RMSE": None, "correct codes": None}
    if answer.depth is not None and answer.codes is not None:
        facts["RMSE"] = compute_rmse(answer.depth[None], truth[None])
        facts["correct codes"] = float(np.mean(answer.codes == held_out.codes[number].numpy()))
    return Case(
        f"held-out scene {number}",
        png.getvalue(),
        text=answer.text,
        prompt=QUESTION,
        codes=None if answer.codes is None else answer.codes.tolist(),
        depth=answer.depth,
        teacher=truth,
        invalid=answer.codes is None,
        facts=facts,
    )


def _make_tables(result: DemoResult) -> list[Table]:
    return [
        Table(
            "Depth on held-out scenes",
            ("depth map", "RMSE of nearness (0..1)"),
            [(name, f"{value:.4f}") for name, value in result.rmse.items()],
            "generated: the model's block, decoded (an invalid answer counts as the mean map); codec: the true map "
            "encoded and decoded, a bound for 100 tokens; mean map: the average of the training maps.",
        ),
        Table(
            "Valid depth blocks",
            ("decoding", "share"),
            [(name, f"{value:.1%}") for name, value in result.valid.items()],
        ),
        Table(
            "Which marked point is nearest, read from the generated map",
            ("points", "correct", "mean map", "chance"),
            [
                (count, f"{value:.1%}", f"{result.chance[count]:.1%}", f"{1 / int(count):.1%}")
                for count, value in result.order.items()
            ],
            "Points at medium height, as in HardBLINK; the answer is the nearest point of the decoded map.",
        ),
        Table(
            "Processor seconds",
            ("stage", "seconds"),
            [(name, f"{value:.0f}") for name, value in result.seconds.items()],
        ),
    ]


def _make_figures(result: DemoResult) -> list[Figure]:
    try:
        from matplotlib.figure import Figure as Plot
    except ImportError as error:
        raise MissingExtraError("matplotlib", "demo", "the page's learning curve") from error

    plot = Plot(figsize=(6, 3))
    axes = plot.add_subplot()
    axes.plot([point.step for point in result.curve], [point.held_out for point in result.curve], marker="o", ms=3)
    axes.axhline(float(np.log(128)), color="grey", linestyle=":", label="uniform guessing (ln 128)")
    axes.set_xlabel("updates")
    axes.set_ylabel("nats per code, held out")
    axes.legend()
    return [
        Figure("Learning curve", figure_to_svg(plot), "Cross entropy of the true codes, given the true ones before.")
    ]


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demonstration.

    Attributes:
        model: Size of the model.
        training: Settings of its training.
        scenes: Number of training scenes.
        held_out: Number of held-out scenes, of another seed.
        temperature: Temperature of the codec's soft codes (Eq. 1), above 0.

    Raises:
        ConfigError: No scene, or a temperature that is not positive.
    """

    model: SmallLlavaConfig = field(default_factory=SmallLlavaConfig)
    training: SmallTraining = field(default_factory=SmallTraining)
    scenes: int = 2400
    held_out: int = 64
    temperature: float = 0.02

    def __post_init__(self) -> None:
        for name in ("scenes", "held_out"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is a number of scenes of at least 1; got {getattr(self, name)}")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature is above 0; got {self.temperature}")


def run_demo(
    folder: str | os.PathLike[str],
    config: DemoConfig | None = None,
    *,
    device: str = "cpu",
    keep_cache: bool = False,
    force: bool = False,
    progress: Progress = _show_no_progress,
) -> tuple[DemoResult, Path]:
    """Build the small LLaVA, make scenes, train, generate the depth of held-out scenes, and write a page.

    An interrupted or killed demonstration is resumed by the same call, in the middle of the scenes and of the training,
    with the same result. A finished one is read, not run again. It leaves `demo.html`, `result.json` (the figures) and
    `trained` (the checkpoint, for `load_llava`); the untrained model, the scenes and the training's checkpoint, some
    600 MB, are in `work` until it is finished.

    Args:
        folder: The output folder, created where it is missing.
        config: The settings.
        device: Where the model computes; the scenes are rendered on the CPU.
        keep_cache: Keep `work`, for a further demonstration of the same scenes.
        force: Replace a finished demonstration.
        progress: Shows the progress of each stage.

    Returns:
        The figures, and the page.

    Raises:
        CheckpointError: A package that carries weights is not installed; the message says how.
        MissingExtraError: The extra `demo` is not installed.
        OutputError: The folder holds a finished demonstration of other settings and `force` is not set, is being
            written by another process, or cannot be written.
    """
    config = config or DemoConfig()
    output = Path(folder)
    page, work = output / _PAGE, output / _WORK
    finished = None if force else _read_result(output, config)
    if finished is not None:
        return finished, page
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {work}: {error.strerror}") from error
    with lock_output(work, shown=output):
        result, held_out, answers = _run_stages(output, work, config, device, progress)
        write_demo_page(page, held_out, answers, result)
        with atomic_write(output / _RESULT, force=True) as file:
            file.write((json.dumps({"config": asdict(config), **asdict(result)}, indent=2) + "\n").encode())
    if not keep_cache:
        shutil.rmtree(work, ignore_errors=True)
    return result, page


def _read_result(output: Path, config: DemoConfig) -> DemoResult | None:
    """The figures of a finished demonstration; None where there is none.

    Raises:
        OutputError: It has other settings.
    """
    path = output / _RESULT
    if not (path.is_file() and (output / _PAGE).is_file() and (output / _TRAINED).is_dir()):
        return None
    try:
        values = parse_json(read_input(path), str(path), ConfigError)
        same = values.pop("config") == json.loads(json.dumps(asdict(config)))
        result = config_from_dict(DemoResult, values) if same else None
    except (ConfigError, AttributeError, KeyError, OSError) as error:
        raise OutputError(f"{path} is not the result of a demonstration; replace it with force (--force)") from error
    if result is None:
        raise OutputError(
            f"{output} holds a demonstration of other settings; choose another folder, or replace it with force "
            "(--force)"
        )
    return result


def _run_stages(
    output: Path, work: Path, config: DemoConfig, device: str, progress: Progress
) -> tuple[DemoResult, SmallDataset, list[DepthAnswer]]:
    """The figures, the held-out scenes and the answers; writes `trained`, and into `work` what resumes it."""
    codec = DepthCodec.from_pretrained()
    timer = _StageTimer(work / "seconds.json")
    with progress("model", 1) as advance:
        model, processor, vocab = prepare_model(work, codec, config)
        model.to(device)
        advance()
    timer.finish("model")
    families = (("scenes", _TRAINING_SEED, config.scenes), ("held-out scenes", _HELD_OUT_SEED, config.held_out))
    dataset, held_out = (_prepare_dataset(work, codec, config, model, *family, progress) for family in families)
    timer.finish("scenes")
    checkpoint = work / f"{_make_name('training', [asdict(config), codec.fingerprint])}.safetensors"
    with progress("training", config.training.max_steps) as advance:
        curve = train_depth(model, processor, vocab, dataset, held_out, config.training, advance, checkpoint=checkpoint)
    timer.finish("training", curve[-1].processor_seconds)
    with atomic_folder(output / _TRAINED, force=True, marker=MANIFEST, patterns=CHECKPOINT_FILES) as trained:
        for part in (model, processor, vocab):
            part.save_pretrained(trained)
    with progress("answers", 2 * config.held_out) as advance:
        answers, free = (
            answer_depth(
                *(model, processor, vocab, codec, held_out),
                constrained=constrained,
                bf16=config.training.bf16,
                advance=advance,
            )
            for constrained in (True, False)
        )
    timer.finish("answers")
    result = score_answers(codec, dataset, held_out, answers, free, curve, timer.seconds)
    return result, held_out, answers


def prepare_model(folder: str | os.PathLike[str], codec: DepthCodec, config: DemoConfig) -> tuple[Any, Any, Any]:
    """The untrained model, processor and vocabulary of an output folder; built where they are not there yet."""
    path = Path(folder) / _make_name("model", [asdict(config.model), codec.fingerprint])
    if not (path / "config.json").is_file():
        size = config.model.image_size
        images = [render_yard(_CALIBRATION_SEED, number, size).image for number in range(_CALIBRATION_IMAGES)]
        with atomic_folder(path) as building:
            build_small_llava(building, codec, normalize_images(np.stack(images)), config.model)
    return load_llava(path, codec=codec, dtype=torch.float32)


def _prepare_dataset(
    folder: Path,
    codec: DepthCodec,
    config: DemoConfig,
    model: Any,
    name: str,
    seed: int,
    count: int,
    progress: Progress,
) -> SmallDataset:
    """Scenes 0 .. count - 1 of a seed; cached in the folder."""
    facts = [asdict(config.model), codec.fingerprint, seed, config.temperature]
    with progress(name, count) as advance:
        return make_dataset(
            seed,
            count,
            model.model.vision_tower,
            codec,
            temperature=config.temperature,
            cache=folder / _make_name("scenes", facts),
            advance=advance,
        )


def _make_name(stem: str, facts: object) -> str:
    return f"{stem}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]}"


class _StageTimer:
    """Processor seconds of the stages, all threads together; those of an interrupted run are added.

    Args:
        path: Where they are kept.
    """

    def __init__(self, path: Path) -> None:
        self.seconds: dict[str, float] = {}
        if path.is_file():
            self.seconds = dict(parse_json(read_input(path), str(path), OutputError))
        self._path = path
        self._start = time.process_time()

    def finish(self, stage: str, seconds: float | None = None) -> None:
        """Add the seconds since the last stage, or set those of a stage that counts its own."""
        now = time.process_time()
        added = self.seconds.get(stage, 0.0) + now - self._start
        self.seconds[stage], self._start = round(added if seconds is None else seconds, 1), now
        with atomic_write(self._path, force=True) as file:
            file.write(json.dumps(self.seconds).encode())

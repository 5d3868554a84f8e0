"""The demonstration: data, training, constrained inference, a page of pictures; from installed packages alone."""

from __future__ import annotations

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

from perceptok.depth.codec import DepthCodec
from perceptok.files import atomic_folder, atomic_write
from perceptok.llava.loading import load_llava
from perceptok.llava.small.answers import answer_depth
from perceptok.llava.small.building import SmallLlavaConfig, build_small_llava
from perceptok.llava.small.scoring import DemoResult, scored
from perceptok.llava.small.showing import write_demo_page
from perceptok.llava.small.training import SmallTraining, train_depth
from perceptok.llava.small.views import Views, make_views, normalised
from perceptok.llava.small.world import view_yard

__all__ = ["DemoConfig", "held_out_views", "run_demo", "starting_model", "training_views"]

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

"""One way to open an image: the same pixel values in training, inference, evaluation and a merged checkpoint."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

import perceptok as pt
from perceptok.data import PerceptionRecord, Turn, write_records
from perceptok.errors import ImageError, PerceptokError
from perceptok.evaluation import answer_benchmark, load_benchmark
from perceptok.images import open_image
from perceptok.llava import (
    FrameRule,
    InferenceConfig,
    PerceptionPipeline,
    QuestionFailure,
    answer_files,
    find_questions,
    load_llava,
    merge_adapter,
)
from perceptok.llava.loading import get_image_token, load_processor
from perceptok.llava.training.samples import Collator, read_samples
from tests.llava.families import save_family

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

QUESTION = "Which point is the closest?"
WIDTH, HEIGHT = 90, 60
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> how a camera stores an upright image under it."""


def upright() -> Image.Image:
    """A photo whose every corner differs."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    colours = np.stack([255 * columns / WIDTH, 255 * rows / HEIGHT, 127 + 0 * rows], axis=-1)
    return Image.fromarray(colours.astype(np.uint8))


def oversized() -> bytes:
    """The header of a PNG of 20,000 x 20,000 pixels."""
    out = io.BytesIO()
    Image.new("1", (8, 8)).save(out, "PNG")
    header = out.getvalue()
    body = header[12:16] + struct.pack(">II", 20_000, 20_000) + header[24:29]
    return header[:12] + body + struct.pack(">I", zlib.crc32(body)) + header[33:]


def write_image(kind: str, path: Path) -> None:
    photo = upright()
    if kind.startswith("orientation"):
        orientation = int(kind.split("-")[1])
        exif, stored = Image.Exif(), STORED[orientation]
        exif[0x0112] = orientation
        (photo if stored is None else photo.transpose(stored)).save(path, "PNG", exif=exif)
    elif kind in ("RGBA", "LA"):
        layer = photo.convert(kind)
        layer.putalpha(Image.fromarray(np.linspace(0, 255, WIDTH).astype(np.uint8)[None].repeat(HEIGHT, 0)))
        layer.save(path, "PNG")
    elif kind == "P":
        photo.quantize(16).save(path, "PNG", transparency=3)
    elif kind == "grey-16":
        grey = np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
        Image.fromarray(grey).save(path, "PNG")
    elif kind == "grey-16-key":
        Image.fromarray(np.linspace(0, 65535, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)).save(
            path, "PNG", transparency=0
        )
    elif kind == "1":
        photo.convert("1").save(path, "PNG")
    elif kind in ("GIF", "WEBP"):
        photo.save(path, kind, save_all=True, append_images=[photo.rotate(180)])
    elif kind == "CMYK":
        photo.convert("CMYK").save(path, "TIFF")
    elif kind == "truncated":
        out = io.BytesIO()
        photo.resize((900, 600)).save(out, "JPEG")
        path.write_bytes(out.getvalue()[:3000])
    else:
        path.write_bytes(oversized())


KINDS = (
    *(f"orientation-{number}" for number in STORED),
    "RGBA",
    "LA",
    "P",
    "grey-16",
    "grey-16-key",
    "CMYK",
    "1",
    "GIF",
    "WEBP",
)


class Family(NamedTuple):
    """A pipeline, and the processor that its checkpoint has for others, with the token of an image."""

    pipe: PerceptionPipeline
    saved: Any
    image_token: str


@pytest.fixture(scope="module", params=["llava", "llava_onevision", "idefics3", "qwen2_5_vl"])
def family(
    request: pytest.FixtureRequest, tiny_adapter: Path, codec: pt.DepthCodec, tmp_path_factory: pytest.TempPathFactory
) -> Family:
    folder, config = tmp_path_factory.mktemp(request.param), InferenceConfig(max_new_tokens=1)
    if request.param == "llava":  # a merged adapter, whose processor stock transformers loads
        merge_adapter(tiny_adapter, folder / "merged")
        saved = transformers.AutoProcessor.from_pretrained(folder / "merged")  # type: ignore[no-untyped-call]
        return Family(PerceptionPipeline.from_pretrained(tiny_adapter, config=config), saved, "<image>")
    model, processor, vocab = load_llava(save_family(request.param, folder / "base"), codec=codec)
    processor.save_pretrained(folder / "saved")  # as merge_adapter does
    pipe = PerceptionPipeline(model, processor, vocab, codec=codec, config=config)
    return Family(pipe, load_processor(folder / "saved"), get_image_token(processor))


def records_of(image: Path) -> Path:
    turns = (Turn("user", QUESTION), Turn("assistant", "(A)"))
    record = PerceptionRecord("r", (image.name,), turns, "depth", "direct", answer="A", choices=("A", "B"))
    write_records(image.parent / "records.jsonl", [record], force=True)
    return image.parent / "records.jsonl"


def in_training(pipe: PerceptionPipeline, image: Path, rule: FrameRule | None = None) -> Tensor:
    frame = rule or FrameRule()
    samples = read_samples((str(records_of(image)),), pipe.processor, pipe.vocab, frame, max_length=2048)
    batch = Collator(pipe.processor, pipe.vocab, frame)(samples.samples)
    return torch.as_tensor(batch["pixel_values"])


def seen_by_model(pipe: PerceptionPipeline, ask: Any) -> Tensor:
    """The pixel values that reach the vision tower while something is asked."""
    seen: list[Tensor] = []
    names = (".vision_tower", ".vision_model", ".visual")
    tower = next(module for name, module in pipe.model.named_modules() if name.endswith(names))
    hook = tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("pixel_values", args[0] if args else None)), with_kwargs=True
    )
    try:
        ask()
    finally:
        hook.remove()
    is_flat = pipe.model.config.model_type in ("idefics3", "llava_onevision")  # towers get the tiles of all images
    return seen[0].unsqueeze(0) if is_flat else seen[0]


def infer(pipe: PerceptionPipeline, image: Path) -> list[QuestionFailure]:
    """What `perceptok llava infer` does with a file."""
    questions, failures = find_questions([image], question=QUESTION)
    return [*failures, *answer_files(pipe, questions, image.parent / "answers.jsonl", force=True)]


def in_evaluation(pipe: PerceptionPipeline, image: Path) -> None:
    benchmark = load_benchmark("records", records_of(image))
    answer_benchmark(pipe, benchmark, image.parent / "predictions.jsonl", start_over=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_pixels_reach_the_model_everywhere(kind: str, family: Family, tmp_path: Path) -> None:
    pipe = family.pipe
    path = tmp_path / "photo.img"
    write_image(kind, path)
    trained = in_training(pipe, path)
    assert trained.std() > 0.1, "an image without content would hide a difference"
    torch.testing.assert_close(seen_by_model(pipe, lambda: pipe(path, QUESTION)), trained, rtol=0, atol=0)
    torch.testing.assert_close(seen_by_model(pipe, lambda: infer(pipe, path)), trained, rtol=0, atol=0)
    torch.testing.assert_close(seen_by_model(pipe, lambda: in_evaluation(pipe, path)), trained, rtol=0, atol=0)
    torch.testing.assert_close(seen_by_model(pipe, lambda: [*pipe.stream(path, QUESTION)]), trained, rtol=0, atol=0)
    inputs = family.saved(images=[FrameRule().apply(open_image(path))], text=family.image_token, return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], trained, rtol=0, atol=0)
    if kind.startswith("orientation"):
        plain = tmp_path / "plain.png"
        upright().save(plain)
        torch.testing.assert_close(trained, in_training(pipe, plain), rtol=0, atol=0)


def test_a_transparent_grey_of_16_bits_is_white(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    write_image("grey-16-key", path)
    opened = np.asarray(open_image(path))
    assert opened[0, 0].tolist() == [255] * 3
    assert opened[0, 25].tolist() == [1] * 3


@pytest.mark.parametrize("kind", ["truncated", "oversized"])
def test_what_is_refused_is_refused_everywhere_with_the_same_reason(kind: str, family: Family, tmp_path: Path) -> None:
    pipe = family.pipe
    path = tmp_path / "photo.img"
    write_image(kind, path)
    with pytest.raises(ImageError) as opened:
        open_image(path)
    reason = str(opened.value).removeprefix(str(path))
    assert len(reason) > 20
    for ask in (
        lambda: in_training(pipe, path),
        lambda: pipe(path, QUESTION),
        lambda: [*pipe.stream(path, QUESTION)],
        lambda: in_evaluation(pipe, path),
    ):
        with pytest.raises(PerceptokError) as caught:
            ask()
        assert reason in str(caught.value), json.dumps([reason, str(caught.value)])
    (failure,) = infer(pipe, path)
    assert reason in failure.reason

"""The interpolation of a frame: saved with the model, and the same in training, inference, evaluation and engines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import perceptok as pt
from perceptok.errors import ConfigError
from perceptok.images import open_image
from perceptok.llava import FrameRule, InferenceConfig, PerceptionPipeline, load_adapter, load_llava, merge_adapter
from perceptok.llava.adapter_record import ADAPTER_FILE
from perceptok.llava.framing import Interpolation
from perceptok.llava.saving import save_adapter
from tests.llava.families import save_family
from tests.llava.test_image_opening import QUESTION, in_evaluation, in_training, infer, seen_by_model, upright
from tests.llava.tiny import SIDE, tiny_trained

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)
    Image.blend(upright().resize((130, 90)), Image.fromarray(noise), 0.5).save(path)
    return path


def save_with(rule: FrameRule, base: Path, codec: pt.DepthCodec, folder: Path) -> Path:
    model, processor, vocab = tiny_trained(base, codec, rule=rule)
    return save_adapter(folder, model, processor, vocab, codec, base=base, verify="file")


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_the_same_pixels_everywhere(
    interpolation: Interpolation, tiny_llava: Path, codec: pt.DepthCodec, photo: Path, tmp_path: Path
) -> None:
    rule = FrameRule("squash", SIDE, interpolation)
    adapter = save_with(rule, tiny_llava, codec, tmp_path / "adapter")
    assert json.loads((adapter / ADAPTER_FILE).read_text())["frame"]["interpolation"] == interpolation
    pipe = PerceptionPipeline.from_pretrained(adapter, config=InferenceConfig(max_new_tokens=1))
    assert pipe.frame == load_adapter(adapter).frame == rule
    trained = in_training(pipe, photo, rule)
    for other in set(get_args(Interpolation)) - {interpolation}:
        assert (in_training(pipe, photo, FrameRule("squash", SIDE, other)) - trained).abs().max() > 0.1
    for ask in (lambda: pipe(photo, QUESTION), lambda: infer(pipe, photo), lambda: in_evaluation(pipe, photo)):
        torch.testing.assert_close(seen_by_model(pipe, ask), trained, rtol=0, atol=0)
    merge_adapter(adapter, tmp_path / "merged")
    merged = PerceptionPipeline.from_pretrained(tmp_path / "merged", config=InferenceConfig(max_new_tokens=1))
    assert merged.frame == rule
    torch.testing.assert_close(seen_by_model(merged, lambda: merged(photo, QUESTION)), trained, rtol=0, atol=0)
    # An engine without perceptok gives the image as it is to the processor, which resizes it in the same way.
    stock: Any = transformers.AutoProcessor.from_pretrained(tmp_path / "merged")  # type: ignore[no-untyped-call]
    raw = stock(images=[open_image(photo)], text="<image>", return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(raw, trained, rtol=0, atol=0)


def test_letterbox(photo: Path) -> None:
    image = open_image(photo)
    nearest, bicubic = (FrameRule("letterbox", 48, name).apply(image) for name in ("nearest", "bicubic"))
    assert np.abs(np.subtract(nearest, bicubic, dtype=np.int64)).max() > 10
    assert {tuple(pixel) for pixel in np.asarray(nearest)[8:-8].reshape(-1, 3).tolist()} <= {
        tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()
    }  # no colour that the image does not have


def test_a_frame_recorded_without_one_is_bicubic(tiny_adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_adapter, tmp_path / "old")
    record = json.loads((tmp_path / "old" / ADAPTER_FILE).read_text())
    del record["frame"]["interpolation"]
    record["base"]["source"] = str(tiny_adapter.parent / "llava")
    (tmp_path / "old" / ADAPTER_FILE).write_text(json.dumps(record))
    assert load_adapter(tmp_path / "old").frame == FrameRule("squash", 336, "bicubic")


def test_the_recorded_frame_holds(tiny_llava: Path, codec: pt.DepthCodec, tmp_path: Path) -> None:
    rule = FrameRule("squash", SIDE, "nearest")
    model, processor, vocab = load_llava(tiny_llava, codec=codec, frame=rule)
    assert PerceptionPipeline(model, processor, vocab, codec=codec).frame == rule
    assert PerceptionPipeline(model, processor, vocab, codec=codec, frame="squash").frame == rule
    with pytest.raises(ConfigError, match=r"trained with the frame .*'nearest'.*, not .*'bilinear'"):
        PerceptionPipeline(model, processor, vocab, codec=codec, frame=FrameRule("squash", SIDE, "bilinear"))
    with pytest.raises(ConfigError, match="it would see other images than in training"):
        PerceptionPipeline(model, processor, vocab, codec=codec, frame="letterbox")


def test_unknown() -> None:
    with pytest.raises(ConfigError, match="interpolation is one of nearest, bilinear, bicubic; got 'lanczos'"):
        FrameRule("squash", 336, "lanczos")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is resized by the model's processor, not by 'nearest'"):
        FrameRule("processor", interpolation="nearest")


@pytest.mark.parametrize("family", ["idefics3", "llava_next"])
def test_a_frame_that_cannot_be_asked_is_refused_before_training(
    family: str, codec: pt.DepthCodec, tmp_path: Path
) -> None:
    folder = save_family(family, tmp_path / "base")
    with pytest.raises(ConfigError, match=r"the frame 'processor' cannot be used with this model .*choose squash or"):
        load_llava(folder, codec=codec, frame="processor")

"""transformers' depth estimators and detectors: real loading code on tiny models with random weights."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from perceptok.data.specialists.transformers_models import TransformersBoxes, TransformersDepth
from perceptok.errors import SpecialistError

RNG = np.random.default_rng(0)
PHOTOS = [Image.fromarray(RNG.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((40, 60), (70, 50), (40, 60))]


def dinov2() -> dict[str, Any]:
    return {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "reshape_hidden_states": False,
        "apply_layernorm": True,
    }


def depth_anything(kind: str) -> Any:
    config = hf.DepthAnythingConfig(
        backbone_config=hf.AutoConfig.for_model(**dinov2()),
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type=kind,
        max_depth=10 if kind == "metric" else 1,
    )
    return hf.DepthAnythingForDepthEstimation(config)


def save(folder: Path, model: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def processor() -> Any:
    return hf.DPTImageProcessor(size={"height": 56, "width": 56}, ensure_multiple_of=14, do_pad=False)


@pytest.fixture(scope="module")
def relative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("relative"), depth_anything("relative"), processor())


def test_depth_anything_maps_have_image_size(relative: Path) -> None:
    specialist = TransformersDepth(relative, kind="inverse")
    maps = specialist.estimate(PHOTOS)
    assert [depth_map.values.shape for depth_map in maps] == [(40, 60), (70, 50), (40, 60)]
    assert {depth_map.kind for depth_map in maps} == {"inverse"}
    for depth_map, image in zip(maps, PHOTOS, strict=True):
        np.testing.assert_array_equal(depth_map.values, specialist.estimate([image])[0].values)
    batched = TransformersDepth(relative, kind="inverse", batch_size=4)
    for batch_map, depth_map in zip(batched.estimate(PHOTOS), maps, strict=True):
        np.testing.assert_allclose(batch_map.values, depth_map.values, atol=1e-5)
    assert batched.fingerprint != specialist.fingerprint
    assert pickle.loads(pickle.dumps(specialist)).fingerprint == specialist.fingerprint  # noqa: S301


def test_metric_depth_anything(tmp_path: Path, relative: Path) -> None:
    folder = save(tmp_path, depth_anything("metric"), processor())
    (depth_map,) = TransformersDepth(folder, kind="metric").estimate(PHOTOS[:1])
    assert depth_map.kind == "metric"
    assert depth_map.values.max() <= 10
    with pytest.raises(
        SpecialistError, match="gives metric depth according to its config, but kind is declared as inverse"
    ):
        TransformersDepth(folder, kind="inverse").estimate(PHOTOS[:1])
    with pytest.raises(SpecialistError, match="gives inverse depth"):
        TransformersDepth(relative, kind="metric").estimate(PHOTOS[:1])


def test_dpt(tmp_path: Path) -> None:
    config = hf.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
    )
    folder = save(tmp_path, hf.DPTForDepthEstimation(config), hf.DPTImageProcessor(size={"height": 32, "width": 32}))
    maps = TransformersDepth(folder, kind="inverse").estimate(PHOTOS)
    assert [depth_map.values.shape for depth_map in maps] == [(40, 60), (70, 50), (40, 60)]


def test_zoedepth_is_metric(tmp_path: Path) -> None:
    backbone = hf.BeitConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=64,
        patch_size=16,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        use_relative_position_bias=True,
    )
    config = hf.ZoeDepthConfig(
        backbone_config=backbone,
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=8,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0, "name": "nyu"}],
    )
    image_processor = hf.ZoeDepthImageProcessor(size={"height": 64, "width": 64})
    folder = save(tmp_path, hf.ZoeDepthForDepthEstimation(config), image_processor)
    maps = TransformersDepth(folder, kind="metric").estimate(PHOTOS[:2])
    assert [depth_map.values.shape for depth_map in maps] == [(40, 60), (70, 50)]
    with pytest.raises(SpecialistError, match="gives metric depth"):
        TransformersDepth(folder, kind="inverse").estimate(PHOTOS[:1])


def test_detector(tmp_path: Path) -> None:
    config = hf.YolosConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=12,
        id2label={0: "dog", 1: "cat"},
    )
    image_processor = hf.YolosImageProcessor(size={"height": 64, "width": 64}, do_pad=False)
    folder = save(tmp_path, hf.YolosForObjectDetection(config), image_processor)
    specialist = TransformersBoxes(folder, score_threshold=0.01)
    found = specialist.detect(PHOTOS, ["a", "b", "c"])
    assert [(boxes.name, boxes.width, boxes.height) for boxes in found] == [("a", 60, 40), ("b", 50, 70), ("c", 60, 40)]
    assert sum(len(boxes.boxes) for boxes in found) > 0
    for boxes in found:
        assert {*boxes.labels.names} <= {"dog", "cat"}
        assert (boxes.boxes >= 0).all()
        assert (boxes.boxes <= [boxes.width, boxes.height] * 2).all()
        assert list(boxes.labels.scores) == sorted(boxes.labels.scores, reverse=True)
    with pytest.raises(SpecialistError, match="no model of the class AutoModelForDepthEstimation can be made of it"):
        TransformersDepth(folder, kind="inverse").estimate(PHOTOS[:1])
    with pytest.raises(SpecialistError, match="cannot be loaded"):
        TransformersBoxes(tmp_path / "gone").detect(PHOTOS[:1], ["a"])
    with pytest.raises(SpecialistError, match="score_threshold lies"):
        TransformersBoxes(folder, score_threshold=0)
    with pytest.raises(SpecialistError, match="batch_size"):
        TransformersBoxes(folder, batch_size=0)
    with pytest.raises(SpecialistError, match="kind is inverse or metric"):
        TransformersDepth(folder, kind="deep")  # type: ignore[arg-type]


def copy_with(folder: Path, target: Path, name: str, **changes: Any) -> Path:
    """A copy of a model's folder with other values in one of its JSON files."""
    shutil.copytree(folder, target)
    values = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps({**values, **changes}))
    return target


def test_models_are_checked_when_they_are_opened(tmp_path: Path, relative: Path) -> None:
    """A checkpoint of another task, the processor of another model, damaged weights: before any image is read."""

    def refuse(folder: Path, message: str) -> None:
        with pytest.raises(SpecialistError, match=message):
            TransformersDepth(folder, kind="inverse").model_and_processor  # noqa: B018 - loads the model

    segmentation = {"architectures": ["DPTForSemanticSegmentation"]}
    refuse(copy_with(relative, tmp_path / "a", "config.json", **segmentation), "a checkpoint of DPTForSemanticSegment")
    other = {"image_processor_type": "YolosImageProcessor", "size": {"height": 56, "width": 56}}
    refuse(copy_with(relative, tmp_path / "b", "preprocessor_config.json", **other), "of another task: save the")
    odd = {"size": {"height": 7, "width": 7}, "ensure_multiple_of": 1}
    refuse(
        copy_with(relative, tmp_path / "c", "preprocessor_config.json", **odd), "cannot be run on an image of 160x120"
    )
    model = depth_anything("relative")
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.fill_(float("nan"))
    refuse(save(tmp_path / "d", model, processor()), "for a test image, its depth map has no finite number")


def test_detectors_are_checked_when_they_are_opened(tmp_path: Path) -> None:
    config = hf.YolosConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=4,
        id2label={0: "dog", 1: "cat"},
    )
    image_processor = hf.YolosImageProcessor(size={"height": 64, "width": 64}, do_pad=False)
    model = hf.YolosForObjectDetection(config)
    with torch.no_grad():
        next(model.bbox_predictor.parameters()).fill_(float("nan"))
    folder = save(tmp_path / "nan", model, image_processor)
    with pytest.raises(SpecialistError, match="for a test image, its logits or boxes are not finite"):
        TransformersBoxes(folder).model_and_processor  # noqa: B018 - loads the model
    named = TransformersBoxes(folder)
    output = hf.modeling_outputs.ModelOutput(logits=torch.zeros(1, 4, 7), pred_boxes=torch.zeros(1, 4, 4))
    assert "logits are of 7 classes, but its config names 2" in named.find_problem(output, config)
    assert "expected `logits`" in named.find_problem(hf.modeling_outputs.ModelOutput(logits=torch.zeros(1, 4)), config)


MALICIOUS = """
from pathlib import Path
from transformers import PretrainedConfig

Path({marker!r}).touch()

class EvilConfig(PretrainedConfig):
    model_type = "evil"
"""


def add_code(folder: Path, **changes: object) -> Path:
    """Add a module to a folder that creates a file when it is imported, and name it in `auto_map`."""
    marker = folder / "code-was-run"
    (folder / "evil.py").write_text(MALICIOUS.format(marker=str(marker)))
    for name, classes in (
        ("config.json", ("AutoConfig", "AutoModelForDepthEstimation", "AutoModelForObjectDetection")),
        ("preprocessor_config.json", ("AutoImageProcessor",)),
    ):
        values = json.loads((folder / name).read_text())
        auto_map = dict.fromkeys(classes, "evil.EvilConfig")
        (folder / name).write_text(json.dumps({**values, **changes, "auto_map": auto_map}))
    return marker


@pytest.mark.parametrize(
    "specialist", [lambda folder: TransformersDepth(folder, kind="inverse"), TransformersBoxes], ids=["depth", "boxes"]
)
def test_code_of_a_model_is_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, specialist: Callable[[Path], Any]
) -> None:
    """Not even for a user who answers the question of transformers with yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = save(tmp_path, depth_anything("relative"), processor())
    marker = add_code(folder, model_type="evil", image_processor_type="EvilProcessor")
    with pytest.raises(SpecialistError, match="code that comes with a model is never run") as refusal:
        specialist(folder).model_and_processor  # noqa: B018 - loads the model
    assert not marker.exists()
    for advice in ("trust_remote_code", "trust", "custom code to be run", "\n"):
        assert advice not in str(refusal.value)


def test_a_known_model_with_code_is_loaded_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: Path
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = Path(shutil.copytree(relative, tmp_path / "with-code"))
    marker = add_code(folder)
    (depth_map,) = TransformersDepth(folder, kind="inverse").estimate(PHOTOS[:1])
    (expected,) = TransformersDepth(relative, kind="inverse").estimate(PHOTOS[:1])
    np.testing.assert_array_equal(depth_map.values, expected.values)
    assert not marker.exists()

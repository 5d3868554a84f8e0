"""Frames of real image processors: the same image, pixel for pixel, and what cannot be read is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    BlipImageProcessorPil,
    BridgeTowerImageProcessorPil,
    ChineseCLIPImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    GLPNImageProcessorPil,
    Idefics3ImageProcessorPil,
    LevitImageProcessorPil,
    LlavaImageProcessorPil,
    LlavaNextImageProcessorPil,
    MobileNetV2ImageProcessorPil,
    Owlv2ImageProcessorPil,
    Qwen2VLImageProcessorPil,
    Siglip2ImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)

from perceptok.boxes import ImageFrame, infer_frame
from perceptok.errors import BoxError

SQUARE = {"shortest_edge": 336}
CROP = {"height": 336, "width": 336}

PROCESSORS: dict[str, tuple[Any, str]] = {
    "LLaVA-1.5": (LlavaImageProcessorPil(size=SQUARE, crop_size=CROP), "center_crop"),
    "LLaVA-1.5 padded": (LlavaImageProcessorPil(size=SQUARE, crop_size=CROP, do_pad=True), "letterbox"),
    "CLIP 224": (CLIPImageProcessorPil(), "center_crop"),
    "CLIP 336": (CLIPImageProcessorPil(size=SQUARE, crop_size=CROP), "center_crop"),
    "CLIP squashing": (CLIPImageProcessorPil(size=CROP, crop_size=CROP, do_center_crop=False), "squash"),
    "CLIP, odd crop": (CLIPImageProcessorPil(size=SQUARE, crop_size={"height": 225, "width": 225}), "center_crop"),
    "CLIP, crop larger": (CLIPImageProcessorPil(size={"shortest_edge": 101}), "center_crop"),
    "CLIP, not resized": (CLIPImageProcessorPil(do_resize=False), "center_crop"),
    "CLIP, both edges": (CLIPImageProcessorPil(size={"shortest_edge": 200, "longest_edge": 300}), "center_crop"),
    "CLIP, at most": (
        CLIPImageProcessorPil(
            size={"max_height": 224, "max_width": 224},
            do_center_crop=False,
            do_pad=True,
            pad_size={"height": 224, "width": 224},
            do_normalize=False,
        ),
        "letterbox",
    ),
    "CLIP, nearest": (CLIPImageProcessorPil(resample=Image.Resampling.NEAREST), "center_crop"),
    "SigLIP": (SiglipImageProcessorPil(size={"height": 384, "width": 384}), "squash"),
    "ViT": (ViTImageProcessorPil(), "squash"),
    "DeiT": (DeiTImageProcessorPil(), "center_crop"),
    "BLIP": (BlipImageProcessorPil(), "squash"),
    "BiT": (BitImageProcessorPil(), "center_crop"),
    "Chinese CLIP": (ChineseCLIPImageProcessorPil(), "center_crop"),
    "MobileNetV2": (MobileNetV2ImageProcessorPil(), "center_crop"),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("image_size", [(320, 240), (240, 321), (101, 57), (150, 150), (37, 200), (1, 3)])
def test_the_picture_is_the_processors_own(name: str, image_size: tuple[int, int]) -> None:
    processor, mode = PROCESSORS[name]
    frame = infer_frame(processor, image_size)
    assert frame.mode == mode
    noise = np.random.default_rng(0).integers(0, 256, (image_size[1], image_size[0], 3), dtype=np.uint8)
    got = processor(Image.fromarray(noise), return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"]
    np.testing.assert_array_equal(got[0], frame.apply(noise).transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["LLaVA-1.5", "LLaVA-1.5 padded", "SigLIP", "CLIP, at most"])
def test_a_dot_lands_where_its_coordinates_say(name: str) -> None:
    processor, _ = PROCESSORS[name]
    frame = infer_frame(processor, (640, 480))
    image = np.zeros((480, 640, 3), dtype=np.uint8)
    image[200:204, 300:304] = 255
    image = processor(image, return_tensors="np", do_normalize=False)["pixel_values"][0][2]
    near = frame.to_frame([302, 202])
    rows, columns = np.mgrid[: frame.size, : frame.size]
    # The padding has a colour of its own.
    weight = np.where((np.abs(columns - near[0]) < 12) & (np.abs(rows - near[1]) < 12), image, 0)
    centre = ((weight * (columns + 0.5)).sum(), (weight * (rows + 0.5)).sum()) / weight.sum()
    np.testing.assert_allclose(centre, near, atol=0.1)


def test_llava_by_hand() -> None:
    cropped = infer_frame(PROCESSORS["LLaVA-1.5"][0], (640, 480))
    assert cropped == ImageFrame.center_crop((640, 480))
    padded = infer_frame(PROCESSORS["LLaVA-1.5 padded"][0], (640, 480))
    np.testing.assert_allclose(padded.to_frame([[0, 0], [640, 480]]), [[0, 42], [336, 294]], atol=1e-9)
    assert padded.fill == (122, 116, 104)


def test_padding_after_normalising_has_the_mean_colour() -> None:
    processor = CLIPImageProcessorPil(
        size={"max_height": 224, "max_width": 224},
        do_center_crop=False,
        do_pad=True,
        pad_size={"height": 224, "width": 224},
    )
    frame = infer_frame(processor, (640, 480))
    assert (frame.mode, frame.fill) == ("letterbox", (123, 117, 104))
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    got = processor(noise, return_tensors="np")["pixel_values"][0]
    levels = (got * np.reshape(processor.image_std, (3, 1, 1)) + np.reshape(processor.image_mean, (3, 1, 1))) * 255
    np.testing.assert_allclose(levels, frame.apply(noise).transpose(2, 0, 1), atol=0.5)


def test_a_processor_that_holds_one() -> None:
    held = SimpleNamespace(image_processor=PROCESSORS["SigLIP"][0])
    assert infer_frame(held, (640, 480)) == ImageFrame.squash((640, 480), 384)


def test_without_verifying_nothing_is_run() -> None:
    bare = SimpleNamespace(do_resize=True, size={"height": 448, "width": 448}, resample=None)
    frame = infer_frame(bare, (640, 480), verify=False)
    assert frame == ImageFrame.squash((640, 480), 448, resample="bilinear")


@pytest.mark.parametrize(("backend", "offset"), [("pil", (62, -104)), ("torchvision", (61, -104))])
def test_the_backends_put_an_odd_pixel_of_padding_at_different_ends(backend: str, offset: tuple[int, int]) -> None:
    bare = SimpleNamespace(do_center_crop=True, crop_size=224, backend=backend)
    assert infer_frame(bare, (101, 433), verify=False).offset == offset


class TestRefused:
    def test_pictures_that_are_not_square(self) -> None:
        processor = CLIPImageProcessorPil(size=SQUARE, do_center_crop=False)
        with pytest.raises(BoxError, match=r"an image of \(448, 336\) \(width, height\) of an image of \(640, 480\)"):
            infer_frame(processor, (640, 480))
        assert infer_frame(processor, (480, 480)) == ImageFrame.squash((480, 480))

    @pytest.mark.parametrize("processor", [LlavaNextImageProcessorPil(), Idefics3ImageProcessorPil()])
    @pytest.mark.parametrize("verify", [True, False])
    def test_pieces(self, processor: Any, verify: bool) -> None:
        with pytest.raises(BoxError, match=f"{type(processor).__name__} makes several tiles of an image"):
            infer_frame(processor, (640, 480), verify=verify)

    @pytest.mark.parametrize("processor", [ConvNextImageProcessorPil(), LevitImageProcessorPil()])
    def test_what_the_attributes_do_not_tell(self, processor: Any) -> None:
        """Both enlarge by 256/224 before cropping, in code of their own."""
        with pytest.raises(BoxError, match=r"does not do what its attributes say|makes an image of"):
            infer_frame(processor, (640, 480))

    def test_a_mirror(self) -> None:
        class Mirroring(CLIPImageProcessorPil):
            def resize(self, image: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
                return np.ascontiguousarray(super().resize(image, *args, **kwargs)[..., ::-1])

        with pytest.raises(BoxError, match="Mirroring does not do what its attributes say"):
            infer_frame(Mirroring(), (640, 480))

    def test_a_shift_by_one_pixel(self) -> None:
        class Shifting(CLIPImageProcessorPil):
            def center_crop(self, image: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
                return np.roll(super().center_crop(image, *args, **kwargs), 1, axis=-1)

        with pytest.raises(BoxError, match="Shifting does not do what its attributes say"):
            infer_frame(Shifting(size=SQUARE, crop_size=CROP), (640, 480))

    def test_unknown_sizes(self) -> None:
        bare = SimpleNamespace(do_resize=True, size={"min_pixels": 3, "max_pixels": 9})
        with pytest.raises(BoxError, match="resizes to"):
            infer_frame(bare, (640, 480), verify=False)

    @pytest.mark.parametrize(
        ("processor", "message"),
        [
            (Siglip2ImageProcessorPil(), "resizes to no size; a frame can be read from"),
            (GLPNImageProcessorPil(), "resizes to no size; a frame can be read from"),
            (BridgeTowerImageProcessorPil(), "crops or pads to {'shortest_edge': 288}; a frame can be read from"),
        ],
    )
    def test_sizes_that_are_missing(self, processor: Any, message: str) -> None:
        with pytest.raises(BoxError, match=message):
            infer_frame(processor, (640, 480))

    def test_pictures_under_another_name(self) -> None:
        class Videos(SiglipImageProcessorPil):
            def preprocess(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
                return {"pixel_values_videos": super().preprocess(*args, **kwargs)["pixel_values"]}

        with pytest.raises(BoxError, match="Videos makes no pixel_values of an image"):
            infer_frame(Videos(), (640, 480))

    def test_an_image_without_area(self) -> None:
        with pytest.raises(BoxError, match="a width and a height of at least one pixel"):
            infer_frame(PROCESSORS["SigLIP"][0], (0, 480))

    def test_owlv2_pads_in_its_own_way(self) -> None:
        with pytest.raises(BoxError, match=r"does not do what its attributes say|makes"):
            infer_frame(Owlv2ImageProcessorPil(), (640, 480))


class TestPatches:
    """Qwen2-VL, 2.5-VL and 3-VL: whole patches, within limits of the area."""

    @pytest.mark.parametrize("patch", [14, 16])
    @pytest.mark.parametrize("limits", [{}, {"shortest_edge": 256 * 28 * 28, "longest_edge": 300 * 28 * 28}])
    @pytest.mark.parametrize(
        "image_size", [(640, 480), (427, 640), (30, 20), (1, 1), (1400, 100), (28, 28), (56, 57), (2000, 1500)]
    )
    def test_as_the_processor_does(self, patch: int, limits: dict[str, int], image_size: tuple[int, int]) -> None:
        processor = Qwen2VLImageProcessorPil(patch_size=patch, **({"size": limits} if limits else {}))
        frame = infer_frame(processor, image_size)
        grid = processor(Image.new("RGB", image_size), return_tensors="np")["image_grid_thw"][0]
        assert frame.shape == (grid[2] * patch, grid[1] * patch)
        assert frame.resample == "bicubic"
        made = ImageFrame.smart_resize(
            image_size, factor=2 * patch, min_pixels=processor.size["shortest_edge"],
            max_pixels=processor.size["longest_edge"],
        )  # fmt: skip
        assert made == frame

    def test_a_processor_that_does_something_else(self) -> None:
        class Strange(Qwen2VLImageProcessorPil):  # type: ignore[misc]
            def preprocess(self, images: Any, **more: Any) -> Any:
                return super().preprocess(images, **{**more, "size": {"shortest_edge": 3136, "longest_edge": 40000}})

        with pytest.raises(BoxError, match="does not do what its attributes say: it makes patches"):
            infer_frame(Strange(), (640, 480))

    def test_an_image_too_long(self) -> None:
        with pytest.raises(BoxError, match="at most 200 times as long"):
            ImageFrame.smart_resize((201, 1))

"""Frames of every kind, drawn by hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from perceptok.boxes import ImageFrame

SIDES = st.integers(1, 5000)
IMAGE_SIZES = st.tuples(SIDES, SIDES)


@st.composite
def frames(draw: st.DrawFn, image_sizes: st.SearchStrategy[tuple[int, int]] = IMAGE_SIZES) -> ImageFrame:
    image_size, size = draw(image_sizes), draw(st.sampled_from([32, 224, 336, 999, 1024]))
    match draw(st.sampled_from(["squash", "letterbox", "start", "center_crop", "resized crop", "padded"])):
        case "squash":
            return ImageFrame.squash(image_size, size)
        case "letterbox":
            return ImageFrame.letterbox(image_size, size, fill=0)
        case "start":
            return ImageFrame.letterbox(image_size, size, fill=0, align="start")
        case "center_crop":
            return ImageFrame.center_crop(image_size, size)
        case "resized crop":
            return ImageFrame.center_crop(image_size, size, resize=draw(st.integers(1, 2 * size)))
        case _:  # as LLaVA pads: to a square, before resizing
            side = max(image_size)
            left, top = (side - image_size[0]) // 2, (side - image_size[1]) // 2
            padding = (left, top, side - image_size[0] - left, side - image_size[1] - top)
            return ImageFrame("letterbox", image_size, size, (size, size), padding=padding)

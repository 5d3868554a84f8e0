"""Prints hashes of images; started by test_scene_image in another process, which renders in another order."""

from __future__ import annotations

import hashlib

from perceptok.scenes import SceneImage, render_image


def hash_image(image: SceneImage) -> str:
    """SHA-256 of an image's pixels, depth, instances and visible objects."""
    arrays = image.image.tobytes() + image.depth.tobytes() + image.instance.tobytes()
    return hashlib.sha256(arrays + repr(image.visible).encode()).hexdigest()


if __name__ == "__main__":
    for number in (7, 2):
        print(hash_image(render_image(11, number, 80)))
    print(hash_image(render_image(11, 2, 80, split="heldout")))

"""Colour pictures of procedural scenes with exact truth: depth, instances, boxes, counts."""

from __future__ import annotations

from perceptok.scenes.pictures.counting import PLURALS, Sight
from perceptok.scenes.pictures.gatherings import GATHERINGS, Difficulty
from perceptok.scenes.pictures.picture import ProceduralPictures, ScenePicture, render_picture
from perceptok.scenes.pictures.splits import SPLITS

__all__ = [
    "GATHERINGS",
    "PLURALS",
    "SPLITS",
    "Difficulty",
    "ProceduralPictures",
    "ScenePicture",
    "Sight",
    "render_picture",
]

"""Colour pictures of procedural scenes with exact truth: depth, instances, boxes, counts."""

from __future__ import annotations

from perceptok.scenes.layouts.gatherings import GATHERINGS, Difficulty
from perceptok.scenes.pictures.picture import PLURALS, ProceduralPictures, ScenePicture, Sight, render_picture
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

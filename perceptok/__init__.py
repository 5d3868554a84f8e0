"""Perception tokens: depth maps and boxes as discrete tokens for multimodal language models.

Every public name is imported from its room on first use, so that `import perceptok` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perceptok.depth.codec import DepthCodec, load_aurora_checkpoint
    from perceptok.depth.maps import DepthMap, Nearness
    from perceptok.depth.training import TrainingConfig, train_depth_codec
    from perceptok.errors import MalformedBlockError, PerceptokError
    from perceptok.tokens import DEPTH, PIXEL, TokenSet
    from perceptok.vocabulary.lookup import PerceptionVocabulary

__version__ = "0.1.0"

_HOMES = {
    "DEPTH": "perceptok.tokens",
    "DepthCodec": "perceptok.depth.codec",
    "DepthMap": "perceptok.depth.maps",
    "MalformedBlockError": "perceptok.errors",
    "Nearness": "perceptok.depth.maps",
    "PIXEL": "perceptok.tokens",
    "PerceptionVocabulary": "perceptok.vocabulary.lookup",
    "PerceptokError": "perceptok.errors",
    "TokenSet": "perceptok.tokens",
    "TrainingConfig": "perceptok.depth.training",
    "load_aurora_checkpoint": "perceptok.depth.codec",
    "train_depth_codec": "perceptok.depth.training",
}

__all__ = [
    "DEPTH",
    "PIXEL",
    "DepthCodec",
    "DepthMap",
    "MalformedBlockError",
    "Nearness",
    "PerceptionVocabulary",
    "PerceptokError",
    "TokenSet",
    "TrainingConfig",
    "load_aurora_checkpoint",
    "train_depth_codec",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'perceptok' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

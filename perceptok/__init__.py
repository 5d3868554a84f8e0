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
    from perceptok.objectives.auxiliary import count_loss, marker_loss, merging_loss
    from perceptok.objectives.columns import auxiliary_log_probs
    from perceptok.objectives.curriculum import (
        LinearSchedule,
        TemperatureSchedule,
        curriculum_probabilities,
        curriculum_temperature,
    )
    from perceptok.objectives.distillation import distillation_loss
    from perceptok.objectives.reconstruction import reconstruction_loss
    from perceptok.objectives.sampler import CurriculumSampler
    from perceptok.objectives.targets import NextTokenTargets, next_token_targets
    from perceptok.objectives.weights import ObjectiveWeights
    from perceptok.tokens import DEPTH, PIXEL, TokenSet
    from perceptok.vocabulary.accumulator import AlignmentAccumulator
    from perceptok.vocabulary.alignment import VocabularyAlignment, align_vocabularies
    from perceptok.vocabulary.lookup import PerceptionVocabulary

__version__ = "0.1.0"

_HOMES = {
    "AlignmentAccumulator": "perceptok.vocabulary.accumulator",
    "CurriculumSampler": "perceptok.objectives.sampler",
    "DEPTH": "perceptok.tokens",
    "DepthCodec": "perceptok.depth.codec",
    "DepthMap": "perceptok.depth.maps",
    "LinearSchedule": "perceptok.objectives.curriculum",
    "MalformedBlockError": "perceptok.errors",
    "Nearness": "perceptok.depth.maps",
    "NextTokenTargets": "perceptok.objectives.targets",
    "ObjectiveWeights": "perceptok.objectives.weights",
    "PIXEL": "perceptok.tokens",
    "PerceptionVocabulary": "perceptok.vocabulary.lookup",
    "PerceptokError": "perceptok.errors",
    "TemperatureSchedule": "perceptok.objectives.curriculum",
    "TokenSet": "perceptok.tokens",
    "TrainingConfig": "perceptok.depth.training",
    "VocabularyAlignment": "perceptok.vocabulary.alignment",
    "align_vocabularies": "perceptok.vocabulary.alignment",
    "auxiliary_log_probs": "perceptok.objectives.columns",
    "count_loss": "perceptok.objectives.auxiliary",
    "curriculum_probabilities": "perceptok.objectives.curriculum",
    "curriculum_temperature": "perceptok.objectives.curriculum",
    "distillation_loss": "perceptok.objectives.distillation",
    "load_aurora_checkpoint": "perceptok.depth.codec",
    "marker_loss": "perceptok.objectives.auxiliary",
    "merging_loss": "perceptok.objectives.auxiliary",
    "next_token_targets": "perceptok.objectives.targets",
    "reconstruction_loss": "perceptok.objectives.reconstruction",
    "train_depth_codec": "perceptok.depth.training",
}

__all__ = [
    "DEPTH",
    "PIXEL",
    "AlignmentAccumulator",
    "CurriculumSampler",
    "DepthCodec",
    "DepthMap",
    "LinearSchedule",
    "MalformedBlockError",
    "Nearness",
    "NextTokenTargets",
    "ObjectiveWeights",
    "PerceptionVocabulary",
    "PerceptokError",
    "TemperatureSchedule",
    "TokenSet",
    "TrainingConfig",
    "VocabularyAlignment",
    "align_vocabularies",
    "auxiliary_log_probs",
    "count_loss",
    "curriculum_probabilities",
    "curriculum_temperature",
    "distillation_loss",
    "load_aurora_checkpoint",
    "marker_loss",
    "merging_loss",
    "next_token_targets",
    "reconstruction_loss",
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

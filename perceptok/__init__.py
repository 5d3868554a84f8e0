"""Perception tokens: depth maps and boxes as discrete tokens for multimodal language models.

Every public name is imported from its room on first use, so that `import perceptok` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perceptok.boxes.codec import BoxCodec
    from perceptok.boxes.datasets.annotations import read_annotations
    from perceptok.boxes.datasets.records import BoxRecord
    from perceptok.boxes.datasets.results import read_results
    from perceptok.boxes.datasets.writing import rewrite_annotations, write_annotations
    from perceptok.boxes.frames.geometry import ImageFrame
    from perceptok.boxes.points import PointCodec, points_from_molmo, points_to_molmo
    from perceptok.boxes.scores.metrics import BoxScores, iou_matrix, match_boxes, score_boxes
    from perceptok.boxes.text.foreign import parse_spelling
    from perceptok.boxes.text.parsing import parse_boxes
    from perceptok.data.recipes import DataRecipe, build_data
    from perceptok.data.records import PerceptionRecord, check_records, read_records, write_records
    from perceptok.data.rendering import render_record
    from perceptok.decoding.consistency import CountConsistency, ListConsistency, MarkerConsistency
    from perceptok.decoding.engines.fast_generation import generate_perception
    from perceptok.decoding.engines.gbnf import perception_gbnf
    from perceptok.decoding.engines.hf import PerceptionLogitsProcessor
    from perceptok.decoding.engines.lark import perception_lark
    from perceptok.decoding.engines.structural_tag import perception_structural_tag
    from perceptok.decoding.grammar.automaton import GrammarConfig
    from perceptok.decoding.reading.parsing import parse_generation
    from perceptok.decoding.reading.stream import TokenStream
    from perceptok.depth.codec import DepthCodec, load_aurora_checkpoint
    from perceptok.depth.maps.depth_map import DepthMap, Nearness, NearnessRange
    from perceptok.depth.sequences import SequenceFrame, clip_range
    from perceptok.depth.training.recipe import TrainingConfig
    from perceptok.depth.training.trainer import train_depth_codec
    from perceptok.errors import (
        AlignmentError,
        AnnotationError,
        BoxError,
        CheckpointError,
        ConfigError,
        ConstraintError,
        DataError,
        DepthMapError,
        EvaluationError,
        InferenceError,
        MalformedBlockError,
        MalformedBoxError,
        MissingExtraError,
        ObjectiveError,
        OutputError,
        PerceptokError,
        RecordError,
        SpecialistError,
        TrainingError,
        VocabularyError,
    )
    from perceptok.evaluation.answers import Reading, read_answer
    from perceptok.evaluation.benchmarks.catalogue import load_benchmark
    from perceptok.evaluation.benchmarks.items import Benchmark
    from perceptok.evaluation.benchmarks.pages import write_report
    from perceptok.evaluation.benchmarks.scoring import evaluate
    from perceptok.evaluation.replacement import replacement_test
    from perceptok.evaluation.report.cases import Case
    from perceptok.evaluation.report.page import write_page
    from perceptok.llava.framing import FrameRule
    from perceptok.llava.inference.answers import PerceptionAnswer
    from perceptok.llava.inference.settings import InferenceConfig
    from perceptok.llava.loading import load_llava
    from perceptok.llava.merging import export_adapter, merge_adapter
    from perceptok.llava.original import import_original
    from perceptok.llava.pipeline import PerceptionPipeline
    from perceptok.llava.saving import load_adapter, save_adapter
    from perceptok.llava.training.finetuning import finetune
    from perceptok.llava.training.recipe import FinetuneConfig
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
    from perceptok.vocabulary.alignment.accumulator import AlignmentAccumulator
    from perceptok.vocabulary.alignment.mapping import VocabularyAlignment, align_vocabularies
    from perceptok.vocabulary.extension import extend_vocabulary
    from perceptok.vocabulary.lookup import PerceptionVocabulary
    from perceptok.vocabulary.remapping import consecutive_vocabulary, remap_ids, remap_rows
    from perceptok.vocabulary.sanitising import restore_text, sanitise_text
    from perceptok.vocabulary.trainable import peft_settings, trainable_parameters, verify_adapter

__version__ = "0.1.0"

_HOMES = {
    "AlignmentAccumulator": "perceptok.vocabulary.alignment.accumulator",
    "AlignmentError": "perceptok.errors",
    "AnnotationError": "perceptok.errors",
    "Benchmark": "perceptok.evaluation.benchmarks.items",
    "BoxCodec": "perceptok.boxes.codec",
    "BoxError": "perceptok.errors",
    "BoxRecord": "perceptok.boxes.datasets.records",
    "BoxScores": "perceptok.boxes.scores.metrics",
    "Case": "perceptok.evaluation.report.cases",
    "CheckpointError": "perceptok.errors",
    "ConfigError": "perceptok.errors",
    "ConstraintError": "perceptok.errors",
    "CountConsistency": "perceptok.decoding.consistency",
    "CurriculumSampler": "perceptok.objectives.sampler",
    "DEPTH": "perceptok.tokens",
    "DataError": "perceptok.errors",
    "DataRecipe": "perceptok.data.recipes",
    "DepthCodec": "perceptok.depth.codec",
    "DepthMap": "perceptok.depth.maps.depth_map",
    "DepthMapError": "perceptok.errors",
    "EvaluationError": "perceptok.errors",
    "FinetuneConfig": "perceptok.llava.training.recipe",
    "FrameRule": "perceptok.llava.framing",
    "GrammarConfig": "perceptok.decoding.grammar.automaton",
    "ImageFrame": "perceptok.boxes.frames.geometry",
    "InferenceConfig": "perceptok.llava.inference.settings",
    "InferenceError": "perceptok.errors",
    "LinearSchedule": "perceptok.objectives.curriculum",
    "ListConsistency": "perceptok.decoding.consistency",
    "MalformedBlockError": "perceptok.errors",
    "MalformedBoxError": "perceptok.errors",
    "MarkerConsistency": "perceptok.decoding.consistency",
    "MissingExtraError": "perceptok.errors",
    "Nearness": "perceptok.depth.maps.depth_map",
    "NearnessRange": "perceptok.depth.maps.depth_map",
    "NextTokenTargets": "perceptok.objectives.targets",
    "ObjectiveError": "perceptok.errors",
    "ObjectiveWeights": "perceptok.objectives.weights",
    "OutputError": "perceptok.errors",
    "PIXEL": "perceptok.tokens",
    "PerceptionAnswer": "perceptok.llava.inference.answers",
    "PerceptionLogitsProcessor": "perceptok.decoding.engines.hf",
    "PerceptionPipeline": "perceptok.llava.pipeline",
    "PerceptionRecord": "perceptok.data.records",
    "PerceptionVocabulary": "perceptok.vocabulary.lookup",
    "PerceptokError": "perceptok.errors",
    "PointCodec": "perceptok.boxes.points",
    "Reading": "perceptok.evaluation.answers",
    "RecordError": "perceptok.errors",
    "SequenceFrame": "perceptok.depth.sequences",
    "SpecialistError": "perceptok.errors",
    "TemperatureSchedule": "perceptok.objectives.curriculum",
    "TokenSet": "perceptok.tokens",
    "TokenStream": "perceptok.decoding.reading.stream",
    "TrainingConfig": "perceptok.depth.training.recipe",
    "TrainingError": "perceptok.errors",
    "VocabularyAlignment": "perceptok.vocabulary.alignment.mapping",
    "VocabularyError": "perceptok.errors",
    "align_vocabularies": "perceptok.vocabulary.alignment.mapping",
    "auxiliary_log_probs": "perceptok.objectives.columns",
    "build_data": "perceptok.data.recipes",
    "check_records": "perceptok.data.records",
    "clip_range": "perceptok.depth.sequences",
    "consecutive_vocabulary": "perceptok.vocabulary.remapping",
    "count_loss": "perceptok.objectives.auxiliary",
    "curriculum_probabilities": "perceptok.objectives.curriculum",
    "curriculum_temperature": "perceptok.objectives.curriculum",
    "distillation_loss": "perceptok.objectives.distillation",
    "evaluate": "perceptok.evaluation.benchmarks.scoring",
    "export_adapter": "perceptok.llava.merging",
    "extend_vocabulary": "perceptok.vocabulary.extension",
    "finetune": "perceptok.llava.training.finetuning",
    "generate_perception": "perceptok.decoding.engines.fast_generation",
    "import_original": "perceptok.llava.original",
    "iou_matrix": "perceptok.boxes.scores.metrics",
    "load_adapter": "perceptok.llava.saving",
    "load_aurora_checkpoint": "perceptok.depth.codec",
    "load_benchmark": "perceptok.evaluation.benchmarks.catalogue",
    "load_llava": "perceptok.llava.loading",
    "marker_loss": "perceptok.objectives.auxiliary",
    "match_boxes": "perceptok.boxes.scores.metrics",
    "merge_adapter": "perceptok.llava.merging",
    "merging_loss": "perceptok.objectives.auxiliary",
    "next_token_targets": "perceptok.objectives.targets",
    "parse_boxes": "perceptok.boxes.text.parsing",
    "parse_generation": "perceptok.decoding.reading.parsing",
    "parse_spelling": "perceptok.boxes.text.foreign",
    "peft_settings": "perceptok.vocabulary.trainable",
    "perception_gbnf": "perceptok.decoding.engines.gbnf",
    "perception_lark": "perceptok.decoding.engines.lark",
    "perception_structural_tag": "perceptok.decoding.engines.structural_tag",
    "points_from_molmo": "perceptok.boxes.points",
    "points_to_molmo": "perceptok.boxes.points",
    "read_annotations": "perceptok.boxes.datasets.annotations",
    "read_answer": "perceptok.evaluation.answers",
    "read_records": "perceptok.data.records",
    "read_results": "perceptok.boxes.datasets.results",
    "reconstruction_loss": "perceptok.objectives.reconstruction",
    "remap_ids": "perceptok.vocabulary.remapping",
    "remap_rows": "perceptok.vocabulary.remapping",
    "render_record": "perceptok.data.rendering",
    "replacement_test": "perceptok.evaluation.replacement",
    "restore_text": "perceptok.vocabulary.sanitising",
    "rewrite_annotations": "perceptok.boxes.datasets.writing",
    "sanitise_text": "perceptok.vocabulary.sanitising",
    "save_adapter": "perceptok.llava.saving",
    "score_boxes": "perceptok.boxes.scores.metrics",
    "train_depth_codec": "perceptok.depth.training.trainer",
    "trainable_parameters": "perceptok.vocabulary.trainable",
    "verify_adapter": "perceptok.vocabulary.trainable",
    "write_annotations": "perceptok.boxes.datasets.writing",
    "write_page": "perceptok.evaluation.report.page",
    "write_records": "perceptok.data.records",
    "write_report": "perceptok.evaluation.benchmarks.pages",
}

__all__ = [
    "DEPTH",
    "PIXEL",
    "AlignmentAccumulator",
    "AlignmentError",
    "AnnotationError",
    "Benchmark",
    "BoxCodec",
    "BoxError",
    "BoxRecord",
    "BoxScores",
    "Case",
    "CheckpointError",
    "ConfigError",
    "ConstraintError",
    "CountConsistency",
    "CurriculumSampler",
    "DataError",
    "DataRecipe",
    "DepthCodec",
    "DepthMap",
    "DepthMapError",
    "EvaluationError",
    "FinetuneConfig",
    "FrameRule",
    "GrammarConfig",
    "ImageFrame",
    "InferenceConfig",
    "InferenceError",
    "LinearSchedule",
    "ListConsistency",
    "MalformedBlockError",
    "MalformedBoxError",
    "MarkerConsistency",
    "MissingExtraError",
    "Nearness",
    "NearnessRange",
    "NextTokenTargets",
    "ObjectiveError",
    "ObjectiveWeights",
    "OutputError",
    "PerceptionAnswer",
    "PerceptionLogitsProcessor",
    "PerceptionPipeline",
    "PerceptionRecord",
    "PerceptionVocabulary",
    "PerceptokError",
    "PointCodec",
    "Reading",
    "RecordError",
    "SequenceFrame",
    "SpecialistError",
    "TemperatureSchedule",
    "TokenSet",
    "TokenStream",
    "TrainingConfig",
    "TrainingError",
    "VocabularyAlignment",
    "VocabularyError",
    "align_vocabularies",
    "auxiliary_log_probs",
    "build_data",
    "check_records",
    "clip_range",
    "consecutive_vocabulary",
    "count_loss",
    "curriculum_probabilities",
    "curriculum_temperature",
    "distillation_loss",
    "evaluate",
    "export_adapter",
    "extend_vocabulary",
    "finetune",
    "generate_perception",
    "import_original",
    "iou_matrix",
    "load_adapter",
    "load_aurora_checkpoint",
    "load_benchmark",
    "load_llava",
    "marker_loss",
    "match_boxes",
    "merge_adapter",
    "merging_loss",
    "next_token_targets",
    "parse_boxes",
    "parse_generation",
    "parse_spelling",
    "peft_settings",
    "perception_gbnf",
    "perception_lark",
    "perception_structural_tag",
    "points_from_molmo",
    "points_to_molmo",
    "read_annotations",
    "read_answer",
    "read_records",
    "read_results",
    "reconstruction_loss",
    "remap_ids",
    "remap_rows",
    "render_record",
    "replacement_test",
    "restore_text",
    "rewrite_annotations",
    "sanitise_text",
    "save_adapter",
    "score_boxes",
    "train_depth_codec",
    "trainable_parameters",
    "verify_adapter",
    "write_annotations",
    "write_page",
    "write_records",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'perceptok' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

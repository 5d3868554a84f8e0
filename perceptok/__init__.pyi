from . import (
    boxes as boxes,
    config as config,
    data as data,
    decoding as decoding,
    depth as depth,
    errors as errors,
    evaluation as evaluation,
    files as files,
    images as images,
    jobs as jobs,
    llava as llava,
    losses as losses,
    pages as pages,
    scenes as scenes,
    tokens as tokens,
    vocabulary as vocabulary,
)
from .boxes.codec import BoxCodec as BoxCodec
from .boxes.frames import ImageFrame as ImageFrame
from .data.records import PerceptionRecord as PerceptionRecord
from .decoding.engines.huggingface import PerceptionLogitsProcessor as PerceptionLogitsProcessor
from .decoding.reading.generation import parse_generation as parse_generation
from .depth.codec import DepthCodec as DepthCodec
from .depth.maps import DepthMap as DepthMap
from .depth.training.codec_trainer import train_depth_codec as train_depth_codec
from .errors import PerceptokError as PerceptokError
from .llava.inference.pipeline import PerceptionPipeline as PerceptionPipeline
from .llava.loading import load_llava as load_llava
from .llava.training.finetuning import finetune as finetune
from .losses.curriculum import CurriculumSampler as CurriculumSampler
from .losses.distillation import distillation_loss as distillation_loss
from .vocabulary.extension import extend_vocabulary as extend_vocabulary
from .vocabulary.lookup import PerceptionVocabulary as PerceptionVocabulary

__version__: str

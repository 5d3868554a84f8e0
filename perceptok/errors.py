"""Errors, all derived from `PerceptokError`: every message says what was given, what is expected, and what to do."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_TERMINAL_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
_UNSAFE_ADVICE = re.compile(r"trust|weights_only|safe_globals|still be loaded|arbitrary code|inspect the repo", re.I)

__all__ = [
    "AlignmentError",
    "AnnotationError",
    "BoxError",
    "CheckpointError",
    "ConfigError",
    "ConstraintError",
    "DataError",
    "DepthMapError",
    "EngineError",
    "EvaluationError",
    "ImageError",
    "ImageSizeError",
    "InferenceError",
    "LossError",
    "MalformedBlockError",
    "MalformedBoxError",
    "MissingExtraError",
    "OutputError",
    "PerceptokError",
    "RecordError",
    "SpecialistError",
    "TrainingError",
    "VocabularyError",
    "add_place",
    "hide_library_logs",
    "quote_error",
    "quote_text",
    "translate_errors",
]


class PerceptokError(Exception):
    """Base of every error that perceptok raises on purpose."""


class ConfigError(PerceptokError, ValueError):
    """A configuration has an unknown key or a value out of range."""


class DepthMapError(PerceptokError, ValueError):
    """A depth map cannot be read, is ambiguous, or has no valid pixel to encode."""


class MalformedBlockError(PerceptokError, ValueError):
    """A text or byte string is not a valid depth block, or codes do not form one."""


class BoxError(PerceptokError, ValueError):
    """Boxes, points or an image size cannot be encoded: not finite, inverted, outside, or of another shape."""


class MalformedBoxError(PerceptokError, ValueError):
    """A text is not a valid box or list of boxes."""


class AnnotationError(PerceptokError, ValueError):
    """An annotation file is damaged or contradicts itself."""


class VocabularyError(PerceptokError, ValueError):
    """A tokenizer, its perception tokens and a model do not match."""


class AlignmentError(PerceptokError, ValueError):
    """A cost matrix has no one-to-one mapping, or a mapping and a vocabulary do not match."""


class LossError(PerceptokError, ValueError):
    """A loss or a curriculum was given tensors of another shape, or values out of range."""


class ConstraintError(PerceptokError, ValueError):
    """Constrained decoding cannot continue: grammar, tokenizer, prompt or scores contradict each other."""


class ImageError(PerceptokError, ValueError):
    """An image is missing, damaged, too large, or has values that are not colours."""


class ImageSizeError(ImageError):
    """An image has more pixels than are allowed."""


class RecordError(PerceptokError, ValueError):
    """A record of training data is damaged or contradicts itself; the message names file, record and field."""


class DataError(PerceptokError, ValueError):
    """A data set cannot be built: a source lacks something, or a recipe asks for more samples than exist."""


class SpecialistError(PerceptokError, ValueError):
    """A vision specialist cannot be loaded, or its output is not of the declared kind or shape."""


class EvaluationError(PerceptokError, ValueError):
    """Predictions, a benchmark, or the cases of a page are damaged, or do not match."""


class InferenceError(PerceptokError, ValueError):
    """An image, a question or a request cannot be given to a model, or a model, processor and codec do not match."""


class CheckpointError(PerceptokError, ValueError):
    """Saved weights are damaged, unsafe, or of another shape than in their configuration."""


class TrainingError(PerceptokError, RuntimeError):
    """Training cannot start or continue: no data, overlapping splits, a full disk, a collapsed codebook."""


class OutputError(PerceptokError, OSError):
    """An output cannot be written, or exists already and may not be replaced."""


class EngineError(PerceptokError, RuntimeError):
    """Worker processes or a server cannot be started or reached, or one of them died or raised an unexpected error."""


class MissingExtraError(PerceptokError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}; install it with `pip install 'perceptok[{extra}]'`")


def add_place(place: str | os.PathLike[str], reason: object) -> str:
    """Say where an error is, `place: reason`, unless its reason says so already.

    Args:
        place: A file, the name of an item, or a file and a line.
        reason: An error, or the text of one. It is returned as it is where it begins with the place, alone or within a
            longer one: a file with its folder, a line of the file, a record of the line.
    """
    name, text = os.fspath(place), str(reason)
    is_named = name and re.match(rf"""['"]?(?:(?:\w:)?[^:,]*[/\\])?{re.escape(name)}['"]?[:,]\s""", text)
    return text if is_named else f"{name}: {text}"


def quote_error(error: BaseException) -> str:
    """Quote an exception of a library in a message of our own as `quote_text` does; its class where nothing is left.

    Of an error of the operating system the reason alone is quoted, as the message names the file itself.
    """
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return quote_text(error.strerror)
    return quote_text(str(error)) or type(error).__name__


def quote_text(text: str) -> str:
    """Quote the text of a library or a file in a message of our own.

    Only the first line is quoted, without terminal sequences and control characters, and without sentences that advise
    to run code of a repository or to load pickles.
    """
    line = (_TERMINAL_SEQUENCE.sub("", text).strip().splitlines() or [""])[0]
    printable = "".join(character if character.isprintable() else " " for character in line)
    sentences = re.split(r"(?<=[.!?;])\s+", printable)
    return " ".join(sentence for sentence in sentences if not _UNSAFE_ADVICE.search(sentence)).strip()


@contextmanager
def hide_library_logs(name: str) -> Iterator[None]:
    """Hide what a library logs below the level of errors, in the `with` block; `name` is that of its logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def translate_errors(kind: type[PerceptokError], problem: str, advice: str = "") -> Iterator[None]:
    """Raise an error of ours for whatever a library raises about foreign files, in the `with` block.

    Errors of ours and interrupts pass through unchanged. Panics of libraries in Rust, which are not instances of
    Exception, are translated too.

    Args:
        kind: The error to raise.
        problem: What is wrong; the library's own words follow in parentheses.
        advice: What to do.

    Raises:
        PerceptokError: Of the type `kind`.
    """
    try:
        yield
    except PerceptokError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{problem} ({quote_error(error)}){f'; {advice}' if advice else ''}") from error

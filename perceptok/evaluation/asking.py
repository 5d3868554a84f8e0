"""Asks a model the questions of a benchmark: answers are kept as they come, so that the same call resumes."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from PIL import Image

from perceptok.config import apply_overrides, config_from_dict, find_config_file, read_mapping, resolve_paths
from perceptok.data import Task
from perceptok.depth import DepthMap
from perceptok.errors import ConfigError, EvaluationError, PerceptokError
from perceptok.evaluation.benchmarks import BENCHMARKS, Benchmark, BenchmarkItem, check_codec, load_benchmark
from perceptok.evaluation.evidence import EvidenceReport, check_evidence
from perceptok.evaluation.judging import Judge
from perceptok.evaluation.reports import write_scores
from perceptok.evaluation.scoring import Prediction, Scores, evaluate, read_predictions
from perceptok.evaluation.specialists import evaluate_specialist, find_markers
from perceptok.files import atomic_write
from perceptok.jobs import Journal, Stamp, split_into_batches, stamp_of
from perceptok.llava import (
    Ask,
    InferenceConfig,
    PerceptionAnswer,
    PerceptionPipeline,
    Request,
    ServedPipeline,
)

__all__ = ["PREDICTIONS", "EvaluationConfig", "answer_benchmark", "evaluate_pipeline", "make_request"]

PREDICTIONS = "predictions.jsonl"
"""Name of the file of answers that `evaluate_pipeline` writes."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How a model is evaluated on a benchmark.

    Attributes:
        benchmark: One of `BENCHMARKS`.
        data: Folder, file or hub id of the benchmark; required, a preset leaves it to the user.
        images: Folder of the images, if not beside the data.
        inference: Settings of the pipeline.

    Raises:
        ConfigError: An unknown benchmark, or one without data.
    """

    benchmark: str
    data: str = ""
    images: str | None = None
    inference: InferenceConfig = field(default_factory=InferenceConfig)

    def __post_init__(self) -> None:
        if self.benchmark not in BENCHMARKS:
            raise ConfigError(f"{self.benchmark!r} is not a benchmark; the benchmarks are {', '.join(BENCHMARKS)}")
        if not self.data:
            raise ConfigError(f"data of {self.benchmark} is required: its folder, file or hub id (--data)")

    @classmethod
    def read(cls, path: str | os.PathLike[str] | None, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a configuration from YAML or JSON.

        Args:
            path: The file, or the name of a preset (`perceptok llava presets`); None for the defaults. Paths in a file
                are relative to its folder.
            overrides: Settings that replace those of the file, nested ones by dotted names. Paths in them are relative
                to the current directory.

        Raises:
            ConfigError: The file cannot be read, or a setting is unknown, missing or not valid.
        """
        found = None if path is None else find_config_file(path, "evaluation")
        values = {} if found is None else read_mapping(found)
        if path is not None and found == Path(path):  # not a preset
            resolve_paths(values, found.parent, ["images"], sources=["data"])
        apply_overrides(values, overrides or {})
        return config_from_dict(cls, values, name=cls.__name__ if path is None else str(path))

    def load_benchmark(self) -> Benchmark:
        """Load the benchmark; raises EvaluationError as the function of that name."""
        return load_benchmark(self.benchmark, self.data, images=self.images)


def evaluate_pipeline(
    pipe: PerceptionPipeline | ServedPipeline,
    benchmark: Benchmark,
    folder: str | Path,
    *,
    system: str,
    model: Any = "",
    specialist: Callable[[Image.Image], DepthMap] | None = None,
    judge: Judge | None = None,
    start_over: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> tuple[Scores, EvidenceReport | None]:
    """Ask a model every question of a benchmark, score its answers, check their evidence and write all of it.

    An interrupted call is resumed by the same call, and so is one in which images could not be read: the answers are
    then kept beside the predictions (`predictions.jsonl.partial`), and only the missing ones are asked for. The folder
    receives the answers (`predictions.jsonl`, which `read_predictions` reads) and the files of `write_scores`; files of
    an earlier evaluation are replaced.

    Args:
        pipe: The pipeline; its `config` says how the questions are asked.
        benchmark: The questions.
        folder: Where the files go.
        system: The name of what is scored.
        model: The name of the model, as JSON types; the state of its files is the pipeline's `stamps`.
        specialist: A depth specialist (RGB image -> depth map) as teacher and ceiling of the evidence.
        judge: Extracts answers from the texts that `read_answer` leaves unread.
        start_over: Discard kept answers of another run instead of refusing them.
        advance: Called after every question.

    Returns:
        The scores, and the evidence where any answer has some. An item whose image cannot be read is not asked: its
        outcome has the text None and counts as unparsed.

    Raises:
        OutputError: The kept answers are of another model, benchmark or settings; or a file cannot be written.
        EvaluationError: No item has an image that can be read; or a depth map is asked for, and an item's codes are of
            another codec.
        MissingExtraError: matplotlib is not installed (extra `report`).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    predictions = folder / PREDICTIONS
    texts = answer_benchmark(pipe, benchmark, predictions, model=model, start_over=start_over, advance=advance)
    scores = evaluate(texts, benchmark, missing=True, judge=judge)
    estimates = {} if specialist is None else evaluate_specialist(benchmark, specialist, pipe.codec).estimates
    evidence = check_evidence(scores, pipe.codec, estimates)
    write_scores(scores, folder, system=system, evidence=evidence, force=True)
    if len(texts) == len(benchmark.items):
        predictions.with_name(predictions.name + ".partial").unlink(missing_ok=True)
    return scores, evidence


def answer_benchmark(
    pipe: PerceptionPipeline | ServedPipeline,
    benchmark: Benchmark,
    output: str | Path,
    *,
    model: Any = "",
    start_over: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, str | Prediction]:
    """Ask a model every question of a benchmark, with its choices and markers, and write the answers.

    Where the pipeline asks for the depth map or for boxes (`ask`), the answer is read off them; markers that an item
    does not give are found on its image (`find_markers`).

    Args:
        pipe: The pipeline; its `config` says how the questions are asked.
        benchmark: The questions.
        output: The `.jsonl` to write: id and text in each line, as `read_predictions` reads. Answers gather in
            `OUTPUT.partial`, which the caller removes once its own outputs are written.
        model: The name of the model, as JSON types; the state of its files is the pipeline's `stamps`.
        start_over: Discard kept answers of another run instead of refusing them.
        advance: Called after every question.

    Returns:
        Id -> text; a `Prediction` where the answer is read off. An item whose image cannot be read has none.

    Raises:
        OutputError: The kept answers are of another model, benchmark or settings; or a file cannot be written.
        EvaluationError: No item has an image that can be read; or a depth map is asked for, and an item's codes are of
            another codec.
    """
    target, items = Path(output), benchmark.items
    for item in items:
        if item.target == "block" and item.evidence is not None:
            check_codec(item.id, item.evidence, pipe.codec)
    # The answer is then what the map or the boxes say, not what the text says.
    is_read_off = pipe.config.ask in ("depth", "boxes")
    questions = [[item.id, item.question, list(item.choices), item.history, item.tokens] for item in items]
    run = {
        "model": model,
        "files": pipe.stamps,
        "codec": pipe.codec.fingerprint,
        "config": pipe.config.to_dict(),
        "benchmark": benchmark.name,
        "questions": zlib.crc32(repr(questions).encode()),
    }
    with Journal[dict[str, Any]](target, run, [_image_stamp(item) for item in items], start_over=start_over) as journal:
        todo = journal.todo
        for _ in range(len(items) - len(todo)):
            advance()
        unread: list[EvaluationError] = []
        asked: list[int] = []

        def make_requests() -> Iterator[Request]:
            for index in todo:
                try:
                    request = make_request(items[index], pipe.config.ask)
                except EvaluationError as error:
                    unread.append(error)
                    advance()
                else:
                    asked.append(index)
                    yield request

        with closing(_answer_requests(pipe, make_requests())) as answers:
            for position, answer in answers:
                item = items[asked[position]]
                line = {"id": item.id, "text": answer.text, "answer": answer.answer}
                read = {"read": answer.answer} if is_read_off and item.target == "answer" else {}
                journal.add(asked[position], {**line, **read})
                advance()
        lines = list(journal.results())
        if not lines:
            raise unread[0]
        with atomic_write(target, force=True) as file:
            for line in lines:
                file.write((json.dumps(line) + "\n").encode())
    return read_predictions(target)


def _answer_requests(
    pipe: PerceptionPipeline | ServedPipeline, requests: Iterator[Request]
) -> Generator[tuple[int, PerceptionAnswer], None, None]:
    """The index of each request and its answer: of a served model as they come, of a loaded one batch by batch."""
    if isinstance(pipe, ServedPipeline):
        with closing(pipe.answers_as_completed(requests)) as answers:
            for index, answer in answers:
                if isinstance(answer, PerceptokError):
                    raise answer
                yield index, answer
        return
    start = 0
    for batch in split_into_batches(requests, pipe.config.batch_size):
        yield from enumerate(pipe.answers(batch), start)
        start += len(batch)


def make_request(item: BenchmarkItem, ask: Ask) -> Request:
    """An item as a question for the pipeline."""
    images, markers = item.open_images(), item.markers
    is_depth = bool(item.choices) or item.target == "block"
    if ask == "depth" and not markers and item.choices and not any(item.choices.values()):
        with suppress(EvaluationError):  # marked otherwise than HardBLINK's images: the answer says so
            markers = find_markers(images[0], list(item.choices))
    plural = None if item.evidence is None else item.evidence.plural
    task: Task = "depth" if is_depth else "counting"
    return Request(
        images, item.question, tuple(item.choices), markers, item.id, task, plural, item.history, item.tokens
    )


def _image_stamp(item: BenchmarkItem) -> Stamp:
    if isinstance(item.image, Path):
        return stamp_of(item.image, *item.more_images)
    return None if item.image is None else (len(item.image), zlib.crc32(item.image))

"""Many questions to one file of answers: continued where it stopped, and one bad image costs only itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perceptok.errors import ConstraintError, DepthMapError, InferenceError, OutputError, PerceptokError
from perceptok.files import atomic_write
from perceptok.files.journal import Journal, stamp_of
from perceptok.files.names import inside
from perceptok.llava.folders.requests import Failure, FileQuestion
from perceptok.llava.inference.answers import PerceptionAnswer
from perceptok.llava.inference.pictures import open_picture
from perceptok.llava.pipeline import PerceptionPipeline, Request

__all__ = ["Outputs", "answer_files", "answer_questions", "answers_with_pictures", "file_names"]


@dataclass(frozen=True)
class Outputs:
    """Where pictures go besides the lines; None for nowhere.

    Attributes:
        depth: Folder for depth maps, 16-bit PNG of nearness in each image's size; NPZ where a crop hides a part.
        overlay: Folder for overlays, PNG.
    """

    depth: Path | None = None
    overlay: Path | None = None

    def write(self, answer: PerceptionAnswer, names: Mapping[str, str]) -> dict[str, str]:
        """Write an answer's pictures, over those of an interrupted run; gives what goes into its line.

        Raises:
            OutputError: A name that leads out of a folder, or a file that cannot be written.
        """
        said: dict[str, str] = {}
        if self.depth is not None and answer.depth is not None:
            suffix = ".png" if answer.depth.valid.all() else ".npz"
            target = _placed(self.depth, names[answer.name] + suffix)
            answer.save_depth(target, force=True)
            said["depth"] = str(target)
        if self.overlay is not None:
            target = _placed(self.overlay, names[answer.name] + ".png")
            answer.save_overlay(target, force=True)
            said["overlay"] = str(target)
        return said


def answer_questions(pipe: PerceptionPipeline, asked: Sequence[FileQuestion]) -> Iterator[PerceptionAnswer | Failure]:
    """An answer or a failure for each question, in order, batch by batch; `pipe.config` says how."""
    size = pipe.config.batch_size
    for start in range(0, len(asked), size):
        batch = asked[start : start + size]
        opened = [_opened(one) for one in batch]
        answers = iter(_answered(pipe, [one for one in opened if isinstance(one, Request)]))
        yield from (one if isinstance(one, Failure) else next(answers) for one in opened)


def answers_with_pictures(
    pipe: PerceptionPipeline,
    asked: Sequence[FileQuestion],
    outputs: Outputs | None = None,
    names: Mapping[str, str] | None = None,
) -> Iterator[tuple[PerceptionAnswer | Failure, dict[str, str]]]:
    """As `answer_questions`, with pictures written as answers come: and the paths of image, depth and overlay."""
    wanted = outputs or Outputs()
    known = names or file_names(asked)
    for one, result in zip(asked, answer_questions(pipe, asked), strict=True):
        if isinstance(result, Failure):
            yield result, {}
            continue
        try:
            yield result, {"image": str(one.image), **wanted.write(result, known)}
        except (PerceptokError, OSError) as error:
            yield Failure(result.name, str(error)), {}


def answer_files(
    pipe: PerceptionPipeline,
    asked: Sequence[FileQuestion],
    output: str | Path,
    *,
    outputs: Outputs | None = None,
    model: str = "",
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> list[Failure]:
    """Answer questions into a file of JSON lines, one each; see `PerceptionAnswer.to_dict`.

    Answers gather in `OUTPUT.partial`. A run that was interrupted, killed or out of disk is continued by the same call;
    what changed on disk since then, or could not be read, is asked again.

    Args:
        pipe: The pipeline; its `config` says how.
        asked: See `find_questions`.
        output: The `.jsonl` to write.
        outputs: Where depth maps and overlays go.
        model: What the model is called; a partial output of another one is refused.
        force: Replace an existing output, and start over.
        advance: Called after every question.

    Returns:
        What could not be answered or written; all others are in the output.

    Raises:
        OutputError: The output exists, cannot be written, or a partial one belongs to another run.
    """
    target = Path(output)
    if target.suffix != ".jsonl":
        raise OutputError(f"{target}: answers are written to .jsonl")
    if target.exists() and not force:
        raise OutputError(f"{target} exists already; choose another path, or replace it with force (--force)")
    run = {"model": model, "codec": pipe.codec.fingerprint, "config": pipe.config.to_dict(), "asked": _digest(asked)}
    names = file_names(asked)
    stamps = [stamp_of(one.image) for one in asked]
    with Journal(target, run, stamps, start_over=force and target.exists()) as journal:
        todo = journal.todo
        for _ in range(len(asked) - len(todo)):
            advance()
        results = answers_with_pictures(pipe, [asked[index] for index in todo], outputs, names)
        for index, (result, written) in zip(todo, results, strict=True):
            values = {"failure": list(result)} if isinstance(result, Failure) else {**result.to_dict(), **written}
            journal.add(index, values)
            advance()
        lines = journal.in_order()
        with atomic_write(target, force=force) as file:
            for values in lines:
                if "failure" not in values:
                    file.write((json.dumps(values) + "\n").encode())
        journal.remove()
    return [Failure(*values["failure"]) for values in lines if "failure" in values]


def _opened(one: FileQuestion) -> Request | Failure:
    try:
        return Request(open_picture(one.image), one.question, one.choices, one.markers, one.name)
    except PerceptokError as error:
        return Failure(one.name, str(error))


def _answered(pipe: PerceptionPipeline, requests: Sequence[Request]) -> list[PerceptionAnswer | Failure]:
    """The answers of a batch; where one question spoils it, each by itself."""
    if not requests:
        return []
    try:
        return list(pipe.answers(requests))
    except (InferenceError, ConstraintError, DepthMapError) as error:
        if len(requests) == 1:
            return [Failure(requests[0].name, str(error))]
        return [result for one in requests for result in _answered(pipe, [one])]


def file_names(asked: Sequence[FileQuestion]) -> dict[str, str]:
    """Name -> name of its pictures without suffix; where two would share one, they keep their suffixes."""
    short = [str(Path(one.name).with_suffix("")) if Path(one.name).name else one.name for one in asked]
    return {one.name: stem if short.count(stem) == 1 else one.name for one, stem in zip(asked, short, strict=True)}


def _placed(folder: Path, name: str) -> Path:
    target = inside(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _digest(asked: Sequence[FileQuestion]) -> str:
    return hashlib.sha256("\n".join(map(repr, asked)).encode("utf-8", "surrogatepass")).hexdigest()

"""`perceptok llava infer`: questions about images, answered with the evidence that the model saw."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perceptok.errors import ConfigError, OutputError
from perceptok_cli.console import finish, note, progress_bar

if TYPE_CHECKING:
    from perceptok.llava.folders.requests import Failure, FileQuestion
    from perceptok.llava.inference.answers import PerceptionAnswer
    from perceptok.llava.inference.settings import InferenceConfig
    from perceptok.llava.pipeline import PerceptionPipeline

__all__ = ["infer"]


def infer(
    model: Annotated[Path, typer.Argument(help="A folder that train, merge or save_adapter wrote.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders of images, or JSON lines (.jsonl; - reads them from standard input) with image, and "
            "optionally question, name, choices, markers."
        ),
    ],
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="What is asked, where the input does not say.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="JSON lines, one for each question; - prints them. Default: plain words."),
    ] = None,
    choices: Annotated[
        str | None, typer.Option("--choices", help="What the answer may be, such as A,B,C, where the input says none.")
    ] = None,
    save_depth: Annotated[
        Path | None, typer.Option("--save-depth", help="Folder for depth maps in each image's size (16-bit PNG).")
    ] = None,
    save_overlay: Annotated[
        Path | None, typer.Option("--save-overlay", help="Folder for pictures of each answer with its evidence.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="A page to look at all answers: one file.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Switches as YAML or JSON (InferenceConfig).")] = None,
    constraints: Annotated[
        bool | None, typer.Option("--constraints/--no-constraints", help="Hold answers to the grammar, or not.")
    ] = None,
    force_block: Annotated[
        Literal["first", "somewhere"] | None, typer.Option("--force-block", help="Every answer holds a depth block.")
    ] = None,
    consistency: Annotated[
        list[str] | None,
        typer.Option("--consistency", help="Hold the conclusion to its evidence: count, list, marker; repeatable."),
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Budget of an answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, help="0 takes the likeliest token always.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of draws, with a temperature.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Questions at once.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="4 or 8: load the language model quantised.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the weights, e.g. bfloat16.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
) -> None:
    """Ask a model about images. An interrupted run with -o FILE is continued by the same command."""
    from perceptok.llava.folders.requests import find_questions

    given = {
        "constraints": constraints,
        "force_block": force_block,
        "consistency": tuple(consistency) if consistency else None,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "batch_size": batch_size,
    }
    settings = _settings(config, {name: value for name, value in given.items() if value is not None})
    into_file = output is not None and str(output) != "-"
    if output is not None and into_file:
        if output.suffix != ".jsonl":
            raise OutputError(f"{output}: answers are written to .jsonl")
        if output.exists() and not force:
            raise OutputError(f"{output} exists already; choose another path, or replace it with --force")
    asked, unread = find_questions(
        inputs,
        question=question,
        choices=[one.strip() for one in choices.split(",")] if choices else (),
        lines=sys.stdin,
    )
    from perceptok.llava.folders.jobs import Outputs, answer_files  # torch and transformers: after what costs nothing

    if html is not None and html.exists() and not force:
        raise OutputError(f"{html} exists already; choose another path, or replace it with --force")
    outputs = Outputs(depth=save_depth, overlay=save_overlay)
    pipe = _loaded(model, base, bits, dtype, device, settings)
    with progress_bar("answering", len(asked)) as advance:
        if output is not None and into_file:
            failures = answer_files(
                pipe, asked, output, outputs=outputs, model=str(model), force=force, advance=advance
            )
            note(f"{len(asked) - len(failures)} answers -> {output}")
            lines = output.read_text(encoding="utf-8").splitlines() if html is not None else []
        else:
            lines, failures = _printed(pipe, asked, outputs, _as_json if output is not None else _as_words, advance)
    if html is not None and lines:
        from perceptok.llava.folders.pages import write_answer_page

        cases = [json.loads(line) for line in lines]
        write_answer_page(html, cases, pipe.codec, title=f"{model.name}: {len(cases)} answers", force=force)
        note(f"a page of {len(cases)} answers -> {html}")
    finish([*unread, *failures], len(asked) + len(unread))


def _settings(path: Path | None, given: dict[str, Any]) -> InferenceConfig:
    from dataclasses import replace

    from perceptok.llava.inference.settings import InferenceConfig

    return replace(InferenceConfig.read(path) if path else InferenceConfig(), **given)


def _loaded(
    model: Path, base: str | None, bits: int | None, dtype: str, device: str, settings: InferenceConfig
) -> PerceptionPipeline:
    from perceptok.llava.pipeline import PerceptionPipeline

    if bits not in (None, 4, 8):
        raise ConfigError(f"--bits is 4 or 8; got {bits}")
    options: dict[str, Any] = {"base": base, "bits": bits, "dtype": dtype, "device": device, "config": settings}
    try:
        return PerceptionPipeline.from_pretrained(model, **options)
    except RuntimeError as error:
        raise ConfigError(f"the device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _printed(
    pipe: PerceptionPipeline,
    asked: list[FileQuestion],
    outputs: Any,
    shown: Callable[[PerceptionAnswer, dict[str, str]], str],
    advance: Callable[[], object],
) -> tuple[list[str], list[Failure]]:
    """Answers on standard output as they come; gives their lines of JSON, and what failed."""
    from perceptok.llava.folders.jobs import answers_with_pictures

    lines: list[str] = []
    failures: list[Failure] = []
    for answer, written in answers_with_pictures(pipe, asked, outputs):
        if isinstance(answer, tuple):
            failures.append(answer)
        else:
            sys.stdout.write(shown(answer, written) + "\n")
            sys.stdout.flush()
            lines.append(_as_json(answer, written))
        advance()
    return lines, failures


def _as_json(answer: PerceptionAnswer, written: dict[str, str]) -> str:
    return json.dumps({**answer.to_dict(), **written})


def _as_words(answer: PerceptionAnswer, written: dict[str, str]) -> str:
    """A few lines for a person; control characters of the model's text do not reach the terminal."""
    said = "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in answer.plain.strip())
    lines = [f"{answer.name}: {said or '(nothing)'}"]
    lines += [f"  answer: {answer.answer}"] if answer.answer is not None and answer.answer != said else []
    for number, box in enumerate(answer.boxes.tolist(), 1):
        lines.append(f"  box {number}: x {box[0]:.1f} to {box[2]:.1f}, y {box[1]:.1f} to {box[3]:.1f}")
    for point in (*answer.markers, *answer.points):
        near = "" if point.nearness is None else f", nearness {point.nearness:.2f}"
        lines.append(f"  point {point.letter}: x {point.x:.1f}, y {point.y:.1f}{near}")
    lines += [f"  {what}: {path}" for what, path in written.items() if what != "image"]
    lines += [f"  problem: {one}" for one in answer.problems]
    return "\n".join(lines)

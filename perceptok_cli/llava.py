"""`perceptok llava`: multimodal models with perception tokens."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from perceptok.errors import ConfigError, OutputError
from perceptok_cli.console import finish, note, print_table, progress_bar
from perceptok_cli.evaluation import (
    BenchmarkOption,
    DataOption,
    ImagesOption,
    load_specialist,
    print_evidence,
    print_scores,
)

if TYPE_CHECKING:
    from perceptok.llava import FileQuestion, InferenceConfig, PerceptionAnswer, PerceptionPipeline, QuestionFailure

__all__ = ["app"]


def replace_blocks(
    model: Annotated[Path, typer.Argument(help="A folder that train, merge or save_adapter wrote.")],
    records: Annotated[Path, typer.Argument(help="Records of the depth task with answers (.jsonl, .json, .parquet).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for table, answers and page.")],
    kinds: Annotated[
        str,
        typer.Option("--kinds", help="Kinds of blocks to insert."),
    ] = "own,oracle,random,constant,other,shuffled,none",
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images, if not beside the records.")
    ] = None,
    regime: Annotated[str, typer.Option("--regime", help="Regime of the records: cot or direct.")] = "cot",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number of records.")] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Maximum number of tokens after a block.")
    ] = 64,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions per batch.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of random and shuffled blocks.")] = 0,
    base: Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")] = None,
    device: Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")] = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
) -> None:
    """The token replacement test (arXiv 2605.21642): accuracy with the model's own block, the teacher's, and others.

    An interrupted run is resumed by the same command.
    """
    if (output / "replacement.json").exists() and not force:
        raise OutputError(f"{output / 'replacement.json'} exists already; replace it with --force")
    from perceptok.data import read_records
    from perceptok.errors import EvaluationError
    from perceptok.evaluation import (
        REPLACEMENT_HEADER,
        model_stamp,
        replacement_rows,
        replacement_test,
        write_replacement,
    )
    from perceptok.llava import PerceptionPipeline

    selected = [record for record in read_records(records) if record.task == "depth" and record.regime == regime]
    selected = selected[:limit]
    if not selected:
        raise EvaluationError(f"{records} has no records of the depth task in the regime {regime}")
    pipe = PerceptionPipeline.from_pretrained(model, base=base, device=device)
    output.mkdir(parents=True, exist_ok=True)
    answers = output / "answers.jsonl"
    with progress_bar("replacing", len(selected)) as advance:
        replacement = replacement_test(
            pipe,
            selected,
            cast(Any, [kind.strip() for kind in kinds.split(",")]),
            folder=images or records.parent,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            seed=seed,
            output=answers,
            model=model_stamp(model),
            advance=advance,
        )
    print_table(f"{model.name}: another block in its place", REPLACEMENT_HEADER, replacement_rows(replacement))
    if replacement.skipped:
        note(f"{len(replacement.skipped)} of {len(selected)} answers without exactly one whole block are left out")
    write_replacement(replacement, output, system=model.name, codec=pipe.codec, force=True)
    answers.with_name(answers.name + ".partial").unlink(missing_ok=True)
    note(f"table, answers and page in {output}")


def answer_images(
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
    from perceptok.llava import find_questions

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
    from perceptok.llava import Outputs, answer_files

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
        from perceptok.llava import write_answer_page

        cases = [json.loads(line) for line in lines]
        write_answer_page(html, cases, pipe.codec, title=f"{model.name}: {len(cases)} answers", force=force)
        note(f"a page of {len(cases)} answers -> {html}")
    finish([*unread, *failures], len(asked) + len(unread))


def _settings(path: Path | None, given: dict[str, Any]) -> InferenceConfig:
    from dataclasses import replace

    from perceptok.llava import InferenceConfig

    return replace(InferenceConfig.read(path) if path else InferenceConfig(), **given)


def _loaded(
    model: Path, base: str | None, bits: int | None, dtype: str, device: str, settings: InferenceConfig
) -> PerceptionPipeline:
    from perceptok.llava import PerceptionPipeline

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
) -> tuple[list[str], list[QuestionFailure]]:
    """Answers on standard output as they come; gives their lines of JSON, and what failed."""
    from perceptok.llava import answers_with_pictures

    lines: list[str] = []
    failures: list[QuestionFailure] = []
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


def evaluate_model(
    model: Annotated[Path, typer.Argument(help="A folder that train, merge or save_adapter wrote.")],
    benchmark: BenchmarkOption,
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for predictions, scores and page.")],
    images: ImagesOption = None,
    constraints: Annotated[bool, typer.Option("--constraints/--no-constraints", help="Hold to the grammar.")] = True,
    force_block: Annotated[
        Literal["first", "somewhere"] | None, typer.Option("--force-block", help="Every answer holds a depth block.")
    ] = None,
    consistency: Annotated[
        list[str] | None, typer.Option("--consistency", help="Hold conclusions to evidence: count, list, marker.")
    ] = None,
    specialist: Annotated[
        Path | None, typer.Option("--specialist", help="A depth network (ONNX), as the ceiling and the teacher.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Budget of an answer.")] = 512,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at once.")] = 8,
    base: Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")] = None,
    device: Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")] = "cpu",
    force: ForceOption = False,
) -> None:
    """Ask a model every question of a benchmark and score its answers.

    The answers are written to predictions.jsonl, in the form that `perceptok eval score` and `compare` read. An
    interrupted run is resumed by the same command. Blocks and boxes are checked.
    """
    from perceptok.evaluation import evaluate_pipeline, load_benchmark, model_stamp
    from perceptok.llava import InferenceConfig, PerceptionPipeline

    if (output / "scores.json").exists() and not force:
        raise OutputError(f"{output / 'scores.json'} exists already; replace it with --force")
    items = load_benchmark(benchmark, data, images=images)
    settings = InferenceConfig(
        constraints=constraints,
        force_block=force_block,
        consistency=cast(Any, tuple(consistency or ())),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    pipe = PerceptionPipeline.from_pretrained(model, base=base, device=device, config=settings)
    with progress_bar("asking", len(items)) as advance:
        scores, evidence = evaluate_pipeline(
            pipe,
            items,
            output,
            system=model.name,
            model=[model_stamp(model), base],
            specialist=None if specialist is None else load_specialist(specialist),
            start_over=force,
            advance=advance,
        )
    print_scores(scores, model.name)
    print_evidence(evidence)
    note(f"answers, scores and page in {output}")


def run_small_demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything that is made and kept.")] = Path(
        "perceptok-demo/llava"
    ),
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML or JSON of a DemoConfig; the defaults take ten minutes.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", help="Processor cores to use; 0 leaves it to PyTorch.")] = 0,
) -> None:
    """Train a small LLaVA on procedural scenes until it writes depth, and show what it writes on unseen ones."""
    import torch

    from perceptok.config import read_config
    from perceptok.llava import small

    if threads:
        torch.set_num_threads(threads)
    settings = small.DemoConfig() if config is None else read_config(small.DemoConfig, config)
    result, page = small.run_demo(output, settings, progress=progress_bar)
    print_table(
        "Depth on held-out scenes: error of nearness (0..1)",
        ("depth map", "RMSE"),
        [(name, f"{value:.4f}") for name, value in result.rmse.items()],
    )
    print_table(
        "Which of n marked points is nearest, read from the generated map",
        ("points", "right", "by the mean map"),
        [(count, f"{value:.1%}", f"{result.chance[count]:.1%}") for count, value in result.order.items()],
    )
    valid = ", ".join(f"{name} {value:.0%}" for name, value in result.valid.items())
    note(f"valid blocks: {valid}; processor seconds: {result.seconds}")
    typer.echo(f"page: {page}")


def run_grid(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe (YAML or JSON); see --choices.")] = None,
    choices: Annotated[bool, typer.Option("--choices", help="Print the cells that come with perceptok.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be run, and run nothing.")] = False,
) -> None:
    """Train and evaluate every cell of a grid; data, base and trainings that cells share are made once.

    An interrupted grid is resumed by the same command; finished cells are not run again.
    """
    from perceptok.evaluation import AblationRecipe, shipped_cells

    if choices:
        rows = [(cell.name, cell.description) for cell in shipped_cells().values()]
        print_table("Cells", ("cell", "what it changes"), rows)
        return
    if recipe is None:
        raise ConfigError("ablate needs a recipe; --choices prints the cells that come with perceptok")
    grid = AblationRecipe.read(recipe)
    if plan:
        plan_rows = [
            (
                cell.name,
                grid.data_recipe(cell, grid.data).fingerprint,
                ", ".join(test.name for test in grid.tests_for(cell)),
            )
            for cell in grid.resolved_cells
        ]
        print_table("Cells", ("cell", "data", "tests"), plan_rows)
        return
    from perceptok.evaluation import ABLATION_HEADER, ablation_rows, run_ablation, write_ablation

    results = run_ablation(grid, note)
    print_table("Ablation", ABLATION_HEADER, ablation_rows(results))
    output = grid.resolve(grid.output)
    write_ablation(results, output)
    note(f"table and page in {output}")


app = typer.Typer(no_args_is_help=True, help="LLaVA and its kin: training, inference and evaluation.")

AdapterArgument = Annotated[Path, typer.Argument(help="A folder that training (or save_adapter) wrote.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
BaseOption = Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="A train.yaml (or .json) of settings; see --explain.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print every setting, its default and meaning.")] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Load and check everything, print sizes and a sample, train nothing.")
    ] = False,
) -> None:
    """Fine-tune a model on records. An interrupted run is resumed by the same command.

    Settings of the file can be overridden: `perceptok llava train train.yaml --learning_rate 1e-4 --lora.r 64`. For
    several processes: `accelerate launch --config_file ddp.yaml -m perceptok_cli.main llava train train.yaml`.
    """
    from perceptok.llava import FinetuneConfig, parse_overrides

    if explain:
        from perceptok.llava import explain as explain_settings

        for setting in explain_settings():
            typer.echo(f"{setting.name}: {setting.kind} = {setting.default}\n    {setting.help}")
        return
    if config is None or str(config).startswith("--"):
        raise ConfigError("train needs a file of settings, such as train.yaml, before any --name value; see --explain")
    settings = FinetuneConfig.read(config, parse_overrides(context.args))
    if dry:
        from perceptok.llava import dry_run

        plan = dry_run(settings)
        print_table("What the run would be", ("", "value"), plan.facts)
        typer.echo(f"\nthe first sample, {plan.sample}; supervised tokens stand between « and »:\n{plan.text}")
        return
    from perceptok.llava import finetune

    result = finetune(settings)
    if result.dropped:
        note(f"{result.dropped} records were too long and left out")
    note(f"{result.steps} steps on {result.samples} records, loss {result.loss:.4f}; adapter in {result.adapter}")


@app.command(name="import")
def import_(
    folder: Annotated[Path, typer.Argument(help="adapter_model.bin, adapter_config.json, non_lora_trainables.bin.")],
    base: Annotated[str, typer.Option("--base", help="The same LLaVA in transformers' format: a folder or Hub id.")],
    output: OutputOption,
    codec: Annotated[str | None, typer.Option("--codec", help="AURORA's depth checkpoint (.pt), or a codec.")] = None,
    first_id: Annotated[int, typer.Option(min=0, help="Id of the first perception token there.")] = 32000,
    force: ForceOption = False,
) -> None:
    """Bring an adapter of LLaVA's original format (LLaVA, AURORA) over to transformers' names and ids."""
    from perceptok.depth import DepthCodec, load_aurora_checkpoint
    from perceptok.llava import import_original

    found = None
    if codec is not None:
        found = load_aurora_checkpoint(codec) if codec.endswith(".pt") else DepthCodec.from_pretrained(codec)
    note(f"adapter in {import_original(folder, base, output, codec=found, first_id=first_id, force=force)}")


def _rewriting(name: str, words: str) -> Callable[..., None]:
    """A command that writes an adapter anew; merge and export take the same."""

    def command(
        adapter: AdapterArgument,
        output: OutputOption,
        base: BaseOption = None,
        device: DeviceOption = "cpu",
        force: ForceOption = False,
    ) -> None:
        from perceptok import llava

        write = getattr(llava, name)
        note(f"{words} in {write(adapter, output, base=base, device=device, force=force)}")

    return command


app.command("merge", help="Write base and adapter as one plain checkpoint, for transformers and serving engines.")(
    _rewriting("merge_adapter", "merged model")
)
app.command("export", help="Write the extended base and a pure LoRA adapter for it, for engines that serve adapters.")(
    _rewriting("export_adapter", "folders base and lora")
)
app.command(name="infer")(answer_images)
app.command(name="demo")(run_small_demo)
app.command(name="eval")(evaluate_model)
app.command(name="replace")(replace_blocks)
app.command(name="ablate")(run_grid)

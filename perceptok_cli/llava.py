"""`perceptok llava`: multimodal models with perception tokens."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from perceptok.errors import ConfigError, OutputError
from perceptok_cli.console import (
    DeviceOption,
    ForceOption,
    choose_device,
    finish,
    format_count,
    note,
    print_presets,
    print_table,
    progress_bar,
)
from perceptok_cli.demo import run_llava_demo
from perceptok_cli.evaluation import (
    BENCHMARK_HELP,
    DATA_HELP,
    ImagesOption,
    JudgeKeyOption,
    JudgeModelOption,
    JudgeOption,
    load_specialist,
    make_judge,
    print_agreement,
    print_evidence,
    print_scores,
)
from perceptok_cli.serving import (
    ApiKeyOption,
    ConcurrencyOption,
    ServerOption,
    connect_pipeline,
    load_pipeline,
    serve_model,
)

if TYPE_CHECKING:
    from perceptok.llava import (
        FileQuestion,
        InferenceConfig,
        OutputFolders,
        PerceptionAnswer,
        PerceptionPipeline,
        QuestionFailure,
        ServedPipeline,
    )

__all__ = ["app"]

Ask = Literal["published", "direct", "cot", "depth", "boxes"]
AskOption = Annotated[
    Ask | None,
    typer.Option(
        "--ask",
        help="How questions are worded: as they are (published, the default), or as in training: direct, cot (with "
        "the chain of thought), depth (the answer is read off the map at the markers), boxes (they are counted).",
    ),
]


ModelArgument = Annotated[
    str, typer.Argument(help="A folder that train, merge or save_adapter wrote, or the hub id of one (owner/name).")
]


def replace_blocks(
    model: ModelArgument,
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
    device: DeviceOption = None,
    force: ForceOption = False,
) -> None:
    """The token replacement test (arXiv 2605.21642): accuracy with the model's own block, the teacher's, and others.

    An interrupted run is resumed by the same command.
    """
    answers = output / "answers.jsonl"
    is_incomplete = answers.with_name(answers.name + ".partial").exists()
    if not is_incomplete and not force:
        _refuse_existing(output, "replacement.json", "answers.jsonl", "replacement.csv", "replacement.md", "page.html")
    from perceptok.data import find_records_file, read_records
    from perceptok.errors import EvaluationError
    from perceptok.evaluation import (
        REPLACEMENT_HEADER,
        replacement_rows,
        replacement_test,
        write_replacement,
    )
    from perceptok.llava import PerceptionPipeline

    checked = read_records(records, check_supervision=True)
    selected = [record for record in checked if record.task == "depth" and record.regime == regime][:limit]
    if not selected:
        raise EvaluationError(f"{records} has no records of the depth task in the regime {regime}")
    pipe = PerceptionPipeline.from_pretrained(model, base=base, device=choose_device(device))
    output.mkdir(parents=True, exist_ok=True)
    with progress_bar("replacing", len(selected)) as advance:
        replacement = replacement_test(
            pipe,
            selected,
            cast(Any, [kind.strip() for kind in kinds.split(",")]),
            folder=images or find_records_file(records).parent,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            seed=seed,
            output=answers,
            model=_locate(model),
            advance=advance,
        )
    print_table(f"{Path(model).name}: another block in its place", REPLACEMENT_HEADER, replacement_rows(replacement))
    if replacement.skipped:
        note(f"{len(replacement.skipped)} of {len(selected)} answers without exactly one whole block are left out")
    write_replacement(replacement, output, system=Path(model).name, codec=pipe.codec, force=True)
    if not replacement.unread:
        answers.with_name(answers.name + ".partial").unlink(missing_ok=True)
    note(f"table, answers and page in {output}")
    finish([*replacement.unread.items()], len(selected), summary="not asked, until the same command asks them again:")


def answer_images(
    model: ModelArgument,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders of images, or JSON lines (.jsonl; - reads them from standard input) with image or "
            "images, and optionally question or messages, name, choices, markers, tokens."
        ),
    ],
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="The question for inputs without their own.")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="The question is about all images named, in this order, not about each.")
    ] = False,
    tokens: Annotated[
        Literal["meant", "text"],
        typer.Option(
            "--tokens", help="Perception tokens in a question, such as <PIXEL_3>, are meant (a region), or are text."
        ),
    ] = "text",
    ask: AskOption = None,
    plural: Annotated[
        str | None, typer.Option("--plural", help="What is counted, such as dogs, for inputs that do not say it.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="JSON-lines file of the answers; - prints JSON lines. Default: prints text."
        ),
    ] = None,
    choices: Annotated[
        str | None, typer.Option("--choices", help="Allowed answers, such as A,B,C, for inputs without their own.")
    ] = None,
    save_depth: Annotated[
        Path | None, typer.Option("--save-depth", help="Folder for depth maps in each image's size (16-bit PNG).")
    ] = None,
    save_overlay: Annotated[
        Path | None, typer.Option("--save-overlay", help="Folder for images of each answer with its evidence.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="HTML page of all answers, one file.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings as YAML or JSON (InferenceConfig).")] = None,
    constraints: Annotated[
        bool | None, typer.Option("--constraints/--no-constraints", help="Constrain answers to the grammar, or not.")
    ] = None,
    force_block: Annotated[
        Literal["first", "somewhere"] | None, typer.Option("--force-block", help="Every answer holds a depth block.")
    ] = None,
    consistency: Annotated[
        list[str] | None,
        typer.Option(
            "--consistency", help="Constrain the conclusion to its evidence: count, list, marker; repeatable."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Maximum number of tokens of an answer.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, help="Sampling temperature; 0 is greedy decoding.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of sampling, with a temperature.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Questions per batch.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="4 or 8: quantise the language model.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Data type of the weights, e.g. bfloat16.")] = "auto",
    device: DeviceOption = None,
    force: ForceOption = False,
    server: ServerOption = None,
    api_key: ApiKeyOption = None,
    concurrency: ConcurrencyOption = 8,
) -> None:
    """Ask a model about images. An interrupted run with -o FILE is resumed by the same command."""
    from perceptok.llava import OutputFolders, answer_files, find_questions, write_answer_page

    overrides = {
        "ask": ask,
        "constraints": constraints,
        "force_block": force_block,
        "consistency": tuple(consistency) if consistency else None,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "batch_size": batch_size,
    }
    settings = _read_settings(config, {name: value for name, value in overrides.items() if value is not None})
    file = None if output is None or str(output) == "-" else output
    if file is not None and file.suffix != ".jsonl":
        raise OutputError(f"{file}: answers are written to .jsonl")
    for path in (file, html):
        if path is not None and path.exists() and not force:
            raise OutputError(f"{path} exists already; choose another path, or replace it with --force")
    allowed = [choice.strip() for choice in choices.split(",")] if choices else ()
    if question is None and settings.ask != "published":
        question = ""  # the trained one
    questions, unread = find_questions(
        inputs,
        question=question,
        choices=allowed,
        plural=plural,
        tokens=tokens,
        together=together,
        lines=sys.stdin,
    )
    folders = OutputFolders(depth=save_depth, overlay=save_overlay)
    pipe: PerceptionPipeline | ServedPipeline
    if server is None:
        pipe = load_pipeline(model, base, bits, dtype, device, settings)
    else:
        pipe = connect_pipeline(server, model, settings, api_key, concurrency)
    with progress_bar("answering", len(questions)) as advance:
        if file is not None:
            failures = answer_files(
                pipe, questions, file, folders=folders, model=str(model), force=force, advance=advance
            )
            note(f"{format_count(len(questions) - len(failures), 'answer')} -> {file}")
            lines = file.read_text(encoding="utf-8").splitlines() if html is not None else []
        else:
            folders.check(questions, replace=force)
            format_answer = _format_text if output is None else _format_json
            lines, failures = _print_answers(pipe, questions, folders, format_answer, advance)
    if html is not None and (lines or failures or unread):
        cases = [json.loads(line) for line in lines]
        title = f"{Path(model).name}: {format_count(len(cases), 'answer')}"
        failed = [*unread, *failures]
        write_answer_page(html, cases, pipe.codec, title=title, failures=failed, force=force)
        note(f"a page of {format_count(len(cases), 'answer')} and {format_count(len(failed), 'failure')} -> {html}")
    finish([*unread, *failures], len(questions) + len(unread))


def _read_settings(path: Path | None, overrides: dict[str, Any]) -> InferenceConfig:
    from dataclasses import replace

    from perceptok.llava import InferenceConfig

    return replace(InferenceConfig.read(path) if path else InferenceConfig(), **overrides)


def _print_answers(
    pipe: PerceptionPipeline | ServedPipeline,
    questions: list[FileQuestion],
    folders: OutputFolders,
    format_answer: Callable[[PerceptionAnswer, dict[str, Any]], str],
    advance: Callable[[], object],
) -> tuple[list[str], list[QuestionFailure]]:
    """Print answers as they come; returns their lines of JSON, and the questions that failed."""
    from perceptok.llava import QuestionFailure, answer_questions

    lines: list[str] = []
    failures: list[QuestionFailure] = []
    for answer, paths in answer_questions(pipe, questions, folders):
        if isinstance(answer, tuple):
            failures.append(answer)
        else:
            if "unwritten" in paths:
                failures.append(QuestionFailure(answer.name, paths.pop("unwritten")))
            sys.stdout.write(format_answer(answer, paths) + "\n")
            sys.stdout.flush()
            lines.append(_format_json(answer, paths))
        advance()
    return lines, failures


def _format_json(answer: PerceptionAnswer, paths: dict[str, Any]) -> str:
    return json.dumps({**answer.to_dict(), **paths})


def _format_text(answer: PerceptionAnswer, paths: dict[str, Any]) -> str:
    """A few lines for the terminal, which control characters of the model's text do not reach."""
    text = "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in answer.plain.strip())
    lines = [f"{answer.name}: {text or '(empty)'}"]
    lines += [f"  answer: {answer.answer}"] if answer.answer is not None and answer.answer != text else []
    for number, box in enumerate(answer.boxes.tolist(), 1):
        lines.append(f"  box {number}: x {box[0]:.1f} to {box[2]:.1f}, y {box[1]:.1f} to {box[3]:.1f}")
    for point in (*answer.markers, *answer.points):
        nearness = "" if point.nearness is None else f", nearness {point.nearness:.2f}"
        lines.append(f"  point {point.letter}: x {point.x:.1f}, y {point.y:.1f}{nearness}")
    lines += [f"  {kind}: {path}" for kind, path in paths.items() if not kind.startswith("image")]
    lines += [f"  problem: {problem}" for problem in answer.problems]
    return "\n".join(lines)


def evaluate_model(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for predictions, scores and page.")],
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", help=f"{BENCHMARK_HELP}, atomic (records without an answer).")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help=DATA_HELP)] = None,
    images: ImagesOption = None,
    config: Annotated[
        str | None,
        typer.Option("--config", help="YAML or JSON of benchmark and inference, or a preset; see llava presets."),
    ] = None,
    ask: AskOption = None,
    constraints: Annotated[
        bool | None, typer.Option("--constraints/--no-constraints", help="Constrain answers to the grammar (default).")
    ] = None,
    force_block: Annotated[
        Literal["first", "somewhere"] | None, typer.Option("--force-block", help="Every answer holds a depth block.")
    ] = None,
    consistency: Annotated[
        list[str] | None,
        typer.Option("--consistency", help="Constrain conclusions to evidence: count, list, marker."),
    ] = None,
    specialist: Annotated[
        Path | None, typer.Option("--specialist", help="A depth network (ONNX), as the ceiling and the teacher.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Maximum number of tokens of an answer; 512.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Questions per batch; 8.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")] = None,
    device: DeviceOption = None,
    force: ForceOption = False,
    server: ServerOption = None,
    api_key: ApiKeyOption = None,
    concurrency: ConcurrencyOption = 8,
    judge: JudgeOption = None,
    judge_model: JudgeModelOption = None,
    judge_api_key: JudgeKeyOption = None,
) -> None:
    """Ask a model every question of a benchmark and score its answers.

    The answers are written to predictions.jsonl, in the form that `perceptok eval score` and `compare` read. An
    interrupted run is resumed by the same command. Blocks and boxes are checked. The replies of a judge are kept in
    judge.jsonl in the output folder.
    """
    from perceptok.evaluation import EvaluationConfig, evaluate_pipeline
    from perceptok.llava import PerceptionPipeline

    is_incomplete = (output / "predictions.jsonl.partial").exists()
    if not is_incomplete and not force:
        _refuse_existing(output, "scores.json", "predictions.jsonl", "scores.csv", "scores.md", "page.html")
    overrides = {
        "benchmark": benchmark,
        "data": data,
        "images": None if images is None else str(images),
        "inference.ask": ask,
        "inference.constraints": constraints,
        "inference.force_block": force_block,
        "inference.consistency": consistency,
        "inference.max_new_tokens": max_new_tokens,
        "inference.batch_size": batch_size,
    }
    settings = EvaluationConfig.read(config, {name: value for name, value in overrides.items() if value is not None})
    reader = make_judge(judge, judge_model, judge_api_key, output)
    items = settings.load_benchmark()
    pipe: PerceptionPipeline | ServedPipeline
    if server is None:
        pipe = PerceptionPipeline.from_pretrained(
            model, base=base, device=choose_device(device), config=settings.inference
        )
    else:
        pipe = connect_pipeline(server, model, settings.inference, api_key, concurrency)
    with progress_bar("asking", len(items)) as advance:
        scores, evidence = evaluate_pipeline(
            pipe,
            items,
            output,
            system=Path(model).name,
            model=[_locate(model), base],
            specialist=None if specialist is None else load_specialist(specialist),
            judge=reader,
            start_over=force,
            advance=advance,
        )
    print_agreement(scores, evidence)
    print_scores(scores, Path(model).name)
    print_evidence(evidence)
    note(f"answers, scores and page in {output}")
    unasked = [outcome.item.id for outcome in scores.outcomes if outcome.text is None]
    finish(
        [
            (item, "not asked: its image cannot be read; counted as wrong until the same command asks it")
            for item in unasked
        ],
        len(items),
    )


def _refuse_existing(folder: Path, *names: str) -> None:
    """Raise OutputError for the first of some outputs that a folder has already."""
    for name in names:
        if (folder / name).exists():
            raise OutputError(f"{folder / name} exists already; replace it with --force")


def _locate(model: str) -> str:
    """The absolute path of a model's folder, or its id on the Hub."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def run_grid(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(help="A recipe (YAML or JSON), or a preset; see presets.")] = None,
    choices: Annotated[bool, typer.Option("--choices", help="Print the cells that come with perceptok.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be run, and run nothing.")] = False,
) -> None:
    """Train and evaluate every cell of a grid; data, base and trainings that cells share are made once.

    An interrupted grid is resumed by the same command; finished cells are not run again. Settings of the recipe can be
    overridden: `perceptok llava ablate aurora-table-1 --base llava-1.5-13b --output run --benchmarks benchmarks`. For
    several processes, which train each cell together: `accelerate launch --config_file ddp.yaml -m perceptok_cli.main
    llava ablate recipe.yaml`.
    """
    from perceptok.config import parse_overrides
    from perceptok.evaluation import AblationRecipe, shipped_cells

    if choices:
        rows = [(cell.name, cell.description) for cell in shipped_cells().values()]
        print_table("Cells", ("cell", "what it changes"), rows)
        return
    if recipe is None or recipe.startswith("--"):
        raise ConfigError("ablate needs a recipe, before any --name value; --choices prints the cells, presets recipes")
    grid = AblationRecipe.read(recipe, parse_overrides(context.args))
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

    results = run_ablation(grid, lambda _, message: note(message))
    if not results:  # in another process than the first
        return
    print_table("Ablation", ABLATION_HEADER, ablation_rows(results))
    output = grid.resolve(grid.output)
    write_ablation(results, output)
    note(f"table and page in {output}")


def list_configurations(
    name: Annotated[str | None, typer.Argument(help="Print the file of this preset.")] = None,
) -> None:
    """List the configurations that come with perceptok; each can be named wherever such a file is asked for."""
    print_presets(["llava", "evaluation"], name)


app = typer.Typer(no_args_is_help=True, help="LLaVA and its kin: training, inference and evaluation.")

AdapterArgument = Annotated[
    str, typer.Argument(help="A folder that train or save_adapter wrote, or the hub id of one (owner/name).")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
BaseOption = Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")]


_OVERRIDABLE = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of a command whose file of settings is overridden by `--name value`."""


@app.command(context_settings=_OVERRIDABLE)
def train(
    context: typer.Context,
    config: Annotated[str | None, typer.Argument(help="A train.yaml (or .json), or a preset; see --explain.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print every setting, its default and meaning.")] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Load and check everything, print sizes and a sample, train nothing.")
    ] = False,
) -> None:
    """Fine-tune a model on records. An interrupted run is resumed by the same command.

    Settings of the file can be overridden: `perceptok llava train train.yaml --learning_rate 1e-4 --lora.r 64`; so are
    those of a preset, such as `aurora-depth` (see `perceptok llava presets`). For several processes: `accelerate launch
    --config_file ddp.yaml -m perceptok_cli.main llava train train.yaml`.
    """
    from perceptok.config import parse_overrides
    from perceptok.llava import FinetuneConfig

    if explain:
        from perceptok.llava import explain as explain_settings

        for setting in explain_settings():
            typer.echo(f"{setting.name}: {setting.kind} = {setting.default}\n    {setting.help}")
        return
    if config is None or config.startswith("--"):
        raise ConfigError("train needs a file of settings, such as train.yaml, before any --name value; see --explain")
    settings = FinetuneConfig.read(config, parse_overrides(context.args))
    if dry:
        from perceptok.llava import dry_run

        plan = dry_run(settings, progress=progress_bar)
        print_table("What the run would be", ("", "value"), plan.facts)
        typer.echo(f"\nthe first sample, {plan.sample}; supervised tokens stand between « and »:\n{plan.text}")
        return
    from perceptok.llava import finetune

    is_main = settings.process_index == 0
    try:
        result = finetune(settings, progress=progress_bar)
    except KeyboardInterrupt as error:
        if is_main:
            note(str(error))
        raise typer.Exit(130) from error
    if not is_main:
        return
    if result.dropped:
        note(f"{result.dropped} records were too long and left out")
    note(f"{result.steps} steps on {result.samples} records, loss {result.loss:.4f}; adapter in {result.adapter}")


@app.command(name="import")
def import_(
    folder: Annotated[Path, typer.Argument(help="adapter_model.bin, adapter_config.json, non_lora_trainables.bin.")],
    base: Annotated[str, typer.Option("--base", help="The same LLaVA in transformers' format: a folder or Hub id.")],
    output: OutputOption,
    codec: Annotated[str | None, typer.Option("--codec", help="AURORA's depth checkpoint (.pt), or a codec.")] = None,
    tokens: Annotated[
        Literal["depth", "boxes", "both"],
        typer.Option("--tokens", help="The original's perception tokens: depth (130), boxes (336) or both."),
    ] = "both",
    first_id: Annotated[int, typer.Option(min=0, help="Id of the first perception token in the original.")] = 32000,
    force: ForceOption = False,
) -> None:
    """Convert an adapter of LLaVA's original format (LLaVA, AURORA) to transformers' names and token ids."""
    from perceptok.depth import DepthCodec, load_aurora_checkpoint
    from perceptok.llava import import_original

    depth_codec = None
    if codec is not None:
        depth_codec = load_aurora_checkpoint(codec) if codec.endswith(".pt") else DepthCodec.from_pretrained(codec)
    adapter = import_original(folder, base, output, codec=depth_codec, tokens=tokens, first_id=first_id, force=force)
    note(f"adapter in {adapter}")


def export_model(
    model: Annotated[Path, typer.Argument(help="An adapter; except for lora also a checkpoint, as merge writes it.")],
    output: OutputOption,
    format: Annotated[str, typer.Option(help="lora, gguf (llama.cpp), onnx (ONNX) or llava (SGLang).")] = "lora",  # noqa: A002
    precision: Annotated[str | None, typer.Option(help="Of GGUF or ONNX weights, as the converter names it.")] = None,
    provider: Annotated[str, typer.Option(help="Execution provider of ONNX: cpu, cuda, ...")] = "cpu",
    converter: Annotated[Path | None, typer.Option(help="llama.cpp's convert_hf_to_gguf.py.")] = None,
    pre_tokenizer: Annotated[
        str | None, typer.Option(help="llama.cpp's name of a pre-tokenizer that its converter does not know.")
    ] = None,
    base: BaseOption = None,
    device: DeviceOption = None,
    force: ForceOption = False,
) -> None:
    """Write an adapter or a checkpoint in the form of a serving engine.

    lora: the extended base and a pure LoRA adapter for it, for engines that serve adapters. gguf and onnx: the model as
    llama.cpp and onnxruntime-genai load it, by their own converters (language models without a vision tower). llava: a
    LLaVA-1.5 in the layout of its original code, as SGLang loads it; its folder cannot be moved.
    """
    from perceptok.llava import convert_checkpoint, export_adapter, merge_adapter

    if format == "lora":
        target = export_adapter(model, output, base=base, device=choose_device(device), force=force)
        note(f"folders base and lora in {target}")
        return
    if format not in ("gguf", "onnx", "llava"):
        raise ConfigError(f"format is one of lora, gguf, onnx and llava; got {format!r}")
    with tempfile.TemporaryDirectory() as folder:
        source = model
        if not (model / "config.json").is_file():
            source = merge_adapter(model, Path(folder) / "merged", base=base, device=choose_device(device))
        target = convert_checkpoint(
            source,
            output,
            format=cast(Any, format),
            precision=precision,
            provider=provider,
            converter=converter,
            pre_tokenizer=pre_tokenizer,
            force=force,
        )
    note(f"{format} in {target}")


def merge_model(
    adapter: AdapterArgument,
    output: OutputOption,
    base: BaseOption = None,
    device: DeviceOption = None,
    force: ForceOption = False,
) -> None:
    """Write base and adapter as one plain checkpoint, for transformers and serving engines."""
    from perceptok.llava import merge_adapter

    note(f"merged model in {merge_adapter(adapter, output, base=base, device=choose_device(device), force=force)}")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A folder that train, merge or save_adapter wrote.")],
    repo_id: Annotated[str, typer.Argument(help="The repository, owner/name; created where it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch; default: main.")] = None,
    message: Annotated[str | None, typer.Option("--message", help="Message of the commit.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
) -> None:
    """Push an adapter or a merged model to the Hugging Face Hub, with its model card (README.md).

    The token is that of `hf auth login`, or HF_TOKEN. Afterwards the id names the model in every command.
    """
    from perceptok.llava import push_to_hub

    address = push_to_hub(
        folder, repo_id, private=private or None, revision=revision, commit_message=message, create_pr=create_pr
    )
    note(f"{folder} pushed: {address}")


app.command("merge")(merge_model)
app.command("export")(export_model)
app.command(name="infer")(answer_images)
app.command(name="serve")(serve_model)
app.command(name="demo")(run_llava_demo)
app.command(name="eval")(evaluate_model)
app.command(name="replace")(replace_blocks)
app.command(name="ablate", context_settings=_OVERRIDABLE)(run_grid)
app.command(name="presets")(list_configurations)

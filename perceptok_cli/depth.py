"""`perceptok depth`: depth maps to tokens and back, training, evaluation, drawings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perceptok.errors import ConfigError, MalformedBlockError, OutputError
from perceptok_cli.console import finish, note, print_table, progress_bar, warn_at_end
from perceptok_cli.depth_options import (
    BatchOption,
    CodecOption,
    DeviceOption,
    ForceOption,
    MapCommand,
    Paths,
    find_named_maps,
    load_codec,
)
from perceptok_cli.depth_train import train_codec

if TYPE_CHECKING:
    from perceptok.depth import DepthScore

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Depth maps <-> 100 tokens.")
app.command("train", cls=MapCommand)(train_codec)


@app.command("show")
def show_answer(
    answer: Annotated[
        str, typer.Argument(help="A model's answer, 100 integers, a file of it, or - for standard input.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")],
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    stretch: Annotated[
        bool | None,
        typer.Option(
            "--stretch/--no-stretch",
            help="Colours from the map's own least to its largest value; by default where the codec is MolmoAct's.",
        ),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Draw the blocks in a model's answer, short or malformed ones too, and say what is wrong with them."""
    from perceptok.depth import Preprocessing, draw_blocks, recover_blocks
    from perceptok.files import atomic_write

    text = _read_answer(answer)
    try:
        blocks = recover_blocks(text)
    except MalformedBlockError:
        if _begins_with_record(text):
            raise ConfigError(f"{answer}: {_RECORDS}") from None
        raise
    loaded = load_codec(codec, device)
    if stretch is None:
        stretch = loaded.preprocessing == Preprocessing.from_name("molmoact")
    image = draw_blocks(loaded, blocks, stretch=stretch)
    with atomic_write(output, force=force) as file:
        file.write(image)
    for number, block in enumerate(blocks, 1):
        for problem in block.problems:
            note(f"block {number}: {problem}")
    note(f"{len(blocks)} {'block' if len(blocks) == 1 else 'blocks'} drawn in {output}")


_RECORDS = "records of codes, not a model's answer; decode them to maps with `perceptok depth decode`"


def _read_answer(answer: str) -> str:
    if answer == "-":
        return sys.stdin.read()
    if answer.endswith((".npz", ".parquet")):
        raise ConfigError(f"{answer}: {_RECORDS}")
    try:
        return Path(answer).read_text(encoding="utf-8") if Path(answer).is_file() else answer
    except UnicodeDecodeError as error:
        raise ConfigError(f"{answer}: not a text file that can be read ({error})") from error
    except (OSError, ValueError):  # too long for the name of a file: an answer
        return answer


def _begins_with_record(text: str) -> bool:
    """Whether the first line that is not blank is a record of `encode`, of a map or a frame."""
    from perceptok.depth import DepthRecord

    try:
        DepthRecord.from_json(next(line for line in text.splitlines() if line.strip()))
    except (MalformedBlockError, StopIteration):
        return False
    return True


@app.command("encode", cls=MapCommand)
def encode_depth(
    ctx: typer.Context,
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help=".jsonl, .npz or .parquet; - prints JSON lines.")],
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = 16,
    text: Annotated[bool, typer.Option("--text", help="JSON lines: write the block of tokens too.")] = False,
    force: ForceOption = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option("--engine", help="This process, or workers on a Ray cluster (extra ray)."),
    ] = "local",
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Ray: number of workers, each with a codec of its own.")
    ] = 2,
    address: Annotated[
        str | None,
        typer.Option("--address", help="Ray: the cluster's address; default: RAY_ADDRESS, or this machine."),
    ] = None,
    sequence: Annotated[
        bool,
        typer.Option(
            "--sequence",
            help="Each folder's maps are the frames of a clip: one range (percentiles 1 and 99 of the first frames, or "
            "--percentiles, --near/--far, --running), and records of the cells that changed.",
        ),
    ] = False,
    hold: Annotated[
        float | None,
        typer.Option("--hold", min=0, help="Clips: a code stays while no other is nearer by more; default 0.02."),
    ] = None,
    deadband: Annotated[
        float | None,
        typer.Option("--deadband", min=0, help="Clips: a code stays while its cell's nearness moves less; default 0."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Clips: first frames that decide the range; default 8.")
    ] = None,
    running: Annotated[
        float | None,
        typer.Option(
            "--running", help="Clips: the range goes this share of the way to each frame's own, such as 0.02."
        ),
    ] = None,
) -> None:
    """Encode depth maps to tokens. An interrupted run is continued by the same command."""
    from perceptok.depth import ClipSettings, MapFailure, encode_files, encode_maps
    from perceptok.jobs import RayEngine

    if not sequence and (hold, deadband, frames, running) != (None, None, None, None):
        raise ConfigError("--hold, --deadband, --frames and --running are for clips; add --sequence")
    if sequence and (text or engine == "ray"):
        raise ConfigError(
            "--sequence goes with neither --text nor --engine ray: records hold what changed, not whole blocks, and "
            "each frame needs the one before it"
        )
    clips = ClipSettings(0.02 if hold is None else hold, deadband or 0.0, frames or 8) if sequence else None
    maps = find_named_maps(ctx, paths, frames=sequence, running=running)
    loaded = load_codec(codec, device)
    ray = RayEngine(workers, address, gpus=float(device.startswith("cuda"))) if engine == "ray" else None
    warnings: list[tuple[str, str]] = []
    if str(output) == "-":
        failures: list[MapFailure] = []
        for result in encode_maps(loaded, maps, batch_size=batch_size, clips=clips, engine=ray):
            if isinstance(result, MapFailure):
                failures.append(result)
                continue
            sys.stdout.write(result.to_json(text=text) + "\n")
            warnings += [(result.name, result.warning)] if result.warning else []
        warn_at_end(warnings, len(maps))
        finish(failures, len(maps))
        return
    with progress_bar("encoding", len(maps)) as advance:
        failures = encode_files(
            loaded,
            maps,
            output,
            batch_size=batch_size,
            text=text,
            clips=clips,
            engine=ray,
            force=force,
            advance=advance,
            warn=lambda *warning: warnings.append(warning),
        )
    warn_at_end(warnings, len(maps))
    note(f"{len(maps) - len(failures)} maps -> {output}")
    finish(failures, len(maps))


@app.command("decode")
def decode_depth(
    records: Annotated[Path, typer.Argument(help="What encode wrote; - reads JSON lines from standard input.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the maps, named as they were.")],
    form: Annotated[
        Literal["depth", "nearness"],
        typer.Option(
            "--as", help="nearness (1 = nearest), or depth: metres of metric maps, the own scale of inverse ones."
        ),
    ] = "nearness",
    suffix: Annotated[str, typer.Option("--format", help=".png (16 bits), .npy, .npz, .pfm, .tiff or .exr")] = ".png",
    unit: Annotated[
        Literal["mm", "cm", "m"] | None,
        typer.Option("--unit", help="With --as depth: unit of metric maps; default: mm in PNG, m elsewhere."),
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="With --as depth: metres per value, instead of a unit.")
    ] = None,
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = 16,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="Refuse records of larger maps; 2**27 take 0.5 GB.")
    ] = 2**27,
    force: ForceOption = False,
) -> None:
    """Decode tokens to depth maps, in the size of the maps they came from. Existing files are kept without --force."""
    from perceptok.depth import MapFailure, decode_records, parse_depth_records, read_depth_records

    loaded = load_codec(codec, device)
    damaged: list[MapFailure] = []
    if str(records) == "-":
        parsed = list(parse_depth_records(sys.stdin, "standard input", damaged))
    else:
        parsed = list(read_depth_records(records, damaged))
    with progress_bar("decoding", len(parsed)) as advance:
        failures = decode_records(
            loaded,
            parsed,
            output,
            form=form,
            suffix=suffix,
            unit=unit,
            scale=scale,
            batch_size=batch_size,
            force=force,
            max_pixels=max_pixels,
            advance=advance,
        )
    note(f"{len(parsed) - len(failures)} maps in {output}")
    finish([*damaged, *failures], len(parsed) + len(damaged))


@app.command("eval", cls=MapCommand)
def evaluate_codec(
    ctx: typer.Context,
    paths: Paths,
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the report as JSON too.")] = None,
    force: ForceOption = False,
) -> None:
    """Score a codec on depth maps, by source, beside unquantised grids of the same maps."""
    from perceptok.depth import evaluate_depth_codec
    from perceptok.files import atomic_write

    if output and output.exists() and not force:
        raise OutputError(f"{output} exists already; replace it with --force")
    maps = find_named_maps(ctx, paths)
    warnings: list[tuple[str, str]] = []
    with progress_bar("scoring", len(maps)) as advance:
        report = evaluate_depth_codec(
            load_codec(codec, device), maps, advance=advance, warn=lambda *warning: warnings.append(warning)
        )
    tables = {"codec: 100 tokens": report.codec}
    for side, scores in report.baselines.items():
        tables[f"baseline: {side}x{side} area averages, not quantised"] = scores
    for title, scores in tables.items():
        print_table(title, _HEADER, [_format_score(name, score) for name, score in scores.items()])
    note(f"codes used: {report.usage.used} of 128, perplexity {report.usage.perplexity:.1f}")
    if output:
        with atomic_write(output, force=force) as file:
            file.write((json.dumps(report.to_dict(), indent=2) + "\n").encode())
    warn_at_end(warnings, len(maps))
    finish(report.failures, len(maps))


_HEADER = ("source", "maps", "RMSE", "MAE", "AbsRel", "<1.25", "3", "4", "5", "closest", "pairs")


def _format_score(name: str, score: DepthScore) -> list[str]:
    errors = [f"{value:.4f}" for value in (score.rmse, score.mae, score.abs_rel)]
    shares = [f"{value:.1%}" for value in (score.delta_125, *score.markers, score.closest, score.pairs)]
    return [name, str(score.maps), *(cell if not cell.startswith("nan") else "-" for cell in errors + shares)]


@app.command("inspect", cls=MapCommand)
def inspect_codec(
    ctx: typer.Context,
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write, or the page.")],
    html: Annotated[bool, typer.Option("--html", help="Write an HTML page to step through.")] = False,
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> None:
    """Draw maps, the maps decoded from their tokens, the errors and the grids of codes."""
    from perceptok.depth import draw_files

    maps = find_named_maps(ctx, paths)
    warnings: list[tuple[str, str]] = []
    failures = draw_files(
        load_codec(codec, device),
        maps,
        output,
        html=html,
        force=force,
        warn=lambda *warning: warnings.append(warning),
    )
    if len(failures) < len(maps):
        note(f"{len(maps) - len(failures)} maps drawn in {output}")
    warn_at_end(warnings, len(maps))
    finish(failures, len(maps))

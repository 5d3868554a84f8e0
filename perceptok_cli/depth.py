"""`perceptok depth`: depth maps to tokens and back, training, evaluation, pictures."""

from __future__ import annotations

import json
import math
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
    MapReading,
    Paths,
    loaded_codec,
    reads_maps,
)
from perceptok_cli.depth_train import train

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perceptok.depth import DepthScore

__all__ = ["app", "show"]


def show(
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
    """Draw the blocks in a model's answer, short or strange ones too, and say what is wrong with them."""
    from perceptok.depth import Preprocessing, draw_blocks, salvage_blocks
    from perceptok.files import atomic_write

    text = _text(answer)
    try:
        blocks = salvage_blocks(text)
    except MalformedBlockError:
        if _holds_records(text):
            raise ConfigError(f"{answer}: {_RECORDS}") from None
        raise
    loaded = loaded_codec(codec, device)
    own_range = loaded.preprocessing == Preprocessing.named("molmoact") if stretch is None else stretch
    picture = draw_blocks(loaded, blocks, stretch=own_range)
    with atomic_write(output, force=force) as file:
        file.write(picture)
    for number, block in enumerate(blocks, 1):
        for problem in block.problems:
            note(f"block {number}: {problem}")
    note(f"{len(blocks)} {'block' if len(blocks) == 1 else 'blocks'} drawn in {output}")


_RECORDS = "records of codes, no model's answer; make maps of them with `perceptok depth decode`"


def _holds_records(text: str) -> bool:
    """Whether the first line that is not blank is a record of `encode`, of a map or a frame."""
    from perceptok.depth import DepthRecord

    try:
        DepthRecord.from_json(next(line for line in text.splitlines() if line.strip()))
    except (MalformedBlockError, StopIteration):
        return False
    return True


def _text(answer: str) -> str:
    if answer == "-":
        return sys.stdin.read()
    if answer.endswith((".npz", ".parquet")):
        raise ConfigError(f"{answer}: {_RECORDS}")
    try:
        if Path(answer).is_file():
            return Path(answer).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{answer}: not a text file that can be read ({error})") from error
    except (OSError, ValueError):  # too long for the name of a file: an answer
        return answer
    return answer


app = typer.Typer(no_args_is_help=True, help="Depth maps <-> 100 tokens.")
app.command()(train)
app.command()(show)

EngineOption = Annotated[
    Literal["local", "ray"], typer.Option("--engine", help="This process, or workers on a Ray cluster (extra ray).")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Ray: workers, each with a codec of its own.")]
SequenceOption = Annotated[
    bool,
    typer.Option(
        "--sequence",
        help="Each folder's maps are the frames of a clip: one range (percentiles 1 and 99 of the first frames, or "
        "--percentiles, --near/--far, --running), and records of the cells that changed.",
    ),
]
HoldOption = Annotated[
    float | None,
    typer.Option("--hold", min=0, help="Clips: a code stays while no other is nearer by more; default 0.02."),
]
DeadbandOption = Annotated[
    float | None,
    typer.Option("--deadband", min=0, help="Clips: a code stays while its cell's nearness moves less; default 0."),
]
FramesOption = Annotated[
    int | None, typer.Option("--frames", min=1, help="Clips: first frames that decide the range; default 8.")
]
RunningOption = Annotated[
    float | None,
    typer.Option("--running", help="Clips: the range goes this share of the way to each frame's own, such as 0.02."),
]
AddressOption = Annotated[
    str | None, typer.Option("--address", help="Ray: the cluster's address; default: RAY_ADDRESS, or this machine.")
]


@app.command()
@reads_maps
def encode(
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help=".jsonl, .npz or .parquet; - prints JSON lines.")],
    reading: MapReading,
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = 16,
    text: Annotated[bool, typer.Option("--text", help="JSON lines: write the block of tokens too.")] = False,
    force: ForceOption = False,
    engine: EngineOption = "local",
    workers: WorkersOption = 2,
    address: AddressOption = None,
    sequence: SequenceOption = False,
    hold: HoldOption = None,
    deadband: DeadbandOption = None,
    frames: FramesOption = None,
    running: RunningOption = None,
) -> None:
    """Encode depth maps to tokens. An interrupted run is continued by the same command."""
    from perceptok.depth import (
        ClipSettings,
        MapFailure,
        clip_records,
        encode_clips,
        encode_files,
        encode_maps,
        ray_encoder,
    )

    if not sequence and (hold, deadband, frames, running) != (None, None, None, None):
        raise ConfigError("--hold, --deadband, --frames and --running are for clips; add --sequence")
    if sequence and (text or engine != "local"):
        raise ConfigError(
            "--sequence goes with neither --text nor --engine ray: records hold what changed, no whole block, and each "
            "frame needs the one before it"
        )
    settings = ClipSettings(0.02 if hold is None else hold, deadband or 0.0, frames or 8)
    maps = reading.found(paths, frames=sequence, running=running)
    loaded = loaded_codec(codec, device)
    spread = ray_encoder(loaded, batch_size=batch_size, workers=workers, address=address) if engine == "ray" else None
    odd: list[tuple[str, str]] = []
    if str(output) == "-":
        failures: list[MapFailure] = []
        if sequence:
            results = clip_records(loaded, maps, settings)
        else:
            results = iter(spread(maps)) if spread else encode_maps(loaded, maps, batch_size=batch_size)
        for result in results:
            if isinstance(result, MapFailure):
                failures.append(result)
            else:
                sys.stdout.write(result.to_json(text=text) + "\n")
                odd += [(result.name, result.warning)] if result.warning else []
        warn_at_end(odd, len(maps))
        finish(failures, len(maps))
        return

    def warn(name: str, warning: str) -> None:
        odd.append((name, warning))

    with progress_bar("encoding", len(maps)) as advance:
        if sequence:
            failures = encode_clips(loaded, maps, output, settings=settings, force=force, advance=advance, warn=warn)
        else:
            failures = encode_files(
                loaded,
                maps,
                output,
                batch_size=batch_size,
                text=text,
                force=force,
                advance=advance,
                engine=spread,
                warn=warn,
            )
    warn_at_end(odd, len(maps))
    note(f"{len(maps) - len(failures)} maps -> {output}")
    finish(failures, len(maps))


@app.command()
def decode(
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
    from perceptok.depth import MapFailure, decode_records, read_code_records, read_record_lines

    loaded = loaded_codec(codec, device)
    bad: list[MapFailure] = []
    lines = (
        read_record_lines(sys.stdin, "standard input", bad) if str(records) == "-" else read_code_records(records, bad)
    )
    read = list(lines)
    with progress_bar("decoding", len(read)) as advance:
        failures = decode_records(
            loaded,
            read,
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
    note(f"{len(read) - len(failures)} maps in {output}")
    finish([*bad, *failures], len(read) + len(bad))


@app.command(name="eval")
@reads_maps
def evaluate(
    paths: Paths,
    reading: MapReading,
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
    maps = reading.found(paths)
    odd: list[tuple[str, str]] = []
    with progress_bar("scoring", len(maps)) as advance:
        report = evaluate_depth_codec(
            loaded_codec(codec, device), maps, advance=advance, warn=lambda *warning: odd.append(warning)
        )
    tables = {"codec: 100 tokens": report.codec}
    for side, scores in report.ladder.items():
        tables[f"yardstick: {side}x{side} area averages, not quantised"] = scores
    for title, scores in tables.items():
        print_table(title, _HEADER, [_columns(name, score) for name, score in scores.items()])
    note(f"codes used: {report.usage.used} of 128, perplexity {report.usage.perplexity:.1f}")
    if output:
        with atomic_write(output, force=force) as file:
            file.write((json.dumps(report.to_dict(), indent=2) + "\n").encode())
    warn_at_end(odd, len(maps))
    finish(report.failures, len(maps))


@app.command()
@reads_maps
def inspect(
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write, or the page.")],
    reading: MapReading,
    html: Annotated[bool, typer.Option("--html", help="Write an HTML page to step through.")] = False,
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> None:
    """Draw maps, what their tokens say, the error and the grid of codes."""
    from perceptok.depth import MapFailure, Nearness, depth_case, draw_panel, panel_row
    from perceptok.errors import DepthMapError, EvaluationError
    from perceptok.files import atomic_write
    from perceptok.pages import write_page

    maps = reading.found(paths)
    loaded = loaded_codec(codec, device)
    failures: list[MapFailure] = []

    odd: list[tuple[str, str]] = []

    def read() -> Iterator[tuple[str, Nearness]]:
        for file in maps:
            try:
                nearness = file.nearness()
            except DepthMapError as error:
                failures.append(MapFailure(file.name, str(error)))
            else:
                odd.extend([(file.name, str(few))] if (few := nearness.few_pixels()) else [])
                yield file.name, nearness

    if html:
        cases = (depth_case(loaded, name, nearness) for name, nearness in read())
        try:
            drawn = write_page(output, cases, title="Depth maps and their tokens", force=force)
        except EvaluationError:
            if not failures:
                raise
            drawn = 0  # none can be read: `finish` says why
    else:
        rows = [panel_row(loaded, name, nearness) for name, nearness in read()]
        drawn = len(rows)
        if rows:
            with atomic_write(output, force=force) as out:
                out.write(draw_panel(rows))
    if drawn:
        note(f"{drawn} maps drawn in {output}")
    warn_at_end(odd, len(maps))
    finish(failures, len(maps))


_HEADER = ("source", "maps", "RMSE", "MAE", "AbsRel", "<1.25", "3", "4", "5", "closest", "pairs")


def _columns(name: str, score: DepthScore) -> list[str]:
    def shown(value: float, form: str) -> str:
        return "-" if math.isnan(value) else format(value, form)

    errors = [shown(value, ".4f") for value in (score.rmse, score.mae, score.abs_rel)]
    shares = [shown(value, ".1%") for value in (score.delta_125, *score.markers, score.closest, score.pairs)]
    return [name, str(score.maps), *errors, *shares]

"""`perceptok depth`: depth maps to tokens and back, training, evaluation, pictures."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from perceptok.errors import ConfigError, OutputError
from perceptok_cli.console import finish, note, print_table, progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from perceptok.depth.codec import DepthCodec
    from perceptok.depth.folders.collection import MapFile
    from perceptok.depth.scores.report import DepthScore
    from perceptok.depth.training.bank import MapSource

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Depth maps <-> 100 tokens.")

Paths = Annotated[
    list[str],
    typer.Argument(
        help="Depth maps, folders, patterns, or lists (.txt, .csv); - reads file names from standard input."
    ),
]
KindOption = Annotated[
    Literal["inverse", "metric"] | None,
    typer.Option("--kind", help="What the files hold: metric (larger = farther) or inverse (larger = nearer)."),
]
UnitOption = Annotated[Literal["mm", "cm", "m"] | None, typer.Option("--unit", help="Unit of metric files.")]
ScaleOption = Annotated[
    float | None, typer.Option("--scale", help="Metres per value of metric files, instead of a unit.")
]
InvalidOption = Annotated[
    list[float] | None, typer.Option("--invalid", help="A value in the files that marks holes; may be repeated.")
]
SourceOption = Annotated[
    list[str] | None, typer.Option("--source", help="Keep this source of a list only; may be repeated.")
]
CodecOption = Annotated[
    str | None,
    typer.Option("--codec", help="Folder or hub id of a codec, or an AiT / AURORA .pt; default: the shipped one."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Maps at once; results do not depend on it.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]


@app.command()
def encode(
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help=".jsonl, .npz or .parquet; - prints JSON lines.")],
    kind: KindOption = None,
    unit: UnitOption = None,
    scale: ScaleOption = None,
    invalid: InvalidOption = None,
    source: SourceOption = None,
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = 16,
    text: Annotated[bool, typer.Option("--text", help="JSON lines: write the block of tokens too.")] = False,
    force: ForceOption = False,
) -> None:
    """Encode depth maps to tokens. An interrupted run is continued by the same command."""
    from perceptok.depth.folders.jobs import Failure, encode_files, encode_maps

    maps = _found(paths, kind, unit, scale, invalid, source)
    loaded = _loaded(codec, device)
    if str(output) == "-":
        failures: list[Failure] = []
        for result in encode_maps(loaded, maps, batch_size=batch_size):
            if isinstance(result, Failure):
                failures.append(result)
            else:
                sys.stdout.write(result.to_json(text=text) + "\n")
        finish(failures, len(maps))
        return
    with progress_bar("encoding", len(maps)) as advance:
        failures = encode_files(loaded, maps, output, batch_size=batch_size, text=text, force=force, advance=advance)
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
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    batch_size: BatchOption = 16,
    force: ForceOption = False,
) -> None:
    """Decode tokens to depth maps, in the size of the maps they came from. Existing files are kept without --force."""
    from perceptok.depth.folders.jobs import decode_records
    from perceptok.depth.folders.records import read_lines, read_records

    loaded = _loaded(codec, device)
    read = list(read_lines(sys.stdin, "standard input") if str(records) == "-" else read_records(records))
    with progress_bar("decoding", len(read)) as advance:
        failures = decode_records(
            loaded, read, output, form=form, suffix=suffix, batch_size=batch_size, force=force, advance=advance
        )
    note(f"{len(read) - len(failures)} maps in {output}")
    finish(failures, len(read))


@app.command()
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for codec, log and checkpoint.")],
    paths: Annotated[list[str] | None, typer.Argument(help="Depth maps, folders, patterns or lists.")] = None,
    val: Annotated[list[str] | None, typer.Option("--val", help="Validation maps; may be repeated.")] = None,
    procedural: Annotated[int, typer.Option(min=0, help="Add this many procedural maps.")] = 0,
    config: Annotated[Path | None, typer.Option(help="A training.json; keys left out take their defaults.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="A codec to go on from: a folder, a hub id, or `shipped`.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Override the configuration's.")] = None,
    kind: KindOption = None,
    unit: UnitOption = None,
    scale: ScaleOption = None,
    invalid: InvalidOption = None,
    source: SourceOption = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read and render maps.")] = 0,
    cpu: Annotated[bool, typer.Option(help="Stay on the CPU.")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write a TensorBoard log too.")] = False,
) -> None:
    """Train a depth codec. An interrupted run is continued by the same command, to the same losses."""
    from perceptok.depth.networks.model import model_config_to_dict
    from perceptok.depth.training.bank import MapBank
    from perceptok.depth.training.recipe import TrainingConfig
    from perceptok.depth.training.trainer import EpochReport, train_depth_codec
    from perceptok.scenes.procedural import ProceduralDepthMaps

    values = _json(config) if config else {}
    initial = _loaded(None if start == "shipped" else start, "cpu") if start else None
    if initial is not None:
        values.setdefault("model", model_config_to_dict(initial.model.config))
    settings = TrainingConfig.from_dict({**values, **({"steps": steps} if steps else {})})
    files = _found(paths, kind, unit, scale, invalid, source) if paths else []
    groups: dict[str, MapSource] = _by_source(files)
    if procedural:
        groups["procedural"] = cast("MapSource", ProceduralDepthMaps(seed=settings.seed, length=procedural))
    val_files = _found(val, kind, unit, scale, invalid, None) if val else []
    _refuse_shared_files(files, val_files)
    with progress_bar("reading maps", len(files) + procedural + len(val_files)) as advance:
        bank = MapBank.build(groups, workers=workers, advance=advance)
        val_bank = MapBank.build(_by_source(val_files), workers=workers, advance=advance) if val_files else None
    board = _board(output) if tensorboard else None

    def report(epoch: EpochReport) -> None:
        note(
            f"step {epoch.step}: loss {epoch.loss:.5f}, {epoch.used} codes, perplexity {epoch.perplexity:.1f}"
            + ("" if math.isnan(epoch.val_rmse) else f", validation RMSE {epoch.val_rmse:.4f}")
        )
        if board is not None:
            for name, value in epoch._asdict().items():
                board.add_scalar(name, value, epoch.step)

    with progress_bar("training", settings.steps) as tick:
        train_depth_codec(
            settings,
            bank,
            val_bank,
            initial=initial,
            output=output,
            report=report,
            advance=lambda _, loss: tick(None if math.isnan(loss) else f"loss {loss:.4f}"),
            cpu=cpu,
        )
    note(f"codec saved in {output}")


@app.command(name="eval")
def evaluate(
    paths: Paths,
    kind: KindOption = None,
    unit: UnitOption = None,
    scale: ScaleOption = None,
    invalid: InvalidOption = None,
    source: SourceOption = None,
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the report as JSON too.")] = None,
    force: ForceOption = False,
) -> None:
    """Score a codec on depth maps, by source, beside unquantised grids of the same maps."""
    from perceptok.depth.scores.report import evaluate_depth_codec
    from perceptok.files import atomic_write

    if output and output.exists() and not force:
        raise OutputError(f"{output} exists already; replace it with --force")
    maps = _found(paths, kind, unit, scale, invalid, source)
    with progress_bar("scoring", len(maps)) as advance:
        report = evaluate_depth_codec(_loaded(codec, device), maps, advance=advance)
    tables = {"codec: 100 tokens": report.codec}
    for side, scores in report.ladder.items():
        tables[f"yardstick: {side}x{side} area averages, not quantised"] = scores
    for title, scores in tables.items():
        print_table(title, _HEADER, [_columns(name, score) for name, score in scores.items()])
    note(f"codes used: {report.usage.used} of 128, perplexity {report.usage.perplexity:.1f}")
    if output:
        with atomic_write(output, force=force) as file:
            file.write((json.dumps(report.to_dict(), indent=2) + "\n").encode())
    finish(report.failures, len(maps))


@app.command()
def inspect(
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write, or the page.")],
    html: Annotated[bool, typer.Option("--html", help="Write an HTML page to step through.")] = False,
    kind: KindOption = None,
    unit: UnitOption = None,
    scale: ScaleOption = None,
    invalid: InvalidOption = None,
    source: SourceOption = None,
    codec: CodecOption = None,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> None:
    """Draw maps, what their tokens say, the error and the grid of codes."""
    from perceptok.depth.folders.jobs import Failure
    from perceptok.depth.maps.depth_map import DepthMap
    from perceptok.depth.scores.panel import draw_panel, panel_row
    from perceptok.errors import DepthMapError, EvaluationError
    from perceptok.evaluation.report.depth_cases import depth_case
    from perceptok.evaluation.report.page import write_page
    from perceptok.files import atomic_write

    maps = _found(paths, kind, unit, scale, invalid, source)
    loaded = _loaded(codec, device)
    failures: list[Failure] = []

    def read() -> Iterator[tuple[str, DepthMap]]:
        for file in maps:
            try:
                depth = file.read()
                depth.to_nearness()
            except DepthMapError as error:
                failures.append(Failure(file.name, str(error)))
            else:
                yield file.name, depth

    if html:
        cases = (depth_case(loaded, name, depth) for name, depth in read())
        try:
            drawn = write_page(output, cases, title="Depth maps and their tokens", force=force)
        except EvaluationError:
            if not failures:
                raise
            drawn = 0  # none can be read: `finish` says why
    else:
        rows = [panel_row(loaded, name, depth) for name, depth in read()]
        drawn = len(rows)
        if rows:
            with atomic_write(output, force=force) as out:
                out.write(draw_panel(rows))
    if drawn:
        note(f"{drawn} maps drawn in {output}")
    finish(failures, len(maps))


_HEADER = ("source", "maps", "RMSE", "MAE", "AbsRel", "<1.25", "3", "4", "5", "closest", "pairs")


def _columns(name: str, score: DepthScore) -> list[str]:
    def shown(value: float, form: str) -> str:
        return "-" if math.isnan(value) else format(value, form)

    errors = [shown(value, ".4f") for value in (score.rmse, score.mae, score.abs_rel)]
    shares = [shown(value, ".1%") for value in (score.delta_125, *score.markers, score.closest, score.pairs)]
    return [name, str(score.maps), *errors, *shares]


def _found(
    paths: list[str],
    kind: KindOption,
    unit: UnitOption,
    scale: float | None,
    invalid: list[float] | None,
    source: list[str] | None,
) -> list[MapFile]:
    from perceptok.depth.folders.collection import find_maps

    def named() -> Iterator[str]:
        for path in paths:
            if path == "-":
                yield from (line.strip() for line in sys.stdin if line.strip())
            else:
                yield path

    return find_maps(
        list(named()), kind=kind, unit=unit, scale=scale, invalid=tuple(invalid or ()), sources=tuple(source or ())
    )


def _loaded(codec: str | None, device: str) -> DepthCodec:
    from perceptok.depth.codec import DepthCodec, load_aurora_checkpoint

    try:
        if codec is not None and codec.endswith((".pt", ".pth")):
            return load_aurora_checkpoint(codec).to(device)
        return DepthCodec.from_pretrained(codec).to(device)
    except RuntimeError as error:
        raise ConfigError(f"the device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _by_source(files: list[MapFile]) -> dict[str, MapSource]:
    from perceptok.depth.folders.collection import MapFiles

    names = dict.fromkeys(file.source for file in files)
    return {name: MapFiles(tuple(file for file in files if file.source == name)) for name in names}


def _refuse_shared_files(train_files: list[MapFile], val_files: list[MapFile]) -> None:
    """Before any map is read; copies under other names are found by content later."""
    both = {file.path.resolve() for file in train_files} & {file.path.resolve() for file in val_files}
    if both:
        raise ConfigError(f"{len(both)} files are both training and validation maps, such as {min(both)}")


def _json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable configuration ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected an object of settings")
    return values


def _board(folder: Path):  # type: ignore[no-untyped-def]
    from perceptok.errors import MissingExtraError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "tensorboard", "--tensorboard") from error
    return SummaryWriter(str(folder / "tensorboard"))

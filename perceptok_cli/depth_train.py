"""`perceptok depth train`: a codec of one's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from perceptok.errors import ConfigError
from perceptok_cli.console import note, progress_bar, warn_at_end
from perceptok_cli.depth_options import find_named_maps, load_codec

if TYPE_CHECKING:
    from perceptok.depth import MapFile, MapSource

__all__ = ["train_codec"]


def train_codec(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for codec, log and checkpoint.")],
    paths: Annotated[list[str] | None, typer.Argument(help="Depth maps, folders, patterns or lists.")] = None,
    val: Annotated[list[str] | None, typer.Option("--val", help="Validation maps; may be repeated.")] = None,
    procedural: Annotated[int, typer.Option(min=0, help="Add this many procedural maps.")] = 0,
    config: Annotated[Path | None, typer.Option(help="A training.json; keys left out take their defaults.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="A codec to go on from: a folder, a hub id, or `shipped`.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Override the configuration's.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read and render maps.")] = 0,
    cpu: Annotated[bool, typer.Option(help="Stay on the CPU.")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write a TensorBoard log too.")] = False,
) -> None:
    """Train a depth codec. An interrupted run is continued by the same command, to the same losses."""
    from perceptok.depth import EpochReport, MapBank, TrainingConfig, model_config_to_dict, train_depth_codec
    from perceptok.scenes import ProceduralDepthMaps

    values = _json(config) if config else {}
    initial = load_codec(None if start == "shipped" else start, "cpu") if start else None
    if initial is not None:
        values.setdefault("model", model_config_to_dict(initial.model.config))
    settings = TrainingConfig.from_dict({**values, **({"steps": steps} if steps else {})})
    files = find_named_maps(ctx, paths) if paths else []
    groups: dict[str, MapSource] = _by_source(files)
    if procedural:
        groups["procedural"] = cast("MapSource", ProceduralDepthMaps(seed=settings.seed, length=procedural))
    val_files = find_named_maps(ctx, val, every_source=True) if val else []
    _refuse_shared_files(files, val_files)
    bad: list[str] = []
    odd: list[tuple[str, str]] = []
    with progress_bar("reading maps", len(files) + procedural + len(val_files)) as advance:
        bank = MapBank.build(groups, workers=workers, advance=advance, failures=bad, warnings=odd)
        val_groups = _by_source(val_files)
        val_bank = (
            MapBank.build(val_groups, workers=workers, advance=advance, failures=bad, warnings=odd)
            if val_files
            else None
        )
    warn_at_end(odd, len(files) + len(val_files))
    for reason in bad:
        note(f"left out: {reason}")
    if bad:
        note(f"{len(bad)} of {len(files) + len(val_files)} files cannot be read; training goes on without them")
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


def _by_source(files: list[MapFile]) -> dict[str, MapSource]:
    from perceptok.depth import MapFiles

    names = dict.fromkeys(file.source for file in files)
    return {name: MapFiles(tuple(file for file in files if file.source == name)) for name in names}


def _refuse_shared_files(train_files: list[MapFile], val_files: list[MapFile]) -> None:
    """Before any map is read; copies under other names are found by content later."""
    both = {file.path.resolve() for file in train_files} & {file.path.resolve() for file in val_files}
    if both:
        raise ConfigError(f"{len(both)} files are both training and validation maps, such as {min(both)}")


def _json(path: Path) -> dict[str, object]:
    from perceptok.files import parse_json

    try:
        values = parse_json(path.read_bytes(), str(path), ConfigError)
    except OSError as error:
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

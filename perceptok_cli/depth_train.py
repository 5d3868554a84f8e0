"""`perceptok depth train`: training a depth codec."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from perceptok.errors import ConfigError, MissingExtraError
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
    procedural: Annotated[int, typer.Option(min=0, help="Number of procedural maps to add.")] = 0,
    config: Annotated[Path | None, typer.Option(help="A training.json; missing keys take their defaults.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="A codec to start from: a folder, a hub id, or `shipped`.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Number of optimizer steps, instead of the config's.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read and render maps.")] = 0,
    cpu: Annotated[bool, typer.Option(help="Train on the CPU.")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write a TensorBoard log too.")] = False,
) -> None:
    """Train a depth codec. An interrupted run is resumed by the same command, to the same losses."""
    from perceptok.config import read_mapping
    from perceptok.depth import MapDataset, TrainingConfig, TrainingReport, model_config_to_dict, train_depth_codec
    from perceptok.scenes import ProceduralDepthMaps

    values = read_mapping(config) if config else {}
    initial = load_codec(None if start == "shipped" else start, "cpu") if start else None
    if initial is not None:
        values.setdefault("model", model_config_to_dict(initial.model.config))
    settings = TrainingConfig.from_dict(values | ({"max_steps": max_steps} if max_steps else {}))
    files = find_named_maps(ctx, paths) if paths else []
    val_files = find_named_maps(ctx, val, every_source=True) if val else []
    _refuse_shared_files(files, val_files)
    groups = _group_by_source(files)
    if procedural:
        groups["procedural"] = cast("MapSource", ProceduralDepthMaps(seed=settings.seed, length=procedural))
    failures: list[str] = []
    warnings: list[tuple[str, str]] = []
    with progress_bar("reading maps", len(files) + procedural + len(val_files)) as advance:

        def build(maps: dict[str, MapSource]) -> MapDataset:
            return MapDataset.build(maps, workers=workers, advance=advance, failures=failures, warnings=warnings)

        train_set = build(groups)
        val_set = build(_group_by_source(val_files)) if val_files else None
    warn_at_end(warnings, len(files) + len(val_files))
    for reason in failures:
        note(f"left out: {reason}")
    if failures:
        note(f"{len(failures)} of {len(files) + len(val_files)} files cannot be read and are left out")
    writer = _open_tensorboard(output) if tensorboard else None

    def report(result: TrainingReport) -> None:
        error = "" if math.isnan(result.val_rmse) else f", validation RMSE {result.val_rmse:.4f}"
        note(
            f"step {result.step}: loss {result.loss:.5f}, {result.codes_used} codes, "
            f"perplexity {result.perplexity:.1f}{error}"
        )
        if writer is not None:
            for name, value in result._asdict().items():
                writer.add_scalar(name, value, result.step)

    with progress_bar("training", settings.max_steps) as tick:
        train_depth_codec(
            settings,
            train_set,
            val_set,
            initial=initial,
            output=output,
            report=report,
            advance=lambda _, loss: tick(None if math.isnan(loss) else f"loss {loss:.4f}"),
            cpu=cpu,
        )
    note(f"codec saved in {output}")


def _group_by_source(files: list[MapFile]) -> dict[str, MapSource]:
    from perceptok.depth import MapFiles

    names = dict.fromkeys(file.source for file in files)
    return {name: MapFiles(tuple(file for file in files if file.source == name)) for name in names}


def _refuse_shared_files(train_files: list[MapFile], val_files: list[MapFile]) -> None:
    """Before any map is read; copies under other names are found by content later."""
    both = {file.path.resolve() for file in train_files} & {file.path.resolve() for file in val_files}
    if both:
        raise ConfigError(f"{len(both)} files are both training and validation maps, such as {min(both)}")


def _open_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "tensorboard", "--tensorboard") from error
    return SummaryWriter(str(folder / "tensorboard"))

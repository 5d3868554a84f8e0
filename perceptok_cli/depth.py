"""`perceptok depth`: depth maps to tokens and back, training, evaluation, drawings."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from perceptok.errors import ConfigError, MalformedBlockError, MissingExtraError, OutputError
from perceptok_cli.console import (
    DeviceOption,
    ForceOption,
    choose_device,
    finish,
    note,
    print_presets,
    print_table,
    progress_bar,
    warn_at_end,
)
from perceptok_cli.map_options import MapCommand, find_named_maps

if TYPE_CHECKING:
    from perceptok.depth import (
        DepthCodec,
        DepthRecord,
        DepthScore,
        MapFailure,
        MapFile,
        MapSource,
    )

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Depth maps <-> 100 tokens.")

Paths = Annotated[
    list[str],
    typer.Argument(
        help="Depth maps, folders, patterns, or lists (.txt, .csv); - reads file names from standard input."
    ),
]
CodecOption = Annotated[
    str | None,
    typer.Option(
        "--codec",
        help="Folder or hub id of a codec; an AiT / AURORA .pt; molmoact:PATH (or hub id) for MolmoAct's, aurora:PATH; "
        "default: the shipped one.",
    ),
]
BatchOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Maps at once; default: by device. Results do not depend on it."),
]


def load_codec(codec: str | None, device: str | None) -> DepthCodec:
    """Load the codec that `--codec` names, on the device of `--device`."""
    from perceptok.depth import DepthCodec, load_aurora_checkpoint

    device = choose_device(device)
    project, _, checkpoint = (codec or "").partition(":")
    if checkpoint and project in ("aurora", "molmoact"):
        loaded = load_aurora_checkpoint(checkpoint, preprocessing=project)
    elif codec is not None and codec.endswith((".pt", ".pth")):
        loaded = load_aurora_checkpoint(codec)
    else:
        loaded = DepthCodec.from_pretrained(codec)
    return loaded.to(device)


@app.command("encode", cls=MapCommand)
def encode_depth(
    ctx: typer.Context,
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help=".jsonl, .npz or .parquet; - prints JSON lines.")],
    codec: CodecOption = None,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
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
        typer.Option("--hold", min=0, help="Clips: a code stays while no other is nearer by more. Default: 0.02."),
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
    given = {"hold": hold, "deadband": deadband, "frames": frames}
    clips = ClipSettings(**{name: value for name, value in given.items() if value is not None}) if sequence else None  # type: ignore[arg-type]
    maps = find_named_maps(ctx, paths, frames=sequence, running=running)
    loaded = load_codec(codec, device)
    ray = RayEngine(workers, address, gpus=float(loaded.device.type == "cuda")) if engine == "ray" else None
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
    if len(failures) < len(maps):
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
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="Refuse records of larger maps; 2**27 take 0.5 GB.")
    ] = 2**27,
    force: ForceOption = False,
) -> None:
    """Decode tokens to depth maps, in the size of the maps they came from. Existing files are kept without --force."""
    from perceptok.depth import decode_records

    loaded = load_codec(codec, device)
    parsed, damaged = _read_records(records)
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


@app.command("transcode")
def transcode_depth(
    records: Annotated[
        Path,
        typer.Argument(help="What encode wrote with the codec of --from; - reads JSON lines from standard input."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help=".jsonl, .npz or .parquet.")],
    source: Annotated[
        str, typer.Option("--from", help="The records' codec, named as for encode's --codec, or `shipped`.")
    ],
    target: Annotated[str, typer.Option("--to", help="The codec whose codes are wanted.")] = "shipped",
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    text: Annotated[bool, typer.Option("--text", help="JSON lines: write the block of tokens too.")] = False,
    force: ForceOption = False,
) -> None:
    """Translate codes of one codec to another's, by decoding and encoding; says what the translation loses.

    An interrupted run is continued by the same command.
    """
    from perceptok.depth import transcode_to_file

    codecs = [load_codec(None if name == "shipped" else name, device) for name in (source, target)]
    parsed, damaged = _read_records(records)
    with progress_bar("transcoding", len(parsed)) as advance:
        report = transcode_to_file(
            parsed, output, *codecs, batch_size=batch_size, text=text, force=force, advance=advance
        )
    note(f"{report.written} records -> {output}")
    if report.written:
        note(
            f"RMSE between the maps that both codecs decode, in nearness: mean {report.mean_rmse:.4f}, largest "
            f"{report.max_rmse:.4f}"
        )
    finish([*damaged, *report.failures], len(parsed) + len(damaged))


def _read_records(path: Path) -> tuple[list[DepthRecord], list[MapFailure]]:
    """The records of a file, or of JSON lines from standard input (`-`), and those that are damaged."""
    from perceptok.depth import parse_depth_records, read_depth_records
    from perceptok.files import open_text

    damaged: list[MapFailure] = []
    if str(path) == "-":
        return list(parse_depth_records(open_text(sys.stdin), "standard input", damaged)), damaged
    return list(read_depth_records(path, damaged)), damaged


@app.command("export")
def export_codec(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for encoder.onnx and decoder.onnx.")],
    format: Annotated[str, typer.Option(help="onnx, for onnxruntime without PyTorch.")] = "onnx",  # noqa: A002
    codec: CodecOption = None,
    force: ForceOption = False,
) -> None:
    """Export a codec as networks that run without PyTorch, and check that they give the same codes."""
    from perceptok.depth import export_onnx

    if format != "onnx":
        raise ConfigError(f"a codec is exported as onnx; got {format!r}")
    note(f"encoder.onnx and decoder.onnx in {export_onnx(load_codec(codec, 'cpu'), output, force=force)}")


@app.command("eval", cls=MapCommand)
def evaluate_codec(
    ctx: typer.Context,
    paths: Annotated[
        list[str] | None, typer.Argument(help="Depth maps, folders, patterns, or lists (.txt, .csv); - reads names.")
    ] = None,
    codec: CodecOption = None,
    device: DeviceOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the report as JSON too.")] = None,
    force: ForceOption = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Measure how well small networks learn the codes, and how many codes change with the map, beside a "
            "k-means of patches. Held out are the maps given, or procedural ones. Some minutes on one core.",
        ),
    ] = False,
    compare: Annotated[
        list[str] | None,
        typer.Option("--compare", help="Probe: a further codec, named as for --codec; may be repeated."),
    ] = None,
    procedural: Annotated[
        int | None, typer.Option("--procedural", min=2, help="Probe: procedural training maps; default 1500.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option("--max-steps", min=1, help="Probe: optimizer steps of each network; default 300.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of markers, or of the probe.")] = 0,
) -> None:
    """Score a codec on depth maps, by source, beside unquantised grids of the same maps; or probe its codes."""
    from perceptok.depth import evaluate_depth_codec

    if output and output.exists() and not force:
        raise OutputError(f"{output} exists already; replace it with --force")
    if not probe and (compare or procedural or max_steps):
        raise ConfigError("--compare, --procedural and --max-steps are for the probe; add --probe")
    if not probe and not paths:
        raise ConfigError("name depth maps to score the codec on (only --probe can do without)")
    maps = find_named_maps(ctx, paths) if paths else []
    if probe:
        names = list(dict.fromkeys([codec or "shipped", *(compare or ())]))
        codecs = {name: load_codec(None if name == "shipped" else name, device) for name in names}
        counts = (procedural or 1500, max_steps)
        _write_report(_probe_codecs(codecs, maps, *counts, seed), output, force)
        return
    warnings: list[tuple[str, str]] = []
    with progress_bar("scoring", len(maps)) as advance:
        report = evaluate_depth_codec(
            load_codec(codec, device), maps, seed=seed, advance=advance, warn=lambda *warning: warnings.append(warning)
        )
    tables = {"codec: 100 tokens": report.codec}
    for side, scores in report.baselines.items():
        tables[f"baseline: {side}x{side} area averages, not quantised"] = scores
    for title, scores in tables.items():
        print_table(title, _HEADER, [_format_score(name, score) for name, score in scores.items()])
    note(f"codes used: {report.usage.used} of 128, perplexity {report.usage.perplexity:.1f}")
    _write_report(report.to_dict(), output, force)
    warn_at_end(warnings, len(maps))
    finish(report.failures, len(maps))


def _write_report(report: dict[str, Any], output: Path | None, force: bool) -> None:
    from perceptok.files import atomic_write

    if output:
        with atomic_write(output, force=force) as file:
            file.write((json.dumps(report, indent=2) + "\n").encode())


_HELD_OUT, _CLIPS = 200, 12
"""Procedural maps and clips that the probe measures on; fewer with few training maps."""

_PROBE_FAMILY = 1000
"""First seed of the probe's procedural maps, far from the seeds that codecs are trained with."""


def _probe_codecs(
    codecs: dict[str, DepthCodec], files: list[MapFile], count: int, max_steps: int | None, seed: int
) -> dict[str, Any]:
    """Probe codecs, print the scores, and return the report."""
    from dataclasses import asdict

    from perceptok.depth import MapDataset, ProbeConfig, count_probe_steps, probe_depth_codecs
    from perceptok.scenes import ProceduralClips, ProceduralDepthMaps

    config = ProbeConfig(seed=seed) if max_steps is None else ProbeConfig(seed=seed, max_steps=max_steps)
    family = _PROBE_FAMILY + 3 * seed
    held_out = _group_by_source(files)
    if not files:
        held_out = {
            "procedural": cast("MapSource", ProceduralDepthMaps(family + 1, max(2, min(_HELD_OUT, count // 5))))
        }
    failures: list[str] = []
    with progress_bar("reading maps", count + sum(len(maps) for maps in held_out.values())) as advance:
        train_maps = MapDataset.build(
            {"procedural": cast("MapSource", ProceduralDepthMaps(family, count))}, advance=advance
        )
        val_maps = MapDataset.build(held_out, advance=advance, failures=failures)
    for reason in failures:
        note(f"left out: {reason}")
    clips = ProceduralClips(family + 2, max(1, min(_CLIPS, count // 20)))
    with progress_bar("probing", count_probe_steps(len(codecs), config)) as advance:
        scores = probe_depth_codecs(codecs, train_maps, val_maps, clips, config, advance=advance)
    rows = {
        "RMSE": [f"{score.rmse:.4f}" for score in scores.values()],
        "codes used": [str(score.codes_used) for score in scores.values()],
        "entropy, bits per code": [f"{score.entropy:.2f}" for score in scores.values()],
        "cross entropy, bits per code": [f"{score.bits_per_code:.2f}" for score in scores.values()],
        "RMSE from a blurred view": [f"{score.predicted_rmse:.4f}" for score in scores.values()],
        "codes right from it": [f"{score.predicted_codes:.1%}" for score in scores.values()],
    }
    for name in next(iter(scores.values())).changed:
        shares = [score.changed[name] for score in scores.values()]
        rows[f"changed: {name}"] = ["-" if math.isnan(share) else f"{share:.1%}" for share in shares]
    print_table(
        f"probe: {len(train_maps)} training maps, {len(val_maps)} held out, {config.max_steps} steps",
        ("", *scores),
        [[name, *cells] for name, cells in rows.items()],
    )
    return {
        "config": asdict(config),
        "train_maps": train_maps.describe(),
        "val_maps": val_maps.describe(),
        "clips": {"seed": clips.seed, "length": len(clips), "frames": clips.frames},
        "fingerprints": {name: codec.fingerprint for name, codec in codecs.items()},
        "scores": {name: score.to_dict() for name, score in scores.items()},
    }


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
    device: DeviceOption = None,
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


@app.command("train", cls=MapCommand)
def train_codec(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for codec, log and checkpoint.")],
    paths: Annotated[list[str] | None, typer.Argument(help="Depth maps, folders, patterns or lists.")] = None,
    val: Annotated[list[str] | None, typer.Option("--val", help="Validation maps; may be repeated.")] = None,
    procedural: Annotated[int, typer.Option(min=0, help="Number of procedural maps to add.")] = 0,
    config: Annotated[
        str | None,
        typer.Option(help="A training.json or YAML file, or a preset (see presets); missing keys take their defaults."),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="A codec to start from: a folder, a hub id, or `shipped`.")
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option("--max-steps", min=1, help="Number of optimizer steps, instead of the config's steps or epochs."),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read and render maps.")] = 0,
    cache_dir: Annotated[
        Path | None,
        typer.Option("--cache-dir", help="Keep the maps read and rendered here, for later runs on the same ones."),
    ] = None,
    cpu: Annotated[bool, typer.Option(help="Train on the CPU.")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write a TensorBoard log too.")] = False,
) -> None:
    """Train a depth codec. An interrupted run is resumed by the same command, to the same losses."""
    from perceptok.config import find_config_file, read_mapping
    from perceptok.depth import MapDataset, TrainingConfig, TrainingReport, model_config_to_dict, train_depth_codec
    from perceptok.scenes import ProceduralDepthMaps

    values = read_mapping(find_config_file(config, "depth")) if config else {}
    initial = load_codec(None if start == "shipped" else start, "cpu") if start else None
    if initial is not None:
        values.setdefault("model", model_config_to_dict(initial.model.config))
    settings = TrainingConfig.from_dict(
        values | ({"max_steps": max_steps, "num_train_epochs": None} if max_steps else {})
    )
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
            return MapDataset.build(
                maps, workers=workers, cache_dir=cache_dir, advance=advance, failures=failures, warnings=warnings
            )

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

    with progress_bar("training", settings.count_steps(len(train_set))) as tick:
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


@app.command("presets")
def list_training_presets(
    name: Annotated[str | None, typer.Argument(help="Print the file of this preset.")] = None,
) -> None:
    """List the configurations that come with perceptok; each can be named wherever such a file is asked for."""
    print_presets(["depth"], name)


@app.command("show")
def show_answer(
    answer: Annotated[
        str, typer.Argument(help="A model's answer, 100 integers, a file of it, or - for standard input.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")],
    codec: CodecOption = None,
    device: DeviceOption = None,
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

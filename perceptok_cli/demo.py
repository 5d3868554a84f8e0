"""`perceptok demo`: sample maps and boxes to tokens and back. `perceptok llava demo`: a small LLaVA, trained."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from perceptok.errors import OutputError
from perceptok_cli.console import (
    DeviceOption,
    ForceOption,
    choose_device,
    note,
    print_table,
    progress_bar,
)

__all__ = ["run_codec_demo", "run_llava_demo"]

_BACKGROUND = ("ceiling", "floor", "table", "wall")


def run_codec_demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the drawings.")] = Path("perceptok-demo"),
    device: DeviceOption = None,
) -> None:
    """Turn sample depth maps and boxes into tokens and back; print tokens and errors, and draw both."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {output}: {error.strerror}") from error
    _demonstrate_depth(output / "depth.png", choose_device(device))
    _demonstrate_boxes(output / "boxes.png")


def _demonstrate_depth(drawing: Path, device: str) -> None:
    """The sample maps -> 100 tokens each -> maps, with the shipped weights."""
    import numpy as np

    from perceptok.depth import DepthCodec, draw_panel, find_maps, make_panel_row
    from perceptok.files import atomic_write

    codec = DepthCodec.from_pretrained().to(device)
    maps = find_maps([Path(str(files("perceptok.depth") / "samples")) / "samples.csv"])
    panel = [make_panel_row(codec, file.name, file.read()) for file in maps]
    rows = []
    for row in panel:
        block = codec.to_text(row.codes)
        assert np.array_equal(codec.from_text(block), row.codes), "a block reads back as the codes it was written from"
        error = (row.decoded.astype(np.float64) - row.nearness)[row.valid]
        rows.append([row.name, f"{np.sqrt(np.mean(error**2)):.4f}", f"{np.mean(np.abs(error)):.4f}"])
        typer.echo(f"{row.name}:\n{block}\n")
    print_table("Depth maps -> 100 tokens -> depth maps: error in nearness (0..1)", ("map", "RMSE", "MAE"), rows)
    with atomic_write(drawing, force=True) as file:
        file.write(draw_panel(panel))
    typer.echo(f"drawing: {drawing}\n")


def _demonstrate_boxes(drawing: Path) -> None:
    """The objects of a procedural scene -> four tokens each -> boxes."""
    import numpy as np
    from PIL import Image

    from perceptok.boxes import BoxCodec, BoxLabels, ImageBoxes, compute_iou, draw_boxes
    from perceptok.files import atomic_write
    from perceptok.scenes import render, sample_scene

    rendering = render(sample_scene(seed=11, index=3), height=480, width=640)
    objects = [box for box in rendering.boxes(min_pixels=300) if box.category not in _BACKGROUND]
    names = [box.category for box in objects]
    truth = np.array([box.xyxy for box in objects], dtype=np.float64)
    codec = BoxCodec(decode="center")
    text = codec.to_text(codec.encode(truth, image_size=(640, 480)))
    decoded = codec.decode(codec.from_text(text), image_size=(640, 480))
    typer.echo(f"boxes of a procedural scene:\n{text}\n")
    overlap = compute_iou(decoded, truth).diagonal()
    errors = np.abs(decoded - truth).max(axis=1)
    rows = [[name, f"{error:.2f}", f"{iou:.3f}"] for name, error, iou in zip(names, errors, overlap, strict=True)]
    print_table("Boxes -> 4 tokens -> boxes, 640x480 pixels", ("object", "largest error (pixels)", "IoU"), rows)
    category_ids = {name: number for number, name in enumerate(dict.fromkeys(names))}
    labels = BoxLabels(
        category_ids=tuple(category_ids[name] for name in names),
        categories={number: name for name, number in category_ids.items()},
    )
    image = draw_boxes(Image.fromarray(rendering.rgb()), ImageBoxes("scene", 640, 480, decoded, labels))
    with atomic_write(drawing, force=True) as file:
        image.save(file, format="PNG")
    typer.echo(f"drawing: {drawing}")


def run_llava_demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path("perceptok-demo/llava"),
    config: Annotated[Path | None, typer.Option("--config", help="YAML or JSON of a DemoConfig.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Processor cores to use; 0: PyTorch's choice.")] = 0,
    device: DeviceOption = None,
    keep_cache: Annotated[
        bool, typer.Option("--keep-cache", help="Keep the untrained model and the scenes (600 MB) for another run.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Train a small LLaVA on procedural scenes to generate depth, and show what it generates on held-out scenes.

    The same command continues an interrupted demonstration.
    """
    import torch

    from perceptok.config import read_config
    from perceptok.llava import small

    if threads:
        torch.set_num_threads(threads)
    settings = small.DemoConfig() if config is None else read_config(small.DemoConfig, config)
    stages = itertools.count(1)

    @contextmanager
    def show_stage(name: str, total: int) -> Iterator[Callable[..., None]]:
        unit = " updates" if name == "training" else ""
        note(f"stage {next(stages)} of {len(small.STAGES)}: {name}{f' ({total:,}{unit})' if total > 1 else ''}")
        if total == 1:
            yield lambda *_: None
            return
        with progress_bar(name, total) as advance:
            yield advance

    chosen = choose_device(device)
    note(
        f"{len(small.STAGES)} stages: {', '.join(small.STAGES)}. With the defaults they take some ten minutes on two "
        f"cores, and 600 MB in {output / 'work'} until the end"
    )
    try:
        result, page = small.run_demo(
            output, settings, device=chosen, keep_cache=keep_cache, force=force, progress=show_stage
        )
    except KeyboardInterrupt:
        note(f"what is done is kept in {output / 'work'}; the same command continues")
        raise
    print_table(
        "Depth on held-out scenes: error of nearness (0..1)",
        ("depth map", "RMSE"),
        [(name, f"{value:.4f}") for name, value in result.rmse.items()],
    )
    print_table(
        "Which of n marked points is nearest, read from the generated map",
        ("points", "correct", "mean map"),
        [(count, f"{value:.1%}", f"{result.chance[count]:.1%}") for count, value in result.order.items()],
    )
    valid = ", ".join(f"{name} {value:.0%}" for name, value in result.valid.items())
    seconds = ", ".join(f"{stage} {value:,.0f}" for stage, value in result.seconds.items())
    note(f"valid blocks: {valid}; processor seconds: {seconds}")
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    remove = f"rm -r {shlex.quote(str(output))}"
    note(f"{output} holds {size / 1e6:.0f} MB: page, figures, checkpoint; remove it with: {remove}")
    typer.echo(f"page: {page}")

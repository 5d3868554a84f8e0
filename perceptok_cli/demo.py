"""`perceptok demo`: the main job on the sample maps that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from perceptok.errors import OutputError
from perceptok_cli.console import print_table

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")] = Path(
        "perceptok-demo/depth.png"
    ),
) -> None:
    """Turn sample depth maps into tokens and back; print the tokens and errors, draw a picture."""
    from perceptok.depth.codec import DepthCodec
    from perceptok.depth.collection import find_maps
    from perceptok.depth.panel import draw_panel, panel_row
    from perceptok.files import atomic_write

    codec = DepthCodec.from_pretrained()
    maps = find_maps([Path(str(files("perceptok.depth") / "samples")) / "samples.csv"])
    panel = [panel_row(codec, file.name, file.read()) for file in maps]
    rows = []
    for row in panel:
        block = codec.to_text(row.codes)
        if not np.array_equal(codec.from_text(block), row.codes):
            raise AssertionError("a block must read back as the codes it was written from")
        error = (row.decoded.astype(np.float64) - row.nearness)[row.valid]
        rows.append([row.name, f"{np.sqrt(np.mean(error**2)):.4f}", f"{np.mean(np.abs(error)):.4f}"])
        typer.echo(f"{row.name}:\n{block}\n")
    print_table("Depth maps -> 100 tokens -> depth maps: error in nearness (0..1)", ("map", "RMSE", "MAE"), rows)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {output.parent}: {error.strerror}") from error
    with atomic_write(output, force=True) as file:
        file.write(draw_panel(panel))
    typer.echo(f"picture: {output}")

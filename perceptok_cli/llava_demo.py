"""`perceptok llava demo`: data, training, constrained inference and a page of pictures, in about ten minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perceptok_cli.console import note, print_table, progress_bar

__all__ = ["demo"]


def demo(
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

    from perceptok.configs import read_config
    from perceptok.llava.small.demo import DemoConfig, run_demo

    if threads:
        torch.set_num_threads(threads)
    settings = DemoConfig() if config is None else read_config(DemoConfig, config)
    result, page = run_demo(output, settings, progress=progress_bar)
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

"""`perceptok llava`: multimodal models with perception tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perceptok_cli import llava_infer
from perceptok_cli.console import note

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="LLaVA and its kin: training, inference and evaluation.")

AdapterArgument = Annotated[Path, typer.Argument(help="A folder that training (or save_adapter) wrote.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
BaseOption = Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]


@app.command()
def merge(
    adapter: AdapterArgument,
    output: OutputOption,
    base: BaseOption = None,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> None:
    """Write base and adapter as one plain checkpoint, for stock transformers and serving engines."""
    from perceptok.llava.merging import merge_adapter

    note(f"merged model in {merge_adapter(adapter, output, base=base, device=device, force=force)}")


@app.command()
def export(
    adapter: AdapterArgument,
    output: OutputOption,
    base: BaseOption = None,
    device: DeviceOption = "cpu",
    force: ForceOption = False,
) -> None:
    """Write the extended base and a pure LoRA adapter for it, for engines that serve adapters."""
    from perceptok.llava.merging import export_adapter

    note(f"folders base and lora in {export_adapter(adapter, output, base=base, device=device, force=force)}")


app.command()(llava_infer.infer)

"""`perceptok llava`: multimodal models with perception tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from perceptok.errors import ConfigError
from perceptok_cli import llava_ablate, llava_demo, llava_eval, llava_infer, llava_replace
from perceptok_cli.console import note, print_table

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="LLaVA and its kin: training, inference and evaluation.")

AdapterArgument = Annotated[Path, typer.Argument(help="A folder that training (or save_adapter) wrote.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")]
BaseOption = Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]


@app.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="A train.yaml (or .json) of settings; see --explain.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print every setting, its default and meaning.")] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Load and check everything, print sizes and a sample, train nothing.")
    ] = False,
) -> None:
    """Fine-tune a model on records. An interrupted run is continued by the same command.

    For several processes: `accelerate launch --config_file ddp.yaml -m perceptok_cli.main llava train train.yaml`.
    """
    from perceptok.llava.training.recipe import FinetuneConfig

    if explain:
        from perceptok.llava.training.recipe import explain as settings

        for setting in settings():
            typer.echo(f"{setting.name}: {setting.kind} = {setting.default}\n    {setting.means}")
        return
    if config is None:
        raise ConfigError("train needs a file of settings, such as train.yaml; --explain prints what it may hold")
    recipe = FinetuneConfig.read(config)
    if dry:
        from perceptok.llava.training.dry_run import dry_run

        found = dry_run(recipe)
        print_table("What the run would be", ("", "value"), found.facts)
        typer.echo(f"\nthe first sample, {found.sample}; what is taught stands between « and »:\n{found.text}")
        return
    from perceptok.llava.training.finetuning import finetune

    result = finetune(recipe)
    if result.dropped:
        note(f"{result.dropped} records were too long and left out")
    note(f"{result.steps} steps on {result.samples} records, loss {result.loss:.4f}; adapter in {result.adapter}")


@app.command(name="import")
def import_(
    folder: Annotated[Path, typer.Argument(help="adapter_model.bin, adapter_config.json, non_lora_trainables.bin.")],
    base: Annotated[str, typer.Option("--base", help="The same LLaVA in transformers' format: a folder or Hub id.")],
    output: OutputOption,
    codec: Annotated[str | None, typer.Option("--codec", help="AURORA's depth checkpoint (.pt), or a codec.")] = None,
    first_id: Annotated[int, typer.Option(min=0, help="Id of the first perception token there.")] = 32000,
    force: ForceOption = False,
) -> None:
    """Bring an adapter of LLaVA's original format (LLaVA, AURORA) over to transformers' names and ids."""
    from perceptok.depth.codec import DepthCodec, load_aurora_checkpoint
    from perceptok.llava.original import import_original

    found = None
    if codec is not None:
        found = load_aurora_checkpoint(codec) if codec.endswith(".pt") else DepthCodec.from_pretrained(codec)
    note(f"adapter in {import_original(folder, base, output, codec=found, first_id=first_id, force=force)}")


def _rewriting(name: str, words: str) -> Callable[..., None]:
    """A command that writes an adapter anew; merge and export take the same."""

    def command(
        adapter: AdapterArgument,
        output: OutputOption,
        base: BaseOption = None,
        device: DeviceOption = "cpu",
        force: ForceOption = False,
    ) -> None:
        from perceptok.llava import merging

        write = getattr(merging, name)
        note(f"{words} in {write(adapter, output, base=base, device=device, force=force)}")

    return command


app.command("merge", help="Write base and adapter as one plain checkpoint, for transformers and serving engines.")(
    _rewriting("merge_adapter", "merged model")
)
app.command("export", help="Write the extended base and a pure LoRA adapter for it, for engines that serve adapters.")(
    _rewriting("export_adapter", "folders base and lora")
)
app.command()(llava_infer.infer)
app.command()(llava_demo.demo)
app.command(name="eval")(llava_eval.evaluate)
app.command()(llava_replace.replace)
app.command()(llava_ablate.ablate)

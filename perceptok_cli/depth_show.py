"""`perceptok depth show`: the map that a model's answer says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from perceptok.errors import ConfigError, MalformedBlockError
from perceptok_cli.console import note
from perceptok_cli.depth_options import CodecOption, DeviceOption, ForceOption, loaded_codec

__all__ = ["show"]


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
    from perceptok.depth.preprocessing import Preprocessing
    from perceptok.depth.salvage import salvage_blocks
    from perceptok.depth.scores.shown import draw_blocks
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
    from perceptok.depth.folders.records import DepthRecord

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

"""The options of commands that read depth maps: how files are read, and which maps are taken."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from typer.core import TyperCommand

from perceptok.errors import ConfigError
from perceptok_cli.console import note

if TYPE_CHECKING:
    from perceptok.depth import MapFile, NearnessRange, ReadOptions

__all__ = ["MapCommand", "find_named_maps"]


class _Reading(NamedTuple):
    """How a command reads its maps, and which sources of lists it keeps."""

    options: ReadOptions
    sources: tuple[str, ...]


_reading_app = typer.Typer(add_completion=False)


@_reading_app.command()
def _parse_reading(
    kind: Annotated[
        Literal["inverse", "metric", "relative"] | None,
        typer.Option(
            "--kind",
            help="What the files hold: metric (larger = farther), inverse (larger = nearer), or relative (larger = "
            "farther, no unit).",
        ),
    ] = None,
    unit: Annotated[Literal["mm", "cm", "m"] | None, typer.Option("--unit", help="Unit of metric files.")] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="Metres per value of metric files, instead of a unit.")
    ] = None,
    invalid: Annotated[
        list[float] | None, typer.Option("--invalid", help="A value in the files that marks holes; may be repeated.")
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            help="A file that is 0 at holes, a folder of such files, named as the maps are, or a name such as "
            "'*_mask.npy' of files beside the maps.",
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="NPZ files with several arrays: the array that holds depth.")
    ] = None,
    mask_key: Annotated[
        str | None, typer.Option("--mask-key", help="NPZ files: the array that is 0 or False at holes.")
    ] = None,
    channel: Annotated[
        str | None, typer.Option("--channel", help="EXR files with several channels: the channel that holds depth.")
    ] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="EXR files with several parts: the one of depth, by name or number.")
    ] = None,
    packing: Annotated[
        Literal["sunrgbd", "carla24", "rgb24", "bgr24", "rgba_float", "bgra_float"] | None,
        typer.Option(
            "--packing",
            help="How files pack their numbers: sunrgbd (16 bits rotated by 3), carla24 (24 bits, B highest: metres to "
            "1000), rgb24 and bgr24 (24-bit integers, R or B highest), rgba_float and bgra_float (the bytes of a "
            "float, R or B lowest).",
        ),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Keep this source of a list only; may be repeated.")
    ] = None,
    sky: Annotated[
        Literal["far", "hole"],
        typer.Option("--sky", help="What +inf in depth means: far (nearness 0, beyond everything else) or a hole."),
    ] = "far",
    sky_value: Annotated[
        list[float] | None, typer.Option("--sky-value", help="A value in the files that marks sky; may be repeated.")
    ] = None,
    percentiles: Annotated[
        str | None,
        typer.Option("--percentiles", help="LOW,HIGH of nearness that become 0 and 1, such as 1,99: for sensors."),
    ] = None,
    near: Annotated[
        float | None, typer.Option("--near", help="With --far: what nearness 1 stands for, in metres if metric.")
    ] = None,
    far: Annotated[
        float | None, typer.Option("--far", help="With --near: what nearness 0 stands for; the same for every map.")
    ] = None,
    no_normalize: Annotated[
        bool, typer.Option("--no-normalize", help="The maps hold nearness already, such as AURORA's 8-bit maps.")
    ] = False,
    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="Refuse files that declare more values; 2**27 take 0.5 GB.")
    ] = 2**27,
) -> _Reading:
    from perceptok.depth import ReadOptions

    options = ReadOptions(
        kind=kind,
        unit=unit,
        scale=scale,
        invalid=tuple(invalid or ()),
        sky=sky,
        sky_values=tuple(sky_value or ()),
        key=key,
        mask_key=mask_key,
        channel=channel,
        part=part,
        mask=mask,
        packing=packing,
        max_pixels=max_pixels,
        range=_parse_range(percentiles, near, far, no_normalize),
    )
    return _Reading(options, tuple(source or ()))


def _parse_range(percentiles: str | None, near: float | None, far: float | None, no_normalize: bool) -> NearnessRange:
    from perceptok.depth import NearnessRange

    is_fixed = (near, far) != (None, None)
    if (percentiles is not None) + is_fixed + no_normalize > 1:
        raise ConfigError("give one of --percentiles, --near with --far, and --no-normalize")
    if no_normalize:
        return NearnessRange.whole()
    if percentiles is not None:
        return NearnessRange.parse(f"percentiles {percentiles.replace(',', ' ')}")
    if not is_fixed:
        return NearnessRange()
    if near is None or far is None:
        raise ConfigError("--near and --far are given together")
    return NearnessRange.fixed(near, far)


class MapCommand(TyperCommand):
    """A command that reads depth maps: it has the options of `_parse_reading` too, whose result is in `ctx.obj`."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._reading = typer.main.get_command(_reading_app)
        self.params += self._reading.params

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        assert self._reading.callback is not None
        given = {str(option.name): ctx.params.pop(str(option.name)) for option in self._reading.params}
        ctx.obj = self._reading.callback(**given)
        return super().invoke(ctx)


def find_named_maps(
    ctx: typer.Context,
    paths: list[str],
    *,
    every_source: bool = False,
    frames: bool = False,
    running: float | None = None,
) -> list[MapFile]:
    """The maps that a `MapCommand` was given.

    Args:
        ctx: The context of the command.
        paths: Its arguments; `-` reads names from standard input.
        every_source: Ignore `--source`.
        frames: The maps are frames of clips.
        running: The rate at which a clip's range follows its frames.
    """
    from perceptok.depth import find_maps

    options, sources = ctx.obj
    if running is not None:
        options = replace(options, range=_follow_frames(options.range, running))
    if "-" in paths and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names of files are bytes
    names: list[str] = []
    for path in paths:
        names += [line.strip() for line in sys.stdin if line.strip()] if path == "-" else [path]
    return find_maps(names, options, sources=() if every_source else sources, frames=frames, warn=note)


def _follow_frames(first: NearnessRange, rate: float) -> NearnessRange:
    """The range of clips that begins as another one and then follows the frames."""
    from perceptok.depth import NearnessRange

    if first.mode == "percentiles" and first.low is not None and first.high is not None:
        return NearnessRange.running(rate, first.low, first.high)
    if first.mode != "extremes":
        raise ConfigError("--running goes with --percentiles at most; --near, --far and --no-normalize do not move")
    return NearnessRange.running(rate)

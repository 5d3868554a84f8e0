"""Options that several `perceptok depth` commands share: which maps, how they are read, and by which codec."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from perceptok.errors import ConfigError

if TYPE_CHECKING:
    from perceptok.depth import DepthCodec, MapFile, NearnessRange

__all__ = [
    "BatchOption",
    "CodecOption",
    "DeviceOption",
    "ForceOption",
    "MapReading",
    "Paths",
    "loaded_codec",
    "reads_maps",
]

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
DeviceOption = Annotated[str, typer.Option("--device", help="Where to compute, e.g. cpu or cuda.")]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Maps at once; results do not depend on it.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]


@dataclass(frozen=True)
class MapReading:
    """How the files of one command are read; a field is an option, its annotation what `--help` says."""

    kind: Annotated[
        Literal["inverse", "metric", "relative"] | None,
        typer.Option(
            "--kind",
            help="What the files hold: metric (larger = farther), inverse (larger = nearer), or relative (larger = "
            "farther, no unit).",
        ),
    ] = None
    unit: Annotated[Literal["mm", "cm", "m"] | None, typer.Option("--unit", help="Unit of metric files.")] = None
    scale: Annotated[
        float | None, typer.Option("--scale", help="Metres per value of metric files, instead of a unit.")
    ] = None
    invalid: Annotated[
        list[float] | None, typer.Option("--invalid", help="A value in the files that marks holes; may be repeated.")
    ] = None
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="A file that is 0 at holes, or a folder of such files, named as the maps are."),
    ] = None
    key: Annotated[str | None, typer.Option("--key", help="Of NPZ files with several arrays, which is depth.")] = None
    mask_key: Annotated[
        str | None, typer.Option("--mask-key", help="Of NPZ files, the array that is 0 or False at holes.")
    ] = None
    channel: Annotated[
        str | None, typer.Option("--channel", help="Of EXR files with several channels, which is depth.")
    ] = None
    packing: Annotated[
        Literal["sunrgbd", "carla24", "rgba_float"] | None,
        typer.Option(
            "--packing",
            help="How files pack their numbers: sunrgbd (16 bits rotated by 3), carla24 (24 bits in colours: metres, "
            "to 1000), rgba_float (the bytes of a float in R, G, B, A).",
        ),
    ] = None
    source: Annotated[
        list[str] | None, typer.Option("--source", help="Keep this source of a list only; may be repeated.")
    ] = None

    sky: Annotated[
        Literal["far", "hole"],
        typer.Option("--sky", help="What +inf in depth means: far (nearness 0, beyond everything else) or a hole."),
    ] = "far"
    sky_value: Annotated[
        list[float] | None, typer.Option("--sky-value", help="A value in the files that marks sky; may be repeated.")
    ] = None
    percentiles: Annotated[
        str | None,
        typer.Option("--percentiles", help="LOW,HIGH of nearness that become 0 and 1, such as 1,99: for sensors."),
    ] = None
    near: Annotated[
        float | None, typer.Option("--near", help="With --far: what nearness 1 stands for, in metres if metric.")
    ] = None
    far: Annotated[
        float | None, typer.Option("--far", help="With --near: what nearness 0 stands for; the same for every map.")
    ] = None
    no_normalize: Annotated[
        bool, typer.Option("--no-normalize", help="The maps hold nearness already, such as AURORA's 8-bit maps.")
    ] = False

    max_pixels: Annotated[
        int, typer.Option("--max-pixels", min=1, help="Refuse files that declare more values; 2**27 take 0.5 GB.")
    ] = 2**27

    @property
    def range(self) -> NearnessRange:
        """Which values become nearness 0 and 1; raises ConfigError where that is said twice or by half."""
        from perceptok.depth import NearnessRange

        ends = (self.near, self.far) != (None, None)
        if (self.percentiles is not None) + ends + self.no_normalize > 1:
            raise ConfigError("give one of --percentiles, --near with --far, and --no-normalize")
        if self.no_normalize:
            return NearnessRange.whole()
        if self.percentiles is not None:
            return NearnessRange.parse(f"percentiles {self.percentiles.replace(',', ' ')}")
        if ends:
            if self.near is None or self.far is None:
                raise ConfigError("--near and --far are given together")
            return NearnessRange.fixed(self.near, self.far)
        return NearnessRange()

    def _running(self, rate: float) -> NearnessRange:
        from perceptok.depth import NearnessRange

        chosen = self.range
        if chosen.mode == "percentiles" and chosen.low is not None and chosen.high is not None:
            return NearnessRange.running(rate, chosen.low, chosen.high)
        if chosen.mode != "extremes":
            raise ConfigError("--running goes with --percentiles at most; --near, --far and --no-normalize do not move")
        return NearnessRange.running(rate)

    def found(
        self, paths: list[str], *, every_source: bool = False, frames: bool = False, running: float | None = None
    ) -> list[MapFile]:
        """The maps of a command's arguments; `-` among them reads names from standard input.

        Args:
            paths: The arguments.
            every_source: Whatever `--source` says.
            frames: The maps are frames of clips.
            running: The rate at which a clip's range follows its frames.

        Raises:
            ConfigError: The range is said twice.
        """
        from perceptok.depth import find_maps

        def named() -> Iterator[str]:
            for path in paths:
                if path == "-":
                    yield from (line.strip() for line in sys.stdin if line.strip())
                else:
                    yield path

        return find_maps(
            list(named()),
            kind=self.kind,
            unit=self.unit,
            scale=self.scale,
            invalid=tuple(self.invalid or ()),
            sky=self.sky,
            sky_values=tuple(self.sky_value or ()),
            range=self.range if running is None else self._running(running),
            key=self.key,
            mask_key=self.mask_key,
            channel=self.channel,
            mask=self.mask,
            packing=self.packing,
            max_pixels=self.max_pixels,
            sources=() if every_source else tuple(self.source or ()),
            frames=frames,
        )


def reads_maps(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, which takes `reading: Reading`, an option for each field of `MapReading`."""
    hints = get_type_hints(MapReading, include_extras=True)
    own = inspect.signature(command, eval_str=True).parameters
    options = {
        one.name: inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name]
        )
        for one in fields(MapReading)
    }
    shown = [
        option
        for name, parameter in own.items()
        for option in (
            options.values() if name == "reading" else [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
        )
    ]

    def with_options(**given: Any) -> None:
        reading = MapReading(**{name: given.pop(name) for name in options})
        command(reading=reading, **given)

    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    with_options.__annotations__ = {one.name: one.annotation for one in shown} | {"return": None}
    with_options.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return with_options


def loaded_codec(codec: str | None, device: str) -> DepthCodec:
    """The codec that `--codec` names, on a device."""
    from perceptok.depth import DepthCodec, load_aurora_checkpoint

    project, _, place = (codec or "").partition(":")
    if place and project in ("aurora", "molmoact"):
        loaded = load_aurora_checkpoint(place, preprocessing=project)
    elif codec is not None and codec.endswith((".pt", ".pth")):
        loaded = load_aurora_checkpoint(codec)
    else:
        loaded = DepthCodec.from_pretrained(codec)
    try:
        return loaded.to(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for a device
        raise ConfigError(f"the device {device!r} cannot be used: {str(error).splitlines()[0]}") from error

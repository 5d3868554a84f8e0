"""Where an adapter is, and its record `perception_adapter.json`: base, frame, codec, system text, configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from perceptok.config import config_from_dict
from perceptok.errors import CheckpointError, ConfigError
from perceptok.files import find_complete_folder, parse_json, read_input
from perceptok.hub import download_repository, is_hub_id
from perceptok.llava.framing import FrameRule

__all__ = [
    "ADAPTER_FILE",
    "ADAPTER_FORMAT",
    "AdapterBase",
    "AdapterRecord",
    "find_adapter_folder",
    "find_base",
    "read_adapter_frame",
    "read_adapter_record",
]

ADAPTER_FILE = "perception_adapter.json"
"""Name of the file that marks a folder as an adapter of perceptok."""

ADAPTER_FORMAT = 1


@dataclass(frozen=True)
class AdapterBase:
    """Where the base of an adapter is, also relative to the adapter, and a sample of its weights."""

    source: str
    relative: str | None = None
    sample: tuple[float, ...] | None = None


@dataclass(frozen=True)
class AdapterRecord:
    """The contents of `perception_adapter.json`."""

    format: Literal[1]
    base: AdapterBase
    frame: FrameRule
    config: dict[str, Any]
    codec: str | None = None
    system: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


def read_adapter_record(folder: Path) -> AdapterRecord:
    """Read `perception_adapter.json` of an adapter's folder; raises CheckpointError where it is missing or damaged."""
    path = folder / ADAPTER_FILE
    try:
        text = read_input(path)
    except OSError as error:
        raise CheckpointError(
            f"{folder} is not an adapter of perceptok ({ADAPTER_FILE} cannot be read: {error.strerror}); save one with "
            "save_adapter, or convert one of LLaVA's original format with import_original"
        ) from error
    values = parse_json(text, str(path), CheckpointError)
    if not isinstance(values, dict) or values.get("format") != ADAPTER_FORMAT:
        version = values.get("format") if isinstance(values, dict) else values
        raise CheckpointError(
            f"{path} has the format {version!r:.80}, this release reads {ADAPTER_FORMAT}; upgrade perceptok"
        )
    try:
        return config_from_dict(AdapterRecord, values, name="the record")
    except ConfigError as error:
        raise CheckpointError(
            f"{path} lacks its base, frame or config, or has another type there ({error}); it was not written by "
            "save_adapter"
        ) from error


def read_adapter_frame(folder: Path) -> tuple[FrameRule, str | None]:
    """The frame and the system text of the adapter in a folder; raises CheckpointError."""
    record = read_adapter_record(folder)
    return record.frame, record.system


def find_adapter_folder(folder: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of an adapter: the folder itself, `adapter/` in the folder of a run of `finetune`, or a download.

    Raises:
        CheckpointError: There is no such folder, or a repository of the Hub cannot be downloaded.
    """
    place = find_complete_folder(folder)
    if not place.exists() and is_hub_id(folder):
        place = download_repository(str(folder), revision=revision)
    if not place.is_dir():
        raise CheckpointError(
            f"{folder}: {'not a folder' if place.exists() else 'no such folder'}; name one that `perceptok llava "
            "train`, `merge` or save_adapter wrote, or its id on the Hub (owner/name)"
        )
    inner = place / "adapter"
    return inner if not (place / ADAPTER_FILE).exists() and (inner / ADAPTER_FILE).exists() else place


def find_base(recorded: AdapterBase, folder: Path) -> str:
    """The base at its recorded path, at the same place relative to the adapter, or beside it; or its Hub id.

    Raises:
        CheckpointError: It is at none of these.
    """
    source, relative, folder = recorded.source, recorded.relative, folder.resolve()
    beside = [parent / Path(source).name for parent in (folder.parent, folder.parent.parent)]
    for place in (Path(source), folder / (relative or source), folder.parent / source, *beside):
        if place.is_dir():
            return str(place)
    if relative is None and is_hub_id(source):
        return str(source)
    raise CheckpointError(
        f"{folder}: its base {source} is not there, nor beside the adapter; name its folder or hub id by base= (--base)"
    )

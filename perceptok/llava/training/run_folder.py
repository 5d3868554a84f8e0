"""The folder of a run: who may write it, what its checkpoints rest on, its log, and what a killed process left."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerState

from perceptok.data import find_records_file
from perceptok.errors import OutputError, TrainingError, quote_error
from perceptok.files import append_text, atomic_write, open_input, parse_json, read_input
from perceptok.jobs import map_in_order
from perceptok.locks import lock_output

__all__ = [
    "Fingerprints",
    "RunLog",
    "check_checkpoint",
    "check_images",
    "fingerprint_images",
    "fingerprint_records",
    "hold_run_folder",
    "make_damage_error",
    "read_run_config",
    "write_fingerprints",
    "write_run_config",
]

_CONFIG_FILE = "train.json"
_INPUTS_FILE = "inputs.json"
_STATE_FILE = "trainer_state.json"
_CHUNK = 2**20
_SAMPLE = 2**12
"""Bytes of an image that are read at its beginning, in its middle and at its end."""
_DIGITS = 8
_THREADS = 8
_READ_AHEAD = 1000


@dataclass(frozen=True)
class Fingerprints:
    """What the data of a run is recognized by.

    Attributes:
        records: SHA-256 of each file of records, by path.
        images: Eight hexadecimal digits for each image, as `fingerprint_images` makes them.
    """

    records: Mapping[str, str]
    images: str = ""


@contextmanager
def hold_run_folder(folder: Path, *, is_main: bool) -> Iterator[None]:
    """Make the folder of a run and hold it against other processes; what killed ones left in it is removed.

    Args:
        folder: The folder; where nothing was written into it, it is removed again after an error.
        is_main: Whether this is the run's main process: the others rely on its lock.

    Raises:
        OutputError: Another run holds the folder, or it cannot be made.
    """
    if not is_main:
        yield
        return
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: the run's folder cannot be made ({error.strerror}); choose another output_dir"
        ) from error
    try:
        with lock_output(folder):
            yield
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def read_run_config(folder: Path) -> Mapping[str, Any] | None:
    """The configuration of the run in a folder, as JSON types; None without one, TrainingError for a damaged one."""
    path = folder / _CONFIG_FILE
    if not path.exists():
        return None
    values = parse_json(read_input(path), str(path), TrainingError)
    if not isinstance(values, Mapping):
        raise TrainingError(f"{path} is not a run's configuration; choose another output_dir")
    return values


def write_run_config(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the configuration that runs, `train.json`."""
    with atomic_write(folder / _CONFIG_FILE, force=True) as file:
        file.write((json.dumps(values, indent=1) + "\n").encode())


def fingerprint_records(paths: Sequence[str]) -> dict[str, str]:
    """SHA-256 of each file of records, with the names of their images, by path.

    Raises:
        TrainingError: A file cannot be read.
    """
    digests = {}
    for path in paths:
        digest = hashlib.sha256()
        try:
            with open_input(find_records_file(path)) as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path}: the records cannot be read ({quote_error(error)})") from error
        digests[str(path)] = digest.hexdigest()
    return digests


def fingerprint_images(paths: Sequence[Path]) -> str:
    """Eight hexadecimal digits for each image: CRC-32 of its size, and of 4 KiB at its beginning, middle and end.

    A compressed image differs there wherever it was edited, and three short reads of each take seconds where reading
    them all takes minutes. Times of modification do not count, so that a run moves to another machine with its data. An
    image that cannot be read has zeros.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return "".join(map_in_order(pool, _fingerprint_image, paths, ahead=_READ_AHEAD))


def _fingerprint_image(path: Path) -> str:
    try:
        size = path.stat().st_size
        checksum = zlib.crc32(str(size).encode())
        with open_input(path) as file:
            for position in sorted({0, max(0, (size - _SAMPLE) // 2), max(0, size - _SAMPLE)}):
                file.seek(position)
                checksum = zlib.crc32(file.read(_SAMPLE), checksum)
    except OSError:
        checksum = 0
    return f"{checksum:0{_DIGITS}x}"


def write_fingerprints(checkpoint: Path, fingerprints: Fingerprints) -> None:
    """Write the fingerprints of the data that a checkpoint was trained on."""
    values = {"records": dict(fingerprints.records), "images": fingerprints.images}
    with atomic_write(checkpoint / _INPUTS_FILE, force=True) as file:
        file.write((json.dumps(values, indent=1) + "\n").encode())


def check_checkpoint(checkpoint: Path, records: Mapping[str, str], *, allow_changed_records: bool = False) -> None:
    """Refuse to resume from a damaged checkpoint, or with other records than it was trained on.

    Args:
        checkpoint: The folder of the checkpoint.
        records: Fingerprints of the records, as they are now.
        allow_changed_records: Whether they may be others than before.

    Raises:
        TrainingError: The checkpoint is damaged, or the records changed; the message names the file.
    """
    try:
        state = TrainerState.load_from_json(str(checkpoint / _STATE_FILE))
        if checkpoint.name != f"checkpoint-{state.global_step}" or not isinstance(state.log_history, list):
            raise ValueError(f"global_step {state.global_step!r:.40}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise make_damage_error(checkpoint / _STATE_FILE, error) from error
    stored = _read_fingerprints(checkpoint).records
    changed = [path for path in records if stored.get(path) != records[path]]
    if changed and not allow_changed_records:
        raise TrainingError(
            f"{changed[0]}: the records changed since {checkpoint} was written, so that the run would mix two data "
            "sets; restore them, choose another output_dir, or go on with the new ones by allow_changed_records: true"
        )


def check_images(
    checkpoint: Path, fingerprints: str, paths: Sequence[Path], *, allow_changed_records: bool = False
) -> None:
    """Refuse to resume with other images than a checkpoint was trained on.

    Args:
        checkpoint: The folder of the checkpoint.
        fingerprints: Those of the images, as they are now.
        paths: The images.
        allow_changed_records: Whether they may be others than before.

    Raises:
        TrainingError: Images changed; the message names the first.
    """
    before = _read_fingerprints(checkpoint).images
    if allow_changed_records or before == fingerprints:
        return
    changed = [
        path
        for path, start in zip(paths, range(0, len(fingerprints), _DIGITS), strict=True)
        if before[start : start + _DIGITS] != fingerprints[start : start + _DIGITS]
    ]
    raise TrainingError(
        f"{len(changed)} of {len(paths)} images changed since {checkpoint} was written, such as {min(changed)}; "
        "restore them, choose another output_dir, or go on with the new ones by allow_changed_records: true"
    )


def _read_fingerprints(checkpoint: Path) -> Fingerprints:
    path = checkpoint / _INPUTS_FILE
    try:
        values = json.loads(read_input(path))
        records, images = values["records"], values["images"]
        if not isinstance(records, dict) or not isinstance(images, str):
            raise TypeError("records is not an object, or images not text")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise make_damage_error(path, error) from error
    return Fingerprints(records, images)


def make_damage_error(path: Path, reason: object) -> TrainingError:
    """The error for a file of a checkpoint that cannot be used."""
    return TrainingError(
        f"{path}: damaged, the run cannot be resumed from it ({type(reason).__name__}: {reason!s:.200}); remove the "
        f"folder {path.parent} to resume from the checkpoint before it, or to start again"
    )


class RunLog:
    """The log file of a run, `log.jsonl`: one JSON object for each logged step."""

    def __init__(self, folder: Path) -> None:
        """Open a log; lines are appended to an existing one."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "log.jsonl"

    def forget_after(self, step: int) -> None:
        """Drop the lines after the step that a run resumes from, and a last one that a kill cut off.

        Raises:
            TrainingError: Another line is damaged.
        """
        if not self.path.exists():
            return
        lines = read_input(self.path).splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        remaining = [line for number, line in enumerate(lines, 1) if self._read_step(line, number) <= step]
        with atomic_write(self.path, force=True) as file:
            file.writelines(remaining)

    def _read_step(self, line: bytes, number: int) -> int:
        try:
            step = json.loads(line)["step"]
            if type(step) is not int:
                raise TypeError("step is not an integer")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise TrainingError(
                f"{self.path}, line {number}: damaged ({error!s:.100}); correct or remove the line to resume the run"
            ) from error
        return step

    def write(self, step: int, values: Mapping[str, float | int]) -> None:
        """Append one line; raises OutputError where it cannot be written."""
        append_text(self.path, json.dumps({"step": step, **values}) + "\n")

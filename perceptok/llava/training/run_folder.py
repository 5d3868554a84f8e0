"""The folder of a run: who may write it, what its checkpoints rest on, its log, and what a killed process left."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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
    "check_setup",
    "fingerprint_base",
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
_DIGITS = 8
_PIECE, _PIECES = 2**12, 2**10
_READ_WHOLE = 2**26
"""Bytes of a file of weights up to which it is read whole."""
_THREADS = 8
_READ_AHEAD = 1000


@dataclass(frozen=True)
class Fingerprints:
    """What the data of a run is recognized by.

    Attributes:
        records: SHA-256 of each file of records, by path.
        images: Eight hexadecimal digits for each image, as `fingerprint_images` makes them.
        base: That of the base model, as `fingerprint_base` makes it; empty where it is not known.
        step_samples: Number of samples of a step over all processes; 0 where it is not known.
    """

    records: Mapping[str, str]
    images: str = ""
    base: str = ""
    step_samples: int = 0


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


def fingerprint_images(paths: Sequence[Path], advance: Callable[[], object] = lambda: None) -> str:
    """Eight hexadecimal digits for each image: CRC-32 of its file.

    Files are read whole, so that every edit shows, of uncompressed images too; that takes less than the first epoch,
    which reads and decodes them. Times of modification do not count, so that a run moves to another machine with its
    data. An image that cannot be read has zeros.

    Args:
        paths: The images.
        advance: Called after each image.
    """
    digits = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in map_in_order(pool, _fingerprint_image, paths, ahead=_READ_AHEAD):
            digits.append(found)
            advance()
    return "".join(digits)


def _fingerprint_image(path: Path) -> str:
    checksum = 1  # an empty file is not a missing one
    try:
        with open_input(path) as file:
            while chunk := file.read(_CHUNK):
                checksum = zlib.crc32(chunk, checksum)
    except OSError:
        checksum = 0
    return f"{checksum:0{_DIGITS}x}"


def fingerprint_base(folder: Path) -> str:
    """Sixteen hexadecimal digits for the model in a folder: its configuration, and the names and bytes of its weights.

    Of a file of weights above 64 MiB 1,024 pieces of 4 KiB are read, spread evenly: training changes whole tensors.
    """
    digest = hashlib.sha256()
    names = ("config.json", "*.safetensors", "*.bin")
    for path in sorted(path for name in names for path in folder.glob(name)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        step = _PIECE if size <= _READ_WHOLE else size // _PIECES
        with path.open("rb") as file:
            for position in range(0, size, step):
                file.seek(position)
                digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]


def write_fingerprints(checkpoint: Path, fingerprints: Fingerprints) -> None:
    """Write the fingerprints of the data that a checkpoint was trained on."""
    values = asdict(fingerprints)
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


def check_setup(checkpoint: Path, base: str, step_samples: int) -> None:
    """Refuse to resume on another base model, or with steps of another size, than a checkpoint was trained with.

    Args:
        checkpoint: The folder of the checkpoint.
        base: Fingerprint of the base, as it is now.
        step_samples: Number of samples of a step, as it is now.

    Raises:
        TrainingError: Either is another; the message says which.
    """
    before = _read_fingerprints(checkpoint)
    if before.base not in ("", base):
        raise TrainingError(
            f"the base model changed since {checkpoint} was written, so that its adapter would continue on other "
            "weights; restore the base, or choose another output_dir"
        )
    if before.step_samples not in (0, step_samples):
        raise TrainingError(
            f"a step had {before.step_samples} samples when {checkpoint} was written, now {step_samples}: start as "
            "many processes as before, or choose another output_dir (effective_batch_size gives a step the same size "
            "for any number of processes)"
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
        found = Fingerprints(**values)
        if not isinstance(found.records, dict) or not isinstance(values["images"], str):
            raise TypeError("records is not an object, or images not text")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise make_damage_error(path, error) from error
    return found


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

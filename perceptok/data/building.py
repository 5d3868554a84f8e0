"""Building: candidates in a drawn order, accepted until a set is full, kept on the way, written at the end."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from perceptok.data.recipes import DataRecipe, RecipeResources, open_recipe
from perceptok.data.record_files import RecordForm, read_records, write_records
from perceptok.data.records import PerceptionRecord
from perceptok.data.sources import Sample
from perceptok.data.tasks import SetConfig, TaskRecord, make_counting_record, make_depth_records
from perceptok.errors import DataError, OutputError
from perceptok.files import atomic_write, lock_output
from perceptok.jobs import Engine, Journal, LocalEngine

__all__ = [
    "BuildReport",
    "Candidate",
    "RecordMaker",
    "Rejection",
    "SetReport",
    "build_data",
    "make_generator",
]


class Rejection(NamedTuple):
    """A sample that no record was made of, and why."""

    name: str
    reason: str


class FinishedPiece(NamedTuple):
    """The records and rejections of one piece of work."""

    records: list[PerceptionRecord]
    rejected: list[Rejection]


def _encode_piece(piece: FinishedPiece) -> str:
    records = [record.to_dict() for record in piece.records]
    return json.dumps({"records": records, "rejected": [list(rejection) for rejection in piece.rejected]})


def _decode_piece(_: int, values: Any) -> FinishedPiece:
    records = [PerceptionRecord.from_dict(record) for record in values["records"]]
    return FinishedPiece(records, [Rejection(name, reason) for name, reason in values["rejected"]])


class Candidate(NamedTuple):
    """What became of one sample: a record with the bytes of its picture, or the reason why there is none."""

    name: str
    record: PerceptionRecord | None
    picture: bytes
    reason: str


@dataclass(frozen=True)
class RecordMaker:
    """Makes the records of some samples of one set; pickled with the recipe's text and little else."""

    recipe: str
    set_name: str

    def __call__(self, names: tuple[str, ...]) -> list[Candidate]:
        """A candidate for each name. What comes out depends on recipe, set and names only."""
        here = open_recipe(self.recipe)
        config = next(config for config in here.recipe.sets if config.name == self.set_name)
        depth = config.task == "depth"
        samples = here.source(config.source).read(names, depth=depth, boxes=not depth)
        results: list[TaskRecord | str] = [sample if isinstance(sample, str) else "" for sample in samples]
        known = [
            (at, one, make_generator(here.recipe.seed, config, one.name)) for at, one in _enumerate_samples(samples)
        ]
        if depth:
            made = make_depth_records([(one, rng) for _, one, rng in known], config, here.setting)
        else:
            made = [make_counting_record(one, rng, config, here.setting, here.plurals) for _, one, rng in known]
        for (at, _, _), one in zip(known, made, strict=True):
            results[at] = one
        return [
            Candidate(name, None, b"", result)
            if isinstance(result, str)
            else Candidate(name, result.record, _encode_image(result.picture, here.recipe.image_format), "")
            for name, result in zip(names, results, strict=True)
        ]


def _enumerate_samples(samples: list[Sample | str]) -> list[tuple[int, Sample]]:
    return [(at, sample) for at, sample in enumerate(samples) if not isinstance(sample, str)]


def make_generator(seed: int, config: SetConfig, *names: str) -> np.random.Generator:
    """What is drawn from for one sample, or for a set's order: the same whatever else is built, and in any process."""
    key = "\0".join([config.source, config.stream or config.name, *names])
    words = np.frombuffer(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), dtype=np.uint32)
    return np.random.default_rng([seed, *words.tolist()])


def _encode_image(picture: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    if form == "png":
        picture.save(buffer, format="PNG")
    else:
        picture.save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


_AT_ONCE = 8
"""Candidates of one piece of work; part of what makes a build reproducible, so no option."""

_PACKAGES = ("numpy", "onnxruntime", "pillow", "torch", "transformers")
_FORMS: dict[str, tuple[str, RecordForm]] = {
    "llava": ("records_llava.json", "llava"),
    "chat": ("records_chat.jsonl", "chat"),
    "parquet": ("records.parquet", "records"),
}


@dataclass(frozen=True)
class SetReport:
    """What became of one set.

    Attributes:
        name: Of the set.
        records: Number of records made.
        candidates: Samples that were looked at.
        rejected: Reason -> how many samples; numbers in reasons are left out, so that like ones count together.
    """

    name: str
    records: int
    candidates: int
    rejected: dict[str, int]


@dataclass(frozen=True)
class BuildReport:
    """What `build_data` made.

    Attributes:
        folder: Where.
        sets: One report each.
    """

    folder: Path
    sets: tuple[SetReport, ...]

    @property
    def records(self) -> int:
        """Of all sets."""
        return sum(config.records for config in self.sets)


def build_data(
    recipe: DataRecipe,
    output: str | Path,
    *,
    engine: Engine | None = None,
    force: bool = False,
    advance: Callable[[int], object] = lambda _: None,
) -> BuildReport:
    """Build a data set: `records.jsonl`, `images/`, `manifest.json` and `rejected.jsonl`.

    A run that was killed or found the disk full is continued by the same call. The bytes of every file are the same
    however often a run was stopped and whatever engine did the work. The folder is held alone until the build ends.

    Args:
        recipe: What is built.
        output: A folder; made where missing.
        engine: Spreads the work: `LocalEngine` or `perceptok.jobs.RayEngine`; default: this process alone.
        force: Build again what is there already.
        advance: Called with the number of records that were added.

    Returns:
        What became of each set; the manifest says the same.

    Raises:
        DataError: A set has fewer samples than are asked for, or too many were rejected; the message says why. What was
            made is kept.
        OutputError: The folder holds a data set already, or an unfinished one of another recipe; another process builds
            in it; or it cannot be written.
    """
    folder = Path(output)
    located = recipe.located()
    text = json.dumps(located.to_dict(), sort_keys=True)
    here = open_recipe(text)
    for config in recipe.sets:
        available = len(here.source(config.source).names)
        if available < config.count:
            raise DataError(
                f"set {config.name} asks for {config.count} records, its source {config.source} has {available} images"
            )
    reports, journals = [], []
    with _held(folder, force), ExitStack() as stack:
        for config in recipe.sets:
            # Of paths on this machine: an unfinished build of other files is not continued.
            journal = Journal[FinishedPiece](
                folder / f".{config.name}",
                {"recipe": located.fingerprint},
                encode=_encode_piece,
                decode=_decode_piece,
                start_over=force,
            )
            stack.enter_context(journal)
            reports.append(_build_set(text, here, config, journal, folder, engine or LocalEngine(), advance))
            journals.append(journal)
        _write_files(recipe, here, folder, reports, journals)
        for journal in journals:
            journal.remove()
    return BuildReport(folder, tuple(reports))


@contextmanager
def _held(folder: Path, force: bool) -> Iterator[None]:
    """A folder without a finished data set, in which one process builds at a time."""
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write in {folder}: {error.strerror}") from error
    with lock_output(folder):
        manifest = folder / "manifest.json"
        if manifest.exists() and not force:
            raise OutputError(
                f"{folder} holds a data set already; choose another folder, or build again with force (--force)"
            )
        try:
            manifest.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write in {folder}: {error.strerror}") from error
        yield


def _build_set(
    text: str,
    here: RecipeResources,
    config: SetConfig,
    journal: Journal[FinishedPiece],
    folder: Path,
    engine: Engine,
    advance: Callable[[int], object],
) -> SetReport:
    names = list(here.source(config.source).names)
    order = make_generator(here.recipe.seed, config).permutation(len(names))
    pieces = [
        tuple(names[index] for index in order[at : at + _AT_ONCE].tolist()) for at in range(0, len(order), _AT_ONCE)
    ]
    chosen = _Choice(config)
    reasons: Counter[str] = Counter()
    for piece in journal.results():
        for record in piece.records:
            chosen.take(record)
        reasons.update(_reason_kind(rejection.reason) for rejection in piece.rejected)
    advance(chosen.count)
    todo = iter(pieces[len(journal) :])
    work = RecordMaker(text, config.name)
    if chosen.count < config.count:
        for candidates in engine.map(work, todo):
            kept, rejected = _accept_candidates(candidates, chosen, config, folder, here.recipe.image_format)
            journal.add(len(journal), FinishedPiece(kept, rejected))
            reasons.update(_reason_kind(rejection.reason) for rejection in rejected)
            advance(len(kept))
            if chosen.count >= config.count:
                break
    if chosen.count < config.count:
        common = "; ".join(f"{reason} ({number} times)" for reason, number in reasons.most_common(3))
        raise DataError(
            f"set {config.name} asks for {config.count} records, {chosen.count} could be made of {len(names)} images; "
            f"the others were rejected: {common}. Ask for fewer, or add images"
        )
    looked = chosen.count + sum(reasons.values())
    return SetReport(config.name, chosen.count, looked, dict(sorted(reasons.items())))


def _records_of(journal: Journal[FinishedPiece]) -> Iterator[PerceptionRecord]:
    return (record for piece in journal.results() for record in piece.records)


def _rejections_of(journal: Journal[FinishedPiece]) -> Iterator[Rejection]:
    return (rejection for piece in journal.results() for rejection in piece.rejected)


class _Choice:
    """Which candidates a set takes: as many as it wants, no count more often than it says."""

    def __init__(self, config: SetConfig) -> None:
        self.config, self.count = config, 0
        self.instances: Counter[int] = Counter()

    def refusal(self, record: PerceptionRecord) -> str:
        """Why a record is not taken; "" where it is."""
        boxes = record.evidence.boxes
        if boxes is not None and self.instances[len(boxes)] >= self.config.most_of_a_count:
            return f"balance: there are {self.config.most_of_a_count} records with this count"
        return ""

    def take(self, record: PerceptionRecord) -> None:
        """Count it."""
        self.count += 1
        if record.evidence.boxes is not None:
            self.instances[len(record.evidence.boxes)] += 1


def _accept_candidates(
    candidates: list[Candidate], chosen: _Choice, config: SetConfig, folder: Path, form: str
) -> tuple[list[PerceptionRecord], list[Rejection]]:
    kept: list[PerceptionRecord] = []
    rejected: list[Rejection] = []
    for candidate in candidates:
        if chosen.count >= config.count:
            break
        reason = candidate.reason if candidate.record is None else chosen.refusal(candidate.record)
        if candidate.record is None or reason:
            rejected.append(Rejection(candidate.name, reason))
            continue
        number = f"{chosen.count:06d}"
        image = f"images/{config.name}/{number}.{form}"
        record = replace(candidate.record, id=f"{config.name}-{number}", images=(image,))
        target = folder / image
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {target.parent}: {error.strerror}") from error
        with atomic_write(target, force=True) as file:
            file.write(candidate.picture)
        chosen.take(record)
        kept.append(record)
    return kept, rejected


def _reason_kind(reason: str) -> str:
    """A reason without the numbers and names that differ from sample to sample."""
    words = []
    for word in reason.split():
        words.append("#" if any(letter.isdigit() for letter in word) or "/" in word else word)
    return " ".join(words)


def _write_files(
    recipe: DataRecipe,
    here: RecipeResources,
    folder: Path,
    reports: list[SetReport],
    journals: list[Journal[FinishedPiece]],
) -> None:
    def records() -> Iterator[PerceptionRecord]:
        for journal in journals:
            yield from _records_of(journal)

    files: dict[str, str] = {}
    write_records(folder / "records.jsonl", records(), force=True)
    names = ["records.jsonl"]
    for form in recipe.also:
        name, kind = _FORMS[form]
        write_records(folder / name, records(), form=kind, force=True)
        names.append(name)
    with atomic_write(folder / "rejected.jsonl", force=True) as file:
        for config, journal in zip(recipe.sets, journals, strict=True):
            for rejection in _rejections_of(journal):
                line = {"set": config.name, "image": rejection.name, "reason": rejection.reason}
                file.write((json.dumps(line, ensure_ascii=True) + "\n").encode())
    for name in [*names, "rejected.jsonl"]:
        files[name] = _hash_file(folder / name)
    digest = hashlib.sha256()
    for record in read_records(folder / "records.jsonl"):
        for image in record.images:
            digest.update(f"{image} {_hash_file(folder / image)}\n".encode())
    manifest: dict[str, Any] = {
        "perceptok": metadata.version("perceptok"),
        "versions": _versions(),
        "recipe": recipe.to_dict(),
        "recipe_fingerprint": recipe.fingerprint,
        "seed": recipe.seed,
        "codec": here.setting.codec.fingerprint,
        "prompts": here.setting.prompts.label,
        "sources": {name: here.source(name).fingerprint for name in sorted({config.source for config in recipe.sets})},
        "sets": [asdict(report) for report in reports],
        "files": files,
        "images": digest.hexdigest(),
    }
    with atomic_write(folder / "manifest.json", force=True) as file:
        file.write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())


def _versions() -> dict[str, str]:
    known = {}
    for package in _PACKAGES:
        try:
            known[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return known


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Building a data set: candidates in a random order, accepted until each set is complete, with a journal to resume."""

from __future__ import annotations

import hashlib
import heapq
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from perceptok.config import config_from_dict
from perceptok.data.recipes import DataRecipe, RecipeResources, open_recipe
from perceptok.data.record_files import RECORDS_FILE, RecordForm, write_records
from perceptok.data.records import PerceptionRecord
from perceptok.data.sources import Sample
from perceptok.data.tasks import SetConfig, TaskRecord, make_counting_record, make_depth_records
from perceptok.errors import ConfigError, DataError, OutputError, RecordError
from perceptok.files import atomic_write, parse_json, read_input, resolve_inside
from perceptok.jobs import (
    Engine,
    Journal,
    LocalEngine,
    Stamp,
    count_reasons,
    find_common_reason,
    find_examples,
    read_run,
)
from perceptok.locks import lock_output

__all__ = ["BuildReport", "Candidate", "RecordMaker", "SetReport", "build_data", "make_generator"]

MANIFEST_FILE = "manifest.json"

_BATCH_SIZE = 8
"""Candidates that are made together. Results may depend on it, so it is not a setting."""

_PACKAGES = ("numpy", "onnxruntime", "pillow", "torch", "transformers")
_EXPORTS: dict[str, tuple[str, RecordForm]] = {
    "llava": ("records_llava.json", "llava"),
    "chat": ("records_chat.jsonl", "chat"),
    "parquet": ("records.parquet", "records"),
}


class Rejection(NamedTuple):
    """A sample without a record, and the reason."""

    image: str
    reason: str


Outcome = PerceptionRecord | Rejection
"""What became of a candidate; one line of a set's journal."""


class Candidate(NamedTuple):
    """A record with the bytes of its image file, or the reason why a sample has none."""

    name: str
    record: PerceptionRecord | None
    image: bytes
    reason: str
    is_unread: bool = False
    """Whether the image, its map or its boxes could not be read."""


@dataclass(frozen=True)
class RecordMaker:
    """Makes the candidates of one set; it is pickled with the recipe's text and little else.

    Attributes:
        recipe: The recipe as JSON text.
        set_name: Name of the set.
    """

    recipe: str
    set_name: str

    def __call__(self, names: tuple[str, ...]) -> list[Candidate]:
        """Make a candidate of each sample; the result depends on the recipe, the set and the names alone."""
        resources = open_recipe(self.recipe)
        recipe, context = resources.recipe, resources.context
        config = next(config for config in recipe.sets if config.name == self.set_name)
        depth = config.task == "depth"
        source = resources.open_source(config.source)
        results: dict[str, Sample | TaskRecord | str] = dict(
            zip(names, source.read(names, depth=depth, boxes=not depth), strict=True)
        )
        unread = {name for name, result in results.items() if isinstance(result, str)}
        samples = [
            (sample, make_generator(recipe.seed, config, name))
            for name, sample in results.items()
            if isinstance(sample, Sample)
        ]
        if depth:
            made = make_depth_records(samples, config, context)
        else:
            made = [make_counting_record(sample, rng, config, context, resources.plurals) for sample, rng in samples]
        results |= {sample.name: result for (sample, _), result in zip(samples, made, strict=True)}
        return [
            Candidate(name, result.record, _encode_image(result.image, recipe.image_format), "")
            if isinstance(result, TaskRecord)
            else Candidate(name, None, b"", str(result), name in unread)
            for name, result in results.items()
        ]


def make_generator(seed: int, config: SetConfig, *names: str) -> np.random.Generator:
    """Make the random generator of one sample, or of a set's order; it depends on nothing else that is built.

    Args:
        seed: The recipe's.
        config: Of the set; sets of one source and stream have the same generators.
        names: The sample's name; none for the set's order.
    """
    key = "\0".join([config.source, config.stream or config.name, *names])
    words = np.frombuffer(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), dtype=np.uint32)
    return np.random.default_rng([seed, *words.tolist()])


def _encode_image(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    if image_format == "png":
        image.save(buffer, format="PNG")
    else:
        image.save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


@dataclass(frozen=True)
class SetReport:
    """Numbers of a set that was built.

    Attributes:
        name: Name of the set.
        records: Number of records.
        candidates: Number of samples that were tried.
        rejected: Reason -> number of samples; numbers and paths in reasons are replaced by #, so that like reasons are
            counted together.
        warnings: What is odd about records that were made all the same -> number of records, counted as reasons.
    """

    name: str
    records: int
    candidates: int
    rejected: dict[str, int]
    warnings: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildReport:
    """The result of `build_data`.

    Attributes:
        folder: Folder of the data set.
        sets: A report of each set.
    """

    folder: Path
    sets: tuple[SetReport, ...]

    @property
    def records(self) -> int:
        """Number of records of all sets."""
        return sum(report.records for report in self.sets)

    @classmethod
    def read(cls, folder: str | Path) -> BuildReport:
        """Read the report of a folder that `build_data` made.

        Raises:
            RecordError: The folder has no manifest, or it is damaged.
        """
        path = Path(folder) / MANIFEST_FILE
        try:
            values = parse_json(read_input(path), str(path), RecordError)
        except OSError as error:
            raise RecordError(f"{path}: cannot be read ({error.strerror})") from error
        reports = values.get("sets") if isinstance(values, dict) else None
        if not isinstance(reports, list):
            raise RecordError(f"{path}: not the manifest of a data set; expected an object with `sets`")
        return cls(Path(folder), tuple(config_from_dict(SetReport, report, error=RecordError) for report in reports))


def build_data(
    recipe: DataRecipe,
    output: str | Path,
    *,
    engine: Engine | None = None,
    force: bool = False,
    advance: Callable[[int], object] = lambda _: None,
    warn: Callable[[str], object] = lambda _: None,
) -> BuildReport:
    """Build a data set: `records.jsonl`, `images/`, `manifest.json` and `rejected.jsonl`.

    A build that was killed, or found the disk full, is resumed by the same call, and by one with other counts: each set
    continues as long as its own settings and files are the same. Results whose image or map changed are made again. The
    bytes of every file are the same however often it was interrupted and whatever engine was used. The folder is locked
    until the build ends.

    Args:
        recipe: The recipe.
        output: A folder; it is made where missing.
        engine: Spreads the work: `LocalEngine` or `perceptok.jobs.RayEngine`; default: this process alone.
        force: Replace an existing data set, or an unfinished one.
        advance: Called with the number of records that were added.
        warn: Called with what was left out of the sources' files, and with what is made again.

    Returns:
        The numbers of each set, which the manifest has too.

    Raises:
        ConfigError: A set's source has no depth or boxes.
        DataError: A source has fewer images than a set asks for, is of another split, or too many samples were
            rejected; the message says why. Finished records are kept.
        SpecialistError: A network cannot be loaded or run, or is of another task.
        OutputError: The folder has a data set, or an unfinished set of this name and other settings or files; another
            process builds in it; or it cannot be written.
    """
    folder = Path(output)
    resolved = recipe.resolve_paths()
    text = json.dumps(resolved.to_dict(), sort_keys=True)
    open_recipe.cache_clear()  # files may have changed since this process read them
    resources = open_recipe(text)
    _check_sources(recipe, resources)
    if engine is None or isinstance(engine, LocalEngine):  # another machine may have other devices
        resources.check_specialists(recipe.sets)
    for name in sorted({config.source for config in recipe.sets}):
        for remark in resources.list_remarks(name):
            warn(remark)
    builders: list[_SetBuilder] = []
    with _lock_folder(folder, force), ExitStack() as stack:
        _refuse_other_files(recipe, folder)
        for config in recipe.sets:
            builder = _SetBuilder(config, resources, folder, builders)
            journal = stack.enter_context(_open_journal(builder, resolved, force))
            _remove_manifest(folder)  # the journal now tells that the folder's files are those of a build
            if dropped := builder.resume(journal):
                warn(f"set {config.name}: {dropped} results are made again, as files that they come from changed")
            builder.build(text, engine or LocalEngine(), advance)
            builders.append(builder)
        report = BuildReport(folder, tuple(builder.make_report() for builder in builders))
        _write_files(recipe, resources, report, builders)
        for builder in builders:
            builder.remove_other_images()
            builder.journal.remove()
    return report


def _open_journal(builder: _SetBuilder, resolved: DataRecipe, force: bool) -> Journal[Outcome]:
    """Open the journal of a set. It is that of all settings which its records depend on, so not of its count.

    The fingerprint is that of absolute paths: an unfinished build of other files is not resumed.
    """
    config, resources = builder.config, builder.resources
    key = {
        "set": {**asdict(config), "count": None},
        "source": asdict(resolved.sources[config.source]),
        "files": resources.open_source(config.source).fingerprint,
        "recipe": [resolved.seed, resolved.frame, resolved.size, resolved.soft_codes, resolved.image_format],
        "prompts": resources.context.prompts.label,
        "templates": dict(resolved.templates),
        "codec": resources.context.codec.fingerprint,
        "plurals": resources.plurals.fingerprint,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    names = hashlib.sha256("\n".join(builder.names).encode("utf-8", "surrogatepass")).hexdigest()
    path = builder.folder / f".{config.name}"
    run = {"set": digest, "images": names}
    unfinished = read_run(path).get("set", digest)
    if unfinished != digest and not force:
        raise OutputError(
            f"{path}.partial is the unfinished output of another run of set {config.name} (other settings, files or "
            "weights); finish that run first, or remove the file to make this set again and keep the others, or start "
            "over with force (--force)"
        )
    return Journal[Outcome](
        path,
        run,
        builder.list_stamps(),
        encode=_encode_outcome,
        decode=_decode_outcome,
        # Of the same set with other images before it: where streams are disjoint, a shorter set leaves more images.
        start_over=force or unfinished == digest,
    )


def _check_sources(recipe: DataRecipe, resources: RecipeResources) -> None:
    """Raise unless every set has a source of depth or boxes, and enough images."""
    for config in recipe.sets:
        source = recipe.sources[config.source]
        if config.task == "depth":
            maps = source.depth or source.depth_specialist or (config.regime == "atomic" and source.depth_codes)
            missing = "" if maps else "a depth map: set sources.{}.depth (a folder) or sources.{}.depth_specialist"
        else:
            boxes = source.annotations or source.box_specialist
            missing = "" if boxes else "boxes: set sources.{}.annotations (a file) or sources.{}.box_specialist"
        if missing and source.scenes is None:
            raise ConfigError(f"set {config.name} needs {missing.format(config.source, config.source)}")
    available = {config.name: len(resources.list_images(config.source)) for config in recipe.sets}
    for config in recipe.sets:
        if available[config.name] < config.count:
            factor = min(available[config.name] / config.count for config in recipe.sets if config.count)
            raise DataError(
                f"set {config.name} asks for {config.count} records, its source {config.source} has "
                f"{available[config.name]} images; scale the counts of all sets (--scale {_round_down(factor):g}), "
                "or add images"
            )


def _round_down(factor: float) -> float:
    """Round a positive factor down to two significant digits."""
    unit = 10.0 ** (math.floor(math.log10(factor)) - 1)
    return math.floor(factor / unit + 1e-9) * unit


def _find_used_images(builder: _SetBuilder, others: Sequence[_SetBuilder]) -> set[str]:
    """The images of the sets before with the same source and another stream."""
    config = builder.config
    return {
        image
        for other in others
        if other.config.source == config.source and other.stream != builder.stream
        for image in other.images
    }


@contextmanager
def _lock_folder(folder: Path, force: bool) -> Iterator[None]:
    """Make and lock a folder without a finished data set."""
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write in {folder}: {error.strerror}") from error
    with lock_output(folder):
        manifest = folder / MANIFEST_FILE
        if manifest.exists() and not force:
            raise OutputError(
                f"{folder} has a data set already; choose another folder, or build again with force (--force)"
            )
        yield


def _remove_manifest(folder: Path) -> None:
    try:
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write in {folder}: {error.strerror}") from error


def _refuse_other_files(recipe: DataRecipe, folder: Path) -> None:
    """Refuse a folder that is neither a data set nor an unfinished one, but has files that a build would replace."""
    if (folder / MANIFEST_FILE).is_file() or any(folder.glob(".*.partial")):
        return
    names = [RECORDS_FILE, "rejected.jsonl", *(name for name, _ in _EXPORTS.values())]
    names += [f"images/{config.name}" for config in recipe.sets]
    for name in names:
        path = folder / name
        if path.is_file() or path.is_symlink() or (path.is_dir() and any(path.iterdir())):
            raise OutputError(
                f"{folder} is not a data set (it has no {MANIFEST_FILE}), but has {name}, which would be replaced; "
                "move it, or choose another folder"
            )


def _encode_outcome(outcome: Outcome) -> str:
    return outcome.to_json() if isinstance(outcome, PerceptionRecord) else json.dumps(outcome._asdict())


def _decode_outcome(_: int, values: Any) -> Outcome:
    return Rejection(**values) if "reason" in values else PerceptionRecord.from_json(json.dumps(values))


def _is_rejection(text: str) -> bool:
    """Whether a text of `_encode_outcome` is that of a rejection, by its first key."""
    return text.startswith('{"image": ')


class _SetBuilder:
    """Accepts candidates of a set until it is complete, and keeps the outcome of each in a journal.

    Args:
        config: The set.
        resources: Of the recipe.
        folder: Of the data set.
        others: The sets before, whose images are left out where streams are disjoint.
    """

    journal: Journal[Outcome]

    def __init__(
        self, config: SetConfig, resources: RecipeResources, folder: Path, others: Sequence[_SetBuilder]
    ) -> None:
        self.config, self.resources, self.folder = config, resources, folder
        self.stream = config.stream or config.name
        self.images: set[str] = set()
        self.records = 0
        self.instances: Counter[int] = Counter()
        self.reasons: list[str] = []
        self.unread: list[str] = []
        """Why images, maps or boxes could not be read, in this run."""
        self.warnings: list[str] = []
        used = _find_used_images(self, others) if resources.recipe.disjoint_streams else set()
        names = resources.list_images(config.source)
        order = make_generator(resources.recipe.seed, config).permutation(len(names)).tolist()
        self.names = [names[index] for index in order if names[index] not in used]
        """The candidates in their order; the index of a result in the journal is that of its candidate."""

    def list_stamps(self) -> list[Stamp]:
        """The stamp of each candidate's files."""
        source = self.resources.open_source(self.config.source)
        return [source.find_stamp(name) for name in self.names]

    def resume(self, journal: Journal[Outcome]) -> int:
        """Take over the results of a journal, up to the set's count; returns how many whose files changed were dropped.

        What follows a dropped result depends on it, and is dropped too.
        """
        self.journal = journal
        done = list(journal)
        first_missing = next((number for number, index in enumerate(done) if index != number), len(done))
        dropped = len(done) - first_missing
        index = 0
        while index < first_missing and self.records < self.config.count:
            self._count(journal[index])
            index += 1
        journal.drop_from(index)
        return dropped

    def build(self, recipe: str, engine: Engine, advance: Callable[[int], object]) -> None:
        """Add candidates until the set is complete; raises DataError where there are not enough.

        Args:
            recipe: The recipe as JSON text.
            engine: Spreads the work.
            advance: Called with the number of records that were added.
        """
        advance(self.records)
        # A batch that was interrupted is made again as a whole, since results may depend on the batch.
        start = len(self.journal) // _BATCH_SIZE * _BATCH_SIZE
        batches = (
            tuple(self.names[first : first + _BATCH_SIZE]) for first in range(start, len(self.names), _BATCH_SIZE)
        )
        if self.records < self.config.count:
            for candidates in engine.map(RecordMaker(recipe, self.config.name), batches):
                before = self.records
                for index, candidate in enumerate(candidates, start):
                    if index not in self.journal and self.records < self.config.count:
                        self._add(index, candidate)
                start += len(candidates)
                advance(self.records - before)
                if self.records >= self.config.count:
                    return
                self._stop_where_all_fail()
        if self.records < self.config.count:
            examples = find_examples(self.reasons)
            common = "; ".join(
                f"{examples[reason]} ({number} times)" for reason, number in [*count_reasons(self.reasons).items()][:3]
            )
            scale = f"--scale {_round_down(self.records / self.config.count):g}" if self.records else "--scale"
            raise DataError(
                f"set {self.config.name} asks for {self.config.count} records, {self.records} could be made of "
                f"{len(self.names)} images; the others were rejected: {common}. Ask for fewer ({scale}): finished sets "
                "are kept; or add images"
            )

    def _stop_where_all_fail(self) -> None:
        """Raise where the first images, which are random ones, all cannot be read for one reason."""
        reason = find_common_reason(self.unread) if len(self.unread) == len(self.reasons) and not self.records else None
        if reason is not None and len(self.names) > len(self.unread):
            self.journal.remove()
            raise DataError(
                f"set {self.config.name}: the first {len(self.unread)} of {len(self.names)} images, in random order, "
                f"all fail for one reason, so the others are not tried: {reason}. Correct the setting of source "
                f"{self.config.source} and build again; finished sets are kept"
            )

    def remove_other_images(self) -> None:
        """Delete the images of records that the set had before it was made smaller."""
        numbers = range(self.records if self.config.with_image else 0)
        used = {_name_image(self.config, number, self.resources.recipe) for number in numbers}
        folder = resolve_inside(self.folder, f"images/{self.config.name}")
        for path in folder.glob(f"*.{self.resources.recipe.image_format}"):
            if path.stem.isdecimal() and path.relative_to(self.folder).as_posix() not in used:
                path.unlink()

    def make_report(self) -> SetReport:
        """Report the numbers so far."""
        rejected = dict(sorted(count_reasons(self.reasons).items()))
        candidates = self.records + len(self.reasons)
        return SetReport(self.config.name, self.records, candidates, rejected, count_reasons(self.warnings))

    def read_lines(self) -> Iterator[tuple[int, str]]:
        """Read the records as the JSON text that the journal has of them, with the index of their candidate."""
        for index in self.journal:
            if not _is_rejection(text := self.journal.read_text(index)):
                yield index, text

    def read_rejections(self) -> Iterator[Rejection]:
        """Read the rejections."""
        for index in self.journal:
            if _is_rejection(text := self.journal.read_text(index)):
                yield Rejection(**json.loads(text))

    def _add(self, index: int, candidate: Candidate) -> None:
        """Add the outcome of a candidate; the image is written before its record."""
        record, reason = candidate.record, candidate.reason
        self.unread += [reason] if candidate.is_unread else []
        if record is not None and record.evidence.boxes is not None:
            limit = self.config.max_per_count
            if self.instances[len(record.evidence.boxes)] >= limit:
                reason = f"balance: there are {limit} records with this count"
        if record is None or reason:
            outcome: Outcome = Rejection(candidate.name, reason)
        else:
            outcome = replace(record, id=f"{self.config.name}-{self.records:06d}", images=())
            if self.config.with_image:
                image = _name_image(self.config, self.records, self.resources.recipe)
                _write_image(self.folder, image, candidate.image)
                outcome = replace(outcome, images=(image,))
        self.journal.add(index, outcome)
        self._count(outcome)

    def _count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Rejection):
            self.reasons.append(outcome.reason)
            return
        self.records += 1
        self.warnings += outcome.provenance.get("warnings", ())
        self.images.add(outcome.provenance["image"])
        if outcome.evidence.boxes is not None:
            self.instances[len(outcome.evidence.boxes)] += 1


def _name_image(config: SetConfig, number: int, recipe: DataRecipe) -> str:
    return f"images/{config.name}/{number:06d}.{recipe.image_format}"


def _write_image(folder: Path, name: str, data: bytes) -> None:
    path = resolve_inside(folder, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    with atomic_write(path, force=True) as file:
        file.write(data)


def _write_files(
    recipe: DataRecipe, resources: RecipeResources, report: BuildReport, builders: list[_SetBuilder]
) -> None:
    """Write the records, their exports, the rejections and the manifest."""
    folder = report.folder

    def read_lines() -> Iterator[str]:
        streams: dict[tuple[str, str], list[_SetBuilder]] = {}
        for builder in builders:
            key = (builder.config.source, builder.stream if recipe.interleave_streams else builder.config.name)
            streams.setdefault(key, []).append(builder)
        for sets in streams.values():
            # Candidates of one stream have the same index in every set; of equal indices the first set's comes first.
            for _, line in heapq.merge(*(builder.read_lines() for builder in sets), key=lambda item: item[0]):
                yield line

    with atomic_write(folder / RECORDS_FILE, force=True) as file:
        for line in read_lines():
            file.write(f"{line}\n".encode())
    names = [RECORDS_FILE]
    for export in recipe.export:
        name, form = _EXPORTS[export]
        write_records(folder / name, map(PerceptionRecord.from_json, read_lines()), form=form, force=True)
        names.append(name)
    with atomic_write(folder / "rejected.jsonl", force=True) as file:
        for builder in builders:
            for rejection in builder.read_rejections():
                file.write((json.dumps({"set": builder.config.name, **rejection._asdict()}) + "\n").encode())
    names.append("rejected.jsonl")
    images = hashlib.sha256()
    for builder in builders:
        for number in range(builder.records if builder.config.with_image else 0):
            image = _name_image(builder.config, number, recipe)
            images.update(f"{image} {_hash_file(folder / image)}\n".encode())
    manifest = {
        "perceptok": metadata.version("perceptok"),
        "versions": _find_versions(),
        "recipe": recipe.to_dict(),
        "recipe_fingerprint": recipe.fingerprint,
        "seed": recipe.seed,
        "codec": resources.context.codec.fingerprint,
        "prompts": resources.context.prompts.label,
        "sources": {
            name: resources.open_source(name).fingerprint for name in sorted({config.source for config in recipe.sets})
        },
        "remarks": [
            remark
            for name in sorted({config.source for config in recipe.sets})
            for remark in resources.list_remarks(name)
        ],
        "sets": [asdict(set_report) for set_report in report.sets],
        "files": {name: _hash_file(folder / name) for name in names},
        "images": images.hexdigest(),
    }
    with atomic_write(folder / MANIFEST_FILE, force=True) as file:
        file.write(_spell_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())


def _spell_text(text: str) -> str:
    """Spell bytes of file names that are not UTF-8 as %XX in a text."""
    return "".join(f"%{ord(letter) - 0xDC00:02X}" if "\udc80" <= letter <= "\udcff" else letter for letter in text)


def _find_versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

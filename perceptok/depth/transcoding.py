"""Transcoding: the codes of one codec translated to those of another, by decoding and encoding again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from perceptok.depth.codec import DepthCodec
from perceptok.depth.depth_records import (
    DepthRecord,
    check_output,
    drop_unchanged_codes,
    restore_frames,
    write_depth_records,
)
from perceptok.depth.map_files import MapFailure
from perceptok.depth.metrics import compute_squared_errors
from perceptok.depth.networks.grid import GridConfig
from perceptok.depth.networks.vqvae import ModelConfig
from perceptok.errors import CheckpointError, OutputError
from perceptok.files import atomic_write, parse_number
from perceptok.jobs import Journal, split_into_batches

__all__ = ["TranscodedRecord", "TranscodingReport", "transcode_records", "transcode_to_file"]


class TranscodedRecord(NamedTuple):
    """A record in the codes of another codec, and what the translation lost.

    `rmse` is the root mean squared difference in nearness between the map that the first codec decodes and the one that
    the second decodes: it adds to the error that the first codec has made already.
    """

    record: DepthRecord
    rmse: float


class TranscodingReport(NamedTuple):
    """What `transcode_to_file` did.

    Attributes:
        written: Records in the output.
        mean_rmse: Mean of `TranscodedRecord.rmse`; NaN without records.
        max_rmse: The largest; NaN without records.
        failures: Frames that cannot be restored; all other records are in the output.
    """

    written: int
    mean_rmse: float
    max_rmse: float
    failures: list[MapFailure]


def transcode_records(
    records: Iterable[DepthRecord], source: DepthCodec, target: DepthCodec, *, batch_size: int | None = None
) -> Iterator[TranscodedRecord]:
    """Translate records of one codec to another.

    Near, far, size and the other fields stay as they are, and so do the codes where the codecs differ in their decoders
    alone (as `train_depth_codec` with `freeze_encoder` makes them). Frames of clips come with all 100 codes
    (`drop_unchanged_codes` leaves the changes).

    Args:
        records: As `read_depth_records` gives them.
        source: The codec that encoded them.
        target: The codec whose codes are wanted.
        batch_size: Maps that go through the networks at once, by default `source.choose_batch_size()`; the codes do not
            depend on it.

    Raises:
        CheckpointError: A record was encoded by another codec than the source.
        MalformedBlockError: A frame cannot be restored.
    """
    from_codec, to_codec = source.fingerprint, target.fingerprint
    batch_size = source.choose_batch_size(batch_size)
    same_codes = _encode_alike(source, target)
    for batch in split_into_batches(restore_frames(records), batch_size):
        for record in batch:
            _check_codec(record, from_codec)
        codes = torch.from_numpy(np.stack([record.grid for record in batch]))
        decoded = source.decode(codes, batch_size=batch_size)
        if not same_codes:
            codes = target.encode(decoded.to(target.device), batch_size=batch_size)
        again = target.decode(codes, batch_size=batch_size).to(decoded.device)
        errors = compute_squared_errors(again, decoded, torch.ones_like(decoded)).sqrt().tolist()
        for record, row, rmse in zip(batch, codes.flatten(1).tolist(), errors, strict=True):
            yield TranscodedRecord(replace(record, codes=tuple(row), codec=to_codec), rmse)


def _encode_alike(source: DepthCodec, target: DepthCodec) -> bool:
    """Whether encoders, code vectors and preprocessing are equal, so that every map has the same codes in both."""
    old, new = (
        {key: value for key, value in codec.model.state_dict().items() if not key.startswith("decoder.")}
        for codec in (source, target)
    )
    return (
        _leave_decoder_out(source.model.config) == _leave_decoder_out(target.model.config)
        and source.preprocessing == target.preprocessing
        and all(torch.equal(value.cpu(), new[key].cpu()) for key, value in old.items())
    )


def _leave_decoder_out(config: ModelConfig) -> ModelConfig:
    return replace(config, decoder_blocks=None) if isinstance(config, GridConfig) else config


def _check_codec(record: DepthRecord, fingerprint: str) -> None:
    if record.codec != fingerprint:
        raise CheckpointError(
            f"{record.name} was encoded by codec {record.codec}, the codec to transcode from is {fingerprint}: "
            "name the weights that encoded the records"
        )


def transcode_to_file(
    records: Iterable[DepthRecord],
    output: str | Path,
    source: DepthCodec,
    target: DepthCodec,
    *,
    batch_size: int | None = None,
    text: bool = False,
    force: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> TranscodingReport:
    """Translate records to another codec and write them to a file. An interrupted run is continued by the same call.

    Args:
        records: As `read_depth_records` gives them.
        output: The file to write: `.jsonl`, `.npz` or `.parquet`.
        source: The codec that encoded the records.
        target: The codec whose codes are wanted.
        batch_size: Maps that go through the networks at once, by default `source.choose_batch_size()`; the codes do not
            depend on it.
        text: JSON lines only: write the block of tokens too.
        force: Replace an existing output, and the unfinished one of another run.
        advance: Called after every record.

    Raises:
        CheckpointError: A record was encoded by another codec than the source; nothing is written then.
        OutputError: The output exists, cannot be written, or is being written by another process.
    """
    output = Path(output)
    check_output(output, text=text, force=force)
    failures: list[MapFailure] = []
    whole = list(restore_frames(records, failures))
    fingerprint = source.fingerprint
    for record in whole:
        _check_codec(record, fingerprint)
    if text and any(record.frame is not None for record in whole):
        raise OutputError("records of frames hold what changed, not whole blocks; leave text (--text) out")
    run = {
        "records": hashlib.sha256("\n".join(record.to_json() for record in whole).encode()).hexdigest(),
        "from": fingerprint,
        "to": target.fingerprint,
        "text": text,
    }
    with Journal(output, run, encode=_to_json, decode=_from_json, start_over=force) as journal:
        rmses = [result.rmse for result in journal.results()]
        for _ in rmses:
            advance()
        todo = whole[len(rmses) :]
        for index, result in enumerate(transcode_records(todo, source, target, batch_size=batch_size), len(rmses)):
            journal.add(index, result)
            rmses.append(result.rmse)
            advance()
        written = list(drop_unchanged_codes(result.record for result in journal.results()))
        with atomic_write(output, force=force) as file:
            write_depth_records(file, output.suffix, written, text=text)
        journal.remove()
    mean = float(np.mean(rmses)) if rmses else float("nan")
    return TranscodingReport(len(rmses), mean, max(rmses, default=float("nan")), failures)


def _to_json(result: TranscodedRecord) -> str:
    return f'{{"rmse": {json.dumps(result.rmse)}, "record": {result.record.to_json()}}}'


def _from_json(_: int, values: Any) -> TranscodedRecord:
    return TranscodedRecord(DepthRecord.from_dict(values["record"]), parse_number(values["rmse"]))

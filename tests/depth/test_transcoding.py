"""Codes of one codec translated to another's."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perceptok.depth import (
    DepthCodec,
    DepthRecord,
    drop_unchanged_codes,
    read_depth_records,
    restore_frames,
    transcode_records,
    transcode_to_file,
)
from perceptok.errors import CheckpointError, MalformedBlockError, OutputError


@pytest.fixture(scope="module")
def records(codec: DepthCodec) -> list[DepthRecord]:
    rng = np.random.default_rng(0)
    return [
        DepthRecord(
            f"{n}.png", tuple(rng.integers(0, 128, 100).tolist()), "metric", 0.5, 4.0, 64, 48, codec.fingerprint
        )
        for n in range(5)
    ]


def make_frames(records: list[DepthRecord]) -> list[DepthRecord]:
    """A clip of five frames in which few cells change."""
    frames = []
    codes = list(records[0].codes)
    for number, record in enumerate(records):
        codes[7 * number] = record.codes[0]
        frames.append(
            replace(
                record, codes=tuple(codes), clip="clip", frame=number, changed=tuple(range(100)), name=f"clip/{number}"
            )
        )
    return frames


def test_records_are_decoded_and_encoded(
    codec: DepthCodec, other_codec: DepthCodec, records: list[DepthRecord]
) -> None:
    decoded = codec.decode(np.stack([record.grid for record in records]))
    codes = other_codec.encode(decoded)
    errors = np.sqrt(np.mean((other_codec.decode(codes).astype(float) - decoded) ** 2, axis=(1, 2)))
    for batch_size in (1, 2, 16):
        results = list(transcode_records(records, codec, other_codec, batch_size=batch_size))
        assert [result.record for result in results] == [
            replace(record, codes=tuple(grid.ravel().tolist()), codec=other_codec.fingerprint)
            for record, grid in zip(records, codes, strict=True)
        ]
        assert [result.rmse for result in results] == pytest.approx(errors.tolist(), rel=1e-4)


def test_codes_are_kept_where_decoders_alone_differ(codec: DepthCodec, records: list[DepthRecord]) -> None:
    """Decoding and encoding again would change some of them for nothing."""
    decoder_alone, codebook_too = (DepthCodec(copy.deepcopy(codec.model), codec.preprocessing) for _ in range(2))
    list(decoder_alone.model.decoder.parameters())[-1].add_(0.1)
    list(codebook_too.model.decoder.parameters())[-1].add_(0.1)
    codebook_too.codebook[0] += 0.1
    kept = list(transcode_records(records, codec, decoder_alone))
    assert [result.record for result in kept] == [
        replace(record, codec=decoder_alone.fingerprint) for record in records
    ]
    assert all(0.01 < result.rmse < 0.1 for result in kept)
    changed = list(transcode_records(records, codec, codebook_too))
    assert [result.record.codes for result in changed] != [record.codes for record in records]


def test_records_of_another_codec_are_refused_before_anything_is_written(
    codec: DepthCodec, other_codec: DepthCodec, records: list[DepthRecord], tmp_path: Path
) -> None:
    mixed = [*records, replace(records[0], codec="0123")]
    with pytest.raises(CheckpointError, match="encoded by codec 0123"):
        transcode_to_file(mixed, tmp_path / "a.jsonl", codec, other_codec)
    with pytest.raises(CheckpointError, match="name the weights"):
        list(transcode_records(records, other_codec, codec))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".npz", ".parquet"])
def test_clips_are_restored_and_their_changes_found_anew(
    codec: DepthCodec, other_codec: DepthCodec, records: list[DepthRecord], tmp_path: Path, suffix: str
) -> None:
    frames = make_frames(records)
    stored = list(drop_unchanged_codes(frames))
    assert [len(frame.codes) for frame in stored] == [100, 1, 1, 1, 1]
    assert list(restore_frames(stored)) == frames
    report = transcode_to_file(stored, tmp_path / f"a{suffix}", codec, other_codec)
    assert report.written == 5
    written = list(read_depth_records(tmp_path / f"a{suffix}"))
    assert len(written[1].codes) < 100
    expected = [result.record for result in transcode_records(frames, codec, other_codec)]
    assert [frame.codes for frame in restore_frames(written)] == [frame.codes for frame in expected]


def test_a_frame_that_cannot_be_restored_costs_only_itself(
    codec: DepthCodec, other_codec: DepthCodec, records: list[DepthRecord], tmp_path: Path
) -> None:
    stored = list(drop_unchanged_codes(make_frames(records)))
    report = transcode_to_file([*stored[2:], *records], tmp_path / "a.jsonl", codec, other_codec)
    assert (report.written, len(report.failures)) == (5, 3)
    with pytest.raises(MalformedBlockError, match="cannot be restored"):
        list(transcode_records(stored[2:], codec, other_codec))


def test_an_interrupted_run_is_continued_to_the_same_bytes(
    codec: DepthCodec, other_codec: DepthCodec, records: list[DepthRecord], tmp_path: Path
) -> None:
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    report = transcode_to_file(records, whole, codec, other_codec, batch_size=2)
    advanced = 0

    def stop() -> None:
        nonlocal advanced
        advanced += 1
        if advanced == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transcode_to_file(records, resumed, codec, other_codec, batch_size=2, advance=stop)
    with pytest.raises(OutputError, match="another run"):
        transcode_to_file(records[:4], resumed, codec, other_codec)
    assert transcode_to_file(records, resumed, codec, other_codec, batch_size=2).mean_rmse == pytest.approx(
        report.mean_rmse
    )
    assert resumed.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"whole.jsonl", "resumed.jsonl"}


def test_outputs_that_cannot_be(
    codec: DepthCodec, other_codec: DepthCodec, records: list[DepthRecord], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").touch()
    for name, text, message in (
        ("a.jsonl", False, "exists already"),
        ("a.txt", False, "records are written to"),
        ("a.npz", True, "only .jsonl"),
    ):
        with pytest.raises(OutputError, match=message):
            transcode_to_file(records, tmp_path / name, codec, other_codec, text=text)
    with pytest.raises(OutputError, match="not whole blocks"):
        transcode_to_file(make_frames(records), tmp_path / "b.jsonl", codec, other_codec, text=True)
    assert np.isnan(transcode_to_file([], tmp_path / "c.jsonl", codec, other_codec).mean_rmse)

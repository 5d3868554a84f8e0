"""Clips to records of what changed and back: grouping, resuming, broken chains, every file of records."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from perceptok.depth import (
    ClipSettings,
    DepthCodec,
    DepthRecord,
    MapFailure,
    MapFile,
    NearnessRange,
    ReadOptions,
    encode_files,
    encode_maps,
    encode_sequence,
    find_maps,
    read_depth_records,
    restore_frames,
)
from perceptok.depth.folders import _BatchEncoder
from perceptok.errors import ConfigError, MalformedBlockError, OutputError
from perceptok.jobs import LocalEngine
from perceptok_cli.main import app

COUNT = 12
HELD = ClipSettings(hold=0.002, frames=4)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two clips of a noisy slope, whose frames are numbered without leading zeros."""
    slope = (1 + 3 * np.indices((24, 32)).sum(0) / 54).astype(np.float32)
    rng = np.random.default_rng(0)
    for clip in "ab":
        (tmp_path / "clips" / clip).mkdir(parents=True)
        for index in range(COUNT):
            noisy = slope * (1 + 0.02 * rng.standard_normal(slope.shape))
            np.save(tmp_path / "clips" / clip / f"{index}.npy", noisy.astype(np.float32))
    return tmp_path / "clips"


def found(folder: Path, chosen: NearnessRange | None = None) -> list[MapFile]:
    return find_maps([folder], ReadOptions(kind="metric", unit="m", range=chosen or NearnessRange()), frames=True)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["depth", *(str(word) for word in words)])


def test_frames_come_by_their_numbers_and_lists_by_their_lines(clips: Path) -> None:
    assert [file.name for file in found(clips)][:COUNT] == [f"a/{index}.npy" for index in range(COUNT)]
    (clips / "list.txt").write_text("a/3.npy\na/11.npy\na/2.npy\n")
    assert [file.name for file in found(clips / "list.txt")] == ["a/3.npy", "a/11.npy", "a/2.npy"]


@pytest.mark.parametrize("suffix", [".jsonl", ".npz", ".parquet"])
def test_records_hold_changes_and_give_every_frame_back(
    codec: DepthCodec, clips: Path, tmp_path: Path, suffix: str
) -> None:
    maps = found(clips)
    assert encode_files(codec, maps, tmp_path / f"a{suffix}", clips=HELD) == []
    records = list(read_depth_records(tmp_path / f"a{suffix}"))
    assert records == list(encode_maps(codec, maps, clips=HELD))
    assert [(one.clip, one.frame) for one in records] == [(clip, index) for clip in "ab" for index in range(COUNT)]
    stored = sum(len(one.codes) for one in records)
    assert 200 < stored < 0.9 * 100 * len(records)
    expected = [
        frame.codes
        for clip in "ab"
        for frame in encode_sequence(
            codec, [file.read() for file in maps if file.name.startswith(clip)], hold=HELD.hold, frames=HELD.frames
        )
    ]
    whole = list(restore_frames(records))
    for one, codes, changes in zip(whole, expected, records, strict=True):
        assert np.array_equal(one.grid, codes)
        assert changes.changed is not None
        assert tuple(codes.ravel()[list(changes.changed)]) == changes.codes
    with pytest.raises(MalformedBlockError, match="restore_frames"):
        _ = records[1].grid


class StopError(Exception):
    pass


def stopping(after: int) -> Callable[[], None]:
    seen = 0

    def advance() -> None:
        nonlocal seen
        seen += 1
        if seen == after:
            raise StopError

    return advance


@pytest.mark.parametrize(
    "settings", [HELD, ClipSettings(hold=0.002, deadband=0.01, frames=4)], ids=["hold", "deadband"]
)
@pytest.mark.parametrize("chosen", [NearnessRange(), NearnessRange.running(0.2), NearnessRange.fixed(0.9, 5)], ids=str)
def test_a_stopped_run_ends_with_the_same_bytes(
    codec: DepthCodec, clips: Path, tmp_path: Path, settings: ClipSettings, chosen: NearnessRange
) -> None:
    maps = found(clips, chosen)
    encode_files(codec, maps, tmp_path / "whole.jsonl", clips=settings)
    for after in (2, 7, COUNT, COUNT + 6):
        with pytest.raises(StopError):
            encode_files(codec, maps, tmp_path / "cut.jsonl", clips=settings, advance=stopping(after))
        with pytest.raises(OutputError, match="another run"):
            encode_files(codec, maps, tmp_path / "cut.jsonl", clips=replace(settings, hold=0.5))
        steps: list[None] = []
        encode_files(codec, maps, tmp_path / "cut.jsonl", clips=settings, advance=partial(steps.append, None))
        assert len(steps) == len(maps)
        assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
        assert not (tmp_path / "cut.jsonl.partial").exists()
        (tmp_path / "cut.jsonl").unlink()


def test_a_frame_that_changed_in_between_is_done_again_with_all_that_rest_on_it(
    codec: DepthCodec, clips: Path, tmp_path: Path
) -> None:
    with pytest.raises(StopError):
        encode_files(codec, found(clips), tmp_path / "cut.jsonl", clips=HELD, advance=stopping(10))
    np.save(clips / "a" / "6.npy", np.linspace(1, 4, 24 * 32 + 32).reshape(25, 32).astype(np.float32))
    encode_files(codec, found(clips), tmp_path / "cut.jsonl", clips=HELD)
    encode_files(codec, found(clips), tmp_path / "whole.jsonl", clips=HELD)
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_bad_frame_costs_only_itself(codec: DepthCodec, clips: Path) -> None:
    (clips / "a" / "0.npy").write_bytes(b"no array")
    np.save(clips / "a" / "7.npy", np.zeros((24, 32), np.float32))
    results = list(encode_maps(codec, found(clips), clips=HELD))
    bad = [one for one in results if isinstance(one, MapFailure)]
    assert [one.name for one in bad] == ["a/0.npy", "a/7.npy"]
    assert "all 768 pixels are invalid" in bad[1].reason
    good = [one for one in results if isinstance(one, DepthRecord)]
    assert [one.frame for one in good] == [*range(COUNT - 2), *range(COUNT)]
    assert len(list(restore_frames(good))) == len(good)


def test_a_clip_without_relief_says_so(codec: DepthCodec, tmp_path: Path) -> None:
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", np.ones((24, 32), np.float32))
    results = list(encode_maps(codec, found(tmp_path), clips=ClipSettings()))
    assert all(isinstance(one, MapFailure) and "no relief" in one.reason for one in results)
    fixed = list(encode_maps(codec, found(tmp_path, NearnessRange.fixed(0.5, 2)), clips=ClipSettings()))
    assert all(isinstance(one, DepthRecord) for one in fixed)


def test_broken_chains_are_reported(codec: DepthCodec, clips: Path) -> None:
    records = [one for one in encode_maps(codec, found(clips / "a"), clips=HELD) if isinstance(one, DepthRecord)]
    assert not all(len(one.codes) == 100 for one in records[1:])

    def restored(given: list[DepthRecord]) -> tuple[list[int | None], list[str]]:
        failures: list[MapFailure] = []
        whole = [one.frame for one in restore_frames(given, failures)]
        with pytest.raises(MalformedBlockError):
            list(restore_frames(given))
        return whole, [one.reason for one in failures]

    whole, reasons = restored(records[1:])
    assert whole == []
    assert len(reasons) == COUNT - 1
    assert all("frame 0 is missing" in one for one in reasons)
    whole, reasons = restored(records[:5] + records[6:])
    assert whole == [0, 1, 2, 3, 4]
    assert all("frame 5 is missing" in one for one in reasons)
    whole, reasons = restored([*records[:4], records[3], *records[4:]])
    assert whole == list(range(COUNT))
    assert ["a second time" in one for one in reasons] == [True]
    whole, _ = restored([records[0], records[2], records[1], *records[3:]])
    assert whole == [0]


def test_clips_take_neither_text_nor_an_engine(codec: DepthCodec, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither text nor an engine"):
        encode_files(codec, found(clips), tmp_path / "a.jsonl", clips=HELD, text=True)
    with pytest.raises(ConfigError, match="neither text nor an engine"):
        encode_files(codec, found(clips), tmp_path / "a.jsonl", clips=HELD, engine=LocalEngine())
    with pytest.raises(ConfigError, match="do not take an engine"):
        encode_maps(codec, found(clips), clips=HELD, engine=LocalEngine())
    assert list(tmp_path.glob("a.*")) == []


def test_another_engine_gives_the_same_records(codec: DepthCodec, clips: Path) -> None:
    maps = found(clips)
    expected = list(encode_maps(codec, maps))
    assert list(encode_maps(codec, maps, batch_size=5, engine=LocalEngine())) == expected
    encoder = pickle.loads(pickle.dumps(_BatchEncoder(codec)))  # noqa: S301
    assert encoder(maps) == expected


def test_at_a_shell(saved_codec: Path, clips: Path, tmp_path: Path) -> None:
    words = ("encode", clips, "--kind", "metric", "--unit", "m", "--codec", saved_codec, "--sequence", "--hold", 0.002)
    assert run(*words, "-o", tmp_path / "a.jsonl").exit_code == 0
    assert run(*words, "-o", tmp_path / "a.npz").exit_code == 0
    piped = run(*words, "-o", "-")
    assert [line for line in piped.output.splitlines() if line.startswith("{")] == (
        tmp_path / "a.jsonl"
    ).read_text().splitlines()
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    (tmp_path / "gap.jsonl").write_text("\n".join(["", *lines[:3], "no record", *lines[4:]]))
    decode = ("--codec", saved_codec, "--format", "npy", "-o")
    for name in ("a.jsonl", "a.npz"):
        assert run("decode", tmp_path / name, *decode, tmp_path / name[2:]).exit_code == 0
    for clip in "ab":
        for index in range(COUNT):
            one, other = (np.load(tmp_path / kind / clip / f"{index}.npy") for kind in ("jsonl", "npz"))
            assert one.shape == (24, 32)
            assert np.array_equal(one, other)
    broken = run("decode", tmp_path / "gap.jsonl", *decode, tmp_path / "gap")
    assert broken.exit_code == 1
    assert f"{COUNT - 3} of {2 * COUNT} failed" in broken.output
    assert "frame 3 is missing" in " ".join(broken.output.split())
    assert len(list((tmp_path / "gap").rglob("*.npy"))) == COUNT + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--hold", 0.1), "add --sequence"),
        (("--running", 0.1), "add --sequence"),
        (("--sequence", "--text"), "--text"),
        (("--sequence", "--engine", "ray"), "ray"),
        (("--sequence", "--running", 0.1, "--near", 1, "--far", 4), "--running"),
        (("--sequence", "--running", 2), "rate"),
    ],
)
def test_options_that_do_not_go_together(
    saved_codec: Path, clips: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    words = ("encode", clips, "--kind", "metric", "--unit", "m", "--codec", saved_codec, "-o", tmp_path / "a.jsonl")
    done = run(*words, *options)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


def write_clip(folder: Path, *depths: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, depth in enumerate(depths):
        np.save(folder / f"{number}.npy", depth)


def test_a_clip_that_leaves_its_range_is_warned_of(codec: DepthCodec, tmp_path: Path) -> None:
    near = np.tile(np.linspace(2, 3, 80), (60, 1))
    write_clip(tmp_path / "maps", near, near, 4 * near)
    settings = ClipSettings(frames=2)
    first, second, third = encode_maps(codec, found(tmp_path / "maps"), clips=settings)
    assert isinstance(first, DepthRecord)
    assert isinstance(second, DepthRecord)
    assert isinstance(third, DepthRecord)
    assert (first.warning, second.warning) == ("", "")
    assert third.warning.startswith("100% of the pixels lie beyond the range (")
    assert "--running" in third.warning


def test_a_portrait_frame_in_a_landscape_clip_is_named(codec: DepthCodec, tmp_path: Path) -> None:
    frame = np.tile(np.linspace(2, 3, 80), (60, 1))
    write_clip(tmp_path / "maps", frame, frame.T, frame)
    records = list(encode_maps(codec, found(tmp_path / "maps"), clips=ClipSettings()))
    warnings = [record.warning for record in records if isinstance(record, DepthRecord)]
    assert [bool(warning) for warning in warnings] == [False, True, False]
    assert warnings[1].startswith("60x80 pixels, the first frame of its clip 80x60")


def test_one_default_of_hold(codec: DepthCodec) -> None:
    assert ClipSettings().hold == inspect.signature(encode_sequence).parameters["hold"].default == 0.02

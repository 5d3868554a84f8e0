"""What a file can ask for is bounded: aliases, sizes, names and expansions; and what it lacks is said by name."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

import perceptok as pt
from perceptok.config import parse_yaml
from perceptok.data import PerceptionRecord, ProceduralSource, Turn, read_records, write_records, write_records_page
from perceptok.depth import DepthRecord, decode_records, read_depth_records
from perceptok.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ImageError,
    OutputError,
    RecordError,
    SpecialistError,
    quote_text,
    translate_errors,
)
from perceptok.files import check_free_space, resolve_inside
from perceptok.pages import Case, write_page
from perceptok.weights import load_pickled_tensors, load_tensors, read_tensor_infos
from tests.mutations import limit_call


def test_aliases_of_yaml_are_counted_as_often_as_they_stand() -> None:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match=r"here: not valid YAML .*100000 values"):
        parse_yaml("\n".join(lines), "here")
    with pytest.raises(ConfigError, match="contains itself"):
        parse_yaml("a: &a [*a]", "here")
    assert parse_yaml("a: &a {x: 1e-4}\nb: *a\nc: {<<: *a, y: 2}", "here") == {
        "a": {"x": 1e-4},
        "b": {"x": 1e-4},
        "c": {"x": 1e-4, "y": 2},
    }
    assert parse_yaml("", "here") is None


@pytest.mark.parametrize(("count", "size"), [(3_000_000_000, 336), (1, 10**6), (0, 336)])
def test_procedural_scenes_are_bounded(count: int, size: int) -> None:
    with pytest.raises(DataError, match="scenes need"):
        ProceduralSource(0, count, size)


def test_ranks_are_bounded() -> None:
    with pytest.raises(ConfigError, match="rank of at most"):
        pt.llava.LoraSettings(r=10**9)


@pytest.mark.parametrize("name", ["x" * 300, f"a/{'ü' * 200}/b", "\ud800"], ids=["letters", "bytes", "surrogate"])
def test_names_that_no_file_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"longer than a file's name|half a surrogate"):
        resolve_inside(tmp_path, name)


def test_a_depth_record_with_a_long_name_fails_alone(tmp_path: Path) -> None:
    codec = pt.DepthCodec.from_pretrained()
    names = ["a", "x" * 300, "y" * 253, "b"]
    records = [DepthRecord(name, tuple(range(100)), "relative", 1.0, 0.0, 8, 8, codec.fingerprint) for name in names]
    failures = decode_records(codec, records, tmp_path / "out")
    assert [failure.name for failure in failures] == names[1:3]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_half_surrogates_in_names_fail_their_entries_alone(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": name, "width": 9, "height": 9} for n, name in enumerate(("a", "\ud800", "b"))]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    read = pt.boxes.read_annotations(str(path), strict=False)
    assert [image.name for image in read.images] == ["a", "b"]
    assert [failure.name for failure in read.failures] == ["image 1"]
    assert "half a surrogate pair" in read.failures[0].reason


def test_a_value_that_a_parquet_file_repeats_is_not_expanded(tmp_path: Path) -> None:
    long = "x" * 4_000_000
    names = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int32()), pa.array([long]))
    pq.write_table(pa.table({"id": names, "name": names}), tmp_path / "a.parquet", store_schema=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecordError, match="its values take more than"):
        list(read_records(tmp_path / "a.parquet"))
    with pytest.raises(pt.errors.MalformedBlockError):
        list(read_depth_records(tmp_path / "a.parquet"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 900_000  # kB; expanded it has 4 GB


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["a"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecordError, match="not a readable Parquet file"):
        list(read_records(path))


def test_a_page_keeps_the_neighbours_of_an_unreadable_image(tmp_path: Path) -> None:
    assert write_page(tmp_path / "page.html", [Case("a", b"no image", text="x"), Case("b", text="y")], title="t") == 2
    assert "cannot be read" in (tmp_path / "page.html").read_text()


def test_records_with_an_unreadable_image_are_shown(tmp_path: Path) -> None:
    turns = (Turn("user", "How many?"), Turn("assistant", "2"))
    records = [PerceptionRecord(name, (f"{name}.png",), turns, "counting", "direct", answer="2") for name in "ab"]
    write_records(tmp_path / "records.jsonl", records)
    (tmp_path / "a.png").write_bytes(b"cut")
    assert write_records_page(tmp_path / "records.jsonl", tmp_path / "page.html") == 2


def test_weights_that_are_cut_off_or_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(100), "b": torch.zeros(3, 2, dtype=torch.bfloat16)}, path)
    infos = read_tensor_infos(path, CheckpointError)
    assert {name: (info.dtype, info.shape, info.numel) for name, info in infos.items()} == {
        "a": ("F32", (100,), 100),
        "b": ("BF16", (3, 2), 6),
    }
    assert load_tensors(path, CheckpointError)["a"].sum() == 100
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="weights cannot be read"):
        read_tensor_infos(path, CheckpointError)
    save_file({"a": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(CheckpointError, match="tensor a has values that are NaN or infinite"):
        load_tensors(path, CheckpointError)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="is a device"):
        load_tensors(path, CheckpointError)


def test_a_disk_without_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    check_free_space(tmp_path / "new" / "folder", 1)
    with pytest.raises(OutputError, match="MB left; free"):
        check_free_space(tmp_path / "new" / "folder", 2**70)


class PanicException(BaseException):
    """As pyo3 names the panics of libraries in Rust."""


def test_errors_of_libraries_are_translated() -> None:
    for error in (KeyError("k"), RuntimeError("\x1b[31mred\x1b[0m text"), PanicException("overflow")):
        with (
            pytest.raises(SpecialistError, match=r"a\.bin cannot be read \(.*\); fetch it again") as caught,
            translate_errors(SpecialistError, "a.bin cannot be read", "fetch it again"),
        ):
            raise error
        assert "\x1b" not in str(caught.value)
    for passing in (ImageError("ours"), KeyboardInterrupt()):
        with pytest.raises(type(passing)), translate_errors(SpecialistError, "a.bin cannot be read"):
            raise passing
    assert quote_text("Use trust_remote_code=True. Or not.\nmore") == "Or not."


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a": torch.zeros(1).expand(10**6, 10**6)}, "claim"),
        (dict.fromkeys("abcdefgh", torch.zeros(10_000)), "claim"),
        ({"a": torch.zeros(3, 3).to_sparse()}, "not dense"),
        ({"a": torch.zeros(3, device="meta")}, "not dense"),
        ({"a": torch.tensor([float("inf")])}, "NaN or infinite"),
        ({"a": {"b": torch.zeros(1)}}, "a dictionary of names and tensors"),
        ({1: torch.zeros(1)}, "a dictionary of names and tensors"),
        ([torch.zeros(1)], "expected a dictionary"),
        ({}, "expected a dictionary"),
        ({"a": Path("x")}, "cannot be read safely"),
    ],
    ids=lambda value: None if isinstance(value, str) else repr(value)[:30],
)
def test_pickled_tensors_that_are_not_what_they_seem(tmp_path: Path, tensors: object, reason: str) -> None:
    path = tmp_path / "a.bin"
    torch.save(tensors, path)
    with limit_call(megabytes=300), pytest.raises(CheckpointError, match=reason):
        load_pickled_tensors(path, CheckpointError)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=r"a\.bin"):
        load_pickled_tensors(path, CheckpointError)


def test_pickled_tensors_are_loaded(tmp_path: Path) -> None:
    weight = torch.rand(3, 4)
    torch.save({"weights": {"a": weight, "tied": weight, "view": weight[1:]}}, tmp_path / "a.pt")
    loaded = load_pickled_tensors(tmp_path / "a.pt", CheckpointError, key="weights")
    assert torch.equal(loaded["tied"], weight)
    assert loaded["view"].shape == (2, 4)

"""Streamed JSON: equal to json.loads for any size of reads, with little memory."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from perceptok import json_streams as streaming
from perceptok.errors import AnnotationError
from perceptok.files import find_suffix, open_text, parse_json
from perceptok.json_streams import stream_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


class SlowFile(io.StringIO):
    """A file that returns a few characters at a time, as a pipe may."""

    step = 1

    def read(self, size: int | None = -1) -> str:
        return super().read(min(size if size and size > 0 else self.step, self.step))


def stream(file: io.StringIO, lists: set[str]) -> dict[str, Any]:
    return {
        key: list(value) if key in lists else value
        for key, value in stream_json(file, lists, "the file", AnnotationError)
    }


@given(
    st.dictionaries(st.text(max_size=5), VALUES, max_size=4),
    st.dictionaries(st.sampled_from("abc"), st.lists(VALUES, max_size=4)),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.integers(1, 9),
)
@settings(max_examples=50)
def test_the_same_as_json_loads(
    values: dict[str, Any], lists: dict[str, Any], indent: int | None, ascii_only: bool, step: int
) -> None:
    whole = {**values, **lists}
    text = json.dumps(whole, indent=indent, ensure_ascii=ascii_only)
    file = SlowFile(text)
    file.step = step
    assert stream(file, set(lists)) == whole
    assert stream(io.StringIO(" \n" + text + "\t "), set(lists)) == whole


@given(st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False), min_size=1), st.integers(1, 4))
def test_numbers_are_not_split(numbers: list[float], step: int) -> None:
    file = SlowFile(json.dumps({"a": numbers}))
    file.step = step
    assert stream(file, {"a"}) == {"a": numbers}


@given(st.data())
@settings(max_examples=100)
def test_every_truncation_is_an_error(data: st.DataObject) -> None:
    text = json.dumps({"a": [{"id": 1.5, "b": "x\u00e9}"}, [2]], "n": -1.0e5, "e": []})
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(AnnotationError, match="at character"):
        stream(io.StringIO(cut), {"a", "e"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected an object ('{'), found the end of the file at character 0"),
        ("[1]", "expected an object ('{'), found '[' at character 0"),
        ('{"a": 5}', "expected the list of a ('['), found '5' at character 6"),
        ('{"a": [1 2]}', "found '2' at character 9"),
        ('{"a": [1,]}', "Expecting value at character 9"),
        ('{"a": [{"b" 1}]}', "Expecting ':' delimiter at character 12"),
        ("{a: 1}", "Expecting value at character 1"),
        ("{1: 1}", "expected a key, found 1"),
        ('{"b": 1, "b": 2}', "duplicate key 'b'"),
        ('{"b": 1}, ', "expected the end of the file, found ','"),
        ('{"b": tru}', "Expecting value"),
        ('{"a": ["x', "Unterminated string"),
        ('{"a": [' + "[" * 200_000, "nested too deeply"),
        ('{"b": 1.}', "found '.'"),
    ],
)
def test_invalid_json_is_refused(text: str, message: str) -> None:
    for step in (3, 100_000_000):
        file = SlowFile(text)
        file.step = step
        if step == 3 and len(text) > 1000:
            continue
        with pytest.raises(AnnotationError) as error:
            stream(file, {"a"})
        assert message in str(error.value)


def test_an_error_is_raised_before_the_rest_is_read() -> None:
    text = '{"a": [{"b" 1}' + ", 1" * 1_000_000
    file = io.StringIO(text)
    with pytest.raises(AnnotationError, match="character 12"):
        stream(file, {"a"})
    assert file.tell() <= 4 * streaming.CHUNK


def test_unread_items_are_skipped() -> None:
    keys = [key for key, _ in stream_json(io.StringIO('{"a": [1, 2], "b": 3}'), {"a"}, "the file", AnnotationError)]
    assert keys == ["a", "b"]


def test_a_binary_file_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": ["\xff"]}')
    with path.open(encoding="utf-8") as file, pytest.raises(AnnotationError, match="not UTF-8"):
        list(stream_json(file, set(), "the file", AnnotationError))


class Endless(io.TextIOBase):
    """A file with a list of `count` items of a kilobyte each, generated while it is read."""

    def __init__(self, count: int) -> None:
        self.item = json.dumps({"id": 1, "segmentation": [list(range(1000, 1170))]})
        self.left = count
        self.ready = '{"a": ['

    def read(self, size: int | None = -1) -> str:
        assert size
        while self.left and len(self.ready) < size:
            self.left -= 1
            self.ready += self.item + ("," if self.left else "]}")
        text, self.ready = self.ready[:size], self.ready[size:]
        return text


def test_memory_does_not_grow_with_the_file() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        for _, items in stream_json(Endless(count), {"a"}, "the file", AnnotationError):  # type: ignore[arg-type]
            assert sum(1 for _ in items) == count
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    # 1.6 MB against 0.3 MB of text, and a window of 64 K characters.
    assert peak(1_600) < 1.2 * peak(300) < 1_000_000


def test_one_huge_value_takes_linear_time(cpu_seconds: Callable[[Callable[[], object]], float]) -> None:
    def seconds(count: int) -> float:
        text = json.dumps({"b": list(range(count))})
        return cpu_seconds(lambda: stream(io.StringIO(text), set()))

    assert seconds(800_000) < 80 * max(seconds(50_000), 0.0005)


class TestGzip:
    @pytest.mark.parametrize("text", ['{"a": 1}', '\ufeff{"a": 1}'])
    def test_one_value(self, text: str) -> None:
        assert parse_json(gzip.compress(text.encode()), "x", AnnotationError) == {"a": 1}

    @pytest.mark.parametrize("damage", [slice(0, -9), slice(0, 5), slice(0, 2)])
    def test_damaged(self, damage: slice) -> None:
        with pytest.raises(AnnotationError, match=r"x: not valid JSON .*damaged gzip"):
            parse_json(gzip.compress(b'{"a": "0123456789"}')[damage], "x", AnnotationError)

    def test_what_expands_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("perceptok.files.MAX_BYTES", 1000)
        with pytest.raises(AnnotationError, match="gzip of 29 bytes that holds more than the 1000 bytes"):
            parse_json(gzip.compress(b" " * 1001), "x", AnnotationError)

    def test_lines(self, tmp_path: Path) -> None:
        for name, data in (("a", b"1\n2\n"), ("b", gzip.compress(b"\xef\xbb\xbf1\n") + gzip.compress(b"2\n"))):
            (tmp_path / name).write_bytes(data)
            with open_text(tmp_path / name) as file:
                assert [*file] == ["1\n", "2\n"]
        opened = io.TextIOWrapper(io.BytesIO(gzip.compress(b"1\n2\n")))
        assert [*open_text(opened)] == ["1\n", "2\n"]
        text = io.StringIO("1")
        assert open_text(text) is text

    @pytest.mark.parametrize(
        ("name", "suffix"), [("a/r.json.gz", ".json"), ("r.JSONL.GZ", ".jsonl"), ("r.gz", ""), ("r.v1.json", ".json")]
    )
    def test_suffix(self, name: str, suffix: str) -> None:
        assert find_suffix(name) == suffix

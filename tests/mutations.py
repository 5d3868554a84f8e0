"""Seeded mutations of files: of bytes, of JSON values, and of the headers of safetensors."""

from __future__ import annotations

import copy
import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

TOKENS = [
    b"0",
    b"-1",
    b"1e400",
    b"9" * 4500,
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'"',
    b"NaN",
    b"\x00",
    b"\xff",
    b"\\ud800",
]

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 7, 10**9, 10**30, 10**400, 0.5, 1e308, float("nan"), "", "x", "(a+)+$", "../../x",
    "\0", "\x1b[31m", "\ud800", "a" * 5000, "/dev/zero", [], {}, [[]], [None], [1, "a"], {"a": 1}, [{}],
    {"a": {"b": []}}, [10**9] * 3,
]  # fmt: skip
"""Of every JSON type, and extreme ones of each."""


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: a byte replaced, a piece removed, repeated, replaced by a token or by noise."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, len(changed))))
        length = int(rng.integers(1, 12))
        match int(rng.integers(0, 6)):
            case 0:
                changed[at : at + 1] = bytes([int(rng.integers(0, 256))])
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length * 4]
            case 3:
                changed[at : at + length] = TOKENS[int(rng.integers(0, len(TOKENS)))]
            case 4:
                del changed[at:]
            case _:
                changed[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
    return bytes(changed)


def mutate_value(value: Any, rng: np.random.Generator) -> Any:
    """A copy of JSON values with one change: a value replaced, removed, renamed, or one too many."""
    changed = copy.deepcopy(value)
    places = list(_walk(changed))
    if not places:
        return VALUES[int(rng.integers(len(VALUES)))]
    # Short paths first, so that a list of a thousand numbers does not take all the changes.
    weights = np.array([1.0 if isinstance(key, str) else 0.02 for _, key in places])
    container, key = places[int(rng.choice(len(places), p=weights / weights.sum()))]
    other = copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
    match int(rng.integers(0, 8)):
        case 0:
            del container[key]
        case 1 if isinstance(container, dict):
            container[f"{key}_x"] = other
        case 2 if isinstance(container, dict):
            container[f"{key}x"] = container.pop(key)
        case 3 if isinstance(container[key], int | float) and not isinstance(container[key], bool):
            container[key] = [container[key]]
        case _:
            container[key] = other
    return changed


def _walk(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, nested in list(items):
        yield value, key
        yield from _walk(nested)


def mutate_json(data: bytes, rng: np.random.Generator) -> bytes:
    """A JSON text with one value changed, or now and then some of its bytes."""
    if rng.random() < 0.15:
        return mutate_bytes(data, rng)
    return json.dumps(mutate_value(json.loads(data), rng)).encode()


def mutate_safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    """A safetensors file with a changed header, cut off, with changed bytes, or with values that are not finite."""
    size = int.from_bytes(data[:8], "little")
    match int(rng.integers(0, 5)):
        case 0:
            return data[: int(rng.integers(len(data)))]
        case 1:
            return mutate_bytes(data[: 8 + size], rng) + data[8 + size :]
        case 2:
            at = 8 + size + 4 * int(rng.integers((len(data) - size - 8) // 4))
            return data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :]
        case _:
            header = json.dumps(mutate_value(json.loads(data[8 : 8 + size]), rng)).encode()
            return len(header).to_bytes(8, "little") + header + data[8 + size :]


class TooSlow(BaseException):
    """A call took longer than its limit; not an Exception, so that nothing catches it."""


@contextmanager
def limit_call(seconds: float = 60, megabytes: int = 1500) -> Iterator[None]:
    """Fail where the block takes processor seconds, or more memory than the process had at its peak, beyond limits."""

    def stop(*_: object) -> None:
        raise TooSlow(f"more than {seconds} s of the processor")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < megabytes, f"{grown:.0f} MB more than before"

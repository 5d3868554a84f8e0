"""Console output that every command shares: remarks, progress bars, tables, and the items that failed."""

from __future__ import annotations

import json
import os
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from perceptok.errors import ConfigError, add_place, quote_error

__all__ = [
    "DeviceOption",
    "ForceOption",
    "choose_device",
    "escape_text",
    "finish",
    "format_count",
    "note",
    "print_presets",
    "print_table",
    "progress_bar",
    "warn_at_end",
]

DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="Where to compute, such as cpu or cuda; default: the accelerator, if there is one."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace existing outputs.")]

MAX_CHARACTERS = 2000
"""Of a remark; names and reasons come from files, and may be of any length."""

MAX_FAILURES = 50
"""Failures that are shown one by one."""

SECONDS_BETWEEN_LINES = 60.0
"""Between two lines of progress where standard error is not a terminal."""

_SECONDS_OF_RESUMING = 1.0
"""Items that are done so soon were done by an earlier run: they say nothing about the time that is left."""

_STDERR = Console(stderr=True, highlight=False)
_ESCAPED_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def escape_text(text: str, *, limit: int = MAX_CHARACTERS) -> str:
    """Make a text that may come from a file one line for a terminal.

    Control characters (escape sequences, newlines, tabs), marks that change the direction of writing, other invisible
    characters and halves of surrogate pairs are written as Python escapes; what is longer than `limit` is cut.
    """
    escaped = "".join(
        c if c == " " or unicodedata.category(c) not in _ESCAPED_CATEGORIES else c.encode("unicode_escape").decode()
        for c in text[: limit + 1]
    )
    return escaped if len(text) <= limit else f"{escaped[:limit]}... ({len(text)} characters)"


def format_count(number: int, noun: str) -> str:
    """A number and what is counted: "1 answer", "1,200 answers"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def note(text: str) -> None:
    """Print a remark on standard error, so that standard output stays clean for data."""
    _STDERR.print(Text(escape_text(text)), soft_wrap=True)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error, or without a terminal a line a minute.

    Yields:
        A function to call after each item, optionally with a remark.
    """
    if not _STDERR.is_terminal:
        yield _make_line_printer(what, total)
        return
    columns = (
        TextColumn(what, markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}", markup=False),
    )
    with Progress(*columns, console=_STDERR, transient=True) as progress:
        task = progress.add_task(what, total=total, remark="")

        def advance(remark: str | None = None) -> None:
            progress.advance(task)
            if remark is not None:
                progress.update(task, remark=remark)

        yield advance


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> None:
    """Print a table on standard output; the first `text_columns` are aligned to the left, numbers to the right."""
    table = Table(title=Text(escape_text(title, limit=200)), title_justify="left")
    for index, name in enumerate(header):
        table.add_column(
            Text(escape_text(name, limit=200)), justify="left" if index < text_columns else "right", no_wrap=True
        )
    for row in rows:
        table.add_row(*(Text(escape_text(cell, limit=200)) for cell in row))
    Console(width=None if Console().is_terminal else 200, highlight=False).print(table)


def _make_line_printer(what: str, total: int) -> Callable[..., None]:
    """A function to call after each item; it prints a line a minute: how many are done, and the time that is left."""
    start = begun = printed = time.monotonic()
    done = before = 0

    def advance(remark: str | None = None) -> None:
        nonlocal before, begun, done, printed
        done += 1
        now = time.monotonic()
        if now - start < _SECONDS_OF_RESUMING:
            before, begun = done, now
        if now - printed < SECONDS_BETWEEN_LINES or done >= total:
            return
        printed = now
        left = timedelta(seconds=round((now - begun) / max(1, done - before) * (total - done)))
        note(f"{what}: {done:,} of {total:,}, {left} left{'' if remark is None else f', {remark}'}")

    return advance


def choose_device(device: str | None, known: Sequence[str] = ()) -> str:
    """The device that `--device` names, checked; by default the accelerator of this machine, else the CPU.

    Args:
        device: The option's value.
        known: The devices that the command can use; empty for all of PyTorch's.

    Raises:
        ConfigError: There is no such device, or the command or this machine cannot use it.
    """
    import torch

    if device is None:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        kind = "cpu" if accelerator is None else accelerator.type
        return kind if not known or kind in known else "cpu"
    if known and device not in known:
        raise ConfigError(f"--device is one of {', '.join(known)} here; got {device!r}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch asserts that it was built for a device
        raise ConfigError(f"the device {device!r} cannot be used: {quote_error(error)}") from error
    return device


def print_presets(packages: Sequence[str], name: str | None) -> None:
    """Print the file of a preset, or without a name the list of all presets of some packages.

    Raises:
        ConfigError: None of the packages has such a preset.
    """
    from perceptok.config import find_config_file, list_presets

    if name is not None:
        package = next((package for package in packages if name in list_presets(package)), packages[0])
        typer.echo(find_config_file(name, package).read_text(encoding="utf-8"), nl=False)
        return
    rows = [preset for package in packages for preset in list_presets(package).items()]
    print_table("Presets", ("name", "what it is for"), rows, text_columns=2)


def warn_at_end(warnings: Sequence[tuple[str, str]], total: int) -> None:
    """Print the warnings of items that were processed all the same, (name, warning) each, and their number."""
    for name, warning in warnings[:MAX_FAILURES]:
        note(f"warning: {add_place(name, warning)}")
    if len(warnings) > MAX_FAILURES:
        note(f"... and {len(warnings) - MAX_FAILURES} more warnings")
    if warnings:
        note(f"{len(warnings)} of {total} with a warning")


def finish(failures: Sequence[tuple[str, str]], total: int, *, summary: str = "") -> None:
    """Print the items that failed, (name, reason) each, and exit with code 1; return where none failed.

    Args:
        failures: Name and reason of each.
        total: Number of items.
        summary: The first line; default: how many failed and that the others are done.
    """
    if not failures:
        return
    note(
        summary or (f"{len(failures)} of {total} failed" + ("; the others are done:" if len(failures) < total else ":"))
    )
    for name, reason in failures[:MAX_FAILURES]:
        note(f"  {add_place(name, reason)}")
    if len(failures) > MAX_FAILURES:
        path = _write_failures(failures)
        note(f"  ... and {len(failures) - MAX_FAILURES} more{f'; all of them are in {path}' if path else ''}")
    raise typer.Exit(1)


def _write_failures(failures: Sequence[tuple[str, str]]) -> str | None:
    """Write all failures to a temporary file; its path, or None where it cannot be written."""
    descriptor, path = tempfile.mkstemp(prefix="perceptok-failures-", suffix=".jsonl")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"name": name, "reason": reason}) + "\n" for name, reason in failures)
    except OSError:
        Path(path).unlink(missing_ok=True)
        return None
    return path

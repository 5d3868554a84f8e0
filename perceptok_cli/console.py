"""What every command prints the same way: progress, tables, and the files that failed."""

from __future__ import annotations

import json
import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = ["finish", "note", "print_table", "printable", "progress_bar", "warn_at_end"]

_STDERR = Console(stderr=True, highlight=False)


MOST_CHARACTERS = 2000
"""Of one remark; names and reasons come from files, and may be of any length."""

MOST_FAILURES = 50
"""That are shown one by one."""


def printable(text: str, *, most: int = MOST_CHARACTERS) -> str:
    """A text that may come from a file, as one line for a terminal.

    Control characters (escape sequences, newlines, tabs), marks that change the direction of writing, other invisible
    characters and halves of surrogate pairs are written as Python escapes; what is longer than `most` is cut.
    """
    shown = "".join(
        one if one == " " or unicodedata.category(one) not in _UNSEEN else one.encode("unicode_escape").decode()
        for one in text[: most + 1]
    )
    return shown if len(text) <= most else f"{shown[:most]}... ({len(text)} characters)"


_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def note(text: str) -> None:
    """A remark on standard error, so that standard output stays clean for data."""
    _STDERR.print(Text(printable(text)), soft_wrap=True)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error; yields a function to call after each item, optionally with a remark."""
    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=_STDERR, transient=True, disable=not _STDERR.is_terminal) as progress:
        task = progress.add_task(what, total=total, remark="")

        def advance(remark: str | None = None) -> None:
            progress.advance(task)
            if remark is not None:
                progress.update(task, remark=remark)

        yield advance


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell, most=200)) for cell in row))
    Console(width=None if Console().is_terminal else 200, highlight=False).print(table)


def warn_at_end(warnings: Sequence[tuple[str, str]], total: int) -> None:
    """Say what was odd about which items, (name, warning) each, and how many they are; they are done all the same."""
    for name, warning in warnings:
        note(f"warning: {name}: {warning}")
    if warnings:
        note(f"{len(warnings)} of {total} with a warning")


def finish(failures: Sequence[tuple[str, str]], total: int) -> None:
    """Say which items failed, (name, reason) each, and leave with exit code 1, or return where none did."""
    if not failures:
        return
    note(f"{len(failures)} of {total} failed; the others are done:")
    for name, reason in failures[:MOST_FAILURES]:
        note(f"  {name}: {reason}")
    if len(failures) > MOST_FAILURES:
        note(f"  ... and {len(failures) - MOST_FAILURES} more{_written(failures)}")
    raise typer.Exit(1)


def _written(failures: Sequence[tuple[str, str]]) -> str:
    """Where all of the failures stand, as far as a file can be made."""
    descriptor, path = tempfile.mkstemp(prefix="perceptok-failures-", suffix=".jsonl")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"name": name, "reason": reason}) + "\n" for name, reason in failures)
    except OSError:
        Path(path).unlink(missing_ok=True)
        return ""
    return f"; all of them are in {path}"

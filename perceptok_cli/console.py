"""What every command prints the same way: progress, tables, and the files that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["finish", "note", "print_table", "progress_bar"]

_STDERR = Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """A remark on standard error, so that standard output stays clean for data."""
    _STDERR.print(text, markup=False, soft_wrap=True)


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
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 200, highlight=False).print(table)


def finish(failures: Sequence[tuple[str, str]], total: int) -> None:
    """Say which items failed, (name, reason) each, and leave with exit code 1, or return where none did."""
    if not failures:
        return
    note(f"{len(failures)} of {total} failed; the others are done:")
    for name, reason in failures:
        note(f"  {name}: {reason}")
    raise typer.Exit(1)

"""The `perceptok` command."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Callable

import typer

from perceptok.errors import OutputError, PerceptokError
from perceptok_cli import aurora, box, data, decoding, demo, depth, evaluation, llava
from perceptok_cli.console import escape_text

__all__ = ["app", "main", "run_command"]

_INTERRUPTED = 130
"""Exit code after an interrupt from the keyboard."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Perception tokens: depth maps and boxes as tokens that a language model can write, read and reason over.",
)
app.add_typer(depth.app, name="depth")
app.add_typer(box.app, name="box")
app.add_typer(data.app, name="data")
app.add_typer(llava.app, name="llava")
app.add_typer(evaluation.app, name="eval")
app.add_typer(decoding.app, name="decoding")
app.add_typer(aurora.app, name="aurora")
app.command("demo")(demo.run_codec_demo)


def main() -> None:
    """Run the command line; any error becomes one line on standard error and exit code 2."""
    _replace_closed_streams()
    _silence_libraries()
    code = run_command(app)
    try:
        sys.stdout.flush()
    except OSError as error:
        # What the buffer still holds would fail once more, with a traceback, when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # the reader of our output has closed it
            sys.exit(1)
        code = _print_error(f"cannot write standard output: {error.strerror}")
    sys.exit(code)


class _ClosedOutput(io.TextIOBase):
    """Stands for a standard output that the shell has closed: what is printed raises an error of ours."""

    encoding = "utf-8"
    errors = "strict"

    def write(self, text: str, /) -> int:
        if text:
            raise OutputError("cannot write standard output: it is closed; leave out `>&-`, or name a file")
        return 0


def _replace_closed_streams() -> None:
    """Open the standard streams that are closed, where the next file opened would take their place unnoticed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = io.StringIO()
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()
    if sys.stderr is None:
        sys.stderr = io.StringIO()


def _silence_libraries() -> None:
    """Hide what libraries say about themselves; their errors remain, and what the user asks for by the environment.

    transformers warns on every run about generation flags, image processors and new embeddings, peft about renamed
    functions. Weights that a checkpoint lacks, which transformers only warns about, are an error of `load_base`.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of loaded weights; downloads show theirs
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars that no setting of a library hides
    if not sys.warnoptions:
        libraries = "accelerate|bitsandbytes|huggingface_hub|peft|torch|transformers"
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.filterwarnings("ignore", category=category, module=rf"({libraries})(\.|$)")


def run_command(command: Callable[[], object]) -> int:
    """Run a command; its exit code."""
    try:
        command()
    except SystemExit as done:
        if done.code == _INTERRUPTED:
            sys.stderr.write("interrupted\n")
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except PerceptokError as error:
        return _print_error(str(error))
    except MemoryError:
        return _print_error("not enough memory; give fewer or smaller inputs at once (--batch-size)")
    except OSError as error:
        if error.errno is None or error.errno == errno.EPIPE:
            raise
        return _print_error(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
    return 0


def _print_error(reason: str) -> int:
    sys.stderr.write(f"error: {escape_text(reason)}\n")
    return 2


if __name__ == "__main__":
    main()

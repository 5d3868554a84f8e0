"""The `perceptok` command."""

from __future__ import annotations

import sys

import typer

from perceptok.errors import PerceptokError
from perceptok_cli import box, demo, depth, evaluation, llava

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Perception tokens: depth maps and boxes as tokens that a language model can write, read and reason over.",
)
app.add_typer(depth.app, name="depth")
app.add_typer(box.app, name="box")
app.add_typer(llava.app, name="llava")
app.add_typer(evaluation.app, name="eval")
app.command()(demo.demo)


def main() -> None:
    """Run the command line; what perceptok refuses becomes one line on standard error and exit code 2."""
    try:
        app()
    except PerceptokError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()

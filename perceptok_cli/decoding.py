"""`perceptok decoding`: what a serving engine enforces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perceptok_cli.console import note, print_table

if TYPE_CHECKING:
    from perceptok.decoding import ServerCheck

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Constrained decoding: check what a server enforces.")


@app.callback()
def choose_command() -> None:
    """Constrained decoding: check what a server enforces."""


@app.command("check")
def check_engine(
    server: Annotated[str, typer.Option("--server", help="Address of the server, such as http://localhost:8000.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of the served model; needed where the server does not name it.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="perceptok, vllm, sglang or llama.cpp, where the server is not recognised.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Id of the served model; by default the first.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="Sent as a bearer token.", show_envvar=True)
    ] = None,
    num_requests: Annotated[int, typer.Option(min=1, help="Number of requests.")] = 12,
    concurrency: Annotated[int, typer.Option(min=1, help="Number of requests at a time.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Token budget of each answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="Of the sampling.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the first request; the others count up from it.")] = 0,
    ordered_axes: Annotated[
        str, typer.Option(help="Order that a structural tag enforces: coarse, x or xy.")
    ] = "coarse",
    constraints: Annotated[bool, typer.Option(help="Send the constraint; without, the model is free.")] = True,
    image: Annotated[bool | None, typer.Option(help="Send an image with each question.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result, answers included, as JSON.")] = False,
) -> None:
    """Ask a server for depth blocks and boxes, and report which came, were broken, cut, or out of order.

    Exit code 1 where a request failed, nothing whole came, or something is broken.
    """
    from perceptok.decoding import check_server

    settings: dict[str, Any] = {"engine": engine, "ordered_axes": ordered_axes}
    check = check_server(
        server,
        tokenizer=tokenizer,
        model=model,
        api_key=api_key,
        num_requests=num_requests,
        concurrency=concurrency,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        is_constrained=constraints,
        has_image=image,
        **settings,
    )
    if as_json:
        typer.echo(json.dumps(check.to_dict(), indent=2))
    else:
        _print_check(check)
    if check.engine.version_warning:
        note(check.engine.version_warning)
    for failure in check.failures:
        note(f"no answer: {failure}")
    if not check.is_enforced:
        raise typer.Exit(1)


def _print_check(check: ServerCheck) -> None:
    engine = check.engine
    print_table(
        f"{engine.name} {engine.version or '(unknown version)'}, {check.model}, "
        f"{'constrained' if check.is_constrained else 'not constrained'}",
        ("", "whole", "cut by the budget", "broken", "out of order"),
        [
            (name, str(count.whole), str(count.cut), str(count.broken), str(count.unordered))
            for name, count in (("depth blocks", check.blocks), ("boxes", check.boxes))
        ],
    )
    rate = check.tokens / check.seconds
    typer.echo(
        f"{len(check.answers)} answers, {check.tokens} tokens ({rate:.0f} tokens/s); {check.stray_tokens} places with "
        f"perception tokens outside of blocks and boxes"
    )
    if not check.is_vocabulary_checked and check.is_constrained and engine.name != "perceptok":
        note("the server has no endpoint that tokenizes: whether its token ids are those of the tokenizer is not known")

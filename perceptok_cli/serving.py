"""`perceptok llava serve`: an OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from perceptok.errors import ConfigError
from perceptok_cli.console import DeviceOption, choose_device, note

if TYPE_CHECKING:
    from perceptok.llava import InferenceConfig, PerceptionPipeline, ServedPipeline

__all__ = ["ApiKeyOption", "ConcurrencyOption", "ServerOption", "connect_pipeline", "load_pipeline", "serve_model"]

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="Ask the model that is served at this address (perceptok llava serve, vLLM or SGLang); of the model's "
        "folder only tokenizer, codec and frame are read.",
    ),
]
ApiKeyOption = Annotated[
    str | None, typer.Option("--api-key", envvar="PERCEPTOK_API_KEY", help="The server's key.", show_envvar=True)
]
ConcurrencyOption = Annotated[int, typer.Option("--concurrency", min=1, help="Requests at a time to the server.")]


def connect_pipeline(
    server: str, model: str, settings: InferenceConfig, api_key: str | None, concurrency: int
) -> ServedPipeline:
    """Connect to a served model, and say if its engine has a version that was not tried."""
    from perceptok.llava import ServedPipeline

    pipe = ServedPipeline.connect(server, model, config=settings, api_key=api_key, concurrency=concurrency)
    if settings.constraints and pipe.engine.version_warning:
        note(pipe.engine.version_warning)
    return pipe


def load_pipeline(
    model: str, base: str | None, bits: int | None, dtype: str, device: str | None, settings: InferenceConfig
) -> PerceptionPipeline:
    """Load a pipeline with the options of a command.

    Raises:
        ConfigError: Unknown bits, or a device that cannot be used.
    """
    from perceptok.llava import PerceptionPipeline

    if bits not in (None, 4, 8):
        raise ConfigError(f"--bits is 4 or 8; got {bits}")
    return PerceptionPipeline.from_pretrained(
        model, base=base, bits=cast(Any, bits), dtype=dtype, device=choose_device(device), config=settings
    )


def serve_model(
    model: Annotated[
        str, typer.Argument(help="A folder that train, merge or save_adapter wrote, or the hub id of one (owner/name).")
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 8000,
    served_model_name: Annotated[
        str | None, typer.Option("--served-model-name", help="Name of the model in requests; the folder's by default.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", envvar="PERCEPTOK_API_KEY", help="Key that requests must send; better from the environment."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder whose images requests may name; without it, data URLs only.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option("--allowed-host", help="Host name by which the server is reached; repeatable.")
    ] = None,
    batch_wait: Annotated[
        float, typer.Option("--batch-wait", help="Seconds that a request waits for others of its batch.")
    ] = 0.01,
    max_batch_size: Annotated[
        int, typer.Option("--max-batch-size", help="Maximum number of answers generated together.")
    ] = 8,
    max_queue: Annotated[int, typer.Option("--max-queue", help="Answers that wait; more are refused (429).")] = 64,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Maximum number of tokens of an answer.")] = 2048,
    max_body_bytes: Annotated[
        int, typer.Option("--max-body-bytes", help="Maximum size of a request's body.")
    ] = 20_000_000,
    max_images: Annotated[int, typer.Option("--max-images", help="Maximum number of images of a request.")] = 8,
    max_image_bytes: Annotated[
        int, typer.Option("--max-image-bytes", help="Maximum size of a request's image files together.")
    ] = 10_000_000,
    max_image_pixels: Annotated[
        int, typer.Option("--max-image-pixels", help="Maximum number of pixels of a request's images together.")
    ] = 25_000_000,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds that a request may take.")] = 300.0,
    client_timeout: Annotated[
        float, typer.Option("--client-timeout", help="Seconds without progress until a connection is dropped.")
    ] = 60.0,
    shutdown_timeout: Annotated[
        float, typer.Option("--shutdown-timeout", help="Seconds that accepted requests have to finish at the end.")
    ] = 30.0,
    config: Annotated[
        Path | None, typer.Option("--config", help="Defaults of requests as YAML or JSON (InferenceConfig).")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help="Where the base is, if not where it was.")] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="4 or 8: quantise the language model.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Data type of the weights, e.g. bfloat16.")] = "auto",
    device: DeviceOption = None,
) -> None:
    """Serve a model: OpenAI's chat completions with images, a page at /, /health, /v1/models and /metrics.

    Answers are constrained to the grammar unless a request switches that off; beside its text each has the decoded
    depth map, boxes, points and problems. SIGINT or SIGTERM finishes what was accepted and stops.
    """
    from perceptok.llava import InferenceConfig, ServingConfig, serve

    settings = ServingConfig(
        host=host,
        port=port,
        served_model_name=served_model_name or Path(model).resolve().name,
        api_key=api_key,
        images=images,
        allowed_hosts=tuple(allowed_host or ()),
        batch_wait=batch_wait,
        max_batch_size=max_batch_size,
        max_queue=max_queue,
        max_tokens=max_tokens,
        max_body_bytes=max_body_bytes,
        max_images=max_images,
        max_image_bytes=max_image_bytes,
        max_image_pixels=max_image_pixels,
        timeout=timeout,
        client_timeout=client_timeout,
        shutdown_timeout=shutdown_timeout,
    )
    defaults = InferenceConfig.read(config) if config else InferenceConfig()
    serve(lambda: load_pipeline(model, base, bits, dtype, device, defaults), settings)

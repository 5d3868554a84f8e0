"""The HTTP application: OpenAI-compatible routes, health, metrics and the page."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from perceptok.errors import MissingExtraError
from perceptok.llava.inference.pipeline import PerceptionPipeline
from perceptok.llava.serving.protocol import ApiError, ChatRequest, convert_request, parse_request
from perceptok.llava.serving.settings import ServingConfig
from perceptok.tokens import DEPTH, PIXEL

try:
    from fastapi import FastAPI
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import Request as HttpRequest
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from perceptok.llava.serving.batching import AnswerBatcher
    from perceptok.llava.serving.completion import ChatCompletion
    from perceptok.llava.serving.telemetry import ServerMetrics
except ImportError as error:
    raise MissingExtraError(str(error.name), "serve", "serving a model") from error

__all__ = ["create_app"]

_LOG = logging.getLogger("perceptok.serving")
_PAGE = Path(__file__).with_name("page")
_PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_PATHS = {"/v1/chat/completions", "/v1/models", "/health", "/metrics", *_PAGE_FILES}
_HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
_HTTP_ERRORS = {
    404: (
        "unknown path; there are POST /v1/chat/completions, GET /v1/models, /health and /metrics, and a page at /",
        "not_found",
    ),
    405: ("method not allowed", "method_not_allowed"),
}
_LOCAL = {"127.0.0.1", "localhost", "::1"}
_SAMPLED_VALUES = 1024
"""Number of values of each weight that identify a model."""

_PARSED_BODIES = 4
"""Number of bodies that are parsed at the same time: parsing takes several times the memory of a body."""

_DRAINED_BODIES = 4
"""A body that is too large is read on to this multiple of the limit, so that the client reads the response."""


class _Guard:
    """Checks host and key, adds headers, and counts and logs every request."""

    def __init__(self, app: ASGIApp, config: ServingConfig, metrics: ServerMetrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics
        self._hosts = {host.lower() for host in config.allowed_hosts}
        if config.host in _LOCAL or self._hosts:
            self._hosts |= {*_LOCAL, config.host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0
        path = scope["path"] if scope["path"] in _PATHS else "other"
        fields: dict[str, Any] = scope.setdefault("state", {}).setdefault("fields", {})

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS.items()]
            await send(message)

        try:
            refusal = self._find_refusal(scope)
            app: ASGIApp = self._app if refusal is None else _make_error_response(refusal)
            await app(scope, receive, send_with_headers)
        finally:
            fields = {"method": scope["method"][:8], "path": path, "status": status, **fields}
            self._metrics.count_request(path, status)
            if path not in ("/health", "/metrics"):
                _LOG.info("request", extra={"fields": {**fields, "seconds": round(time.monotonic() - started, 3)}})

    def _find_refusal(self, scope: Scope) -> ApiError | None:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        if self._hosts and name not in self._hosts:
            return ApiError(f"the host {name[:100]!r} is not allowed (--allowed-host)", status=403, code="unknown_host")
        key = self._config.api_key
        if key is not None and scope["path"].startswith("/v1"):
            sent = headers.get(b"authorization", b"")
            scheme, _, value = sent.partition(b" ")
            if scheme.lower() != b"bearer" or not secrets.compare_digest(value.strip(), key.encode()):
                return ApiError("the API key is missing or wrong", status=401, code="invalid_api_key")
        return None


def _make_error_response(error: ApiError) -> JSONResponse:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.to_dict(), error.status, headers)


async def _read_body(request: HttpRequest, config: ServingConfig, *, discard: bool = False) -> list[bytes]:
    """The chunks of a request's body, within the limits of size and time; none where it is discarded."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if kind != "application/json":
        message = f"the content type must be application/json; got {kind[:100]!r}"
        raise ApiError(message, status=415, code="unsupported_media_type")
    if encoding != "identity":
        message = f"compressed bodies are not read (content-encoding: {encoding[:100]!r}); send the JSON as it is"
        raise ApiError(message, status=415, code="unsupported_content_encoding")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(config.timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= config.max_body_bytes and not discard:
                    chunks.append(chunk)
                else:
                    chunks.clear()
                if size > _DRAINED_BODIES * config.max_body_bytes:
                    break
    except TimeoutError as error:
        raise ApiError("the request body did not arrive in time", status=408, code="timeout") from error
    if size > config.max_body_bytes:
        message = f"the request body has more than {config.max_body_bytes:,} bytes; send a smaller image"
        raise ApiError(message, status=413, code="body_too_large")
    return chunks


def create_app(pipe: PerceptionPipeline, config: ServingConfig | None = None) -> FastAPI:
    """Make the ASGI application of a server; `serve` runs it.

    Args:
        pipe: The pipeline; its `config` holds the defaults of a request's settings.
        config: Settings and limits; host and port are those under which it is reached.

    Returns:
        The application. Its `state.batcher` generates the answers; the end of its lifespan closes it.

    Raises:
        MissingExtraError: FastAPI or prometheus_client is not installed (extra `serve`).
    """
    config = config or ServingConfig()
    metrics = ServerMetrics()
    batcher = AnswerBatcher(
        pipe,
        wait=config.batch_wait,
        max_batch_size=config.max_batch_size,
        max_queue=config.max_queue,
        on_batch=metrics.count_batch,
    )
    metrics.observe_batcher(batcher)
    fingerprint = _compute_fingerprint(pipe)
    description = _describe_model(pipe, config, fingerprint)
    arriving, parsing = 0, asyncio.Semaphore(_PARSED_BODIES)

    @asynccontextmanager
    async def manage_lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(batcher.close, config.shutdown_timeout)

    # The pages of documentation would load scripts from another host.
    app = FastAPI(title="perceptok", docs_url=None, redoc_url=None, lifespan=manage_lifespan)
    app.state.batcher = batcher
    app.add_middleware(_Guard, config=config, metrics=metrics)
    _add_error_handlers(app)
    schema = {"content": {"application/json": {"schema": ChatRequest.model_json_schema()}}, "required": True}

    @app.post("/v1/chat/completions", openapi_extra={"requestBody": schema})
    async def complete_chat(request: HttpRequest) -> Response:
        nonlocal arriving
        deadline = time.monotonic() + config.timeout
        # Bodies that are read are not in the queue yet; without a limit they would fill the memory.
        is_refused = arriving >= config.max_queue + config.max_batch_size
        arriving += 1
        try:
            chunks = await _read_body(request, config, discard=is_refused)
            if is_refused:
                raise batcher.make_queue_error()
            async with parsing:
                chat = await run_in_threadpool(lambda: parse_request(b"".join(chunks)))
                question = await run_in_threadpool(convert_request, chat, pipe, config)
        finally:
            arriving -= 1
        completion = ChatCompletion(request, chat, question, pipe, batcher, metrics, deadline, fingerprint)
        fields = request.scope["state"]["fields"]
        try:
            if not chat.stream:
                return JSONResponse(await completion.respond())
            stream = await completion.begin_stream()
        finally:
            fields |= completion.describe_for_log()

        async def log_at_end() -> AsyncIterator[bytes]:
            try:
                async for chunk in stream:
                    yield chunk
            finally:
                await stream.aclose()  # type: ignore[attr-defined]
                fields.update(completion.describe_for_log())

        return StreamingResponse(log_at_end(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    @app.get("/v1/models")
    async def list_models() -> Any:
        return {"object": "list", "data": [description]}

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> Any:
        if name != config.served_model_name:
            raise ApiError(f"the model {name[:200]!r} does not exist", status=404, code="model_not_found")
        return description

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def check_health() -> Response:
        alive = batcher.is_alive
        content = {"status": "ok" if alive else "unavailable", "version": metadata.version("perceptok")}
        return JSONResponse(content, 200 if alive else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    for path, (name, media_type) in _PAGE_FILES.items():
        route = _make_file_route(_PAGE / name, media_type)
        app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(route)
    return app


def _make_file_route(path: Path, media_type: str) -> Callable[[], Any]:
    content = path.read_bytes()

    async def show_file() -> Response:
        return Response(content, media_type=media_type)

    return show_file


def _compute_fingerprint(pipe: PerceptionPipeline) -> str:
    """What identifies a model by its parts and a sample of each weight, so that copies on several machines agree."""
    parts = (pipe.codec.fingerprint, pipe.frame.to_dict(), pipe.system, sorted(pipe.vocab.tokens.items()))
    digest = hashlib.sha256(repr(parts).encode())
    for name, weight in pipe.model.state_dict().items():
        sample = weight.reshape(-1)[:: max(1, weight.numel() // _SAMPLED_VALUES)].float().cpu().numpy()
        digest.update(name.encode() + sample.tobytes())
    return f"fp_{digest.hexdigest()[:16]}"


def _describe_model(pipe: PerceptionPipeline, config: ServingConfig, fingerprint: str) -> dict[str, Any]:
    text = pipe.model.config.get_text_config()
    return {
        "id": config.served_model_name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "perceptok",
        "max_model_len": getattr(text, "max_position_embeddings", None),
        "perception": {
            "depth": pipe.vocab.has(DEPTH),
            "boxes": pipe.vocab.has(PIXEL),
            "codec": pipe.codec.fingerprint,
            "frame": pipe.frame.to_dict(),
            "fingerprint": fingerprint,
            "max_tokens": config.max_tokens,
            "max_images": config.max_images,
            "max_image_pixels": config.max_image_pixels,
            "max_image_bytes": config.max_image_bytes,
            "images": config.images is not None,
        },
    }


def _add_error_handlers(app: FastAPI) -> None:
    """Every error has the form of OpenAI's."""

    async def report_api_error(_: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return _make_error_response(error)

    async def report_http_error(_: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message, code = _HTTP_ERRORS.get(error.status_code, (str(error.detail), "http_error"))
        response = _make_error_response(ApiError(message, status=error.status_code, code=code))
        response.headers.update(error.headers or {})
        return response

    async def report_other_error(_: HttpRequest, __: Exception) -> Response:
        return _make_error_response(ApiError("internal error; see the server's log", status=500, code="internal_error"))

    app.add_exception_handler(ApiError, report_api_error)
    app.add_exception_handler(HTTPException, report_http_error)
    app.add_exception_handler(Exception, report_other_error)

"""Runs the application: a socket that is free, signals, a graceful end."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

from perceptok.errors import EngineError, MissingExtraError
from perceptok.llava.inference.pipeline import PerceptionPipeline
from perceptok.llava.serving.settings import ServingConfig

__all__ = ["open_listening_socket", "serve"]

_LOG = logging.getLogger("perceptok.serving")
_BACKLOG = 2048


def open_listening_socket(config: ServingConfig) -> socket.socket:
    """Open the socket of a server.

    Raises:
        EngineError: The port is in use or not permitted, or the host is not an address of this machine.
    """
    place = f"port {config.port} on {config.host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise EngineError(f"the server cannot listen on {config.host}: {error.strerror}") from error
    try:
        # A port that a stopped server has just left may be taken; one that a running server listens on may not.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(_BACKLOG)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise EngineError(f"{place} is in use; stop the other server, or choose another port (--port)") from error
        raise EngineError(f"the server cannot listen on {place}: {error.strerror}") from error
    return opened


def serve(load: Callable[[], PerceptionPipeline], config: ServingConfig | None = None) -> None:
    """Serve a model until the process is interrupted or terminated; accepted requests are finished then.

    A second signal ends the process at once. Log lines go to standard error as JSON.

    Args:
        load: Loads the pipeline; called once the port is known to be free.
        config: Settings and limits.

    Raises:
        EngineError: The port is in use or not permitted, or the host is not an address of this machine.
        MissingExtraError: FastAPI, uvicorn or prometheus_client is not installed (extra `serve`).
    """
    config = config or ServingConfig()
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("uvicorn", "serve", "serving a model") from error
    from perceptok.llava.serving.app import create_app
    from perceptok.llava.serving.connections import ClientConnection
    from perceptok.llava.serving.telemetry import configure_logging

    with open_listening_socket(config) as opened:
        configure_logging()
        _LOG.info("loading", extra={"fields": {"model": config.served_model_name}})
        app = create_app(load(), config)
        timeout = config.shutdown_timeout

        class Server(uvicorn.Server):
            """Finishes accepted answers at the first signal; the second ends the process."""

            def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's call
                if self.should_exit:
                    # An orderly exit would wait for the forward pass and for the interpreter's end.
                    signal.signal(sig, signal.SIG_DFL)
                    signal.raise_signal(sig)
                self.should_exit = True
                threading.Thread(target=app.state.batcher.close, args=(timeout,), daemon=True).start()

        settings = uvicorn.Config(
            app,
            http=cast(Any, partial(ClientConnection, client_timeout=config.client_timeout)),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(timeout) + 10,
        )
        host, port = opened.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if not host.startswith("127.") and host != "::1" and config.api_key is None:
            _LOG.warning("reachable from other machines without an API key", extra={"fields": {"host": host}})
        _LOG.info("listening", extra={"fields": {"url": url, "model": config.served_model_name}})
        Server(settings).run(sockets=[opened])
        _LOG.info("stopped")

"""Settings and limits of the server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from perceptok.errors import ConfigError

__all__ = ["ServingConfig"]

_POSITIVE = (
    "max_batch_size",
    "max_queue",
    "max_tokens",
    "max_body_bytes",
    "max_images",
    "max_image_bytes",
    "max_image_pixels",
)


@dataclass(frozen=True)
class ServingConfig:
    """Settings and limits of `serve`.

    Attributes:
        host: Address to listen on; 127.0.0.1 is reached from this machine alone.
        port: Port to listen on; 0 takes a free one.
        served_model_name: Name of the model in requests and in /v1/models.
        api_key: Key that requests to /v1 must send as `Authorization: Bearer KEY`; None for none.
        images: Folder whose images requests may name by relative paths; None allows data URLs alone.
        allowed_hosts: Host names by which the server may be addressed, beside its own: against web pages that reach a
            local server through a name of theirs. Without any, a server on another address than localhost allows all.
        batch_wait: Seconds that a request waits for others to be answered in the same batch.
        max_batch_size: Maximum number of answers that are generated together, and of choices (`n`) of a request.
        max_queue: Maximum number of answers that wait; more are refused with 429.
        max_tokens: Maximum number of tokens of an answer that a request may ask for.
        max_body_bytes: Maximum size of a request's body.
        max_images: Maximum number of images of a request.
        max_image_bytes: Maximum size of a request's image files together.
        max_image_pixels: Maximum number of pixels of a request's images together.
        timeout: Seconds from the arrival of a request to its last token; then it is stopped with 504.
        client_timeout: Seconds after which a connection is dropped whose client reads nothing of a response, or does
            not complete the headers of a request.
        shutdown_timeout: Seconds that accepted requests have to finish when the server is stopped.

    Raises:
        ConfigError: A value out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str = "perceptok"
    api_key: str | None = None
    images: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    batch_wait: float = 0.01
    max_batch_size: int = 8
    max_queue: int = 64
    max_tokens: int = 2048
    max_body_bytes: int = 20_000_000
    max_images: int = 8
    max_image_bytes: int = 10_000_000
    max_image_pixels: int = 25_000_000
    timeout: float = 300.0
    client_timeout: float = 60.0
    shutdown_timeout: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be between 0 and 65535; got {self.port}")
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.batch_wait <= 60:
            raise ConfigError(f"batch_wait must be between 0 and 60 seconds; got {self.batch_wait}")
        for name in ("timeout", "client_timeout", "shutdown_timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be a number of seconds above 0; got {getattr(self, name)}")
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError("api_key must not be empty; leave it out to require none")
        if self.images is not None and not self.images.is_dir():
            raise ConfigError(f"{self.images}: no such folder of images")
        if not self.served_model_name:
            raise ConfigError("served_model_name must not be empty")

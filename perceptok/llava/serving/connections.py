"""Connections of the server: one whose client neither reads nor sends what is due is dropped."""

from __future__ import annotations

import asyncio
from typing import Any

from perceptok.errors import MissingExtraError

try:
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise MissingExtraError(str(error.name), "serve", "serving a model") from error

__all__ = ["ClientConnection"]


class ClientConnection(H11Protocol):
    """uvicorn's HTTP connection, dropped when its client has made no progress for a time.

    uvicorn waits without end for a client that does not read its response, or does not complete the headers of a
    request.

    Args:
        *args: Those of uvicorn.
        client_timeout: Seconds in which a client has to read at least a part of what is unsent, and to send the headers
            of a request, the first included.
        **settings: Those of uvicorn.
    """

    def __init__(self, *args: Any, client_timeout: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._client_timeout = client_timeout
        self._unsent = 0
        self._writing: asyncio.TimerHandle | None = None
        self._request: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time of the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` is called whenever something is unsent
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all times."""
        for timer in (self._writing, self._request):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request, and start or end the time of its headers."""
        super().data_received(data)
        self._watch_headers()

    def _watch_headers(self) -> None:
        """Start the time of a request's headers, or end it where they are complete."""
        is_due = self.conn.their_state is h11.IDLE
        if is_due and self._request is None:
            self._request = self.loop.call_later(self._client_timeout, self.transport.abort)
        elif not is_due and self._request is not None:
            self._request.cancel()
            self._request = None

    def pause_writing(self) -> None:
        """Start the time in which the client has to read: something is unsent."""
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._writing = self.loop.call_later(self._client_timeout, self._check_reading)

    def resume_writing(self) -> None:
        """End that time: everything is sent."""
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _check_reading(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent >= self._unsent:
            self.transport.abort()
        else:
            self._unsent = unsent
            self._writing = self.loop.call_later(self._client_timeout, self._check_reading)

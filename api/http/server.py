"""uvicorn inside the loop that also serves Kafka: no signals, no access log, bounds on what a client may hold.

uvicorn leaves three things open, closed here: the bytes of a request's head, the time it may take, and connections that
outlive the time to drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http.lifecycle import Lifecycle


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of connections. nginx: head 32 KiB in 60 s; Kafka: idle 10 minutes."""

    connections_max: int = 1024
    head_bytes_max: int = 64 << 10
    head_wait_s: float = 20.0
    keep_alive_s: int = 75


class HttpServer:
    """Serves `app` on a socket that `api.kafka.server.bind` made. `start` once, `stop` once, on the loop's thread."""

    def __init__(
        self, app: ASGIApp, sock: socket.socket, lifecycle: Lifecycle, limits: ServerLimits | None = None
    ) -> None:
        limits = limits or ServerLimits()
        self.limits = limits
        self._lifecycle = lifecycle
        self._socket = sock
        config = Config(
            app,
            http=_bounded(limits),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.connections_max,
            timeout_keep_alive=limits.keep_alive_s,
        )
        self._server = uvicorn.Server(config)
        self._ticks: asyncio.Task[None] | None = None

    async def start(self) -> tuple[str, int]:
        """Accept from now on. Returns the address bound; the lifecycle says ready."""
        server = self._server
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup(sockets=[self._socket])
        self._ticks = asyncio.get_running_loop().create_task(server.main_loop())
        self._lifecycle.ready()
        address: tuple[str, int] = self._socket.getsockname()[:2]
        return address

    async def stop(self, graceful_ms: int = 5_000) -> None:
        """Accept no more, end long polls and tails, let the rest answer for `graceful_ms`, then close."""
        if self._ticks is None:
            self._lifecycle.hang_up()
            self._socket.close()
            return
        server, state = self._server, self._server.server_state
        for listener in server.servers:
            listener.close()
        for connection in list(state.connections):
            connection.shutdown()  # closes the idle ones; the others' answers will say `connection: close`
        self._lifecycle.hang_up()
        self._ticks.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticks
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(graceful_ms / 1000):
                while state.tasks:
                    await asyncio.wait(list(state.tasks))
        for task in list(state.tasks):
            task.cancel()
        for connection in list(state.connections):
            connection.transport.abort()
        self._socket.close()
        await asyncio.sleep(0)  # the transports tell their protocols


def _bounded(limits: ServerLimits) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with bounds on the head of a request."""

    class Bounded(HttpToolsProtocol):
        _in_head = True
        _fresh = True
        _head_bytes = 0
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
            super().connection_made(transport)
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._fresh = False
            super().data_received(data)
            # A piece in which this head began may hold the end of the body before: it is not counted.
            if self._in_head and not self._fresh:
                self._head_bytes += len(data)
                if self._head_bytes > limits.head_bytes_max and not self.transport.is_closing():
                    self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
                    self.transport.close()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._in_head = self._fresh = True
            self._head_bytes = 0
            self._arm()

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._disarm()
            super().on_headers_complete()

        def _arm(self) -> None:
            self._disarm()
            self._head_timer = self.loop.call_later(limits.head_wait_s, self.timeout_keep_alive_handler)

        def _disarm(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

    return Bounded

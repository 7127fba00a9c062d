"""The Kafka port: listen, accept, end what is idle, shut down. The only module here that knows sockets.

Raw non-blocking sockets on `add_reader` and `add_writer` rather than transports: this is the one way on both asyncio
and uvloop that has `recv_into` and `sendfile`. TLS's place is another `SocketIO`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import Final

from api.kafka.channel import Channel, Dispatch, Turns
from api.kafka.connection import FRAME_BYTES_MAX, IN_FLIGHT_MAX, OUTPUT_BYTES_MAX, FileRange
from logstore.clock import Clock, SystemClock
from logstore.errors import InvalidConfig
from logstore.types import Buffer

log = logging.getLogger(__name__)

LISTEN_BACKLOG: Final = 512
ACCEPTS_PER_TURN: Final = 64
ACCEPT_PAUSE_S: Final = 0.25
SWEEP_MS_MIN: Final = 20  # a limit below is looked at as if it were this long
INT64_MAX: Final = 2**63 - 1
MSG_MORE: Final = getattr(socket, "MSG_MORE", 0)
OUT_OF_HANDLES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class RawSocketIO:
    """Plain TCP."""

    __slots__ = ("_fd", "_sock", "recv_into")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._fd = sock.fileno()
        self.recv_into = sock.recv_into

    def send(self, buffers: Sequence[Buffer], more: bool) -> int:
        flags = MSG_MORE if more else 0
        if len(buffers) == 1:
            return self._sock.send(buffers[0], flags)
        return self._sock.sendmsg(buffers, (), flags)

    def sendfile(self, source: FileRange, start: int, nbytes: int) -> int:
        return os.sendfile(self._fd, source.fileno, source.position + start, nbytes)

    def end_output(self) -> None:
        with contextlib.suppress(OSError):  # the peer is gone: closing follows
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._sock.close()


async def bind(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """A socket on `host`:`port` that does not listen yet; port 0 takes a free one.

    Raises: InvalidConfig when the address is unknown or taken.
    """
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        hint = "stop the program that holds it, or choose another address"
        raise InvalidConfig(f"cannot listen on {host}:{port}: {error.strerror or error}", hint=hint) from None
    return sock


class KafkaServer(Turns):
    """Listeners and connections of one event loop.

    Args: `dispatch`, called once per frame; it opens a slot on the session and settles it now or later. The frame is
        writable and valid until `end_of_turn` returns. Raising `FrameError` or `MalformedMessage` ends the connection,
        any other exception ends it, too, with a traceback in the log.
        `end_of_turn`, called after the frames of a turn and before their replies are sent.
        `idle_ms_max`, Kafka's connections.max.idle.ms: nothing received, owed or unsent for so long ends a connection;
        -1 never does.
        `stall_ms_max`, how long a peer may leave replies unread. Apache Kafka counts this as idle, too; it must be
        longer than a consumer may sit on its records (max.poll.interval.ms, 5 minutes).
        `connections_max`, refused above. Apache Kafka's max.connections has no bound by default; each costs about
        3 KiB here and one file handle, and `ulimit -n` should be above it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatch: Dispatch,
        *,
        end_of_turn: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        in_flight_max: int = IN_FLIGHT_MAX,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
        connections_max: int = 10_000,
        idle_ms_max: int = 600_000,
        stall_ms_max: int = 600_000,
    ) -> None:
        super().__init__(
            loop,
            dispatch,
            end_of_turn=end_of_turn,
            frame_bytes_max=frame_bytes_max,
            in_flight_max=in_flight_max,
            output_bytes_max=output_bytes_max,
        )
        self.connections_refused = 0
        self._clock = clock or SystemClock()
        self._connections_max = connections_max
        self._idle_ms_max = idle_ms_max if idle_ms_max >= 0 else INT64_MAX
        self._stall_ms_max = stall_ms_max
        self._listeners: dict[socket.socket, tuple[str, int]] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._full = False
        self._all_gone: asyncio.Future[None] | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """`bind` and `listen` in one: returns the address bound. Raises `InvalidConfig`."""
        return self.listen(await bind(self.loop, host, port))

    def listen(self, sock: socket.socket) -> tuple[str, int]:
        """Accept connections of `sock`, which `bind` made, too; the server closes it. Returns its address."""
        bound: tuple[str, int] = sock.getsockname()[:2]
        sock.listen(LISTEN_BACKLOG)
        self._listeners[sock] = bound
        self.loop.add_reader(sock.fileno(), self._accept, sock)
        if self._sweep_timer is None:
            self._arm_sweep()
        return bound

    async def close(self, drain_ms: int = 5_000) -> None:
        """Stop accepting and reading, send the replies that are owed for at most `drain_ms`, then close everything."""
        for sock in self._listeners:
            self.loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()
        for channel in list(self.channels):
            channel.finish()
        if self.channels:
            self._all_gone = self.loop.create_future()
            deadline = self.loop.call_later(drain_ms / 1000, self._give_up)
            await self._all_gone
            deadline.cancel()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()

    def sweep(self) -> None:
        """End idle and stalled connections. The server calls this by itself, four times per shortest time limit."""
        now_ms = self._clock.monotonic_ms()
        for channel in list(self.channels):
            channel.check_time(now_ms, self._idle_ms_max, self._stall_ms_max)

    def gone(self, channel: Channel) -> None:
        super().gone(channel)
        self._full = False
        if self._all_gone is not None and not self.channels and not self._all_gone.done():
            self._all_gone.set_result(None)

    # --- private ---------------------------------------------------------------------------------------------------

    def _give_up(self) -> None:
        for channel in list(self.channels):
            channel.close(f"{channel.connection.in_flight} replies still owed when the server stopped")

    def _arm_sweep(self) -> None:
        interval_s = max(min(self._idle_ms_max, self._stall_ms_max), SWEEP_MS_MIN) / 4000
        self._sweep_timer = self.loop.call_later(interval_s, self._sweep_and_arm)

    def _sweep_and_arm(self) -> None:
        self.sweep()
        self._arm_sweep()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_HANDLES:
                    # The peer waits in the backlog; asking again at once would only spin.
                    log.warning("cannot accept connections: %s; trying again", error.strerror)
                    self.loop.remove_reader(listener.fileno())
                    self.loop.call_later(ACCEPT_PAUSE_S, self._accept_again, listener)
                    return
                continue  # this one connection failed before it was accepted
            try:
                self._open(sock, address, self._listeners[listener])
            except OSError as error:
                log.debug("%s: gone while it was accepted: %s", address, error)
                sock.close()

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self.loop.add_reader(listener.fileno(), self._accept, listener)

    def _open(self, sock: socket.socket, address: tuple[str, int], listener: tuple[str, int]) -> None:
        if len(self.channels) >= self._connections_max:
            self.connections_refused += 1
            level = logging.DEBUG if self._full else logging.WARNING  # one line each time it fills up
            self._full = True
            log.log(level, "%s:%d: refused, %d connections are open", *address[:2], len(self.channels))
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # finds peers that vanished while they wait
        Channel(self, RawSocketIO(sock), sock.fileno(), address, listener, self._clock.monotonic_ms())

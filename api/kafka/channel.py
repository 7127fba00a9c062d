"""A connection with its socket, and what the connections of one loop share.

A readable connection is one turn: receive once into the loop's shared buffer, dispatch every frame in it, call
`end_of_turn` (which writes what the handlers staged), then send what all connections have ready, one `sendmsg` each.
Replies that come later, such as those of a group commit, are collected and sent on the loop's next iteration.

    open -> finishing (nothing is read any more, owed replies are sent) -> closed; an error goes to closed at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final, Protocol, TypeAlias

from api.kafka.connection import (
    FRAME_BYTES_MAX,
    IN_FLIGHT_MAX,
    OUTPUT_BYTES_MAX,
    SHARED_BYTES,
    BufferPool,
    Connection,
    FileRange,
    Part,
    Session,
    size_of,
)
from api.kafka.errors import FrameError
from logstore.types import Buffer

log = logging.getLogger(__name__)

Dispatch: TypeAlias = Callable[[Session, memoryview], None]

TURN_BYTES_MAX: Final = 1 << 20  # received for one connection before the others get their turn
SEND_TURN_BYTES_MAX: Final = 4 << 20  # sent to one connection before the others get their turn
SEND_PARTS_MAX: Final = 1024  # IOV_MAX of Linux
SEND_BATCH_BYTES: Final = 1 << 20
JOIN_BYTES_MAX: Final = 64 << 10  # below, one copy is cheaper than many iovecs
SENDFILE_BYTES_MIN: Final = 16 << 10  # below, a view in the same sendmsg is cheaper than a second system call
PARTING_S: Final = 1.0  # for a peer that still sends to see that this side has ended
NO_SENDFILE: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class SocketIO(Protocol):
    """The calls a connection makes on its socket. All raise BlockingIOError instead of waiting."""

    def recv_into(self, buffer: memoryview) -> int:
        """Bytes received; 0 at the end of the stream."""
        ...

    def send(self, buffers: Sequence[Buffer], more: bool) -> int:
        """Bytes sent, perhaps fewer than given. `more`: further bytes follow at once, do not send a short packet."""
        ...

    def sendfile(self, source: FileRange, start: int, nbytes: int) -> int:
        """Bytes sent of `nbytes` of `source`, from `start` within it."""
        ...

    def end_output(self) -> None:
        """Nothing more will be sent; receiving goes on."""
        ...

    def close(self) -> None: ...


class Turns:
    """What the channels of one event loop share: receive buffer, dispatch, counters, and whose replies are ready."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        dispatch: Dispatch,
        *,
        end_of_turn: Callable[[], None] = lambda: None,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        in_flight_max: int = IN_FLIGHT_MAX,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
    ) -> None:
        self.loop = loop
        self.dispatch = dispatch
        self.end_of_turn = end_of_turn
        self.shared = memoryview(bytearray(SHARED_BYTES))
        self.in_turn = False
        self.channels: set[Channel] = set()
        self.connections_total = 0
        self.frames_refused = 0
        self.bytes_in_total = 0
        self.bytes_out_total = 0
        self.requests_total = 0
        self._pool = BufferPool()
        self._frame_bytes_max = frame_bytes_max
        self._in_flight_max = in_flight_max
        self._output_bytes_max = output_bytes_max
        self._changed: list[Channel] = []
        self._flush_scheduled = False

    @property
    def connections_open(self) -> int:
        return len(self.channels)

    def new_connection(self, on_change: Callable[[], None]) -> Connection:
        return Connection(
            on_change,
            self._pool,
            frame_bytes_max=self._frame_bytes_max,
            in_flight_max=self._in_flight_max,
            output_bytes_max=self._output_bytes_max,
        )

    def opened(self, channel: Channel) -> None:
        self.channels.add(channel)
        self.connections_total += 1

    def gone(self, channel: Channel) -> None:
        self.channels.discard(channel)

    def changed(self, channel: Channel) -> None:
        """`channel` has output or free slots: see to it at the end of this turn, or else in the next iteration."""
        self._changed.append(channel)
        if not self.in_turn and not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._flush_later)

    def flush_changed(self) -> None:
        while self._changed:
            changed, self._changed = self._changed, []
            for channel in changed:
                channel.flush()

    def _flush_later(self) -> None:
        self._flush_scheduled = False
        self.flush_changed()


class Channel:
    """One connection with its socket."""

    __slots__ = (
        "_busy",
        "_fd",
        "_finishing",
        "_io",
        "_parting",
        "_progress",
        "_progress_ms",
        "_reading",
        "_resume_scheduled",
        "_sent_of_first",
        "_turns",
        "_unsent",
        "_writing",
        "connection",
        "session",
    )

    def __init__(
        self,
        turns: Turns,
        io: SocketIO,
        fd: int,
        peer: tuple[str, int],
        listener: tuple[str, int],
        now_ms: int,
    ) -> None:
        self._turns = turns
        self._io = io
        self._fd = fd
        self._unsent: deque[Part] = deque()
        self._sent_of_first = 0  # bytes of the first unsent part that are gone already
        self._busy = False  # in its turn, which looks after reading itself
        self._finishing = False
        self._parting = False
        self._resume_scheduled = False
        self._writing = False
        self._progress = False  # since the last sweep: saves reading the clock in every turn
        self._progress_ms = now_ms
        self.connection = turns.new_connection(self._on_change)
        self.session = Session(
            self.connection.open_slot, self.finish, peer_host=peer[0], peer_port=peer[1], listener=listener
        )
        self._reading = True
        turns.loop.add_reader(fd, self._on_readable)
        turns.opened(self)

    def _on_change(self) -> None:
        self._turns.changed(self)

    # --- receiving -------------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        turns, connection = self._turns, self.connection
        budget = TURN_BYTES_MAX
        while budget > 0:
            try:
                target = connection.writable(turns.shared)
                nbytes = self._io.recv_into(target)
            except BlockingIOError:
                return
            except FrameError as error:
                turns.frames_refused += 1
                self.close(f"refused: {error}", level=logging.INFO)
                return
            except OSError as error:
                self.close(f"receiving failed: {error}", error=error)
                return
            self._progress = True
            if nbytes == 0:
                self._on_end_of_stream()
                return
            turns.bytes_in_total += nbytes
            frames = connection.received(nbytes)
            if frames:
                self._turn(frames)
            # Go on only into a big frame's own buffer: everything else waits for its next turn.
            if not connection.collecting or connection.closed or not self._reading:
                return
            budget -= nbytes if nbytes == len(target) else budget

    def _on_end_of_stream(self) -> None:
        if self.connection.unfinished:
            log.debug("%s: ended within a request", self)
        self.finish()

    def _turn(self, frames: Iterable[memoryview]) -> None:
        """Dispatch `frames`, and what back pressure holds back, as long as each round of replies makes room."""
        self._busy = True
        while True:
            self._round(frames)
            if not self.connection.blocked or self._finishing:
                break
            frames = self.connection.resume()
            if not frames:
                break
        self._busy = False
        if not self.connection.closed:
            self._look_after()

    def _round(self, frames: Iterable[memoryview]) -> None:
        turns, session = self._turns, self.session
        dispatch, requests = turns.dispatch, 0
        failure: Exception | None = None
        turns.in_turn = True
        try:
            for frame in frames:
                requests += 1
                dispatch(session, frame)
                if self._finishing:
                    break
        except Exception as error:
            failure = error
        turns.requests_total += requests
        if requests:
            try:
                turns.end_of_turn()
            except Exception as error:
                failure = failure or error
        turns.in_turn = False
        turns.flush_changed()
        if isinstance(failure, FrameError):
            turns.frames_refused += 1
            self.close(f"refused: {failure}", level=logging.INFO)
        elif failure is not None:
            self.close("closed after an unexpected error", error=failure, level=logging.ERROR)

    def _resume(self) -> None:
        self._resume_scheduled = False
        if self.connection.blocked and not self._finishing:
            frames = self.connection.resume()
            if frames:
                self._turn(frames)

    def _look_after(self) -> None:
        """After anything changed: end if nothing is left to do, else read exactly while there is room for replies."""
        connection, loop = self.connection, self._turns.loop
        if self._finishing:
            if not connection.in_flight and not self._unsent:
                self._part()
            return
        if connection.blocked and connection.wants_read and not self._resume_scheduled:
            self._resume_scheduled = True
            loop.call_soon(self._resume)
        if connection.wants_read and not connection.blocked:
            if not self._reading:
                self._reading = True
                loop.add_reader(self._fd, self._on_readable)
        elif self._reading:
            self._reading = False
            loop.remove_reader(self._fd)

    # --- sending ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what is ready."""
        if self.connection.closed:
            return
        self._unsent += self.connection.take_output()
        if not self._writing:
            self._send()
        if not self._busy and not self.connection.closed:
            self._look_after()

    def _on_writable(self) -> None:
        self._send()
        if not self.connection.closed:
            self._look_after()

    def _send(self) -> None:
        budget = SEND_TURN_BYTES_MAX
        blocked = False
        try:
            while self._unsent and not blocked and budget > 0:
                first = self._unsent[0]
                if isinstance(first, (bytes, bytearray, memoryview)) or first.size_bytes < SENDFILE_BYTES_MIN:
                    nbytes, blocked = self._send_buffers()
                else:
                    nbytes, blocked = self._send_file(first, budget)
                budget -= nbytes
        except BlockingIOError:
            blocked = True
        except OSError as error:
            self.close(f"sending failed: {error}", error=error)
            return
        except Exception as error:
            self.close("closed after an unexpected error", error=error, level=logging.ERROR)
            return
        if bool(self._unsent) != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._turns.loop.add_writer(self._fd, self._on_writable)
            else:
                self._turns.loop.remove_writer(self._fd)

    def _send_buffers(self) -> tuple[int, bool]:
        """Send the parts before the next big file range. Returns bytes sent, and whether the socket is full."""
        batch: list[Buffer] = []
        total, more = 0, False
        for part in islice(self._unsent, SEND_PARTS_MAX):
            if not isinstance(part, (bytes, bytearray, memoryview)):
                if part.size_bytes >= SENDFILE_BYTES_MIN:
                    more = True
                    break
                part = part.view()
            batch.append(part)
            total += len(part)
            if total >= SEND_BATCH_BYTES:
                break
        parts = len(batch)
        if self._sent_of_first:
            batch[0] = memoryview(batch[0])[self._sent_of_first :]
            total -= self._sent_of_first
        if parts > 1 and total <= JOIN_BYTES_MAX:
            batch = [b"".join(batch)]
        nbytes = self._io.send(batch, more)
        if nbytes == total:
            self._sent_of_first = 0
            if parts == len(self._unsent):
                self._unsent.clear()
            else:
                for _ in range(parts):
                    self._unsent.popleft()
            self._account(nbytes)
        else:
            self._drop(nbytes)
        return nbytes, nbytes < total

    def _send_file(self, source: FileRange, budget: int) -> tuple[int, bool]:
        start = self._sent_of_first
        wanted = min(source.size_bytes - start, budget)
        try:
            nbytes = self._io.sendfile(source, start, wanted)
        except OSError as error:
            if error.errno not in NO_SENDFILE:
                raise
            log.debug("%s: sendfile failed, sending from memory: %s", self, error.strerror)
            self._unsent[0] = source.view()
            return 0, False
        if nbytes == 0:
            raise OSError(errno.EIO, "the file is shorter than the reply that names it")
        self._drop(nbytes)
        return nbytes, False

    def _drop(self, nbytes: int) -> None:
        """Forget the first `nbytes` of what is unsent."""
        self._account(nbytes)
        nbytes += self._sent_of_first
        while self._unsent and nbytes >= (part_bytes := size_of(self._unsent[0])):
            nbytes -= part_bytes
            self._unsent.popleft()
        self._sent_of_first = nbytes

    def _account(self, nbytes: int) -> None:
        self.connection.sent(nbytes)
        self._turns.bytes_out_total += nbytes
        self._progress = True

    # --- ending ----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Read no more; close once the replies that are owed have been sent."""
        if self._finishing or self.connection.closed:
            return
        self._finishing = True
        if self._reading:
            self._reading = False
            self._turns.loop.remove_reader(self._fd)
        if not self._busy:
            self._turns.changed(self)

    def _part(self) -> None:
        """Close so that the last replies arrive.

        A socket closed with received bytes unread resets its connection, which throws away what the peer has not
        fetched from our side yet. So a peer that is still sending is first told the end and listened to, for a while.
        """
        if self._parting:
            return
        if not self._discard():
            self.close("finished")
            return
        self._parting = self._reading = True
        self._io.end_output()
        self._turns.loop.add_reader(self._fd, self._on_parting)
        self._turns.loop.call_later(PARTING_S, self.close, "finished")

    def _on_parting(self) -> None:
        if not self._discard():
            self.close("finished")

    def _discard(self) -> bool:
        """Throw away what has been received. Returns whether the peer was sending and may go on."""
        try:
            return self._io.recv_into(self._turns.shared) > 0
        except BlockingIOError:
            return self._parting
        except OSError:
            return False

    def check_time(self, now_ms: int, idle_ms_max: int, stall_ms_max: int) -> None:
        if self._progress:
            self._progress, self._progress_ms = False, now_ms
            return
        quiet_ms = now_ms - self._progress_ms
        if self._unsent or self._finishing:
            if quiet_ms >= stall_ms_max:
                self.close(f"has not read its replies for {quiet_ms} ms", level=logging.INFO)
        elif quiet_ms >= idle_ms_max and not self.connection.in_flight:
            self.close(f"idle for {quiet_ms} ms")

    def close(self, why: str, *, error: Exception | None = None, level: int = logging.DEBUG) -> None:
        """End now. Harmless twice."""
        if self.connection.closed:
            return
        log.log(level, "%s: %s", self, why, exc_info=error if level >= logging.ERROR else None)
        self._finishing = True
        loop = self._turns.loop
        if self._reading:
            loop.remove_reader(self._fd)
        if self._writing:
            loop.remove_writer(self._fd)
        self._reading = self._writing = False
        self.connection.close()
        self._unsent.clear()
        self._io.close()
        self.session.closed = True
        self.session.shortcut = None
        callbacks, self.session.on_close = self.session.on_close, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("%s: a callback of its end failed", self)
        self._turns.gone(self)

    def __str__(self) -> str:
        software = f" ({self.session.client_software_name})" if self.session.client_software_name else ""
        return f"{self.session.peer_host}:{self.session.peer_port}{software}"

"""One Kafka connection without its socket: bytes -> frames, replies -> bytes in request order. Pure.

    byte  0        4
          +--------+----------------------+--------+---
          | size   | request, size bytes  | size   | ...      size: i32, big-endian, counts what follows it
          +--------+----------------------+--------+---
    Source: Kafka protocol guide, "Common Request and Response Structure". Replies have the same shape.

Inbound. All connections of a loop receive into one shared buffer and frames are views of it: nothing is copied but an
unfinished tail. A frame above 64 KiB that is not complete moves to a buffer of its own, which grows by doubling as
bytes arrive, so a peer pins at most about four times what it sent, whatever size it claims. Finished buffers go to a
small pool: a steady stream of 1 MiB requests neither allocates nor zero-fills.

Outbound. Every request opens a slot, slots are filled in any order, and `take_output` gives the filled prefix.

Back pressure. No further frame is cut, in the middle of a received block too, while 512 replies are owed, or replies to
16 MiB of requests (what a handler holds of a parked one is some multiple of its bytes), or 4 MiB of replies are unsent.
Others: Apache Kafka takes one request at a time from a connection and holds 500 per broker
(`queued.max.requests`); clients pipeline 5 (Java, idempotent) to a million (librdkafka's default).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

from api.kafka.errors import FrameError, FrameTooLarge
from logstore.types import Buffer

SIZE: Final = struct.Struct(">i")
assert SIZE.size == 4

FRAME_BYTES_MIN: Final = 8  # api key, api version, correlation id: the shortest request header
FRAME_BYTES_MAX: Final = 104_857_600  # Kafka's default of socket.request.max.bytes
SHARED_BYTES: Final = 512 << 10
IN_FLIGHT_MAX: Final = 512
IN_FLIGHT_BYTES_MAX: Final = 16 << 20
OUTPUT_BYTES_MAX: Final = 4 << 20
TAIL_BYTES_MAX: Final = 64 << 10  # a longer unfinished frame gets its own buffer
OWN_BYTES_MIN: Final = 128 << 10
BITE_BYTES: Final = 16 << 10
SPARE_BYTES_MAX: Final = 8 << 20
LENT_BYTES_MAX: Final = 1 << 30


class FileRange(Protocol):
    """Bytes of an open file, sent without passing through this process. It keeps the file open while it lives."""

    @property
    def fileno(self) -> int: ...

    @property
    def position(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def view(self) -> memoryview:
        """The same bytes in memory, where the kernel cannot send the file itself."""
        ...


Part: TypeAlias = Buffer | FileRange


def size_of(part: Part) -> int:
    """Bytes of one part of a reply."""
    if isinstance(part, (bytes, bytearray)):
        return len(part)
    return part.nbytes if isinstance(part, memoryview) else part.size_bytes


class BufferPool:
    """Buffers for big frames, shared by the connections of a loop. Keeps up to `spare_bytes_max` between frames.

    At most `lent_bytes_max` are out at a time, so that many peers with a big frame each cannot fill the memory: one
    more ends its connection, and its client tries again. In Apache Kafka, queued.max.request.bytes is off by default.
    """

    def __init__(self, spare_bytes_max: int = SPARE_BYTES_MAX, lent_bytes_max: int = LENT_BYTES_MAX) -> None:
        self.spare_bytes = self.lent_bytes = 0
        self._spare_bytes_max = spare_bytes_max
        self._lent_bytes_max = lent_bytes_max
        self._spares: list[bytearray] = []

    def take(self, bytes_min: int, bytes_wanted: int) -> bytearray:
        """The smallest spare of `bytes_wanted` or more; else a new buffer of at least `bytes_min`.

        Raises: FrameTooLarge when too much is lent out.
        """
        if self.lent_bytes + bytes_min > self._lent_bytes_max:
            held = f"{self.lent_bytes} bytes of unfinished requests are held already"
            raise FrameTooLarge(held, hint="try again, in smaller requests")
        fitting = [spare for spare in self._spares if len(spare) >= bytes_wanted]
        if fitting:
            taken = min(fitting, key=len)
            # By identity: `list.remove` would compare the bytes.
            self._spares = [spare for spare in self._spares if spare is not taken]
            self.spare_bytes -= len(taken)
        else:
            rounded = 1 << (bytes_min - 1).bit_length()
            taken = bytearray(rounded if rounded <= self._spare_bytes_max else bytes_min)
        self.lent_bytes += len(taken)
        return taken

    def give(self, buffer: bytearray) -> None:
        """Take `buffer` back. Views of it may live on, but their bytes are now anybody's."""
        self.lent_bytes -= len(buffer)
        if self.spare_bytes + len(buffer) <= self._spare_bytes_max:
            self._spares.append(buffer)
            self.spare_bytes += len(buffer)


class Slot:
    """The place of one reply in its connection's order: settled once, at any time, by whoever has the reply."""

    __slots__ = ("_connection", "reply", "request_bytes")

    def __init__(self, connection: Connection, request_bytes: int) -> None:
        self._connection = connection
        self.request_bytes = request_bytes
        self.reply: Sequence[Part] | None = None

    def fill(self, parts: Sequence[Part]) -> None:
        """Reply with `parts` in order; the size before them is computed here.

        They are sent later, so none may be a view of the request's frame. Ignored once the connection is gone.
        """
        assert self.reply is None, "settled twice"
        size = 0
        reply: list[Part] = [b""]
        for part in parts:
            part_bytes = len(part) if isinstance(part, bytes) else size_of(part)  # most are: saves a call
            if part_bytes:
                size += part_bytes
                reply.append(part)
        reply[0] = SIZE.pack(size)
        self.reply = reply
        self._connection.settled(self, SIZE.size + size)

    def fill_frame(self, frame: bytes) -> None:
        """`fill` with a whole frame, its size before it: for who made it in one piece."""
        assert self.reply is None, "settled twice"
        self.reply = (frame,)
        self._connection.settled(self, len(frame))

    def skip(self) -> None:
        """This request gets no reply (Produce with acks=0)."""
        assert self.reply is None, "settled twice"
        self.reply = []
        self._connection.settled(self, 0)


class Connection:
    """Bytes in, frames out; replies in, bytes out. See the module's text for the rules.

    `on_change` is called once between two `take_output` calls, as soon as there is output or a slot has become free.
    """

    __slots__ = (
        "_frame_bytes",
        "_frame_bytes_max",
        "_in_flight_max",
        "_on_change",
        "_output",
        "_output_bytes_max",
        "_own",
        "_own_filled",
        "_own_size",
        "_own_view",
        "_pool",
        "_rest",
        "_rest_is_shared",
        "_shared",
        "_slots",
        "_spent",
        "_tail",
        "_take_bites",
        "_told",
        "closed",
        "in_flight_bytes",
        "output_bytes",
    )

    def __init__(
        self,
        on_change: Callable[[], None],
        pool: BufferPool,
        *,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        in_flight_max: int = IN_FLIGHT_MAX,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
    ) -> None:
        self._on_change = on_change
        self._pool = pool
        self._frame_bytes_max = frame_bytes_max
        self._in_flight_max = in_flight_max
        self._output_bytes_max = output_bytes_max
        self.closed = False
        self.output_bytes = 0  # of filled replies, in order or not, that are not sent yet
        self.in_flight_bytes = 0  # of requests whose reply is not in the output yet
        self._frame_bytes = 0  # of the frame handed out last
        self._slots: deque[Slot] = deque()
        self._output: list[Part] = []
        self._told = False
        self._shared = memoryview(b"")
        self._tail = b""  # start of an unfinished frame, at most TAIL_BYTES_MAX (or 3 bytes of a size)
        self._own: bytearray | None = None  # the unfinished frame above that, without its size
        self._own_view = memoryview(b"")
        self._own_filled = self._own_size = 0
        self._spent: bytearray | None = None  # holds the frame handed out last
        self._take_bites = False
        self._rest: tuple[memoryview, int, int] | None = None  # received, not cut yet: back pressure
        self._rest_is_shared = False

    # --- inbound ---------------------------------------------------------------------------------------------------

    def writable(self, shared: memoryview) -> memoryview:
        """Where to receive next. Ends the life of every frame handed out before. Raises: FrameTooLarge.

        `shared` is the loop's buffer, above TAIL_BYTES_MAX long; nobody else may use it before the frames of the
        following `received` are done with. Asking again without having received is harmless.
        """
        assert self._rest is None, "cut what has been received first: resume()"
        self._recycle()
        if self._own is not None:
            if self._own_filled == len(self._own):
                self._move_own(2 * self._own_filled)
            return self._own_view[self._own_filled : self._own_size]
        self._shared = shared
        start = len(self._tail)
        shared[:start] = self._tail
        if self._take_bites:
            # After one big frame the next is probably big, too: leave its bulk in the kernel until it has its own
            # buffer, instead of receiving it here and copying it there.
            return shared[start : start + BITE_BYTES]
        return shared[start:] if start else shared

    def received(self, nbytes: int) -> Iterable[memoryview]:
        """The frames that `nbytes` at the start of the last `writable` complete, without their sizes.

        Each is writable, and valid until `writable` is called for any connection of the loop. Use them up: iterating
        is what cuts them. Empty (false) while a big frame is still collecting. Raises: FrameTooLarge, FrameError,
        after the good frames before.
        """
        if self._own is None:
            start, self._tail = len(self._tail), b""
            self._rest_is_shared = True
            return self._cut(self._shared, 0, start + nbytes)
        self._own_filled += nbytes
        if self._own_filled < self._own_size:
            return ()
        frame = self._own_view[: self._own_size]
        self._frame_bytes = self._own_size
        self._take_bites = self._own_size >= len(self._shared) // 2
        self._spent, self._own, self._own_view = self._own, None, memoryview(b"")
        return (frame,)

    def resume(self) -> Iterable[memoryview]:
        """Go on where back pressure stopped the cutting; the same rules as for `received`.

        Call it as long as `blocked`, before the shared buffer is used again: while replies are still owed nothing is
        cut and what is left moves to memory of this connection's own.
        """
        if self._rest is None:
            return ()
        self._recycle()
        view, position, end = self._rest
        if self.wants_read:
            self._rest = None
            return self._cut(view, position, end)
        if self._rest_is_shared:
            self._rest_is_shared = False
            self._rest = (memoryview(bytearray(view[position:end])), 0, end - position)
        return ()

    @property
    def blocked(self) -> bool:
        """Are there received bytes that back pressure kept from being cut?"""
        return self._rest is not None

    @property
    def collecting(self) -> bool:
        """Is a big frame on its way into its own buffer?"""
        return self._own is not None

    @property
    def unfinished(self) -> bool:
        """Would an end of the stream here cut a request in two?"""
        return bool(self._tail) or self._own is not None or self._rest is not None

    @property
    def wants_read(self) -> bool:
        return (
            len(self._slots) < self._in_flight_max
            and self.in_flight_bytes < IN_FLIGHT_BYTES_MAX
            and self.output_bytes < self._output_bytes_max
        )

    def _cut(self, view: memoryview, position: int, end: int) -> Iterator[memoryview]:
        unpack_from, slots = SIZE.unpack_from, self._slots
        while end - position >= 4:
            if (
                len(slots) >= self._in_flight_max
                or self.in_flight_bytes >= IN_FLIGHT_BYTES_MAX
                or self.output_bytes >= self._output_bytes_max
            ):
                self._rest = (view, position, end)
                return
            (size,) = unpack_from(view, position)
            if not FRAME_BYTES_MIN <= size <= self._frame_bytes_max:
                raise refusal(size, self._frame_bytes_max)
            start = position + 4
            position = start + size
            if position > end:
                if size > TAIL_BYTES_MAX:
                    self._start_own(view[start:end], size)
                    return
                position = start - 4
                break
            self._frame_bytes = size
            yield view[start:position]
        self._take_bites = False
        self._tail = bytes(view[position:end])

    def _start_own(self, arrived: memoryview, size: int) -> None:
        self._own_size, self._own_filled = size, len(arrived)
        self._own = self._pool.take(min(size, max(OWN_BYTES_MIN, 2 * len(arrived))), size)
        self._own_view = memoryview(self._own)
        self._own_view[: len(arrived)] = arrived

    def _move_own(self, bytes_min: int) -> None:
        assert self._own is not None
        old = self._own
        self._own = self._pool.take(min(bytes_min, self._own_size), self._own_size)
        view = memoryview(self._own)
        view[: self._own_filled] = self._own_view[: self._own_filled]
        self._own_view = view
        self._pool.give(old)

    def _recycle(self) -> None:
        if self._spent is not None:
            self._pool.give(self._spent)
            self._spent = None

    # --- outbound --------------------------------------------------------------------------------------------------

    def open_slot(self) -> Slot:
        """A place for the next reply: call it once per request, in the order of the requests."""
        slot = Slot(self, self._frame_bytes)
        self.in_flight_bytes += slot.request_bytes
        self._slots.append(slot)
        return slot

    @property
    def in_flight(self) -> int:
        """Requests whose reply is not in the output yet."""
        return len(self._slots)

    def settled(self, slot: Slot, nbytes: int) -> None:
        """For `Slot` alone: `slot` has its reply of `nbytes`, size included."""
        if self.closed:
            return
        self.output_bytes += nbytes
        slots = self._slots
        if slots[0] is not slot:
            return
        output = self._output
        while slots and (reply := slots[0].reply) is not None:
            output += reply
            self.in_flight_bytes -= slots.popleft().request_bytes
        if not self._told:
            self._told = True
            self._on_change()

    def take_output(self) -> list[Part]:
        """Every reply whose turn has come, as parts in sending order, none empty. Report them with `sent`."""
        output, self._output, self._told = self._output, [], False
        return output

    def sent(self, nbytes: int) -> None:
        self.output_bytes -= nbytes

    def close(self) -> None:
        """Drop everything: the peer is gone. Slots may still be settled, to no effect."""
        self.closed = True
        self._recycle()
        if self._own is not None:
            self._pool.give(self._own)
            self._own, self._own_view = None, memoryview(b"")
        self._slots.clear()
        self._output = []
        self._tail, self._rest = b"", None
        self.output_bytes = 0


class Session:
    """What a request handler knows of the connection its request came by."""

    __slots__ = (
        "attachment",
        "client_software_name",
        "client_software_version",
        "closed",
        "finish",
        "listener",
        "on_close",
        "open_slot",
        "peer_host",
        "peer_port",
        "principal",
        "shortcut",
    )

    def __init__(
        self,
        open_slot: Callable[[], Slot],
        finish: Callable[[], None],
        *,
        peer_host: str,
        peer_port: int,
        listener: tuple[str, int],
    ) -> None:
        self.open_slot = open_slot
        self.finish = finish
        """Take no further request, send the replies that are owed, then close."""
        self.peer_host = peer_host
        self.peer_port = peer_port
        self.listener = listener
        """Host and port of ours that the peer connected to."""
        self.principal = "User:ANONYMOUS"
        self.client_software_name = ""  # KIP-511, from ApiVersions
        self.client_software_version = ""
        self.shortcut: Callable[[memoryview], bool] | None = None
        """Tried before a frame is decoded: serves a request it knows from earlier ones, or says False to any other."""
        self.attachment: object | None = None
        """The dispatcher's own state for this connection, such as a SASL exchange."""
        self.on_close: list[Callable[[], None]] = []
        """Called once each when the connection has ended, to cancel what waits on its behalf."""
        self.closed = False


def refusal(size: int, frame_bytes_max: int) -> FrameError:
    """The error for a frame that claims `size` bytes, with a guess at what the peer speaks instead of Kafka."""
    first = SIZE.pack(size)
    if first in (b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"PATC", b"PRI "):
        hint = "this is an HTTP request: send it to the HTTP port"
    elif first[:2] == b"\x16\x03":
        hint = "this is a TLS hello: the port speaks plain text, set security.protocol=PLAINTEXT in the client"
    elif size > frame_bytes_max:
        hint = "send smaller requests or raise socket.request.max.bytes; or the peer does not speak Kafka"
    else:
        hint = "the peer does not speak Kafka"
    if size > frame_bytes_max:
        return FrameTooLarge(f"a request of {size} bytes, above the bound of {frame_bytes_max}", hint=hint)
    return FrameError(f"a request of {size} bytes, below the {FRAME_BYTES_MIN} of a header", hint=hint)

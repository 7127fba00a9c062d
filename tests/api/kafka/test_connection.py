"""The wire without sockets: frames cut anywhere, replies in order, memory bounded by what arrived."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable

import pytest

from api.kafka.connection import (
    FRAME_BYTES_MAX,
    OWN_BYTES_MIN,
    SHARED_BYTES,
    BufferPool,
    Connection,
    Part,
    Slot,
)
from api.kafka.errors import FrameError, FrameTooLarge

SHARED = memoryview(bytearray(SHARED_BYTES))


class Wire:
    """A connection fed with bytes as a kernel would feed it; keeps copies of the frames."""

    def __init__(self, answer: Callable[[Slot], None] | None = Slot.skip, shared: memoryview = SHARED, **limits: int):
        self.changes = 0
        self.pool = BufferPool()
        self.connection = Connection(self._changed, self.pool, **limits)
        self.frames: list[bytes] = []
        self.slots: list[Slot] = []
        self._answer = answer
        self._shared = shared

    def _changed(self) -> None:
        self.changes += 1

    def feed(self, data: bytes | memoryview, bite: int = 1 << 30, settle: bool = False) -> None:
        rest = memoryview(data)
        while rest:
            target = self.connection.writable(self._shared)
            assert len(target) > 0
            n = min(len(rest), len(target), bite)
            target[:n] = rest[:n]
            rest = rest[n:]
            self._use(self.connection.received(n))
            if not self.connection.blocked:
                self.scribble()
            while settle and (self.connection.blocked or not self.connection.wants_read):
                self.resume()
                self.scribble()
                for slot in self.slots:
                    slot.skip()
                self.slots.clear()

    def scribble(self) -> None:
        """Other connections receive into the same buffer: nothing may depend on it any more."""
        self._shared[:] = b"\xee" * len(self._shared)

    def resume(self) -> None:
        self._use(self.connection.resume())

    def _use(self, frames) -> None:
        for frame in frames:
            assert not frame.readonly
            self.frames.append(bytes(frame))
            slot = self.connection.open_slot()
            self.slots.append(slot)
            if self._answer is not None:
                self._answer(slot)

    def output(self) -> bytes:
        output = b"".join(bytes(part) for part in self.connection.take_output())
        self.connection.sent(len(output))
        return output


def framed(*bodies: bytes) -> bytes:
    return b"".join(struct.pack(">i", len(body)) + body for body in bodies)


def body(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


SMALL_SHARED = memoryview(bytearray(96 << 10))
BODIES = [body(8, 1), body(60, 2), body(9, 3), body(300, 4)]


def test_frames_cut_in_two_at_every_byte_are_read_once() -> None:
    stream = framed(*BODIES)
    for cut in range(len(stream) + 1):
        wire = Wire(shared=SMALL_SHARED)
        wire.feed(stream[:cut])
        wire.feed(stream[cut:])
        assert wire.frames == BODIES, cut
        assert not wire.connection.unfinished


def test_frames_arriving_byte_by_byte() -> None:
    wire = Wire(shared=SMALL_SHARED)
    wire.feed(framed(*BODIES), bite=1)
    assert wire.frames == BODIES


def test_many_frames_in_one_receive() -> None:
    bodies = [body(8 + n % 40, n) for n in range(400)]
    wire = Wire()
    wire.feed(framed(*bodies))
    assert wire.frames == bodies


@pytest.mark.parametrize("bite", [997, 16_384, 100_000, 1 << 30])
def test_frames_of_every_size_class_in_any_pieces(bite: int) -> None:
    # Around the tail's bound, the shared buffer's size and several doublings; small ones between.
    sizes = [8, 65_535, 65_536, 65_537, 9, SHARED_BYTES - 4, SHARED_BYTES, 10, 1_000_100, 1_000_100, 11, 300_000, 12]
    bodies = [body(size, n) for n, size in enumerate(sizes)]
    wire = Wire()
    wire.feed(framed(*bodies), bite)
    assert [len(frame) for frame in wire.frames] == sizes
    assert wire.frames == bodies
    assert not wire.connection.unfinished


def test_random_pieces_of_random_frames() -> None:
    for seed in range(12):
        chance = random.Random(seed)
        bodies = [body(int(8 * 2 ** chance.uniform(0, 15)), chance.randrange(99)) for _ in range(20)]
        stream, wire = framed(*bodies), Wire(None, SMALL_SHARED, in_flight_max=chance.choice([1, 3, 512]))
        while stream:
            n = int(2 ** chance.uniform(0, 16))
            wire.feed(stream[:n], settle=True)
            stream = stream[n:]
        assert wire.frames == bodies, f"seed {seed}"


def test_a_frame_is_patched_in_place_and_stays_until_the_next_receive() -> None:
    connection = Connection(lambda: None, BufferPool())
    for size in (100, 200_000):
        data, frames = framed(body(size)), []
        while data:
            target = connection.writable(SHARED)
            n = min(len(data), len(target), 50_000)
            target[:n], data = data[:n], data[n:]
            frames += list(connection.received(n))
        (frame,) = frames
        struct.pack_into(">q", frame, 10, 2**40)
        assert struct.unpack_from(">q", frame, 10) == (2**40,)
        assert len(frame) == size


def test_asking_twice_where_to_receive_loses_nothing() -> None:
    wire = Wire()
    stream = framed(body(500))
    wire.feed(stream[:123])
    wire.connection.writable(SHARED)
    wire.connection.writable(SHARED)
    wire.feed(stream[123:])
    assert wire.frames == [body(500)]


# --- sizes no client sends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7, -1, -(2**31)])
def test_a_size_below_a_header_is_refused(size: int) -> None:
    with pytest.raises(FrameError, match="below the 8"):
        Wire().feed(struct.pack(">i", size) + b"........")


@pytest.mark.parametrize("size", [FRAME_BYTES_MAX + 1, 2**31 - 1])
def test_a_size_above_the_bound_is_refused_before_its_bytes_arrive(size: int) -> None:
    with pytest.raises(FrameTooLarge, match=str(size)):
        Wire().feed(struct.pack(">i", size))


def test_the_bounds_themselves_are_taken() -> None:
    wire = Wire(frame_bytes_max=100)
    wire.feed(framed(body(8), body(100)))
    assert len(wire.frames) == 2
    with pytest.raises(FrameTooLarge):
        wire.feed(framed(body(101)))


def test_good_frames_before_a_bad_size_are_handed_out() -> None:
    stream = framed(*BODIES) + struct.pack(">i", -5)
    for cut in range(len(stream)):
        wire = Wire(shared=SMALL_SHARED)
        wire.feed(stream[:cut])
        with pytest.raises(FrameError):
            wire.feed(stream[cut:])
        assert wire.frames == BODIES, cut


@pytest.mark.parametrize(
    ("greeting", "hint"), [(b"GET /metrics HTTP/1.1\r\n", "HTTP port"), (b"\x16\x03\x01\x02\x00\x01", "PLAINTEXT")]
)
def test_a_peer_of_another_protocol_is_told_apart(greeting: bytes, hint: str) -> None:
    with pytest.raises(FrameError, match=hint):
        Wire().feed(greeting)


def test_memory_follows_what_arrived_not_what_was_claimed() -> None:
    wires = [Wire() for _ in range(20)]
    start = struct.pack(">i", FRAME_BYTES_MAX) + bytes(2000)
    tracemalloc.start()
    try:
        for wire in wires:
            wire.feed(start)
        claimed, _ = tracemalloc.get_traced_memory()
        assert claimed < len(wires) * (OWN_BYTES_MIN + 20_000)
        tracemalloc.reset_peak()
        wires[0].feed(bytes(3 << 20))
        _, peak = tracemalloc.get_traced_memory()
        # The last doubling holds the old buffer and the new one for a moment.
        assert peak - claimed < 4 * (3 << 20)
    finally:
        tracemalloc.stop()


def test_a_stream_of_big_frames_reuses_its_buffer() -> None:
    wire = Wire()
    frame = framed(body(1_000_100))
    wire.feed(frame + frame)
    wire.frames.clear()
    tracemalloc.start()
    try:
        for _ in range(5):
            wire.feed(frame)
            wire.frames.clear()
        _, peak = tracemalloc.get_traced_memory()
        assert peak < 2_200_000  # the copies this test takes, and nothing of the connection's own
    finally:
        tracemalloc.stop()


def test_unanswered_requests_are_bounded_by_their_bytes_too() -> None:
    connection = Connection(lambda: None, BufferPool())
    shared = memoryview(bytearray(512 << 10))
    frame = (100 << 10).to_bytes(4, "big") + bytes(100 << 10)
    slots = []
    while connection.wants_read:
        rest = memoryview(frame)
        while len(rest):
            target = connection.writable(shared)
            piece = rest[: len(target)]
            target[: len(piece)] = piece
            slots += [connection.open_slot() for _ in connection.received(len(piece))]
            rest = rest[len(piece) :]
    assert len(slots) == -(-(16 << 20) // (100 << 10)), "as many as reach the bound"
    slots[1].fill([b"later"])
    assert not connection.wants_read, "the first is still owed"
    slots[0].fill([b"now"])
    assert connection.wants_read
    for slot in slots[2:]:
        slot.skip()
    assert connection.in_flight_bytes == 0


def test_unfinished_big_frames_of_all_connections_together_are_bounded() -> None:
    pool = BufferPool(lent_bytes_max=1 << 20)
    shared = memoryview(bytearray(512 << 10))
    half_sent: list[Connection] = []

    def send_half_to_many() -> None:
        for _ in range(100):
            half_sent.append(Connection(lambda: None, pool))
            half_sent[-1].writable(shared)[:4] = (10 << 20).to_bytes(4, "big")
            list(half_sent[-1].received(100 << 10))

    with pytest.raises(FrameTooLarge):
        send_half_to_many()
    assert pool.lent_bytes <= 1 << 20
    assert 2 < len(half_sent) < 100
    for connection in half_sent:
        connection.close()
    assert pool.lent_bytes == 0


def test_a_big_frame_that_may_not_grow_is_refused_while_receiving() -> None:
    connection = Connection(lambda: None, BufferPool(lent_bytes_max=600 << 10))
    shared = memoryview(bytearray(512 << 10))
    connection.writable(shared)[:4] = (10 << 20).to_bytes(4, "big")
    list(connection.received(100 << 10))

    def go_on() -> None:
        while True:
            list(connection.received(len(connection.writable(shared))))

    with pytest.raises(FrameTooLarge):
        go_on()


def test_the_pool_keeps_no_more_than_its_bound() -> None:
    pool = BufferPool(spare_bytes_max=1 << 20)
    buffers = [pool.take(OWN_BYTES_MIN, OWN_BYTES_MIN) for _ in range(20)]
    for buffer in buffers:
        pool.give(buffer)
    assert pool.spare_bytes == 1 << 20
    taken = [pool.take(1, OWN_BYTES_MIN) for _ in range(9)]
    assert pool.spare_bytes == 0
    assert len({id(buffer) for buffer in taken}) == 9
    assert len(taken[-1]) == 1, "nothing spare is left: exactly what was asked for"
    assert len(pool.take(5 << 20, 5 << 20)) == 5 << 20, "too big to be kept: not rounded up"


# --- replies ---------------------------------------------------------------------------------------------------------


def test_replies_filled_in_any_order_leave_in_request_order() -> None:
    for seed in range(20):
        wire = Wire(answer=None)
        wire.feed(framed(*[body(8)] * 50))
        order, sent = list(range(50)), b""
        random.Random(seed).shuffle(order)
        for n in order:
            if n % 7 == 3:
                wire.slots[n].skip()
            else:
                wire.slots[n].fill([b"reply", bytearray(b" %d" % n)])
            if n % 3 == 0:
                sent += wire.output()
        sent += wire.output()
        assert sent == framed(*[b"reply %d" % n for n in range(50) if n % 7 != 3]), f"seed {seed}"
        assert wire.connection.in_flight == 0
        assert wire.connection.output_bytes == 0


class Range:
    """A file range of which only the size matters."""

    fileno, position = -1, 0

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def view(self) -> memoryview:
        return memoryview(bytes(self.size_bytes))


def test_the_size_counts_every_kind_of_part() -> None:
    wire = Wire(answer=None)
    wire.feed(framed(body(8)))
    source, words = Range(1000), memoryview(struct.pack("4i", 1, 2, 3, 4)).cast("i")
    wire.slots[0].fill([b"ab", b"", bytearray(b"cde"), words, source, Range(0)])
    parts: list[Part] = wire.connection.take_output()
    assert parts == [struct.pack(">i", 2 + 3 + 16 + 1000), b"ab", bytearray(b"cde"), words, source]
    assert wire.connection.output_bytes == 4 + 1021
    wire.connection.sent(1025)
    assert wire.connection.output_bytes == 0


def test_a_whole_frame_leaves_as_it_is_and_in_its_turn() -> None:
    wire = Wire(answer=None)
    wire.feed(framed(b"request1") + framed(b"request2"))
    first, second = wire.slots
    second.fill_frame(framed(b"second"))
    assert wire.connection.take_output() == []
    first.fill([b"first"])
    output = b"".join(bytes(part) for part in wire.connection.take_output())  # type: ignore[arg-type]  # no files
    assert output == framed(b"first") + framed(b"second")
    assert wire.connection.output_bytes == len(output)
    with pytest.raises(AssertionError, match="twice"):
        second.fill_frame(framed(b"again"))


def test_an_empty_reply_is_four_zero_bytes() -> None:
    wire = Wire(answer=None)
    wire.feed(framed(body(8)))
    wire.slots[0].fill([])
    assert wire.output() == bytes(4)


def test_a_change_is_told_once_until_the_output_is_taken() -> None:
    wire = Wire(answer=None)
    wire.feed(framed(*[body(8)] * 100))
    for slot in reversed(wire.slots[1:]):
        slot.fill([b"x"])
    assert wire.changes == 0, "the first reply is still owed"
    wire.slots[0].skip()
    assert wire.changes == 1
    wire.feed(framed(body(8)))
    wire.slots[-1].fill([b"x"])
    assert wire.changes == 1
    assert len(wire.output()) == 100 * 5
    wire.feed(framed(body(8)))
    wire.slots[-1].skip()
    assert wire.changes == 2, "a skipped reply frees a slot, too"


def test_a_slot_is_settled_once() -> None:
    wire = Wire(answer=None)
    wire.feed(framed(body(8), body(8)))
    for slot in wire.slots:
        slot.fill([b"x"])
        with pytest.raises(AssertionError, match="twice"):
            slot.skip()


def test_settling_after_the_end_has_no_effect() -> None:
    wire = Wire(answer=None)
    wire.feed(framed(body(8), body(8), body(8)))
    wire.slots[1].fill([b"x"])
    wire.connection.close()
    wire.slots[0].fill([b"x"])
    wire.slots[2].skip()
    assert (wire.output(), wire.changes, wire.connection.output_bytes) == (b"", 0, 0)


# --- back pressure ---------------------------------------------------------------------------------------------------


def test_owed_replies_stop_the_cutting_in_the_middle_of_a_block() -> None:
    bodies = [body(20, n) for n in range(10)]
    wire = Wire(answer=None, in_flight_max=4)
    wire.feed(framed(*bodies))
    assert wire.frames == bodies[:4]
    assert wire.connection.blocked
    assert not wire.connection.wants_read
    wire.resume()  # parks what is left in memory of its own
    wire.scribble()
    wire.slots[1].skip()
    assert not wire.connection.wants_read, "the first one is still owed"
    wire.slots[0].skip()
    wire.resume()
    assert wire.frames == bodies[:6]
    wire.resume()
    for n in range(2, 10):
        wire.slots[n].skip()
        wire.resume()
    assert wire.frames == bodies
    assert not wire.connection.blocked


def test_unsent_output_stops_the_cutting() -> None:
    wire = Wire(answer=lambda slot: slot.fill([bytes(96)]), output_bytes_max=300)
    wire.feed(framed(*[body(8)] * 10))
    assert len(wire.frames) == 3
    taken = wire.connection.take_output()
    wire.resume()
    assert len(wire.frames) == 3, "taken is not sent"
    assert sum(map(len, taken)) == 300
    wire.connection.sent(150)
    wire.resume()
    assert len(wire.frames) == 5
    wire.output()
    wire.connection.sent(150)
    wire.resume()
    assert len(wire.frames) == 8


def test_replies_filled_out_of_order_count_as_output() -> None:
    wire = Wire(answer=None, output_bytes_max=1000)
    wire.feed(framed(*[body(8)] * 2))
    wire.slots[1].fill([bytes(996)])
    assert wire.connection.take_output() == []
    assert not wire.connection.wants_read


def test_a_flood_of_small_requests_queues_no_more_than_its_bound() -> None:
    # 512 KiB of the smallest requests, each with a 10 KB answer that nobody reads.
    wire = Wire(answer=lambda slot: slot.fill([bytes(10_000)]))
    target = wire.connection.writable(SHARED)
    flood = framed(body(8)) * (len(target) // 12)
    target[: len(flood)] = flood
    wire._use(wire.connection.received(len(flood)))
    assert wire.connection.output_bytes < (4 << 20) + 10_004
    assert wire.connection.blocked

"""The Kafka port on real loopback sockets, with toy requests, on both event loops.

A toy request is `header (8 bytes), verb (1 byte), argument`; the dispatcher below says what each verb does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from api.kafka.channel import SENDFILE_BYTES_MIN, Channel
from api.kafka.connection import FRAME_BYTES_MAX, Session, Slot
from api.kafka.errors import MalformedMessage
from api.kafka.server import KafkaServer
from logstore.errors import InvalidConfig

HOST = "127.0.0.1"
Scenario = Callable[[], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    def run(scenario: Scenario) -> None:
        async def bounded() -> None:
            failures: list[dict[str, object]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
            await asyncio.wait_for(scenario(), 20)
            assert failures == []

        (uvloop.run if request.param == "uvloop" else asyncio.run)(bounded())

    return run


@pytest.fixture
def data_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log"
        path.write_bytes(random.Random(7).randbytes(3_000_000))
        yield path


class Range:
    """Bytes of a file as storage hands them out; `refuses` makes sendfile fail as on a file system without it."""

    def __init__(self, path: Path, position: int, size_bytes: int, refuses: bool = False) -> None:
        self._file = path.open("rb")
        self.position, self.size_bytes = (-1 if refuses else position), size_bytes
        self._view = memoryview(path.read_bytes())[position : position + size_bytes]

    @property
    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    def view(self) -> memoryview:
        return self._view


class Toy:
    """The verbs: see `dispatch`. `owed` replies wait for the test, `staged` ones for the end of the turn."""

    def __init__(self) -> None:
        self.owed: list[tuple[Slot, bytes]] = []
        self.staged: list[tuple[Slot, bytes]] = []
        self.sessions: list[Session] = []
        self.turns = 0
        self.files: list[Range] = []

    def dispatch(self, session: Session, frame: memoryview) -> None:
        if session.attachment is None:
            session.attachment = self
            self.sessions.append(session)
        verb, argument = bytes(frame[8:9]), bytes(frame[9:])
        match verb:
            case b"E":
                session.open_slot().fill([argument])
            case b"S":
                self.staged.append((session.open_slot(), argument))
            case b"O":
                self.owed.append((session.open_slot(), argument))
            case b"N":
                session.open_slot().skip()
            case b"B":
                session.open_slot().fill([b"b" * int(argument)])
            case b"F":
                session.open_slot().fill([b"head", self.files[int(argument)], b"tail"])
            case b"X":
                session.open_slot().fill([argument])
                session.finish()
            case b"M":
                raise MalformedMessage("not a toy request")
            case _:
                raise RuntimeError("toy bug")

    def end_of_turn(self) -> None:
        self.turns += 1
        staged, self.staged = self.staged, []
        for slot, argument in staged:
            slot.fill([argument])


def request(verb: bytes, argument: bytes = b"") -> bytes:
    return struct.pack(">i8s", 9 + len(argument), b"header--") + verb + argument


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *requests: bytes) -> None:
        self.writer.write(b"".join(requests))

    async def reply(self) -> bytes:
        (size,) = struct.unpack(">i", await self.reader.readexactly(4))
        return await self.reader.readexactly(size)

    async def ended(self) -> bool:
        """Waits for the other side to end the connection, in whatever way."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def serving(toy: Toy | None = None, **limits: int) -> AsyncIterator[tuple[KafkaServer, Toy, Callable]]:
    toy = toy or Toy()
    server = KafkaServer(asyncio.get_running_loop(), toy.dispatch, end_of_turn=toy.end_of_turn, **limits)
    address = await server.start(HOST, 0)
    clients: list[Client] = []

    async def connect(receive_bytes: int | None = None) -> Client:
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError:
            sock.close()
            raise
        clients.append(Client(*await asyncio.open_connection(sock=sock, limit=1 << 16)))
        return clients[-1]

    try:
        yield server, toy, connect
    finally:
        for client in clients:
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()
        for source in toy.files:
            source.close()
        await server.close(0)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(4000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("waited in vain")


def test_an_echo_and_its_counters(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving() as (server, toy, connect):
            client = await connect()
            client.send(request(b"E", b"hello"), request(b"N"), request(b"E", b"again"))
            assert [await client.reply(), await client.reply()] == [b"hello", b"again"]
            assert (server.requests_total, server.connections_open, server.connections_total) == (3, 1, 1)
            assert (server.bytes_in_total, server.bytes_out_total) == (13 * 3 + 10, 18)
            (session,) = toy.sessions
            assert (session.peer_host, session.peer_port) == client.writer.get_extra_info("sockname")
            assert session.listener == client.writer.get_extra_info("peername")
            ends: list[str] = []
            session.on_close.append(lambda: ends.append("ended"))
            client.writer.close()
            await until(lambda: server.connections_open == 0)
            assert ends == ["ended"]
            assert session.closed

    run(scenario)


def test_a_thousand_pipelined_replies_come_in_order(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving(in_flight_max=2000) as (_, toy, connect):
            client = await connect()
            client.send(*[request(b"O", b"%d" % n) for n in range(1000)])
            await until(lambda: len(toy.owed) == 1000)
            random.Random(3).shuffle(toy.owed)
            for n, (slot, argument) in enumerate(toy.owed):
                slot.fill([argument])
                if n % 100 == 0:
                    await asyncio.sleep(0)
            assert [await client.reply() for _ in range(1000)] == [b"%d" % n for n in range(1000)]

    run(scenario)


class CountingIO:
    """Counts the sends of a real SocketIO, and can let each take only a few bytes."""

    def __init__(self, inner, bytes_max: int = 1 << 30) -> None:
        self._inner, self.bytes_max = inner, bytes_max
        self.sends = 0
        self.recv_into, self.sendfile = inner.recv_into, inner.sendfile
        self.end_output, self.close = inner.end_output, inner.close

    def send(self, buffers, more: bool) -> int:
        self.sends += 1
        rest, few = self.bytes_max, []
        for buffer in buffers:
            few.append(memoryview(buffer)[:rest])
            rest -= len(few[-1])
        return self._inner.send(few, more)


def only_channel(server: KafkaServer) -> Channel:
    (channel,) = server.channels
    return channel


@pytest.mark.parametrize("when", ["at the end of the turn", "later"])
def test_a_hundred_replies_settled_together_leave_in_one_send(run: Callable[[Scenario], None], when: str) -> None:
    async def scenario() -> None:
        async with serving() as (server, toy, connect):
            client = await connect()
            client.send(request(b"E", b"first"))
            await client.reply()
            channel = only_channel(server)
            channel._io = io = CountingIO(channel._io)
            turns = toy.turns
            client.send(*[request(b"O" if when == "later" else b"S", b"%d" % n) for n in range(100)])
            await until(lambda: server.requests_total == 101)
            if when == "later":
                for slot, argument in reversed(toy.owed):
                    slot.fill([argument])
            assert [await client.reply() for _ in range(100)] == [b"%d" % n for n in range(100)]
            assert io.sends == (1 if when == "later" else toy.turns - turns)

    run(scenario)


def test_a_turn_sends_the_replies_it_settled_on_other_connections(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving() as (_, toy, connect):
            waiting, writing = await connect(), await connect()
            waiting.send(request(b"O", b"woken"))
            await until(lambda: len(toy.owed) == 1)
            toy.staged.append(toy.owed[0])  # the next end of turn settles it
            writing.send(request(b"E", b"done"))
            assert await waiting.reply() == b"woken"
            assert await writing.reply() == b"done"

    run(scenario)


@pytest.mark.parametrize("bytes_max", [1, 3, 1000])
def test_replies_sent_in_small_pieces_are_whole(run: Callable[[Scenario], None], bytes_max: int) -> None:
    async def scenario() -> None:
        async with serving() as (server, _, connect):
            client = await connect()
            client.send(request(b"E", b"first"))
            await client.reply()
            channel = only_channel(server)
            channel._io = CountingIO(channel._io, bytes_max)
            arguments = [b"%d" % n * (n % 17) for n in range(60)]
            client.send(*[request(b"E", argument) for argument in arguments])
            assert [await client.reply() for _ in arguments] == arguments
            assert channel.connection.output_bytes == 0

    run(scenario)


@pytest.mark.parametrize("refuses", [False, True], ids=["sendfile", "no sendfile"])
@pytest.mark.parametrize("size", [1, SENDFILE_BYTES_MIN - 1, SENDFILE_BYTES_MIN, 2_900_000])
def test_file_bytes_arrive_between_their_head_and_tail(
    run: Callable[[Scenario], None], data_file: Path, size: int, refuses: bool
) -> None:
    async def scenario() -> None:
        async with serving() as (server, toy, connect):
            toy.files = [Range(data_file, 77_777, size, refuses)]
            client = await connect(receive_bytes=64 << 10)
            client.send(request(b"F", b"0"), request(b"E", b"next"), request(b"F", b"0"))
            expected = b"head" + data_file.read_bytes()[77_777 : 77_777 + size] + b"tail"
            assert await client.reply() == expected
            assert await client.reply() == b"next"
            assert await client.reply() == expected
            assert server.bytes_out_total == 2 * (4 + len(expected)) + 8

    run(scenario)


def test_a_file_shorter_than_its_reply_ends_the_connection(run: Callable[[Scenario], None], data_file: Path) -> None:
    async def scenario() -> None:
        async with serving() as (server, toy, connect):
            toy.files = [Range(data_file, 0, 2_000_000)]
            os.truncate(data_file, 500_000)
            client = await connect()
            client.send(request(b"F", b"0"))
            with pytest.raises(asyncio.IncompleteReadError):
                await client.reply()
            await until(lambda: server.connections_open == 0)

    run(scenario)


def test_big_requests_and_replies(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving() as (_, _, connect):
            client = await connect()
            arguments = [random.Random(n).randbytes(n * 333_333 + 5) for n in (1, 9, 3, 3, 3)]
            client.send(*[request(b"E", argument) for argument in arguments])
            for argument in arguments:
                assert await client.reply() == argument

    run(scenario)


def test_a_slow_reader_bounds_its_own_memory_and_disturbs_nobody(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving(output_bytes_max=1 << 20) as (server, toy, connect):
            slow = await connect(receive_bytes=16 << 10)
            slow.send(*[request(b"B", b"100000")] * 400)
            # The kernel's send buffer fills first, then our bound, then nothing more is taken from the peer.
            await until(lambda: any(not each.connection.wants_read for each in server.channels))
            taken = server.requests_total
            channel = only_channel(server)
            assert channel.connection.output_bytes < (1 << 20) + 100_004
            slow.send(*[request(b"B", b"100000")] * 20)  # these stay in the kernel
            other = await connect()
            for n in range(50):
                other.send(request(b"E", b"%d" % n))
                assert await other.reply() == b"%d" % n
            assert server.requests_total == taken + 50, "the slow one is not read meanwhile"
            assert channel.connection.output_bytes < (1 << 20) + 100_004
            for _ in range(420):
                assert await slow.reply() == b"b" * 100_000
            assert channel.connection.output_bytes == 0
            assert len(toy.sessions) == 2

    run(scenario)


def test_more_requests_than_may_be_owed_are_taken_as_replies_leave(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving(in_flight_max=10) as (_, toy, connect):
            client = await connect()
            client.send(*[request(b"O", b"%d" % n) for n in range(95)])
            settled = 0
            while settled < 95:
                due = min(10, 95 - settled)
                await until(lambda: len(toy.owed) == due)  # noqa: B023 - waited for within the iteration
                await asyncio.sleep(0)
                assert len(toy.owed) == due
                batch, toy.owed = toy.owed, []
                for slot, argument in batch:
                    slot.fill([argument])
                settled += due
            assert [await client.reply() for _ in range(95)] == [b"%d" % n for n in range(95)]

    run(scenario)


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", struct.pack(">i", -1), bytes(4), struct.pack(">i", FRAME_BYTES_MAX + 1), request(b"M")],
)
def test_garbage_ends_only_its_own_connection(run: Callable[[Scenario], None], garbage: bytes) -> None:
    async def scenario() -> None:
        async with serving() as (server, _, connect):
            bad, good = await connect(), await connect()
            bad.send(request(b"E", b"fine"), garbage)
            assert await bad.reply() == b"fine"
            assert await bad.ended()
            good.send(request(b"E", b"still here"))
            assert await good.reply() == b"still here"
            assert (server.frames_refused, server.connections_open) == (1, 1)

    run(scenario)


def test_a_bug_in_a_handler_ends_only_its_own_connection(
    run: Callable[[Scenario], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving() as (server, toy, connect):
            bad, good = await connect(), await connect()
            bad.send(request(b"S", b"staged before"), request(b"!"), request(b"E", b"never"))
            assert await bad.reply() == b"staged before"
            assert await bad.ended()
            good.send(request(b"E", b"still here"))
            assert await good.reply() == b"still here"
            assert server.frames_refused == 0
            assert len(toy.sessions) == 2

    with caplog.at_level(logging.ERROR):
        run(scenario)
    assert "toy bug" in caplog.text
    assert "Traceback" in caplog.text


def test_a_reset_in_the_middle_of_a_request_is_survived(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving() as (server, toy, connect):
            client = await connect()
            client.send(request(b"O", b"never read"), request(b"E", bytes(300_000))[:200_000])
            await until(lambda: server.bytes_in_total > 200_000)
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()
            await until(lambda: server.connections_open == 0)
            toy.owed[0][0].fill([b"too late"])
            await asyncio.sleep(0)

    run(scenario)


def test_a_peer_that_only_stopped_sending_gets_what_it_is_owed(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving() as (server, toy, connect):
            client = await connect()
            client.send(request(b"O", b"owed"))
            client.writer.write_eof()
            await until(lambda: not only_channel(server)._reading and len(toy.owed) == 1)
            assert server.connections_open == 1
            slot, argument = toy.owed[0]
            slot.fill([argument])
            assert await client.reply() == b"owed"
            assert await client.ended()

    run(scenario)


def test_a_handler_may_end_the_connection_after_its_reply(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving() as (server, _, connect):
            client = await connect()
            client.send(request(b"X", b"goodbye"), *[request(b"E", b"never")] * 5)
            assert await client.reply() == b"goodbye"
            assert await client.ended()
            assert server.requests_total == 1

    run(scenario)


def test_closing_sends_what_is_owed(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving() as (server, toy, connect):
            busy, idle = await connect(receive_bytes=16 << 10), await connect()
            owed = b"owed" * 100_000  # more than is on its way at once: a reset would lose the rest
            busy.send(request(b"O", owed))
            idle.send(request(b"E", b""))
            await idle.reply()
            await until(lambda: len(toy.owed) == 1)
            closing = asyncio.ensure_future(server.close(10_000))
            assert await idle.ended()
            busy.send(request(b"E", b"not taken any more"))
            await busy.writer.drain()
            assert not closing.done()
            slot, argument = toy.owed[0]
            slot.fill([argument])
            await until(lambda: only_channel(server).connection.output_bytes == 0)
            assert await busy.reply() == owed
            assert await busy.ended()
            busy.writer.close()
            await closing
            with pytest.raises(ConnectionRefusedError):
                await connect()

    run(scenario)


def test_closing_gives_up_at_its_deadline(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving() as (server, toy, connect):
            client = await connect()
            client.send(request(b"O", b"never settled"))
            await until(lambda: len(toy.owed) == 1)
            await server.close(20)
            assert server.connections_open == 0
            assert await client.ended()

    run(scenario)


class HandClock:
    def __init__(self) -> None:
        self.time_ms = 1000

    def now_ms(self) -> int:
        return self.time_ms

    monotonic_ms = now_ms


def test_idle_and_stalled_connections_are_swept(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        clock = HandClock()
        async with serving(clock=clock, idle_ms_max=60_000, stall_ms_max=90_000) as (server, toy, connect):
            idle, waiting, stalled = await connect(), await connect(), await connect(receive_bytes=16 << 10)
            idle.send(request(b"E"))
            await idle.reply()
            waiting.send(request(b"O", b"long poll"))
            stalled.writer.transport.pause_reading()
            stalled.send(*[request(b"B", b"4000000")] * 3)
            await until(lambda: len(toy.owed) == 1 and any(each._unsent for each in server.channels))
            server.sweep()
            clock.time_ms += 59_999
            server.sweep()
            assert server.connections_open == 3
            clock.time_ms += 1
            server.sweep()
            assert await idle.ended()
            assert server.connections_open == 2
            clock.time_ms += 30_000
            server.sweep()
            assert server.connections_open == 1
            clock.time_ms += 10**9
            server.sweep()
            slot, argument = toy.owed[0]
            slot.fill([argument])
            assert await waiting.reply() == b"long poll"

    run(scenario)


def test_a_negative_idle_limit_is_none(run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        clock = HandClock()
        async with serving(clock=clock, idle_ms_max=-1, stall_ms_max=60_000) as (server, _, connect):
            sweeps: list[None] = []
            monkeypatch.setattr(server, "sweep", lambda: sweeps.append(None))
            client = await connect()
            client.send(request(b"E"))
            await client.reply()
            await asyncio.sleep(0.05)
            assert not sweeps, "the sweep spins"
            monkeypatch.undo()
            server.sweep()
            clock.time_ms += 10**9
            server.sweep()
            assert server.connections_open == 1

    run(scenario)


def test_the_sweep_runs_by_itself(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving(idle_ms_max=20) as (server, _, connect):
            client = await connect()
            assert await client.ended()
            assert server.connections_open == 0

    run(scenario)


def test_connections_above_the_bound_are_refused(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving(connections_max=2) as (server, _, connect):
            first, second, third = await connect(), await connect(), await connect()
            assert await third.ended()
            assert (server.connections_refused, server.connections_open) == (1, 2)
            first.writer.close()
            await until(lambda: server.connections_open == 1)
            fourth = await connect()
            for client in (second, fourth):
                client.send(request(b"E", b"in"))
                assert await client.reply() == b"in"

    run(scenario)


def test_accepting_pauses_while_file_handles_are_out(
    run: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Exhausted:
        """A listener whose first accept finds the process out of file handles."""

        def __init__(self, sock: socket.socket) -> None:
            self.fileno, self.close, self._accept, self.asked = sock.fileno, sock.close, sock.accept, 0

        def accept(self):
            self.asked += 1
            if self.asked == 1:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return self._accept()

    async def scenario() -> None:
        monkeypatch.setattr("api.kafka.server.ACCEPT_PAUSE_S", 0.01)
        async with serving() as (server, _, connect):
            ((sock, address),) = server._listeners.items()
            exhausted = Exhausted(sock)
            server._listeners = {exhausted: address}
            server.loop.remove_reader(sock.fileno())
            server.loop.add_reader(sock.fileno(), server._accept, exhausted)
            client = await connect()
            client.send(request(b"E", b"in the end"))
            assert await client.reply() == b"in the end"
            assert exhausted.asked >= 2

    run(scenario)
    assert "cannot accept" in caplog.text


def test_two_listeners_and_a_taken_address(run: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        async with serving() as (server, _, connect):
            host, port = await server.start(HOST, 0)
            with pytest.raises(InvalidConfig, match=f"{host}:{port}"):
                await server.start(host, port)
            reader, writer = await asyncio.open_connection(host, port)
            client, other = Client(reader, writer), await connect()
            for each in (client, other):
                each.send(request(b"E", b"both"))
                assert await each.reply() == b"both"
            writer.close()

    run(scenario)

"""The door on a real socket: limits of connections, streams, clients that vanish, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from api.kafka.server import bind
from logstore.errors import InvalidConfig

JSON = "application/vnd.kafka.json.v2+json"
PRODUCE = b'{"records":[{"value":1}]}'


def post(body: bytes, *headers: str, path: str = "/topics/t", length: int | None = None) -> bytes:
    head = [f"POST {path} HTTP/1.1", "host: door", f"content-type: {JSON}", *headers]
    if length != -1:
        head.append(f"content-length: {len(body) if length is None else length}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Raw:
    """One TCP connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0].split()[1]), headers, body

    async def closed(self) -> bool:
        """Whether the server closes, after at most some last bytes."""
        try:
            while await asyncio.wait_for(self.reader.read(65536), 5):
                pass
        except ConnectionResetError:
            pass
        return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


Dial = Callable[[tuple[str, int]], Awaitable[Raw]]


@pytest.fixture
async def dial(house) -> AsyncIterator[Dial]:
    """Opens connections and closes them at the end, before the house."""
    opened: list[Raw] = []

    async def connect(address: tuple[str, int]) -> Raw:
        opened.append(Raw(*await asyncio.open_connection(*address)))
        return opened[-1]

    yield connect
    for raw in opened:
        await raw.close()


async def test_requests_over_one_kept_connection_even_pipelined(house, dial: Dial) -> None:
    address = await house.serve()
    raw = await dial(address)
    await raw.send(post(PRODUCE) * 5 + b"GET /topics HTTP/1.1\r\nhost: door\r\n\r\n")
    for n in range(5):
        status, headers, body = await raw.answer()
        assert (status, json.loads(body)["offsets"][0]["offset"]) == (200, n)
        assert "server" not in headers
    assert (await raw.answer())[2] == b'["t"]'
    for byte in post(PRODUCE):
        await raw.send(bytes([byte]))
    assert json.loads((await raw.answer())[2])["offsets"][0]["offset"] == 5


async def test_a_hundred_megabytes_are_refused_before_they_come(house, dial: Dial) -> None:
    raw = await dial(await house.serve())
    await raw.send(post(b"", "expect: 100-continue", length=100 << 20))
    status, _, body = await raw.answer()  # and no 100 before it
    assert (status, json.loads(body)["error_code"]) == (413, 41301)


async def test_a_refused_body_that_comes_anyway_is_thrown_away(house, dial: Dial) -> None:
    raw = await dial(await house.serve())
    await raw.send(post(b"x" * (5 << 20)) + post(PRODUCE))
    assert (await raw.answer())[0] == 413
    assert (await raw.answer())[0] == 200


async def test_an_endless_chunked_body_is_cut(house, dial: Dial) -> None:
    raw = await dial(await house.serve())
    await raw.send(post(b"", "transfer-encoding: chunked", length=-1))
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    sent = 0
    try:
        while sent < 100 << 20:
            await raw.send(piece)
            sent += len(piece)
    except ConnectionError:
        pass
    assert sent < 50 << 20
    assert await raw.closed()


async def test_expect_100_continue_is_kept(house, dial: Dial) -> None:
    raw = await dial(await house.serve())
    await raw.send(post(b"", "expect: 100-continue", length=len(PRODUCE)))
    assert await asyncio.wait_for(raw.reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
    await raw.send(PRODUCE)
    assert (await raw.answer())[0] == 200


async def test_a_head_that_never_ends_is_cut_by_size_and_by_time(house, dial: Dial) -> None:
    address = await house.serve(head_bytes_max=10_000, head_wait_s=0.2)
    raw = await dial(address)
    await raw.send(b"GET / HTTP/1.1\r\nx: ")
    assert (await asyncio.wait_for(_feed_until_closed(raw, b"y" * 1000), 5)) < 1_000_000
    slow, silent = await dial(address), await dial(address)
    await slow.send(b"GET / HTTP/1.1\r\nho")
    assert await slow.closed()
    assert await silent.closed()


async def test_a_long_head_is_told_431(house, dial: Dial) -> None:
    address = await house.serve(head_bytes_max=10_000)
    raw, other = await dial(address), await dial(address)
    await raw.send(b"GET / HTTP/1.1\r\nx: ")
    for _ in range(2):
        await other.send(b"GET /livez HTTP/1.1\r\nhost: door\r\n\r\n")
        assert (await other.answer())[0] == 200  # so the server has taken what came before
        await raw.send(b"y" * 6_000)
    assert (await raw.answer())[0] == 431


async def _feed_until_closed(raw: Raw, piece: bytes) -> int:
    sent = 0
    with contextlib.suppress(ConnectionError):
        while not raw.reader.at_eof():
            await raw.send(piece)
            sent += len(piece)
            await asyncio.sleep(0)
    return sent


async def test_a_long_body_and_the_next_head_in_one_piece_are_no_long_head(house, dial: Dial) -> None:
    raw = await dial(await house.serve(head_bytes_max=5_000))
    big = b'{"records":[{"value":"' + b"x" * 60_000 + b'"}]}'
    request = post(big)
    await raw.send(request[:-20_000])
    await raw.send(request[-20_000:] + post(PRODUCE)[:60])
    await asyncio.sleep(0)
    assert (await raw.answer())[0] == 200
    await raw.send(post(PRODUCE)[60:])
    assert (await raw.answer())[0] == 200


@pytest.mark.parametrize(
    "data", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n"]
)
async def test_what_is_not_http_is_told_so(house, dial: Dial, data: bytes) -> None:
    raw = await dial(await house.serve())
    await raw.send(data)
    assert (await raw.answer())[0] == 400
    assert await raw.closed()


async def test_more_connections_than_allowed_are_told_503(house, dial: Dial) -> None:
    address = await house.serve(connections_max=2)
    first, second = await dial(address), await dial(address)
    await first.send(post(PRODUCE))
    await second.send(post(PRODUCE))
    statuses = {(await first.answer())[0], (await second.answer())[0]}
    assert 503 in statuses


async def test_an_event_stream_over_http_and_what_a_vanished_reader_leaves(house) -> None:
    address = await house.serve()
    await house.produce("t", [{"value": n} for n in range(3)])
    async with httpx.AsyncClient(base_url="http://{}:{}".format(*address)) as client:
        async with client.stream("GET", "/v1/topics/t/tail?offset=0&partition=0&format=json") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            seen = []
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    seen.append(json.loads(line[6:])["value"])
                    if seen == [0, 1, 2]:
                        await house.produce("t", [{"value": 3}])
                if len(seen) == 4:
                    break
        assert seen == [0, 1, 2, 3]
    while house.app.door.counters.tails_open:  # the closed socket ends it
        await asyncio.sleep(0.001)
    assert house.node._logs.fetches_parked == 0


async def test_a_reader_who_hangs_up_while_polling_leaves_nothing(house, dial: Dial) -> None:
    await house.node.create_topic("t", 1)
    raw = await dial(await house.serve())
    await raw.send(b"GET /topics/t/partitions/0/records?timeout=60000 HTTP/1.1\r\nhost: door\r\n\r\n")
    while not house.node._logs.fetches_parked:
        await asyncio.sleep(0.001)
    await raw.close()
    while house.node._logs.fetches_parked:
        await asyncio.sleep(0.001)
    assert house.lifecycle.clients_waiting == 0


async def test_stopping_answers_pollers_ends_streams_and_closes_the_rest(house, dial: Dial) -> None:
    await house.node.create_topic("t", 1)
    address = await house.serve()
    poller, tail, idle, stuck = [await dial(address) for _ in range(4)]
    await poller.send(b"GET /topics/t/partitions/0/records?timeout=60000 HTTP/1.1\r\nhost: door\r\n\r\n")
    await tail.send(b"GET /v1/topics/t/tail HTTP/1.1\r\nhost: door\r\n\r\n")
    await stuck.send(b"POST /topics/t HTTP/1.1\r\nhost: door\r\ncontent-length: 100\r\ncontent-type: " + JSON.encode())
    while house.lifecycle.clients_waiting < 2:
        await asyncio.sleep(0.001)
    started = house.clock.monotonic_ms()
    await house.servers.pop().stop(5_000)
    assert house.clock.monotonic_ms() - started < 2_000
    status, headers, body = await poller.answer()
    assert (status, body, headers["connection"]) == (200, b"[]", "close")
    assert b"text/event-stream" in await asyncio.wait_for(tail.reader.read(), 5)
    for each in (poller, idle, stuck):
        assert await each.closed()
    assert house.lifecycle.phase == "draining"
    with pytest.raises(OSError, match=r".*"):
        await asyncio.open_connection(*address)


async def test_stopping_does_not_wait_for_a_reader_that_never_reads(house, dial: Dial) -> None:
    await house.node.create_topic("t", 1)
    for _ in range(20):
        await house.append("t", 0, [(0, None, b"x" * 900_000, ())])
    raw = await dial(await house.serve())
    await raw.send(b"GET /v1/topics/t/tail?offset=earliest HTTP/1.1\r\nhost: door\r\n\r\n")
    while not house.app.door.counters.tails_open:
        await asyncio.sleep(0.001)
    raw.writer.transport.pause_reading()
    server = house.servers.pop()
    (connection,) = server._server.server_state.connections
    while not connection.flow.write_paused:
        await asyncio.sleep(0.001)
    started = house.clock.monotonic_ms()
    await server.stop(100)
    assert house.clock.monotonic_ms() - started < 2_000
    assert not server._server.server_state.connections
    assert house.app.door.counters.tails_open == 0


async def test_a_taken_port_is_told_at_once(house) -> None:
    _, port = await house.serve()
    with pytest.raises(InvalidConfig, match=str(port)):
        await bind(asyncio.get_running_loop(), "127.0.0.1", port)

"""What does producing over HTTP cost beside a bare parse of the same bodies? Two servers, one raw client, in turns.

    python -m bench.http [--seconds 2] [--rounds 3] [--connections 32] [--acks 1]

`bare` is an ASGI function in uvicorn that decodes the body with the same types and answers an offset for each record;
`door` is a whole broker that also encodes the batch and writes it. Prints requests/s, records/s and the ratio of the
two, each the best of its rounds, for 1, 100 and 1000 records of about 100 bytes per request.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import msgspec
import uvloop

RECORDS = (1, 100, 1000)
Address = tuple[str, int]


def serve(pipe: Pipe, kind: str, directory: str) -> None:
    """One server in a process of its own until the pipe says stop."""

    async def main() -> None:
        start, stop = (_bare if kind == "bare" else _broker)(directory)
        pipe.send(await start())
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        await stop()

    uvloop.run(main())


def _broker(directory: str):
    from api.broker import Broker
    from cluster.config import BrokerConfig, ServeSettings

    free = ("127.0.0.1", 0)
    broker = Broker(ServeSettings(Path(directory), free, free, None, BrokerConfig()))

    async def start() -> Address | None:
        return (await broker.start()).http

    return start, broker.stop


def _bare(_: str):
    from api.http.asgi import read_body, respond
    from api.http.formats import Format, parse_body
    from api.http.lifecycle import Lifecycle
    from api.http.produce import OutOffset, ProduceAnswer
    from api.http.server import HttpServer
    from api.kafka.server import bind

    async def app(scope, receive, send) -> None:
        records = parse_body(await read_body(scope, receive, bytes_max=16 << 20, wait_s=60), Format.JSON)
        answer = ProduceAnswer([OutOffset(0, n) for n in range(len(records))])
        await respond(send, 200, msgspec.json.encode(answer))

    server: list[HttpServer] = []

    async def start() -> Address:
        server.append(HttpServer(app, await bind(asyncio.get_running_loop(), "127.0.0.1", 0), Lifecycle()))
        return await server[0].start()

    return start, lambda: server[0].stop(100)


class Client(asyncio.Protocol):
    """One connection that posts the same request again as soon as the last is answered."""

    def __init__(self, request: bytes, answered: Callable[[float], None]) -> None:
        self._request = request
        self._answered = answered
        self._buffer = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._post()

    def _post(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined]  # a stream's transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        assert self._buffer.startswith(b"HTTP/1.1 200"), self._buffer[:500]
        at = self._buffer.index(b"content-length: ") + 16
        if len(self._buffer) < end + 4 + int(self._buffer[at : self._buffer.index(b"\r", at)]):
            return
        self._buffer = b""
        self._answered(time.perf_counter() - self._sent_at)
        self._post()


async def load(address: Address, request: bytes, connections: int, seconds: float) -> tuple[float, float]:
    """(answers per second, 99th percentile in ms) of closed-loop clients."""
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(lambda: Client(request, waits.append), *address) for _ in range(connections)]
    await asyncio.sleep(seconds / 5)  # warm
    waits.clear()
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    rate = len(waits) / (time.perf_counter() - began)
    for transport, _ in opened:
        transport.abort()
    await asyncio.sleep(0.05)
    return rate, sorted(waits)[int(len(waits) * 0.99)] * 1000 if waits else 0.0


def request_bytes(records: int, acks: str) -> bytes:
    value = {"user": 123456, "name": "somebody", "total": 12.5, "items": ["a", "b", "c"], "note": "x" * 40}
    body = msgspec.json.encode({"records": [{"value": value}] * records})
    head = f"POST /topics/bench?acks={acks} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--acks", default="1", choices=["0", "1", "all"])
    args = parser.parse_args()
    context = get_context("spawn")
    servers = {}
    with tempfile.TemporaryDirectory() as directory:
        for kind in ("bare", "door"):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(there, kind, directory))
            process.start()
            servers[kind] = (here.recv(), here, process)
        print(f"{'records':>8}{'bare req/s':>12}{'door req/s':>12}{'door rec/s':>12}{'ratio':>8}{'p99 ms':>8}")
        for records in RECORDS:
            best = {"bare": (0.0, 0.0), "door": (0.0, 0.0)}
            for _ in range(args.rounds):
                for kind, (address, _, _) in servers.items():
                    load_ = load(address, request_bytes(records, args.acks), args.connections, args.seconds)
                    best[kind] = max(best[kind], uvloop.run(load_))
            (bare, _), (door, p99) = best["bare"], best["door"]
            print(f"{records:>8}{bare:>12.0f}{door:>12.0f}{door * records:>12.0f}{door / bare:>8.2f}{p99:>8.1f}")
        for _, pipe, process in servers.values():
            pipe.send(None)
            process.join()


if __name__ == "__main__":
    main()

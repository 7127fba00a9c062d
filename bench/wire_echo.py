"""How much does the Kafka wire shell cost per request? An echo server in a process of its own, a raw client here.

    python -m bench.wire_echo [--loop uvloop|asyncio] [--size BYTES] [--depth 32] [--seconds 2]

Prints requests/s, MB/s in one direction, and server CPU per request. `--reply` bounds the echoed bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import struct
import threading
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe

from api.kafka.connection import Session
from api.kafka.server import KafkaServer


def serve(pipe: Pipe, loop_name: str, reply_bytes: int) -> None:
    async def main() -> None:
        def dispatch(session: Session, frame: memoryview) -> None:
            session.open_slot().fill([bytes(frame[:reply_bytes])])

        loop = asyncio.get_running_loop()
        server = KafkaServer(loop, dispatch)
        pipe.send(await server.start("127.0.0.1", 0))
        before = os.times()
        await loop.run_in_executor(None, pipe.recv)
        after = os.times()
        pipe.send((server.requests_total, after.user + after.system - before.user - before.system))
        await server.close(100)

    if loop_name == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", default="uvloop")
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--reply", type=int, default=60)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there, args.loop, args.reply))
    process.start()
    address = here.recv()
    burst = (struct.pack(">i", args.size) + bytes(args.size)) * args.depth
    reply_bytes = 4 + min(args.reply, args.size)
    stop = time.perf_counter() + args.seconds
    done = 0
    window = threading.Semaphore(2)  # two bursts on their way: the server never waits for this client's turn
    with socket.create_connection(address) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def receive() -> None:
            nonlocal done
            buffer, got = bytearray(1 << 20), 0
            while n := sock.recv_into(buffer):
                got += n
                while got >= reply_bytes * args.depth:
                    got -= reply_bytes * args.depth
                    done += args.depth
                    window.release()

        reader = threading.Thread(target=receive)
        reader.start()
        started = time.perf_counter()
        while time.perf_counter() < stop:
            window.acquire()
            sock.sendall(burst)
        for _ in range(2):
            window.acquire()
        elapsed = time.perf_counter() - started
        sock.shutdown(socket.SHUT_RDWR)
        reader.join()
    here.send("stop")
    requests, cpu_s = here.recv()
    process.join()
    print(
        f"{args.loop} {args.size} B x {args.depth}: {requests / elapsed:,.0f} req/s, "
        f"{requests * args.size / elapsed / 1e6:,.0f} MB/s, {cpu_s / requests * 1e6:.2f} us server CPU per request"
    )


if __name__ == "__main__":
    main()

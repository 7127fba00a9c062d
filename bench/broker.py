"""How fast is the broker, what does it cost, how soon is it there? Against the machine's own limits, in one run.

    python -m bench.broker [--seconds 2] [--only produce,fetch,latency,start]

A raw client sends prebuilt, valid Produce v7 and Fetch v11 requests, pipelined over 4 partitions, so that the broker
and not a client library is the limit. Beside it, in the same run: plain loopback TCP, a TCP ping-pong, write and
fdatasync of a file. Quote the ratios and the CPU seconds per GB; absolute figures depend on the machine. MB = 10^6.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from api.kafka import codec
from api.kafka.messages.create_topics import CreatableTopic, CreatableTopicConfig, CreateTopicsRequest
from api.kafka.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from api.kafka.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from api.kafka.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from logstore.record.records import encode_batch

PARTITIONS = 4
TICKS = os.sysconf("SC_CLK_TCK")
PRODUCE, FETCH, LIST_OFFSETS, CREATE_TOPICS = 0, 1, 2, 19


class Server:
    """`logstore serve` in a process of its own."""

    def __init__(self, directory: str, *options: str) -> None:
        began = time.perf_counter()
        command = [sys.executable, "-m", "tools", "serve", "--data-dir", directory, "--kafka", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, "--http", "127.0.0.1:0", *options], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.start_s = time.perf_counter() - began
        host, port = line.split("kafka ")[1].split(",")[0].rsplit(":", 1)
        self.address = (host, int(port))

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def rss_mb(self) -> dict[str, float]:
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return {name: int(line.split()[1]) / 1000 for line in status if (name := line.split(":")[0]).startswith("Rss")}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


class Client:
    """One connection; frames in, frames out, no library."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(4 << 20)

    def call(self, api_key: int, version: int, message: msgspec.Struct) -> object:
        self.sock.sendall(frame(api_key, version, message))
        reply = self.read_frame()
        _, position = codec.read_response_header(api_key, version, reply)
        return codec.read_response(api_key, version, reply, position)

    def read_frame(self) -> memoryview:
        (size,) = struct.unpack(">i", self._exactly(4))
        return self._exactly(size)

    def _exactly(self, size: int) -> memoryview:
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        got = 0
        while got < size:
            got += self.sock.recv_into(view[got:])
        return view

    def discard(self, size: int) -> None:
        """Receive `size` bytes and look at none."""
        view = memoryview(self._buffer)
        while size:
            size -= self.sock.recv_into(view[: min(size, len(view))])


def frame(api_key: int, version: int, message: msgspec.Struct) -> bytes:
    body = codec.write_request_header(api_key, version, 7, "bench") + codec.write_request(api_key, version, message)
    return struct.pack(">i", len(body)) + body


def create_topic(client: Client, name: str) -> None:
    config = [CreatableTopicConfig("max.message.bytes", str(8 << 20))]
    topic = CreatableTopic(name, PARTITIONS, 1, [], config)
    client.call(CREATE_TOPICS, 4, CreateTopicsRequest([topic], 10_000, False))


def batch_of(size_bytes: int, record_bytes: int = 1000) -> bytes:
    count = max(1, size_bytes // record_bytes)
    now_ms = int(time.time() * 1000)
    return bytes(encode_batch([(now_ms, None, os.urandom(record_bytes - 10), ())] * count))


def produce_frame(topic: str, partition: int, batch: bytes, acks: int) -> bytes:
    part = PartitionProduceData(partition, memoryview(batch))
    return frame(PRODUCE, 7, ProduceRequest(None, acks, 10_000, [TopicProduceData(name=topic, partition_data=[part])]))


def pump(server: Server, requests: list[bytes], depth: int, seconds: float) -> tuple[float, float, int]:
    """Send `requests` round robin, `depth` unanswered at most. Returns seconds, broker CPU seconds, requests.

    One thread and few calls, so that the broker is the limit: requests are of one size and so are their answers, which
    are therefore counted by their bytes; as many requests as were answered go out as one slice.
    """
    client = Client(server.address)
    size = len(requests[0])
    ring = memoryview(b"".join(requests) * (depth // len(requests) + 1))
    client.sock.sendall(requests[0])
    answer_bytes = 4 + len(client.read_frame())
    sink = bytearray(depth * answer_bytes)
    cpu, began = server.cpu_s(), time.perf_counter()
    client.sock.sendall(ring[: depth * size])
    sent, got = depth, 0
    while time.perf_counter() - began < seconds:
        got += client.sock.recv_into(sink)
        count, at = got // answer_bytes + depth - sent, sent % len(requests)
        client.sock.sendall(ring[at * size : (at + count) * size])
        sent += count
    client.discard(sent * answer_bytes - got)
    took = time.perf_counter() - began
    return took, server.cpu_s() - cpu, sent


def loopback_mb_s(chunk_bytes: int, seconds: float) -> float:
    """Plain TCP on loopback, one thread each way in two processes."""
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        peer, _ = listener.accept()
        sink = bytearray(1 << 20)
        while peer.recv_into(sink):
            pass
        os._exit(0)
    source = socket.create_connection(listener.getsockname())
    payload = bytes(chunk_bytes)
    began, sent = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        source.sendall(payload)
        sent += chunk_bytes
    took = time.perf_counter() - began
    source.close()
    os.waitpid(child, 0)
    return sent / took / 1e6


def write_mb_s(directory: str, chunk_bytes: int, seconds: float) -> float:
    """write() to a growing file, as the active segment is written: in pieces of 64 KiB."""
    path = Path(directory) / "plain"
    payload = bytes(min(chunk_bytes, 64 << 10))
    with path.open("wb", buffering=0) as file:
        began, written = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            written += file.write(payload)
        took = time.perf_counter() - began
    path.unlink()
    return written / took / 1e6


def bench_produce(server: Server, directory: str, seconds: float) -> None:
    print("\nproduce, 4 partitions, 1 connection                  MB/s   of TCP  of write()  CPU s/GB   us/request")
    client = Client(server.address)
    for size, depth in ((16 << 10, 32), (64 << 10, 16), (1 << 20, 4)):
        for acks in (1, -1):
            topic = f"in-{size}-{acks}"
            create_topic(client, topic)
            batch = batch_of(size)
            requests = [produce_frame(topic, each, batch, acks) for each in range(PARTITIONS)]
            tcp = loopback_mb_s(size, seconds / 2)
            plain = write_mb_s(directory, size, seconds / 2)
            took, cpu, count = pump(server, requests, depth, seconds)
            mb = count * len(batch) / 1e6
            label = f"  {size >> 10:5} KiB batches, acks={acks:2}, {depth} in flight"
            print(
                f"{label:48} {mb / took:9.0f} {mb / took / tcp:8.2f} {mb / took / plain:10.2f}"
                f" {cpu / mb * 1000:9.2f} {cpu / count * 1e6:12.1f}"
            )
    batch = batch_of(100, 100)
    create_topic(client, "one")
    requests = [produce_frame("one", each, batch, 1) for each in range(PARTITIONS)]
    took, cpu, count = pump(server, requests, 32, seconds)
    print(
        f"  one 100 B record a request, 32 in flight: {count / took:,.0f} requests/s, {cpu / count * 1e6:.1f} us each"
    )
    requests = [produce_frame("one", each, batch, -1) for each in range(PARTITIONS)]
    took, cpu, count = pump(server, requests, 32, seconds)
    print(
        f"  the same, acks=all (fsynced):             {count / took:,.0f} requests/s, {cpu / count * 1e6:.1f} us each"
    )


def bench_fetch(server: Server, seconds: float) -> None:
    print("\nfetch from the page cache, 1 connection              MB/s   of TCP                         CPU s/GB")
    client = Client(server.address)
    for size in (16 << 10, 64 << 10, 1 << 20):
        topic = f"in-{size}-1"
        tcp = loopback_mb_s(1 << 20, seconds / 2)
        asked = ListOffsetsTopic(topic, [ListOffsetsPartition(0, -1, -1)])
        found = client.call(LIST_OFFSETS, 4, ListOffsetsRequest(-1, 0, [asked], 0))
        end = found.topics[0].partitions[0].offset  # type: ignore[attr-defined]  # a ListOffsetsResponse
        records = max(1, (1 << 20) // 1000)
        request = {}
        for offset in range(0, end, records):
            part = FetchPartition(partition=0, fetch_offset=offset, partition_max_bytes=1 << 20)
            ask = FetchRequest(
                max_wait_ms=100, min_bytes=1, max_bytes=1 << 20, topics=[FetchTopic(topic=topic, partitions=[part])]
            )
            request[offset] = frame(FETCH, 11, ask)
        offsets = sorted(request)
        cpu, began, got, at = server.cpu_s(), time.perf_counter(), 0, 0
        while time.perf_counter() - began < seconds:
            client.sock.sendall(request[offsets[at % len(offsets)]])
            at += 1
            (answer,) = struct.unpack(">i", client._exactly(4))
            client.discard(answer)
            got += answer
        took, mb = time.perf_counter() - began, got / 1e6
        cpu = server.cpu_s() - cpu
        label = f"  {size >> 10:5} KiB batches, 1 MiB a request"
        print(f"{label:48} {mb / took:9.0f} {mb / took / tcp:8.2f} {cpu / mb * 1000:32.2f}")


def percentiles(call: Callable[[], None], count: int) -> tuple[float, float]:
    took = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        took.append((time.perf_counter() - began) * 1e6)
    cuts = statistics.quantiles(took, n=100)
    return cuts[49], cuts[98]


def ping_pong(count: int) -> tuple[float, float]:
    listener = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        peer, _ = listener.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := peer.recv(4096):
            peer.sendall(data[:60])
        os._exit(0)
    client = Client(listener.getsockname())
    ping = bytes(200)

    def once() -> None:
        client.sock.sendall(ping)
        client.discard(60)

    result = percentiles(once, count)
    client.sock.close()
    os.waitpid(child, 0)
    return result


def fdatasync(directory: str, count: int) -> tuple[float, float]:
    path = Path(directory) / "synced"
    with path.open("wb", buffering=0) as file:

        def once() -> None:
            file.write(bytes(200))
            os.fdatasync(file.fileno())

        result = percentiles(once, count)
    path.unlink()
    return result


def bench_latency(server: Server, directory: str) -> None:
    client = Client(server.address)
    create_topic(client, "latency")
    batch = batch_of(100, 100)
    print("\none 100 B record in flight                        p50 us    p99 us")
    for label, measure in (
        ("TCP ping-pong", lambda: ping_pong(3000)),
        ("write and fdatasync", lambda: fdatasync(directory, 1000)),
        ("produce acks=1", lambda: percentiles(_round_trip(client, produce_frame("latency", 0, batch, 1)), 3000)),
        ("produce acks=all", lambda: percentiles(_round_trip(client, produce_frame("latency", 0, batch, -1)), 1000)),
    ):
        p50, p99 = measure()
        print(f"  {label:44} {p50:9.0f} {p99:9.0f}")


def _round_trip(client: Client, request: bytes) -> Callable[[], None]:
    def once() -> None:
        client.sock.sendall(request)
        client.read_frame()

    return once


def bench_start() -> None:
    print("\nstart on an empty directory, from process start to both doors answering, and resident memory")
    starts = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as directory:
            server = Server(directory)
            starts.append(server.start_s * 1000)
            memory = server.rss_mb()
            server.stop()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    bare = (time.perf_counter() - began) * 1000
    print(
        f"  median {statistics.median(starts):.0f} ms of {[round(each) for each in starts]}; bare python {bare:.0f} ms"
    )
    print(f"  memory {memory} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default="start,latency,produce,fetch")
    args = parser.parse_args()
    only = args.only.split(",")
    if "start" in only:
        bench_start()
    with tempfile.TemporaryDirectory() as directory:
        server = Server(f"{directory}/data")
        try:
            if "latency" in only:
                bench_latency(server, directory)
            if "produce" in only or "fetch" in only:
                bench_produce(server, directory, args.seconds)
            if "fetch" in only:
                bench_fetch(server, args.seconds)
            print(f"\nresident memory at the end: {server.rss_mb()} MB")
        finally:
            server.stop()


if __name__ == "__main__":
    main()

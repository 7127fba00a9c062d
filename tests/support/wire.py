"""Raw Kafka frames over a plain socket, right or wrong, for tests that must say more than a client library would."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from types import TracebackType

import msgspec

from api.kafka import codec
from api.kafka.messages.api_versions import ApiVersionsRequest
from api.kafka.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from api.kafka.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData

PRODUCE, FETCH, LIST_OFFSETS, METADATA, API_VERSIONS, CREATE_TOPICS = 0, 1, 2, 3, 18, 19
_SIZE = struct.Struct(">i")
_TIMEOUT_S = 10


class Wire:
    """One connection. `call` speaks properly; `send` and `receive` do not care."""

    def __init__(self, kafka: str, timeout_s: float = _TIMEOUT_S) -> None:
        host, port = kafka.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        self._correlation_id = 0

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Any bytes. A connection the server has closed already is no error."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def frame(self, data: bytes) -> None:
        """Bytes behind their right size."""
        self.send(_SIZE.pack(len(data)) + data)

    def request(self, api_key: int, version: int, body: bytes) -> int:
        """A request with a right header and any body; its correlation id."""
        self._correlation_id += 1
        self.frame(codec.write_request_header(api_key, version, self._correlation_id, "wire-test") + body)
        return self._correlation_id

    def call(self, api_key: int, version: int, message: msgspec.Struct) -> msgspec.Struct:
        """One request and its answer."""
        correlation_id = self.request(api_key, version, bytes(codec.write_request(api_key, version, message)))
        answer = memoryview(self.receive())
        got, position = codec.read_response_header(api_key, version, answer)
        assert got == correlation_id
        return codec.read_response(api_key, version, answer, position)

    def receive(self) -> bytes:
        """The next frame's bytes. Raises `ConnectionError` when the server closed the connection."""
        (size,) = _SIZE.unpack(self._exactly(4))
        return self._exactly(size)

    def is_closed_by_server(self) -> bool:
        """Waits until the server closes, dropping what it still says. False when nothing comes in time."""
        try:
            while self._socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        return True

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        with contextlib.suppress(OSError):  # the server was faster
            self._socket.shutdown(socket.SHUT_WR)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionError(f"the server closed after {len(data)} of {size} bytes")
            data += piece
        return bytes(data)


def produce_request(
    topic: str, batches: Sequence[tuple[int, bytes]], *, acks: int = -1, timeout_ms: int = 5000
) -> ProduceRequest:
    """One topic; (partition, records) each."""
    data = [PartitionProduceData(partition, records) for partition, records in batches]
    return ProduceRequest(None, acks, timeout_ms, [TopicProduceData(name=topic, partition_data=data)])


def fetch_request(
    topic: str,
    partition: int,
    offset: int,
    *,
    wait_ms: int = 0,
    bytes_min: int = 1,
    bytes_max: int = 1 << 20,
    partition_bytes_max: int = 1 << 20,
) -> FetchRequest:
    """One partition, outside any session."""
    ask = FetchPartition(partition=partition, fetch_offset=offset, partition_max_bytes=partition_bytes_max)
    return FetchRequest(
        max_wait_ms=wait_ms,
        min_bytes=bytes_min,
        max_bytes=bytes_max,
        session_epoch=-1,
        topics=[FetchTopic(topic=topic, partitions=[ask])],
    )


def api_versions_request() -> ApiVersionsRequest:
    return ApiVersionsRequest("wire-test", "1")

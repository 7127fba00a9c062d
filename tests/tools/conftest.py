"""A broker that answers what a test tells it to: our codec on a socket, no log behind it."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from api.kafka import codec
from api.kafka.messages import APIS
from api.kafka.messages.api_versions import ApiVersion, ApiVersionsResponse
from api.kafka.messages.find_coordinator import Coordinator, FindCoordinatorResponse
from api.kafka.messages.metadata import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)

Handler = Callable[[int, msgspec.Struct], msgspec.Struct | bytes]


class FakeBroker:
    """`handlers`: API key -> (version, request) -> response, or raw bytes that are sent as they are."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, msgspec.Struct]] = []
        self.topics: dict[str, int] = {}
        self.handlers: dict[int, Handler] = {3: self._metadata, 10: self._find_coordinator, 18: self._api_versions}
        self.versions = {key: (api.first, api.last) for key, api in APIS.items()}
        self.hangs_up_after: int | None = None
        """API key whose answer is the last thing sent."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.kafka = f"127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def last(self, api_key: int) -> msgspec.Struct:
        return [request for key, _, request in self.asked if key == api_key][-1]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            while len(head := stream.read(4)) == 4:
                frame = memoryview(stream.read(struct.unpack(">i", head)[0]))
                header = codec.read_request_header(frame)
                request = codec.read_request(header.api_key, header.api_version, frame, header.body_position)
                self.asked.append((header.api_key, header.api_version, request))
                answer = self.handlers[header.api_key](header.api_version, request)
                if not isinstance(answer, bytes):
                    body = codec.write_response(header.api_key, header.api_version, answer)
                    answer = codec.response_header(header.api_key, header.api_version, header.correlation_id) + body
                    answer = struct.pack(">i", len(answer)) + answer
                connection.sendall(answer)
                if header.api_key == self.hangs_up_after:
                    return

    def _api_versions(self, version: int, request: msgspec.Struct) -> msgspec.Struct:
        return ApiVersionsResponse(api_keys=[ApiVersion(key, *both) for key, both in self.versions.items()])

    def _find_coordinator(self, version: int, request: msgspec.Struct) -> msgspec.Struct:
        return FindCoordinatorResponse(
            coordinators=[Coordinator(key=request.key, node_id=1, host="127.0.0.1", port=self.port)]
        )

    def _metadata(self, version: int, request: msgspec.Struct) -> msgspec.Struct:
        names = list(self.topics) if request.topics is None else [topic.name for topic in request.topics]
        return MetadataResponse(
            brokers=[MetadataResponseBroker(1, "127.0.0.1", self.port)],
            controller_id=1,
            topics=[
                MetadataResponseTopic(
                    error_code=0 if name in self.topics else 3,
                    name=name,
                    partitions=[
                        MetadataResponsePartition(partition_index=i, leader_id=1, replica_nodes=[1], isr_nodes=[1])
                        for i in range(self.topics.get(name, 0))
                    ],
                )
                for name in names
            ],
        )


@pytest.fixture
def fake_broker() -> Iterator[FakeBroker]:
    broker = FakeBroker()
    yield broker
    broker.close()

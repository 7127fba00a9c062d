"""A small blocking client for the verbs that administer: one request at a time, over the broker's own codec.

Each connection learns the broker's versions first (ApiVersions) and sends the newest that both sides know. A request
goes to the bootstrap server unless its data is led by, or its group coordinated on, another node.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final, NamedTuple, TypeVar

import msgspec

from api.kafka import codec
from api.kafka.messages import APIS
from api.kafka.messages.api_versions import ApiVersionsRequest, ApiVersionsResponse
from api.kafka.messages.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse
from api.kafka.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from api.kafka.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse
from cluster.error_codes import ErrorCode
from logstore.errors import InvalidConfig, LogstoreError
from logstore.types import Offset, TimestampMs, TopicPartition
from tools.output import Failure
from tools.settings import parse_address

CLIENT_ID: Final = "logstore"
# Ours never answers with more; a stranger's bytes must not make this process allocate without bound.
ANSWER_BYTES_MAX: Final = 256 << 20

FIND_COORDINATOR: Final = 10
LIST_OFFSETS: Final = 2
METADATA: Final = 3

EARLIEST: Final = -2
LATEST: Final = -1

_SIZE: Final = struct.Struct(">i")
assert _SIZE.size == 4

R = TypeVar("R", bound=msgspec.Struct)


class Client:
    """One connection to one node, and those to other nodes that its answers made necessary. Close it, or use `with`."""

    def __init__(self, bootstrap: str, timeout_s: float = 15.0) -> None:
        """Connect to the first of the comma-separated addresses that answers. Raises `Failure`: what was tried."""
        self.bootstrap = bootstrap
        self._timeout_s = timeout_s
        self._others: dict[tuple[str, int], Client] = {}
        self._correlation_id = 0
        self._socket = self._connect()
        self._versions: dict[int, tuple[int, int]] = {}
        try:
            self._negotiate()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for other in self._others.values():
            other.close()
        self._socket.close()

    def call(self, api_key: int, request: msgspec.Struct, answer: type[R], version_max: int = 32767) -> R:
        """Send a request and wait for its answer. Raises `Failure`: no common version, no answer, or another one."""
        name = APIS[api_key].name
        theirs = self._versions.get(api_key)
        if theirs is None:
            raise Failure(f"{self.bootstrap} does not serve {name}", hint="is its version older than this command's?")
        version = min(theirs[1], APIS[api_key].last, version_max)
        if version < max(theirs[0], APIS[api_key].first):
            raise Failure(f"{self.bootstrap} serves {name} versions {theirs[0]} to {theirs[1]}, none known here")
        found = self._exchange(api_key, version, request)
        if not isinstance(found, answer):
            raise Failure(f"{self.bootstrap} answered {name} with a {type(found).__name__}")
        return found

    def coordinator(self, group: str) -> Client:
        """The node that coordinates `group`: this client itself when that is the only node."""
        request = FindCoordinatorRequest(key=group, key_type=0, coordinator_keys=[group])
        answer = self.call(FIND_COORDINATOR, request, FindCoordinatorResponse)
        if answer.coordinators:
            one = answer.coordinators[0]
            check(one.error_code, one.error_message, f"coordinator of group {group}")
            return self._node(one.host, one.port)
        check(answer.error_code, answer.error_message, f"coordinator of group {group}")
        return self._node(answer.host, answer.port)

    def metadata(self, topics: Sequence[str] | None) -> MetadataResponse:
        """What the node knows of these topics (None: of all); asking never creates one."""
        wanted = None if topics is None else [MetadataRequestTopic(name=name) for name in topics]
        return self.call(METADATA, MetadataRequest(topics=wanted, allow_auto_topic_creation=False), MetadataResponse)

    def partitions(self, topics: Sequence[str]) -> dict[str, list[int]]:
        """The partitions of each topic, in order. Raises `Failure` for a topic that does not exist."""
        found = {}
        for topic in self.metadata(topics).topics:
            check(topic.error_code, None, f"topic {topic.name}")
            found[topic.name or ""] = sorted(p.partition_index for p in topic.partitions)
        return found

    def offsets(self, wanted: Mapping[TopicPartition, TimestampMs]) -> dict[TopicPartition, Offset]:
        """The offset for a timestamp, `EARLIEST` or `LATEST`, of each partition; -1 when no record is so young."""
        metadata = self.metadata(sorted({partition.topic for partition in wanted}))
        addresses = {broker.node_id: (broker.host, broker.port) for broker in metadata.brokers}
        leaders = {
            TopicPartition(topic.name or "", p.partition_index): p.leader_id
            for topic in metadata.topics
            for p in topic.partitions
        }
        by_leader: dict[int, list[TopicPartition]] = {}
        for partition in wanted:
            if partition not in leaders or leaders[partition] not in addresses:
                raise Failure(f"{partition} has no leader", hint="see `logstore topic describe -p`")
            by_leader.setdefault(leaders[partition], []).append(partition)
        found: dict[TopicPartition, Offset] = {}
        for leader, partitions in by_leader.items():
            node = self if len(addresses) == 1 else self._node(*addresses[leader])
            found |= node._list_offsets({partition: wanted[partition] for partition in partitions})
        return found

    def _list_offsets(self, wanted: Mapping[TopicPartition, TimestampMs]) -> dict[TopicPartition, Offset]:
        topics = [
            ListOffsetsTopic(
                name=name, partitions=[ListOffsetsPartition(partition_index=i, timestamp=at) for i, at in partitions]
            )
            for name, partitions in by_topic(wanted.items())
        ]
        answer = self.call(
            LIST_OFFSETS, ListOffsetsRequest(replica_id=-1, topics=topics, timeout_ms=10_000), ListOffsetsResponse
        )
        found = {}
        for topic in answer.topics:
            for p in topic.partitions:
                check(p.error_code, None, f"offsets of {topic.name}-{p.partition_index}")
                found[TopicPartition(topic.name, p.partition_index)] = p.offset
        return found

    # --- connections -------------------------------------------------------------------------------------------------

    def _node(self, host: str, port: int) -> Client:
        """The client of the node that is known by this address; the bootstrap connection when there is one node only.

        A lone node may advertise an address that this machine cannot reach (a tunnel, a container): we are there.
        """
        if len(self.metadata([]).brokers) <= 1:
            return self
        if (host, port) not in self._others:
            self._others[host, port] = Client(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", self._timeout_s)
        return self._others[host, port]

    def _connect(self) -> socket.socket:
        reasons = []
        for text in self.bootstrap.split(","):
            try:
                host, port = parse_address("--bootstrap", text.strip())
                connection = socket.create_connection((host or "127.0.0.1", port), timeout=self._timeout_s)
            except InvalidConfig as error:
                raise Failure(str(error), exit_code=2) from None
            except OSError as error:
                reasons.append(error.strerror or str(error))
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.bootstrap = text.strip()
            return connection
        why = "; ".join(dict.fromkeys(reasons)).lower()
        raise Failure(f"no answer: {why}", hint=f"is `logstore serve` running? tried {self.bootstrap}")

    def _negotiate(self) -> None:
        """Learn the versions. A broker that does not know our ApiVersions answers in version 0 with those it knows."""
        request = ApiVersionsRequest(client_software_name="logstore", client_software_version="0")
        answer = self._exchange(codec.API_VERSIONS_KEY, 3, request)
        assert isinstance(answer, ApiVersionsResponse)
        if answer.error_code != ErrorCode.UNSUPPORTED_VERSION:
            check(answer.error_code, None, f"versions of {self.bootstrap}")
        self._versions = {api.api_key: (api.min_version, api.max_version) for api in answer.api_keys}

    def _exchange(self, api_key: int, version: int, request: msgspec.Struct) -> msgspec.Struct:
        name = APIS[api_key].name
        self._correlation_id += 1
        head = codec.write_request_header(api_key, version, self._correlation_id, CLIENT_ID)
        body = codec.write_request(api_key, version, request)
        try:
            self._socket.sendall(_SIZE.pack(len(head) + len(body)) + head + body)
            (size,) = _SIZE.unpack(self._read(4))
            if not 4 <= size <= ANSWER_BYTES_MAX:
                raise Failure(f"{self.bootstrap} does not speak Kafka's protocol", hint="is that the --http address?")
            answer = memoryview(self._read(size))
        except TimeoutError:
            raise Failure(f"{self.bootstrap} did not answer {name} within {self._timeout_s:g} s") from None
        except OSError as error:
            raise Failure(f"{self.bootstrap} went away during {name}: {error.strerror or error}") from None
        try:
            correlation_id, position = codec.read_response_header(api_key, version, answer)
            if correlation_id != self._correlation_id:
                raise Failure(f"{self.bootstrap} does not speak Kafka's protocol: it answered another request")
            if api_key == codec.API_VERSIONS_KEY and answer[position : position + 2] == _UNSUPPORTED_VERSION:
                version = 0
            return codec.read_response(api_key, version, answer, position)
        except LogstoreError as error:
            raise Failure(f"{self.bootstrap} answered {name} with bytes that do not parse: {error}") from None

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._socket.recv(min(size - len(parts), 1 << 20))
            if not part:
                raise ConnectionResetError("the server closed the connection")
            parts += part
        return bytes(parts)


_UNSUPPORTED_VERSION: Final = int(ErrorCode.UNSUPPORTED_VERSION).to_bytes(2, "big")

# What to say of the thing that was asked about, where the protocol's name of the error says it worse.
_TEXTS: Final[Mapping[int, str]] = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: "does not exist",
    ErrorCode.GROUP_ID_NOT_FOUND: "does not exist",
    ErrorCode.NON_EMPTY_GROUP: "has members",
    ErrorCode.INVALID_TOPIC_EXCEPTION: "is no legal name",
}
_HINTS: Final[Mapping[int, str]] = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: "`logstore topic list` shows those there are",
    ErrorCode.TOPIC_ALREADY_EXISTS: "`--if-not-exists` accepts that",
    ErrorCode.NON_EMPTY_GROUP: "stop them first",
    ErrorCode.GROUP_ID_NOT_FOUND: "`logstore group list` shows those there are",
    ErrorCode.MESSAGE_TOO_LARGE: "max.message.bytes of the topic is the bound",
    ErrorCode.INVALID_TOPIC_EXCEPTION: "use 1 to 249 of a-z A-Z 0-9 . _ -",
}


class Refusal(NamedTuple):
    """An error code as people read it."""

    code: int
    text: str


def refusal(code: int, message: str | None) -> Refusal | None:
    """None when `code` is success."""
    if code == ErrorCode.NONE:
        return None
    try:
        name = ErrorCode(code).name
    except ValueError:
        name = f"error code {code}"
    return Refusal(code, message or _TEXTS.get(code) or name.replace("_", " ").lower())


def check(code: int, message: str | None, what: str) -> None:
    """Raise `Failure` unless `code` is success. `what` names the thing that was asked about."""
    refused = refusal(code, message)
    if refused is not None:
        colon = "" if refused.text == _TEXTS.get(code) else ":"
        # A message in parentheses is the server's own hint.
        hint = "" if refused.text.endswith(")") else _HINTS.get(code, "")
        raise Failure(f"{what}{colon} {refused.text}", hint=hint)


def outcome(code: int, message: str | None, success: str) -> str:
    """`success`, or why not."""
    try:
        check(code, message, "")
    except Failure as failure:
        return str(failure).lstrip(": ")
    return success


V = TypeVar("V")


def by_topic(items: Iterable[tuple[TopicPartition, V]]) -> list[tuple[str, list[tuple[int, V]]]]:
    """Partitions with something each, as requests want them: under their topics, in order."""
    grouped: dict[str, list[tuple[int, V]]] = {}
    for partition, value in sorted(items, key=lambda item: item[0]):
        grouped.setdefault(partition.topic, []).append((partition.partition, value))
    return list(grouped.items())

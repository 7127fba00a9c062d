"""Bytes no client would send: each harms its own request or connection only. Beside it a neighbour goes on working.

The neighbour is one librdkafka producer and consumer whose connections stay open through the whole module.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator

import confluent_kafka
import httpx
import msgspec
import pytest
from support.wire import (
    API_VERSIONS,
    CREATE_TOPICS,
    FETCH,
    LIST_OFFSETS,
    METADATA,
    PRODUCE,
    Wire,
    api_versions_request,
    fetch_request,
    produce_request,
)

from api.kafka import codec
from api.kafka.messages import APIS
from api.kafka.messages.create_topics import CreatableTopic, CreateTopicsRequest
from api.kafka.messages.list_offsets import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from api.kafka.messages.metadata import MetadataRequest, MetadataRequestTopic
from cluster.error_codes import ErrorCode
from logstore.record.batch import CRC_POSITION
from logstore.record.records import encode_batch
from tools.demo.server import ServerProcess

TOPIC = "hostile"
NOW_MS = 1_700_000_000_000
GROWTH_BYTES_MAX = 96 << 20
ILLEGAL_NAMES = ["bad/name", "..", ".", "", "a" * 250, "spa ce", "null\0byte", "../../etc/passwd", "ünïcode"]
SEED = 20_250_101


class Neighbour:
    """Writes a record and reads it back, over connections that were there before the attack."""

    def __init__(self, server: ServerProcess) -> None:
        self._producer = confluent_kafka.Producer({"bootstrap.servers": server.kafka, "linger.ms": 0})
        self._consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": server.kafka, "group.id": "neighbour", "auto.offset.reset": "earliest"}
        )
        self._count = 0
        self.works()

    def works(self) -> None:
        value = b"still here %d" % self._count
        self._producer.produce("neighbour", value=value)
        assert self._producer.flush(10) == 0
        if self._count == 0:
            self._consumer.assign([confluent_kafka.TopicPartition("neighbour", 0, 0)])
        message = self._consumer.poll(10)
        assert message is not None
        assert message.error() is None
        assert (message.offset(), message.value()) == (self._count, value)
        self._count += 1

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture(scope="module")
def neighbour(server: ServerProcess) -> Iterator[Neighbour]:
    with Wire(server.kafka) as wire:
        topic = CreatableTopic(name=TOPIC, num_partitions=2, replication_factor=1)
        wire.call(CREATE_TOPICS, 5, CreateTopicsRequest(topics=[topic], timeout_ms=5000))
    neighbour = Neighbour(server)
    yield neighbour
    neighbour.close()


@pytest.fixture(autouse=True)
def _unharmed(server: ServerProcess, neighbour: Neighbour) -> Iterator[None]:
    """After every test: the process is the same, did not grow without bound, and serves its neighbour."""
    pid, before = server.pid, server.rss_bytes()
    yield
    neighbour.works()
    assert server.pid == pid
    assert server.is_running
    assert server.rss_bytes() < before + GROWTH_BYTES_MAX


def batch(*values: bytes) -> bytes:
    return bytes(encode_batch([(NOW_MS, None, value, ()) for value in values]))


def end_offset(wire: Wire, partition: int) -> int:
    ask = ListOffsetsPartition(partition_index=partition, timestamp=-1)
    answer = wire.call(
        LIST_OFFSETS, 5, ListOffsetsRequest(replica_id=-1, topics=[ListOffsetsTopic(name=TOPIC, partitions=[ask])])
    )
    (found,) = answer.topics[0].partitions
    assert found.error_code == ErrorCode.NONE
    return found.offset


# --- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_random_bytes(seed: int, server: ServerProcess) -> None:
    print(f"seed {SEED + seed}")
    with Wire(server.kafka) as wire:
        wire.send(random.Random(SEED + seed).randbytes(40_000))
        wire.half_close()
        assert wire.is_closed_by_server()


@pytest.mark.parametrize("size", [2**31 - 1, -1, -(2**31), 0, 1, 7])
def test_a_frame_of_impossible_size(size: int, server: ServerProcess) -> None:
    with Wire(server.kafka) as wire:
        wire.send(struct.pack(">i", size) + b"\0" * max(0, min(size, 4096)))
        assert wire.is_closed_by_server()


def test_sizes_promised_and_never_sent(server: ServerProcess) -> None:
    """A hundred connections promise 90 MB each: memory is taken for what comes, not for what is promised."""
    wires = [Wire(server.kafka) for _ in range(100)]
    for wire in wires:
        wire.send(struct.pack(">i", 90 << 20) + b"\0\x03\0\x09")
    assert server.rss_bytes() < 1 << 30
    for wire in wires:
        wire.half_close()
        assert wire.is_closed_by_server()
        wire.close()


def test_a_frame_cut_anywhere(server: ServerProcess) -> None:
    body = codec.write_request(METADATA, 9, MetadataRequest(topics=[MetadataRequestTopic(name=TOPIC)]))
    whole = codec.write_request_header(METADATA, 9, 7, "cut") + body
    for cut in range(len(whole)):
        with Wire(server.kafka) as wire:
            wire.send(struct.pack(">i", len(whole)) + whole[:cut])
            wire.half_close()
            assert wire.is_closed_by_server(), cut


def test_a_frame_in_pieces_of_one_byte_is_a_frame(server: ServerProcess) -> None:
    header = codec.write_request_header(API_VERSIONS, 3, 9, "slow")
    whole = header + codec.write_request(API_VERSIONS, 3, api_versions_request())
    with Wire(server.kafka) as wire:
        for byte in struct.pack(">i", len(whole)) + whole:
            wire.send(bytes([byte]))
        assert wire.receive()[:4] == struct.pack(">i", 9)


def test_one_bad_request_does_not_take_the_answers_before_it(server: ServerProcess) -> None:
    body = bytes(codec.write_request(API_VERSIONS, 3, api_versions_request()))
    with Wire(server.kafka) as wire:
        first = wire.request(API_VERSIONS, 3, body)
        wire.frame(b"\x7f\xff\0\0\0\0\0\x05\xff\xff")
        assert wire.receive()[:4] == struct.pack(">i", first)
        assert wire.is_closed_by_server()


# --- keys, versions, bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api_key", [-1, 4, 7, 999, 32_767])
def test_an_unknown_api_key(api_key: int, server: ServerProcess) -> None:
    with Wire(server.kafka) as wire:
        wire.frame(struct.pack(">hhih", api_key, 0, 5, -1))
        assert wire.is_closed_by_server()


@pytest.mark.parametrize("api_key", [PRODUCE, FETCH, METADATA, CREATE_TOPICS])
@pytest.mark.parametrize("version", [-1, 99, 32_767])
def test_an_unknown_version(api_key: int, version: int, server: ServerProcess) -> None:
    with Wire(server.kafka) as wire:
        wire.frame(struct.pack(">hhih", api_key, version, 5, -1) + bytes(64))
        assert wire.is_closed_by_server()


@pytest.mark.parametrize("version", [5, 99, 32_767])
def test_a_too_new_api_versions_is_told_the_oldest_way(version: int, server: ServerProcess) -> None:
    with Wire(server.kafka) as wire:
        wire.frame(struct.pack(">hhih", API_VERSIONS, version, 42, -1) + b"\0\0\0")
        answer = memoryview(wire.receive())
        assert struct.unpack(">i", answer[:4]) == (42,)
        response = codec.read_response(API_VERSIONS, 0, answer, 4)
        assert response.error_code == ErrorCode.UNSUPPORTED_VERSION
        (row,) = [row for row in response.api_keys if row.api_key == API_VERSIONS]
        # The client may ask again on the same connection.
        wire.call(API_VERSIONS, row.max_version, api_versions_request())


@pytest.mark.parametrize("api_key", sorted(APIS))
def test_bodies_that_are_noise(api_key: int, server: ServerProcess) -> None:
    chance = random.Random(SEED + api_key)
    print(f"seed {SEED + api_key}")
    api = APIS[api_key]
    for version in {api.first, api.last}:
        for size in (0, 3, 40, 400):
            with Wire(server.kafka, timeout_s=2) as wire:
                wire.request(api_key, version, chance.randbytes(size))
                wire.half_close()
                assert wire.is_closed_by_server()  # after an answer, if the noise happened to mean something


@pytest.mark.parametrize("api_key", [PRODUCE, FETCH, LIST_OFFSETS, METADATA, CREATE_TOPICS])
def test_bodies_with_one_byte_changed(api_key: int, server: ServerProcess) -> None:
    messages: dict[int, tuple[int, msgspec.Struct]] = {
        PRODUCE: (9, produce_request("mutant", [(0, batch(b"x"))], timeout_ms=100)),
        FETCH: (12, fetch_request("mutant", 0, 0)),
        LIST_OFFSETS: (6, ListOffsetsRequest(topics=[ListOffsetsTopic("mutant", [ListOffsetsPartition()])])),
        METADATA: (12, MetadataRequest(topics=[MetadataRequestTopic(name="mutant")])),
        CREATE_TOPICS: (7, CreateTopicsRequest(topics=[CreatableTopic("mutant", 1, 1)], validate_only=True)),
    }
    version, message = messages[api_key]
    body = codec.write_request(api_key, version, message)
    chance = random.Random(SEED)
    for at in range(len(body)):
        changed = bytearray(body)
        changed[at] ^= 1 << chance.randrange(8)
        with Wire(server.kafka) as wire:
            wire.request(api_key, version, bytes(changed))
            wire.half_close()
            assert wire.is_closed_by_server(), (at, changed.hex())


# --- requests that are well-formed and wrong -------------------------------------------------------------------------


def test_a_wrong_crc_harms_its_own_partition_only(server: ServerProcess) -> None:
    good, bad = batch(b"good"), bytearray(batch(b"bad"))
    bad[CRC_POSITION] ^= 0xFF
    with Wire(server.kafka) as wire:
        ends = [end_offset(wire, 0), end_offset(wire, 1)]
        answer = wire.call(PRODUCE, 9, produce_request(TOPIC, [(0, bytes(bad)), (1, good)]))
        codes = {p.index: p.error_code for p in answer.responses[0].partition_responses}
        assert codes == {0: ErrorCode.CORRUPT_MESSAGE, 1: ErrorCode.NONE}
        assert [end_offset(wire, 0), end_offset(wire, 1)] == [ends[0], ends[1] + 1]


def test_every_bit_of_a_batch_counts(server: ServerProcess) -> None:
    good = batch(b"a", b"b")
    with Wire(server.kafka) as wire:
        before = end_offset(wire, 0)
        for at in range(8, len(good)):
            if 12 <= at < 16:
                continue  # the leader epoch is the broker's to set
            bad = bytearray(good)
            bad[at] ^= 0x10
            answer = wire.call(PRODUCE, 9, produce_request(TOPIC, [(0, bytes(bad))]))
            assert answer.responses[0].partition_responses[0].error_code != ErrorCode.NONE, at
        assert end_offset(wire, 0) == before


def test_a_batch_above_the_limit(server: ServerProcess) -> None:
    with Wire(server.kafka) as wire:
        answer = wire.call(PRODUCE, 9, produce_request(TOPIC, [(0, batch(b"x" * 1_100_000)), (1, batch(b"y"))]))
        codes = {p.index: p.error_code for p in answer.responses[0].partition_responses}
        assert codes == {0: ErrorCode.MESSAGE_TOO_LARGE, 1: ErrorCode.NONE}


@pytest.mark.parametrize("records", [b"", b"\0", b"\0" * 61, b"\xff" * 200])
def test_records_that_are_none(records: bytes, server: ServerProcess) -> None:
    with Wire(server.kafka) as wire:
        before = end_offset(wire, 0)
        answer = wire.call(PRODUCE, 9, produce_request(TOPIC, [(0, records)]))
        assert answer.responses[0].partition_responses[0].error_code != ErrorCode.NONE
        assert end_offset(wire, 0) == before


def test_topics_and_partitions_that_are_not_there(server: ServerProcess) -> None:
    with Wire(server.kafka) as wire:
        for topic, partition in (("nowhere", 0), (TOPIC, 2), (TOPIC, -1), (TOPIC, 2**31 - 1)):
            produced = wire.call(PRODUCE, 9, produce_request(topic, [(partition, batch(b"x"))]))
            assert produced.responses[0].partition_responses[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            fetched = wire.call(FETCH, 12, fetch_request(topic, partition, 0))
            assert fetched.responses[0].partitions[0].error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION


@pytest.mark.parametrize("name", ILLEGAL_NAMES)
def test_an_illegal_topic_name(name: str, server: ServerProcess) -> None:
    before = {path.name for path in server.directory.parent.iterdir()}
    inside = {path.name for path in server.directory.iterdir()}
    with Wire(server.kafka) as wire:
        topic = CreatableTopic(name=name, num_partitions=1, replication_factor=1)
        created = wire.call(CREATE_TOPICS, 5, CreateTopicsRequest(topics=[topic], timeout_ms=5000))
        assert created.topics[0].error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
        asked = MetadataRequest(topics=[MetadataRequestTopic(name=name)], allow_auto_topic_creation=True)
        assert wire.call(METADATA, 9, asked).topics[0].error_code == ErrorCode.INVALID_TOPIC_EXCEPTION
        produced = wire.call(PRODUCE, 9, produce_request(name, [(0, batch(b"x"))]))
        assert produced.responses[0].partition_responses[0].error_code in (
            ErrorCode.INVALID_TOPIC_EXCEPTION,
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        )
    assert {path.name for path in server.directory.parent.iterdir()} == before
    assert {path.name for path in server.directory.iterdir()} == inside


@pytest.mark.parametrize("offset", [-1, -5, -(2**63), 10**9, 2**63 - 1])
def test_an_offset_that_is_not_there(offset: int, server: ServerProcess) -> None:
    with Wire(server.kafka) as wire:
        answer = wire.call(FETCH, 11, fetch_request(TOPIC, 0, offset))
        assert answer.responses[0].partitions[0].error_code == ErrorCode.OFFSET_OUT_OF_RANGE


def test_fetches_that_want_too_much(server: ServerProcess) -> None:
    most = 2**31 - 1
    with Wire(server.kafka) as wire:
        wire.call(PRODUCE, 9, produce_request(TOPIC, [(0, batch(b"z" * 1000))]))
        for bytes_min, bytes_max, partition_bytes_max in ((1, most, most), (-5, most, most), (0, 1, 1), (0, 0, 0)):
            asked = fetch_request(
                TOPIC, 0, 0, bytes_min=bytes_min, bytes_max=bytes_max, partition_bytes_max=partition_bytes_max
            )
            assert wire.call(FETCH, 11, asked).responses[0].partitions[0].error_code == ErrorCode.NONE
        wire.call(FETCH, 11, fetch_request(TOPIC, 0, 0, wait_ms=-1, bytes_min=most))
    # Waits of 24 days for 2 GiB: the clients go away, and what waited for them goes, too.
    body = bytes(codec.write_request(FETCH, 11, fetch_request(TOPIC, 0, 0, wait_ms=most, bytes_min=most)))
    wires = [Wire(server.kafka) for _ in range(50)]
    for wire in wires:
        wire.request(FETCH, 11, body)
    for wire in wires:
        wire.close()


def test_many_idle_connections(server: ServerProcess, neighbour: Neighbour) -> None:
    wires = [Wire(server.kafka) for _ in range(300)]
    neighbour.works()
    for wire in wires:
        wire.close()


# --- HTTP ------------------------------------------------------------------------------------------------------------

JSON_TYPE = "application/vnd.kafka.json.v2+json"
BINARY_TYPE = "application/vnd.kafka.binary.v2+json"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON_TYPE, b""),
        (JSON_TYPE, b"{"),
        (JSON_TYPE, b"nonsense"),
        (JSON_TYPE, b'{"records": [{"value": 1}'),
        (JSON_TYPE, b"[]"),
        (JSON_TYPE, b'{"records": 7}'),
        (JSON_TYPE, b'{"records": []}'),
        (JSON_TYPE, b'{"records": [{"value": 1, "partition": "x"}]}'),
        (JSON_TYPE, b'{"records": [{"value": 1, "surprise": 2}]}'),
        (JSON_TYPE, b'{"records": [{"value": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]}"),
        (JSON_TYPE, b"\xff\xfe\x00"),
        (BINARY_TYPE, b'{"records": [{"value": "not base64!"}]}'),
        (BINARY_TYPE, b'{"records": [{"value": 12}]}'),
        ("text/plain", b'{"records": [{"value": 1}]}'),
        ("", b'{"records": [{"value": 1}]}'),
    ],
)
def test_a_wrong_body_is_refused_with_a_reason(content_type: str, body: bytes, server: ServerProcess) -> None:
    with Wire(server.kafka) as wire:
        before = [end_offset(wire, 0), end_offset(wire, 1)]
        with httpx.Client(base_url=server.http, trust_env=False) as client:
            headers = {"Content-Type": content_type} if content_type else {}
            answer = client.post(f"/topics/{TOPIC}", content=body, headers=headers)
        assert 400 <= answer.status_code < 500, answer.text
        problem = answer.json()
        assert problem["error_code"] >= 400
        assert problem["message"]
        assert [end_offset(wire, 0), end_offset(wire, 1)] == before


@pytest.mark.parametrize(
    "path",
    [
        "/topics/nowhere/partitions/0/records",
        f"/topics/{TOPIC}/partitions/9/records",
        f"/topics/{TOPIC}/partitions/x/records",
        f"/topics/{TOPIC}/partitions/0/records?offset=-7",
        f"/topics/{TOPIC}/partitions/0/records?offset=99999999999999999999999",
        f"/topics/{TOPIC}/partitions/0/records?offset=many",
        f"/topics/{TOPIC}/partitions/0/records?timeout=soon",
        "/topics/..%2f..%2fetc%2fpasswd/partitions/0/records",
    ],
)
def test_a_wrong_path_is_refused_with_a_reason(path: str, server: ServerProcess) -> None:
    with httpx.Client(base_url=server.http, trust_env=False) as client:
        answer = client.get(path, headers={"Accept": BINARY_TYPE})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["message"]


def test_http_that_is_none(server: ServerProcess) -> None:
    host, port = server.http.removeprefix("http://").rsplit(":", 1)
    for sent in (
        b"\0" * 2000,
        b"GET /topics HTTP/9.9\r\n\r\n",
        b"GET " + b"a" * 200_000,
        b"POST /topics/x HTTP/1.1\r\n",
    ):
        # The server may close before it has read all.
        with socket.create_connection((host, int(port)), timeout=10) as raw, contextlib.suppress(OSError):
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(65536):
                pass
    with httpx.Client(base_url=server.http, trust_env=False) as client:
        assert client.get("/topics").status_code == 200

"""Bytes from a stranger: every fault is `MalformedMessage`, none costs memory or time."""

from __future__ import annotations

import contextlib
import random
import tracemalloc

import pytest

from api.kafka import codec, wire
from api.kafka.errors import MalformedMessage
from api.kafka.messages import APIS
from api.kafka.messages.api_versions import ApiVersionsRequest
from api.kafka.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from api.kafka.messages.join_group import JoinGroupRequest, JoinGroupRequestProtocol
from api.kafka.messages.metadata import MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker
from api.kafka.messages.produce import PartitionProduceData, ProduceRequest, TopicProduceData
from api.kafka.produce_codec import read_produce
from logstore.errors import InvalidRequest

SEED = 7_919
HUGE_COUNTS = (b"\xff\xff\xff\xff\x0f", b"\xff\xff\xff\xff\x07", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\xff")

PRODUCE = ProduceRequest(
    acks=-1, topic_data=[TopicProduceData(name="t", partition_data=[PartitionProduceData(1, b"r" * 200)])]
)
FETCH = FetchRequest(
    cluster_id="c",
    topics=[FetchTopic(topic="t", partitions=[FetchPartition(partition=i) for i in range(4)])],
    rack_id="r",
)
JOIN = JoinGroupRequest(group_id="g", protocols=[JoinGroupRequestProtocol("range", b"\x00\x01")], reason="new")
METADATA = MetadataRequest(topics=[MetadataRequestTopic(name="t"), MetadataRequestTopic(name="ü")])
REQUESTS = [(0, 3, PRODUCE), (0, 9, PRODUCE), (1, 4, FETCH), (1, 12, FETCH), (11, 5, JOIN), (11, 9, JOIN)]
REQUESTS += [(3, 1, METADATA), (3, 12, METADATA), (18, 3, ApiVersionsRequest("lib", "1.0"))]


@pytest.mark.parametrize(("api_key", "version", "message"), REQUESTS, ids=lambda value: str(value)[:12])
def test_a_message_cut_at_any_byte_is_malformed(api_key: int, version: int, message: object) -> None:
    body = bytes(codec.write_request(api_key, version, message))  # type: ignore[arg-type]  # structs all
    assert codec.write_request(api_key, version, codec.read_request(api_key, version, memoryview(body))) == body
    for cut in range(len(body)):
        with pytest.raises(MalformedMessage):
            codec.read_request(api_key, version, memoryview(body)[:cut])
        if api_key == 0:
            with pytest.raises(MalformedMessage):
                read_produce(version, memoryview(body), 0, cut)


@pytest.mark.parametrize("version", [1, 12])
def test_a_text_has_the_same_bound_in_every_version(version: int) -> None:
    """Otherwise a name that came by a flexible version could not be written in an older one's answer."""
    longest = MetadataRequest(topics=[MetadataRequestTopic(name="n" * 32_767)])
    body = memoryview(codec.write_request(3, version, longest))
    assert codec.read_request(3, version, body) == longest
    if version == 12:
        longer = MetadataRequest(topics=[MetadataRequestTopic(name="n" * 32_768)])
        with pytest.raises(MalformedMessage):
            codec.read_request(3, version, memoryview(codec.write_request(3, version, longer)))


@pytest.mark.parametrize(("outer", "inner"), [(codec.ELEMENTS_MAX + 1, 0), (3, codec.ELEMENTS_MAX // 3)])
def test_a_request_of_too_many_elements_is_malformed(outer: int, inner: int) -> None:
    """Tiny ones, one array or many: each would be a hundred bytes here and three there."""
    partitions = wire.varint(inner + 1) + bytes(4) * inner
    topic = b"\x02t" + partitions + b"\x00"
    body = b"\x02g" + wire.varint(outer + 1) + topic * outer + b"\x00\x00"
    with pytest.raises(MalformedMessage, match="more elements"):
        codec.read_request(9, 7, memoryview(body))
    fits = b"\x02g" + wire.varint(3) + topic * 2 + b"\x00\x00"
    assert len(codec.read_request(9, 7, memoryview(fits)).topics) == 2  # type: ignore[attr-defined]  # OffsetFetch


def test_a_frame_cut_within_its_header_is_malformed() -> None:
    head = codec.write_request_header(1, 12, 5, "client-é")
    header = codec.read_request_header(memoryview(head))
    assert (header.correlation_id, header.client_id, header.body_position) == (5, "client-é", len(head))
    for cut in range(len(head)):
        with pytest.raises(MalformedMessage):
            codec.read_request_header(memoryview(head)[:cut])
    for cut in range(5):
        with pytest.raises(MalformedMessage):
            codec.read_response_header(1, 12, memoryview(codec.response_header(1, 12, 5))[:cut])


@pytest.mark.parametrize("count", HUGE_COUNTS, ids=lambda count: count.hex())
def test_a_huge_count_anywhere_allocates_nothing(count: bytes) -> None:
    """A count or length of billions put over every byte of a message; kio's reader aborts the process here."""
    bare = [(3, 9), (1, 12), (11, 9), (3, 1), (20, 4)]
    bodies = [(key, version, bytes(codec.write_request(key, version, message))) for key, version, message in REQUESTS]
    bodies += [(key, version, bytes(85)) for key, version in bare]
    for api_key, version, body in bodies:
        assert_harmless(api_key, version, memoryview(body))  # compiled before memory is counted
    tracemalloc.start()
    try:
        for api_key, version, body in bodies:
            for position in range(len(body)):
                hostile = body[:position] + count + body[position + len(count) :]
                assert_harmless(api_key, version, memoryview(hostile))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_count_is_held_against_the_smallest_element() -> None:
    """40 bytes are left, a Fetch partition of version 4 takes 16 at least: three of them cannot be there."""
    body = codec.write_request(1, 4, FetchRequest(topics=[FetchTopic(topic="t", partitions=[FetchPartition()] * 2)]))
    assert body[-36:-32] == b"\x00\x00\x00\x02"
    body[-33] = 3
    with pytest.raises(MalformedMessage, match=r"FetchTopic.partitions: 3 wanted where 32 bytes are left"):
        codec.read_request(1, 4, memoryview(body))


def test_random_bytes_and_random_damage() -> None:
    chance = random.Random(SEED)
    print("seed", SEED)
    versions = [(api.key, version) for api in APIS.values() for version in (api.first, api.last)]
    bodies = {(key, version): bytes(codec.write_request(key, version, message)) for key, version, message in REQUESTS}
    for turn in range(2_000):
        if turn % 2:
            api_key, version = chance.choice(versions)
            raw = chance.randbytes(chance.randint(0, 80))
        else:
            api_key, version = chance.choice(list(bodies))
            damaged = bytearray(bodies[api_key, version])
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
            raw = bytes(damaged)
        assert_harmless(api_key, version, memoryview(raw))
        try:
            codec.read_request_header(memoryview(raw))
        except MalformedMessage:
            continue


def assert_harmless(api_key: int, version: int, raw: memoryview) -> None:
    """Reads a message or raises `MalformedMessage`; the two Produce readers agree on which."""
    expected = None
    with contextlib.suppress(MalformedMessage):
        expected = codec.read_request(api_key, version, raw)
    if api_key != 0:
        return
    if expected is None:
        with pytest.raises(MalformedMessage):
            read_produce(version, raw, 0, len(raw))
    else:
        view = read_produce(version, raw, 0, len(raw))
        assert isinstance(expected, ProduceRequest)
        assert [len(topic[2]) for topic in view.topics] == [len(t.partition_data) for t in expected.topic_data]


def test_null_is_refused_where_the_version_has_no_null() -> None:
    with pytest.raises(MalformedMessage, match=r"MetadataRequest\.topics: null"):
        codec.read_request(3, 0, memoryview(b"\xff\xff\xff\xff"))
    assert codec.read_request(3, 1, memoryview(b"\xff\xff\xff\xff")) == MetadataRequest(topics=None)
    with pytest.raises(MalformedMessage, match="null"):
        codec.read_request(18, 3, memoryview(b"\x00\x00\x00"))


def test_text_that_is_not_utf8_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="UTF-8"):
        codec.read_request(18, 3, memoryview(b"\x03\xff\xfe\x01\x00"))
    with pytest.raises(MalformedMessage, match="UTF-8"):
        codec.read_request_header(memoryview(b"\x00\x12\x00\x00\x00\x00\x00\x01\x00\x01\xff"))


def test_unknown_tagged_fields_are_stepped_over() -> None:
    plain = codec.write_request(18, 3, ApiVersionsRequest("lib", "1.0"))
    tagged = plain[:-1] + b"\x02" + b"\x05\x03abc" + b"\x80\x01\x00"
    assert codec.read_request(18, 3, memoryview(tagged)) == ApiVersionsRequest("lib", "1.0")
    with pytest.raises(MalformedMessage, match="tagged field"):
        codec.read_request(18, 3, memoryview(tagged[:-1] + b"\x09"))


def test_elements_with_tagged_fields_among_elements_without() -> None:
    """Arrays of fixed-size structs are read in one call only when no element has a tagged section."""
    body = bytes(codec.write_request(1, 12, FETCH))
    one = FetchPartition(partition=3)
    last = bytes(codec.write_request(1, 12, FetchRequest(topics=[FetchTopic(topic="t", partitions=[one])])))
    element = last[last.index(b"t\x02") + 2 :][:33]
    at = body.index(element)
    tagged = body[: at + 32] + b"\x01\x63\x02hi" + body[at + 33 :]
    assert codec.read_request(1, 12, memoryview(tagged)) == codec.read_request(1, 12, memoryview(body))


def test_a_known_tagged_field_must_fill_its_size() -> None:
    body = bytes(codec.write_request(1, 12, FETCH))
    assert body.endswith(b"\x01\x00\x02\x02c")  # one tagged field, tag 0, two bytes: "c"
    with pytest.raises(MalformedMessage, match="cluster_id"):
        codec.read_request(1, 12, memoryview(body[:-5] + b"\x01\x00\x03\x02cX"))


def test_varints_have_at_most_32_bits() -> None:
    for value in (0, 1, 127, 128, 16_383, 16_384, 2**31, 2**32 - 1):
        assert wire.read_varint(memoryview(wire.varint(value)), 0) == (value, len(wire.varint(value)))
    for hostile in (b"\x80\x80\x80\x80\x80\x01", b"\xff\xff\xff\xff\x1f"):
        with pytest.raises(MalformedMessage, match="32 bits"):
            wire.read_varint(memoryview(hostile), 0)
    with pytest.raises(ValueError, match="32-bit"):
        wire.varint(2**32)


def test_unknown_apis_and_versions_leave_the_header_readable() -> None:
    for api_key, version in ((999, 0), (18, 99), (0, 2), (-1, -1)):
        raw = api_key.to_bytes(2, "big", signed=True) + version.to_bytes(2, "big", signed=True) + b"\x00\x00\x00\x07"
        for tail in (b"", b"\xff", b"\xff\xff\xff\xff"):
            header = codec.read_request_header(memoryview(raw + tail))
            assert (header.api_key, header.api_version) == (api_key, version)
            assert (header.correlation_id, header.client_id, header.body_position) == (7, None, 8)
        assert not codec.supports(api_key, version)
        with pytest.raises(InvalidRequest):
            codec.read_request(api_key, version, memoryview(raw))


def test_the_answer_to_api_versions_never_has_a_tagged_header() -> None:
    assert codec.response_header(18, 3, 1) == codec.response_header(18, 0, 1) == b"\x00\x00\x00\x01"
    assert codec.response_header(3, 12, 1) == b"\x00\x00\x00\x01\x00"
    assert codec.response_header(3, 8, 1) == b"\x00\x00\x00\x01"


def test_a_writer_names_what_it_cannot_write() -> None:
    broker = MetadataResponseBroker(node_id=2**31, host="h", port=1)
    with pytest.raises(ValueError, match="MetadataResponse v12 cannot be encoded"):
        codec.write_response(3, 12, MetadataResponse(brokers=[broker]))
    with pytest.raises(ValueError, match="MetadataRequest v0 cannot be encoded"):
        codec.write_request(3, 0, MetadataRequest(topics=None))
    with pytest.raises(ValueError, match="FetchRequest v4 cannot be encoded"):
        codec.write_request(1, 4, METADATA)
    with pytest.raises(ValueError, match="cannot be encoded"):
        codec.write_request(3, 1, MetadataRequest(topics=[MetadataRequestTopic(name="x" * 40_000)]))

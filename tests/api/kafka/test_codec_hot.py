"""The hand-tuned Produce and Fetch codecs against the compiled ones: same bytes, and records never copied."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple
from uuid import UUID

import pytest

from api.kafka import codec
from api.kafka.connection import size_of
from api.kafka.errors import MalformedMessage
from api.kafka.fetch_codec import FetchPartitionResult, FetchTopicResult, write_fetch_response
from api.kafka.messages import fetch, produce
from api.kafka.produce_codec import (
    ProducePartitionResult,
    ProduceTopicResult,
    read_produce,
    write_produce_response,
)
from api.kafka.schema import ZERO_UUID

TOPIC_ID = UUID("00112233-4455-6677-8899-aabbccddeeff")
PRODUCE_VERSIONS = range(3, 14)
FETCH_VERSIONS = range(4, 19)
# name of the topic, partitions of each topic, transactional id, records
SHAPES = list(
    product(("t", "x" * 200, ""), ([1], [2], [1, 3], []), (None, "tx"), (b"r" * 20, b"r" * 20_000, b"", None))
)


class FileSlice(NamedTuple):
    size_bytes: int


@pytest.mark.parametrize(("name", "counts", "transactional_id", "records"), SHAPES)
def test_both_readers_of_produce_see_the_same(
    name: str, counts: list[int], transactional_id: str | None, records: bytes | None
) -> None:
    for version in PRODUCE_VERSIONS:
        by_id = version >= 13
        request = produce.ProduceRequest(
            transactional_id=transactional_id,
            acks=-1,
            timeout_ms=30_000,
            topic_data=[
                produce.TopicProduceData(
                    name="" if by_id else name,
                    topic_id=TOPIC_ID if by_id else ZERO_UUID,
                    partition_data=[produce.PartitionProduceData(i, records) for i in range(count)],
                )
                for count in counts
            ],
        )
        body = bytes(codec.write_request(0, version, request))
        # in the middle of a shared buffer, as frames are
        buffer = memoryview(b"\x01" * 7 + body + b"\x01" * 9)
        view = read_produce(version, buffer, 7, 7 + len(body))
        assert (view.acks, view.timeout_ms, view.transactional_id) == (-1, 30_000, transactional_id)
        key = (None, TOPIC_ID) if by_id else (name, None)
        assert view.topics == [(*key, [(i, records) for i in range(count)]) for count in counts]
        for _, _, partitions in view.topics:
            for _, data in partitions:
                assert data is None or data.obj is buffer.obj


def test_tagged_fields_send_a_produce_request_the_general_way() -> None:
    data = produce.TopicProduceData(name="t", partition_data=[produce.PartitionProduceData(1, b"abc")])
    body = bytes(codec.write_request(0, 9, produce.ProduceRequest(topic_data=[data])))
    assert body.endswith(b"abc\x00\x00\x00")
    for tags in (b"\x01\x07\x01z\x00\x00", b"\x00\x01\x07\x01z\x00", b"\x00\x00\x01\x07\x01z"):
        raw = body[:-3] + tags
        assert read_produce(9, memoryview(raw), 0, len(raw)).topics == [("t", None, [(1, b"abc")])]


def test_bytes_behind_a_produce_frame_are_not_its_records() -> None:
    data = produce.TopicProduceData(name="t", partition_data=[produce.PartitionProduceData(1, b"abc")])
    for version in (3, 9, 13):
        topic = produce.TopicProduceData(topic_id=TOPIC_ID, partition_data=data.partition_data)
        request = produce.ProduceRequest(topic_data=[topic if version == 13 else data])
        body = bytes(codec.write_request(0, version, request))
        with pytest.raises(MalformedMessage):
            read_produce(version, memoryview(body), 0, len(body) - 1)


@pytest.mark.parametrize("version", PRODUCE_VERSIONS)
@pytest.mark.parametrize("counts", [[1], [2], [1, 3], []], ids=str)
def test_both_writers_of_produce_answer_the_same(version: int, counts: list[int]) -> None:
    by_id = version >= 13
    results = [ProducePartitionResult(i, i % 3, 2**40 + i, -1 if i else 12_345, 7) for i in range(3)]
    topics = [ProduceTopicResult(None if by_id else "té", TOPIC_ID if by_id else None, results[:n]) for n in counts]
    expected = produce.ProduceResponse(
        responses=[
            produce.TopicProduceResponse(
                topic_id=TOPIC_ID,
                name="té",
                partition_responses=[
                    produce.PartitionProduceResponse(
                        index=part.index,
                        error_code=part.error_code,
                        base_offset=part.base_offset,
                        log_append_time_ms=part.log_append_time_ms,
                        log_start_offset=part.log_start_offset,
                    )
                    for part in results[:n]
                ],
            )
            for n in counts
        ],
        throttle_time_ms=9,
    )
    assert write_produce_response(version, topics, 9) == codec.write_response(0, version, expected)


def test_an_answer_wants_the_name_or_the_id_that_its_version_sends() -> None:
    part = ProducePartitionResult(0, 0, 1)
    for version, name, topic_id in ((9, None, TOPIC_ID), (3, None, TOPIC_ID), (13, "t", None)):
        with pytest.raises(ValueError, match="names topics by"):
            write_produce_response(version, [ProduceTopicResult(name, topic_id, [part])])
    for version, name, topic_id in ((12, None, TOPIC_ID), (4, None, TOPIC_ID), (13, "t", None)):
        with pytest.raises(ValueError, match="names topics by"):
            write_fetch_response(version, 0, 0, 0, [FetchTopicResult(name, topic_id, [])])


ABORTED = ([], None, [(1, 2), (3, 4)])
RECORDS: tuple[list[bytes] | None, ...] = ([b"abc"], [b"x" * 300, b"y" * 300], [], None, [b"", b"z"], [b""])


@pytest.mark.parametrize("version", FETCH_VERSIONS)
def test_both_writers_of_fetch_answer_the_same(version: int) -> None:
    shapes = list(product(ABORTED, RECORDS))
    parts = [FetchPartitionResult(i, i % 3, 2**40, 50, 7, *shape) for i, shape in enumerate(shapes)]
    by_id = version >= 13
    topics = [
        FetchTopicResult(None if by_id else "té", TOPIC_ID if by_id else None, some) for some in (parts, parts[:1], [])
    ]
    expected = fetch.FetchResponse(
        throttle_time_ms=5,
        error_code=6,
        session_id=7,
        responses=[
            fetch.FetchableTopicResponse(
                topic_id=TOPIC_ID,
                topic="té",
                partitions=[
                    fetch.PartitionData(
                        partition_index=part.index,
                        error_code=part.error_code,
                        high_watermark=part.high_watermark,
                        last_stable_offset=part.last_stable_offset,
                        log_start_offset=part.log_start_offset,
                        aborted_transactions=None
                        if part.aborted is None
                        else [fetch.AbortedTransaction(*row) for row in part.aborted],
                        records=None if part.records is None else b"".join(part.records),  # type: ignore[arg-type]  # bytes here
                    )
                    for part in topic.partitions
                ],
            )
            for topic in topics
        ],
    )
    pieces = write_fetch_response(version, 5, 6, 7, topics)
    assert b"".join(pieces) == codec.write_response(1, version, expected)  # type: ignore[arg-type]  # bytes here
    assert all(size_of(piece) for piece in pieces)


@pytest.mark.parametrize("version", [4, 11, 12, 16])
def test_slices_of_files_pass_through_untouched(version: int) -> None:
    first, second, view = FileSlice(1000), FileSlice(24), memoryview(b"v" * 10)
    parts = [
        FetchPartitionResult(0, 0, 9, 9, 0, None, [first, second]),
        FetchPartitionResult(1, 0, 9, 9, 0, None, [FileSlice(0), view]),
    ]
    pieces = write_fetch_response(version, 0, 0, 0, [FetchTopicResult("t", TOPIC_ID, parts)])
    assert [piece for piece in pieces if isinstance(piece, FileSlice | memoryview)] == [first, second, view]
    sent = b"".join(bytes(p.size_bytes) if isinstance(p, FileSlice) else p for p in pieces)  # type: ignore[arg-type]  # bytes else
    assert len(sent) == sum(map(size_of, pieces))
    answer = codec.read_response(1, version, memoryview(sent))
    assert isinstance(answer, fetch.FetchResponse)
    assert [part.records for part in answer.responses[0].partitions] == [bytes(1024), b"v" * 10]

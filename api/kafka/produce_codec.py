"""Produce by hand where it is hot: one topic, one partition, records as a view of the receive buffer. Pure.

    request   transactional_id, acks i16, timeout i32, [topic, [index i32, records]]
    response  [topic, [index i32, error i16, base offset i64, append time i64, (v5) log start i64,
              (v8) record errors, error message]], throttle i32

A topic is named by its name up to version 12 and by its id from 13 on (KIP-516); from version 9 on lengths are compact
and every struct ends with a tagged section (KIP-482). Requests of one partition, which is what producers mostly send,
are read by two `struct` calls; every other shape goes through the compiled readers and writers of `codec`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias, cast
from uuid import UUID

import msgspec

from api.kafka import codec, wire
from api.kafka.errors import MalformedMessage
from api.kafka.messages.produce import (
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    TopicProduceResponse,
)
from api.kafka.schema import ZERO_UUID

PRODUCE_KEY: Final = 0
FLEXIBLE_SINCE: Final = 9
LOG_START_SINCE: Final = 5
TOPIC_IDS_SINCE: Final = 13

# Up to the name (v3, v9) or through the size of the records (v13), if there is one topic and one partition.
_START_V3 = struct.Struct(">hhiih")  # transactional id -1, acks, timeout, 1 topic, size of its name
_START_V9 = struct.Struct(">BhiBB")  # the same, compact
_START_V13 = struct.Struct(">BhiB16sBiB")
_PARTITION_START_V3 = struct.Struct(">iii")  # 1 partition, its index, size of the records
_PARTITION_START_V9 = struct.Struct(">BiB")
assert (_START_V3.size, _START_V9.size, _START_V13.size) == (14, 9, 30)
assert (_PARTITION_START_V3.size, _PARTITION_START_V9.size) == (12, 6)
_THREE_EMPTY_TAGS = b"\x00\x00\x00"

# 1 partition: index, error code, base offset, log append time, log start offset, 0 record errors, null message,
# end of partition and topic, throttle time, end.
_ANSWER_V9 = struct.Struct(">BihqqqBBBBiB")
assert _ANSWER_V9.size == 40

PartitionRecords: TypeAlias = tuple[int, memoryview | None]
TopicRecords: TypeAlias = tuple[str | None, UUID | None, list[PartitionRecords]]


class ProduceRequestView(msgspec.Struct, gc=False):
    """A Produce request whose records are views of the buffer it was read from.

    `topics`: (name or None, id or None, [(partition index, records or None)]), in the order of the request.
    `prefix_bytes`: where the size of the records begins in the buffer, if they are those of one partition and reach
    to the end of the request; else 0.
    """

    acks: int
    timeout_ms: int
    transactional_id: str | None
    topics: list[TopicRecords]
    prefix_bytes: int = 0


class ProducePartitionResult(msgspec.Struct, gc=False):
    """One partition's answer; -1 stands for an offset or a time that is not known."""

    index: int
    error_code: int
    base_offset: int
    log_append_time_ms: int = -1
    log_start_offset: int = -1


class ProduceTopicResult(msgspec.Struct, gc=False):
    """One topic's answers. `name` counts up to version 12, `topic_id` from 13 on."""

    name: str | None
    topic_id: UUID | None
    partitions: Sequence[ProducePartitionResult]


def read_produce(version: int, buffer: memoryview, position: int, end: int) -> ProduceRequestView:
    """The request body in `buffer[position:end]`, versions 3 to 13.

    Raises `MalformedMessage`; `InvalidRequest` for another version.
    """
    if end != len(buffer):
        buffer = buffer[:end]
    view = None
    try:
        if version >= TOPIC_IDS_SINCE:
            view = _read_one_by_id(buffer, position, end)
        elif version >= FLEXIBLE_SINCE:
            view = _read_one_by_name(buffer, position, end)
        else:
            view = _read_one_fixed(buffer, position, end)
    except (IndexError, struct.error, UnicodeDecodeError):
        view = None  # the general reader says what is wrong
    return _read_any(version, buffer, position) if view is None else view


def _read_any(version: int, buffer: memoryview, position: int) -> ProduceRequestView:
    request = cast(ProduceRequest, codec.read_request(PRODUCE_KEY, version, buffer, position))
    by_id = version >= TOPIC_IDS_SINCE
    return ProduceRequestView(
        request.acks,
        request.timeout_ms,
        request.transactional_id,
        [
            (
                None if by_id else topic.name,
                topic.topic_id if by_id else None,
                [(data.index, cast("memoryview | None", data.records)) for data in topic.partition_data],
            )
            for topic in request.topic_data
        ],
    )


# The three readers below answer None for anything but one partition that fills the frame to its end.


def _read_one_fixed(buffer: memoryview, position: int, end: int) -> ProduceRequestView | None:
    no_transaction, acks, timeout_ms, topic_count, size = _START_V3.unpack_from(buffer, position)
    position += 14
    name_end = position + size
    if no_transaction != -1 or topic_count != 1 or size < 0 or name_end > end:
        return None
    partition_count, index, size = _PARTITION_START_V3.unpack_from(buffer, name_end)
    if partition_count != 1 or size < 0 or name_end + 12 + size != end:
        return None
    name = str(buffer[position:name_end], "utf-8")
    topic: TopicRecords = (name, None, [(index, buffer[name_end + 12 : end])])
    return ProduceRequestView(acks, timeout_ms, None, [topic], name_end + 8)


def _read_one_by_name(buffer: memoryview, position: int, end: int) -> ProduceRequestView | None:
    transaction, acks, timeout_ms, topics, size = _START_V9.unpack_from(buffer, position)
    position += 9
    name_end = position + size - 1
    if transaction or topics != 2 or not 0 < size < 128 or name_end > end:
        return None
    partitions, index, size = _PARTITION_START_V9.unpack_from(buffer, name_end)
    if partitions != 2:
        return None
    records = last_records(buffer, name_end + 6, end, size)
    if records is None:
        return None
    name = str(buffer[position:name_end], "utf-8")
    return ProduceRequestView(acks, timeout_ms, None, [(name, None, [(index, records)])], name_end + 5)


def _read_one_by_id(buffer: memoryview, position: int, end: int) -> ProduceRequestView | None:
    transaction, acks, timeout_ms, topics, raw_id, partitions, index, size = _START_V13.unpack_from(buffer, position)
    if transaction or topics != 2 or partitions != 2:
        return None
    records = last_records(buffer, position + 30, end, size)
    if records is None:
        return None
    topic: TopicRecords = (None, wire.uuid_of(raw_id), [(index, records)])
    return ProduceRequestView(acks, timeout_ms, None, [topic], position + 29)


def last_records(buffer: memoryview, position: int, end: int, size: int) -> memoryview | None:
    """Compact records, `size` being the first byte of their length, if only three empty tagged sections follow.

    None for anything else that lies before `end`. Raises `IndexError` for what does not.
    """
    if size > 127:
        try:
            size, position = wire.longer_varint(buffer, position, size)
        except MalformedMessage:
            return None
    records_end = end - 3
    if not size or position + size - 1 != records_end or buffer[records_end:] != _THREE_EMPTY_TAGS:
        return None
    return buffer[position:records_end]


def write_produce_response(version: int, topics: Sequence[ProduceTopicResult], throttle_ms: int = 0) -> bytearray:
    """The response body, versions 3 to 13; record errors, messages and a new leader want `codec.write_response`.

    Raises `ValueError` when the version names topics otherwise than the results do.
    """
    if version >= FLEXIBLE_SINCE and len(topics) == 1 and len(topics[0].partitions) == 1:
        (topic,), body = topics, bytearray(b"\x02")
        if version >= TOPIC_IDS_SINCE:
            body += _required(topic.topic_id, version).bytes
        else:
            raw = _required(topic.name, version).encode()
            body += wire.varint(len(raw) + 1)
            body += raw
        (part,) = topic.partitions
        body += _ANSWER_V9.pack(
            *(2, part.index, part.error_code, part.base_offset, part.log_append_time_ms, part.log_start_offset),
            *(1, 0, 0, 0, throttle_ms, 0),
        )
        return body
    by_id = version >= TOPIC_IDS_SINCE
    response = ProduceResponse(
        responses=[
            TopicProduceResponse(
                topic_id=_required(topic.topic_id, version) if by_id else ZERO_UUID,
                name="" if by_id else _required(topic.name, version),
                partition_responses=[
                    PartitionProduceResponse(
                        part.index, part.error_code, part.base_offset, part.log_append_time_ms, part.log_start_offset
                    )
                    for part in topic.partitions
                ],
            )
            for topic in topics
        ],
        throttle_time_ms=throttle_ms,
    )
    return codec.write_response(PRODUCE_KEY, version, response)


def _required(value: wire.T | None, version: int) -> wire.T:
    if value is None:
        raise ValueError(f"ProduceResponse v{version} names topics by {'id' if version >= TOPIC_IDS_SINCE else 'name'}")
    return value

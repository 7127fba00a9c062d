"""Fetch responses by hand: the bytes around the records, and the records as they were handed in. Pure.

    response  throttle i32, (v7) error i16, session i32, [topic, [index i32, error i16, high watermark i64,
              last stable i64, (v5) log start i64, aborted or null, (v11) preferred replica i32, records]]

A topic is named by its name up to version 12 and by its id from 13 on (KIP-516); from version 12 on lengths are compact
and every struct ends with a tagged section (KIP-482), left empty here: no epoch diverges and nobody else leads.
Records are file slices, views or bytes and end up in the answer as the same objects, so `sendfile` can take them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec

from api.kafka import wire
from api.kafka.connection import Part, size_of

LOG_START_SINCE: Final = 5
SESSIONS_SINCE: Final = 7
PREFERRED_REPLICA_SINCE: Final = 11
FLEXIBLE_SINCE: Final = 12
TOPIC_IDS_SINCE: Final = 13
NO_PREFERRED_REPLICA: Final = -1

_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_SESSION = struct.Struct(">ihi")
_ABORTED = struct.Struct(">qq")
_ABORTED_TAGGED = struct.Struct(">qqB")
# index, error code, high watermark, last stable offset, from v5 on log start offset
_PARTITION_V4 = struct.Struct(">ihqq")
_PARTITION_V5 = struct.Struct(">ihqqq")
# with no aborted transactions and no preferred replica: everything up to the size of the records
_PARTITION_V11_PLAIN = struct.Struct(">ihqqqiii")
_PARTITION_V12_PLAIN = struct.Struct(">ihqqqBi")
assert (_PARTITION_V4.size, _PARTITION_V5.size) == (22, 30)
assert (_PARTITION_V11_PLAIN.size, _PARTITION_V12_PLAIN.size) == (42, 35)


class FetchPartitionResult(msgspec.Struct, gc=False):
    """One partition's answer.

    `aborted`: (producer id, first offset) of the aborted transactions within the records, for `read_committed`; None
    otherwise. `records`: pieces in offset order; None is the null of the protocol, an empty sequence is no records.
    """

    index: int
    error_code: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    aborted: Sequence[tuple[int, int]] | None
    records: Sequence[Part] | None


class FetchTopicResult(msgspec.Struct, gc=False):
    """One topic's answers. `name` counts up to version 12, `topic_id` from 13 on."""

    name: str | None
    topic_id: UUID | None
    partitions: Sequence[FetchPartitionResult]


def write_fetch_response(
    version: int, throttle_ms: int, error_code: int, session_id: int, responses: Sequence[FetchTopicResult]
) -> list[Part]:
    """The response body, versions 4 to 18, as buffers in the order of sending.

    Every piece of `records` is in the list as the object that was handed in, empty ones left out; the other buffers
    are what goes between. The body's size is the sum of their `size_of`. Raises `ValueError` when the version names
    topics otherwise than the result does.
    """
    pieces: list[Part] = []
    if version >= SESSIONS_SINCE:
        body = bytearray(_SESSION.pack(throttle_ms, error_code, session_id))
    else:
        body = bytearray(_INT32.pack(throttle_ms))
    flexible = version >= FLEXIBLE_SINCE
    body += wire.varint(len(responses) + 1) if flexible else _INT32.pack(len(responses))
    for topic in responses:
        body += _topic_start(version, topic)
        for part in topic.partitions:
            size = -1
            if part.records is not None:
                size = sum([size_of(piece) for piece in part.records])
            body += _partition_flexible(part, size + 1) if flexible else _partition_fixed(version, part, size)
            if part.records and size:
                pieces.append(body)
                # An empty piece would look like the end of the file to a sender that uses sendfile.
                pieces += part.records if len(part.records) == 1 else filter(size_of, part.records)
                body = bytearray()
            if flexible:
                body += wire.EMPTY_TAGS
        if flexible:
            body += wire.EMPTY_TAGS
    if flexible:
        body += wire.EMPTY_TAGS
    if body:
        pieces.append(body)
    return pieces


def _topic_start(version: int, topic: FetchTopicResult) -> bytes:
    count = len(topic.partitions)
    if version >= TOPIC_IDS_SINCE:
        if topic.topic_id is None:
            raise ValueError(f"FetchResponse v{version} names topics by id")
        return topic.topic_id.bytes + wire.varint(count + 1)
    if topic.name is None:
        raise ValueError(f"FetchResponse v{version} names topics by name")
    raw = topic.name.encode()
    if version >= FLEXIBLE_SINCE:
        return wire.varint(len(raw) + 1) + raw + wire.varint(count + 1)
    return _INT16.pack(len(raw)) + raw + _INT32.pack(count)


def _partition_flexible(part: FetchPartitionResult, compact_size: int) -> bytes:
    """The fields before the records; `compact_size` is the records' size plus one, or 0 for null."""
    offsets = (part.index, part.error_code, part.high_watermark, part.last_stable_offset, part.log_start_offset)
    aborted = part.aborted
    if not aborted:
        null_or_none = 0 if aborted is None else 1
        return _PARTITION_V12_PLAIN.pack(*offsets, null_or_none, NO_PREFERRED_REPLICA) + wire.varint(compact_size)
    rows = b"".join([_ABORTED_TAGGED.pack(producer_id, first, 0) for producer_id, first in aborted])
    start = _PARTITION_V5.pack(*offsets) + wire.varint(len(aborted) + 1) + rows
    return start + _INT32.pack(NO_PREFERRED_REPLICA) + wire.varint(compact_size)


def _partition_fixed(version: int, part: FetchPartitionResult, size: int) -> bytes:
    """The fields before the records; `size` is the records' size, or -1 for null."""
    offsets = (part.index, part.error_code, part.high_watermark, part.last_stable_offset, part.log_start_offset)
    aborted = part.aborted
    count = -1 if aborted is None else len(aborted)
    if version >= PREFERRED_REPLICA_SINCE and not aborted:
        return _PARTITION_V11_PLAIN.pack(*offsets, count, NO_PREFERRED_REPLICA, size)
    start = _PARTITION_V5.pack(*offsets) if version >= LOG_START_SINCE else _PARTITION_V4.pack(*offsets[:4])
    start += _INT32.pack(count)
    if aborted:
        start += b"".join([_ABORTED.pack(*row) for row in aborted])
    if version >= PREFERRED_REPLICA_SINCE:
        start += _INT32.pack(NO_PREFERRED_REPLICA)
    return start + _INT32.pack(size)

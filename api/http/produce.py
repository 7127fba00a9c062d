"""POST /topics/{topic} and /topics/{topic}/partitions/{partition}: records in JSON, offsets out (REST proxy v2).

Records with a key go where every Kafka client's default partitioner puts them, those without one together to a
partition that rotates from request to request. Each partition gets one batch, more only when it would exceed
`max.message.bytes`; order is kept. The answer waits for fsync unless `?acks=1` or `0` is asked. A batch that is refused
shows in its records' `error_code`, while the others stand: status 200 says that the request was understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
from starlette.types import Receive, Scope, Send

from api.errors import wire
from api.http.asgi import header, query, read_body, respond
from api.http.door import Door
from api.http.errors import PARTITION_NOT_FOUND, PAYLOAD, Problem, no_partition
from api.http.formats import TO_BYTES, Format, InRecord, format_of_content_type, parse_body
from cluster.pending import Pending
from logstore.errors import LogstoreError
from logstore.log.partition_log import AppendResult
from logstore.partitioner import partition_for_key
from logstore.record.batch import HEADER_BYTES
from logstore.record.records import NewRecord, encode_batch
from logstore.types import Header, TimestampMs

CONTENT_TYPE: Final = b"application/vnd.kafka.v2+json"
ACKS: Final = {"all": -1, "-1": -1, "1": 1, "0": 0}
_RECORD_OVERHEAD_BYTES: Final = 36  # every varint of a record at its longest, and its attributes
_HEADER_OVERHEAD_BYTES: Final = 10


class OutOffset(msgspec.Struct, gc=False):
    """What became of one record."""

    partition: int | None
    offset: int | None
    error_code: int | None = None
    error: str | None = None


class ProduceAnswer(msgspec.Struct, gc=False):
    offsets: Sequence[OutOffset | None]
    key_schema_id: int | None = None
    value_schema_id: int | None = None


class Batch(NamedTuple):
    """One encoded batch and which of the request's records it holds."""

    partition: int
    indexes: Sequence[int]
    data: bytearray


class Plan(NamedTuple):
    batches: list[Batch]
    refused: dict[int, OutOffset]
    record_count: int


_encode = msgspec.json.Encoder().encode


async def produce(door: Door, scope: Scope, receive: Receive, send: Send, name: str, index: int | None) -> None:
    """Answers the request, or raises `Problem` or `LogstoreError` before anything was written."""
    format_ = format_of_content_type(header(scope, b"content-type"))
    asked = query(scope, ("acks",)).get("acks", "all")
    acks = ACKS.get(asked)
    if acks is None:
        raise Problem(400, 40002, f"acks={asked[:20]} is not known (choose all, 1 or 0)")
    limits = door.limits
    body = await read_body(scope, receive, bytes_max=limits.body_bytes_max, wait_s=limits.body_wait_ms_max / 1000)
    door.counters.body_bytes_received += len(body)
    topic = door.node.image.topics.get(name)
    if topic is None:
        parse_body(body, format_)  # a topic is not made for a request that will be refused
        topic = await door.node.topic_or_create(name)
    count = len(topic.partition_ids)
    if index is not None and not 0 <= index < count:
        raise no_partition(name, index, count)
    batch_bytes_max = door.config(topic).max_message_bytes
    keyless = next(door.rotation) % count
    now_ms = door.clock.now_ms()
    plan = await door.work(
        len(body), lambda: plan_batches(body, format_, name, count, index, keyless, now_ms, batch_bytes_max)
    )
    node = door.node
    pendings: list[tuple[Batch, Pending[AppendResult]]] = [
        (batch, node.produce(topic.partition_ids[batch.partition], memoryview(batch.data), acks=acks))
        for batch in plan.batches
    ]
    node.end_of_turn()
    offsets: list[OutOffset | None] = [None] * plan.record_count
    for at, refused in plan.refused.items():
        offsets[at] = refused
    for batch, pending in pendings:
        try:
            base_offset = (await pending).base_offset
        except LogstoreError as error:
            failed = OutOffset(batch.partition, None, wire(error).rest_code, str(error))
            for at in batch.indexes:
                offsets[at] = failed
        else:
            partition = batch.partition
            door.counters.records_produced += len(batch.indexes)
            for offset, at in enumerate(batch.indexes, base_offset):
                offsets[at] = OutOffset(partition, offset)
    await respond(send, 200, _encode(ProduceAnswer(offsets)), CONTENT_TYPE)


def plan_batches(
    body: bytes,
    format_: Format,
    topic: str,
    partition_count: int,
    partition: int | None,
    keyless: int,
    now_ms: TimestampMs,
    batch_bytes_max: int,
) -> Plan:
    """The batches of a request, in the order in which their first records came.

    Args: `partition`, when the path names one; `keyless`, where records without key and partition go; `now_ms`, the
        timestamp of records without one.
    Raises: `Problem` as `parse_body`, and 422 when a record names a partition that the path contradicts.
    """
    records = parse_body(body, format_)
    to_bytes = TO_BYTES[format_]
    refused: dict[int, OutOffset] = {}
    by_partition: dict[int, tuple[list[int], list[NewRecord]]] = {}
    for at, record in enumerate(records):
        key = to_bytes(record.key)
        target = record.partition
        if partition is not None:
            if target is not None and target != partition:
                message = f"record {at} names partition {target}, the path {partition}"
                raise Problem(422, PAYLOAD, message)
            target = partition
        elif target is None:
            target = keyless if key is None else partition_for_key(key, partition_count)
        elif not 0 <= target < partition_count:
            message = f"topic {topic} has partitions 0..{partition_count - 1}, not {target}"
            refused[at] = OutOffset(None, None, PARTITION_NOT_FOUND, message)
            continue
        group = by_partition.get(target)
        if group is None:
            group = by_partition[target] = ([], [])
        timestamp_ms = now_ms if record.timestamp is None else record.timestamp
        group[0].append(at)
        group[1].append((timestamp_ms, key, to_bytes(record.value), _headers(record) if record.headers else ()))
    batches = [
        batch
        for target, (indexes, new_records) in by_partition.items()
        for batch in _split(target, indexes, new_records, batch_bytes_max)
    ]
    return Plan(batches, refused, len(records))


def _headers(record: InRecord) -> Sequence[Header]:
    return [(each.name, each.value) for each in record.headers or ()]


def _split(partition: int, indexes: list[int], records: list[NewRecord], bytes_max: int) -> list[Batch]:
    """One batch, or as many as `bytes_max` makes necessary; a single record above it is left for the log to refuse."""
    whole = encode_batch(records)
    if len(whole) <= bytes_max or len(records) == 1:
        return [Batch(partition, indexes, whole)]
    batches = []
    start, size_bytes = 0, HEADER_BYTES
    for at, record in enumerate(records):
        record_bytes = _size_bytes(record)
        if at > start and size_bytes + record_bytes > bytes_max:
            batches.append(Batch(partition, indexes[start:at], encode_batch(records[start:at])))
            start, size_bytes = at, HEADER_BYTES
        size_bytes += record_bytes
    batches.append(Batch(partition, indexes[start:], encode_batch(records[start:])))
    return batches


def _size_bytes(record: NewRecord) -> int:
    """Not less than what the record takes in a batch."""
    _, key, value, headers = record
    size_bytes = _RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"")
    for name, content in headers:
        size_bytes += _HEADER_OVERHEAD_BYTES + 4 * len(name) + len(content or b"")
    return size_bytes

"""GET /topics/{topic}/partitions/{partition}/records: records from an offset on, no consumer kept (Redpanda's route).

    offset=N | earliest (default) | latest, or timestamp=MS: the first record at or after it
    max_bytes=N     about how many bytes of keys and values to answer; the first record always comes
    timeout=MS      how long to wait for a first record
    Accept          the embedded format; see formats.py

The answer's `logstore-next-offset` header is where to go on, also when the array is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from starlette.types import Receive, Scope, Send

from api.http.asgi import header, query, respond, whole_number
from api.http.door import Door
from api.http.errors import (
    BAD_REQUEST,
    FORMAT_MISMATCH,
    OFFSET_OUT_OF_RANGE,
    SERVER_ERROR,
    Problem,
    no_partition,
)
from api.http.formats import TIMESTAMP_MAX, Format, OutRecord, Unreadable, format_of_accept, out_record
from cluster.logs import FetchAsk, FetchLimits
from cluster.node import EARLIEST, LATEST
from logstore.errors import CorruptBatch, OffsetOutOfRange, RecordTooLarge, UnsupportedFormat
from logstore.record.batch import check
from logstore.record.records import iter_records
from logstore.segment.reader import LogSlice
from logstore.types import Isolation, Offset, Record

ISOLATION: Final = Isolation.READ_UNCOMMITTED
_OFFSET_MAX: Final = 2**63 - 1
_encode = msgspec.json.Encoder().encode


class Decoded(NamedTuple):
    """The records of one batch, and the offset after it. A marker or an emptied batch has none.

    `unreadable` says why there are none of a batch whose producer packed what cannot be decoded, or too much of it.
    """

    records: list[Record]
    next_offset: Offset
    unreadable: str = ""


def decode(slices: Sequence[LogSlice], from_offset: Offset) -> Iterator[Decoded]:
    """The batches of `slices`, one at a time, without what lies below `from_offset`.

    Raises `Problem` 500 for bytes that are not what was written, once every batch before them was yielded.
    """
    for slice_ in slices:
        view = slice_.view()
        position = 0
        while position < len(view):
            try:
                batch_header = check(view, position)
            except (CorruptBatch, UnsupportedFormat) as error:
                raise Problem(500, SERVER_ERROR, f"the batch at offset {from_offset} is damaged: {error}") from error
            end = position + batch_header.size_bytes
            records: list[Record] = []
            unreadable = ""
            try:
                if batch_header.last_offset >= from_offset and not batch_header.is_control:
                    found = iter_records(view[position:end], batch_header)
                    records = [record for record in found if record.offset >= from_offset]
            except (CorruptBatch, RecordTooLarge, UnsupportedFormat) as error:
                after = batch_header.last_offset + 1
                unreadable = f"the batch at offset {from_offset} cannot be shown: {error}; go on at offset {after}"
            from_offset = max(from_offset, batch_header.last_offset + 1)
            yield Decoded(records, from_offset, unreadable)
            position = end


def start_offset(door: Door, partition_id: int, asked: Mapping[str, str], default: str) -> Offset:
    """Where `offset=` or `timestamp=` says to start. Raises `Problem` for what is neither."""
    text = asked.get("offset")
    if (stamp := asked.get("timestamp")) is not None:
        if text is not None:
            raise Problem(400, BAD_REQUEST, "offset and timestamp exclude each other")
        timestamp_ms = whole_number("timestamp", stamp, low=0, high=TIMESTAMP_MAX)
        found = door.node.list_offset(partition_id, timestamp_ms, ISOLATION)
        return door.node.head(partition_id).high_watermark if found is None else found.offset
    text = default if text is None else text
    if text in ("earliest", "latest"):
        place = door.node.list_offset(partition_id, EARLIEST if text == "earliest" else LATEST, ISOLATION)
        assert place is not None, "only a timestamp may find nothing"
        return place.offset
    return whole_number("offset", text, low=0, high=_OFFSET_MAX)


def out_of_range(topic: str, partition: int, offset: Offset, error: OffsetOutOfRange) -> Problem:
    low, high = error.log_start_offset, error.log_end_offset
    return Problem(
        416,
        OFFSET_OUT_OF_RANGE,
        f"offset {offset} of {topic}-{partition} is outside {low}..{high} (start at earliest or latest)",
    )


async def read(door: Door, scope: Scope, receive: Receive, send: Send, name: str, index: int) -> None:
    """Answers the request, or raises `Problem` or `LogstoreError`."""
    asked = query(scope, ("offset", "timestamp", "max_bytes", "timeout"))
    format_, media_type = format_of_accept(header(scope, b"accept"))
    limits = door.limits
    wait_ms_max = whole_number(
        "timeout", asked.get("timeout", str(limits.read_wait_ms_default)), low=0, high=limits.read_wait_ms_max
    )
    bytes_max = whole_number(
        "max_bytes", asked.get("max_bytes", str(limits.read_bytes_default)), low=1, high=limits.read_bytes_max
    )
    topic = door.node.topic(name)
    if not 0 <= index < len(topic.partition_ids):
        raise no_partition(name, index, len(topic.partition_ids))
    partition_id = topic.partition_ids[index]
    offset = start_offset(door, partition_id, asked, "earliest")
    deadline_ms = door.clock.monotonic_ms() + wait_ms_max
    found = Found(b"[]", 0, offset)
    async with door.lifecycle.client(receive) as client:
        while True:
            left_ms = max(0, deadline_ms - door.clock.monotonic_ms())
            fetch_limits = FetchLimits(1, bytes_max, left_ms, ISOLATION)
            ask = FetchAsk(partition_id, found.next_offset, bytes_max)
            parts = await client.wait(door.node.fetch([ask], fetch_limits))
            if client.gone:
                return
            if parts is None:
                break
            part = parts[0]
            if isinstance(part.error, OffsetOutOfRange):
                raise out_of_range(name, index, found.next_offset, part.error)
            if part.error is not None:
                raise part.error
            if not part.slices:
                break
            look = Look(name, index, part.slices, found.next_offset, bytes_max, format_)
            found = await door.work(part.size_bytes, look.out)
            if found.record_count or left_ms == 0:
                break
    door.counters.records_read += found.record_count
    next_offset = (b"logstore-next-offset", b"%d" % found.next_offset)
    await respond(send, 200, found.body, media_type.encode(), [next_offset])


class Found(NamedTuple):
    """A JSON array of records, and the offset after them."""

    body: bytes
    record_count: int
    next_offset: Offset


class Look(NamedTuple):
    """One look at fetched batches, to be done in whatever thread."""

    topic: str
    partition: int
    slices: Sequence[LogSlice]
    offset: Offset
    bytes_max: int
    format: Format

    def out(self) -> Found:
        """Records up to `bytes_max`, or up to one that cannot be shown; if that is the first, a `Problem`."""
        out: list[OutRecord] = []
        next_offset = self._fill(out)
        return Found(_encode(out), len(out), next_offset)

    def _fill(self, out: list[OutRecord]) -> Offset:
        size_bytes = 0
        next_offset = self.offset
        try:
            for batch in decode(self.slices, self.offset):
                for record in batch.records:
                    size_bytes += len(record.key or b"") + len(record.value or b"")
                    if out and size_bytes > self.bytes_max:
                        return record.offset
                    out.append(out_record(self.topic, self.partition, record, self.format))
                    next_offset = record.offset + 1
                if batch.unreadable:
                    raise Unreadable(batch.unreadable)
                next_offset = batch.next_offset
        except Unreadable as error:
            if not out:
                raise Problem(406, FORMAT_MISMATCH, str(error)) from None
        except Problem:
            if not out:
                raise
        return next_offset

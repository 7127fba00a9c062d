"""GET /v1/topics/{topic}/tail: records as server-sent events while they arrive.

    id: 2:1041,0:77,1:-1      last offset sent of each partition, this event's first; the browser sends it back as
    data: {"topic":…}         Last-Event-ID, and the stream goes on after it
    event: unreadable         a record that the format cannot show: its place and why; the stream goes on
    event: gap                records between two offsets were removed before they could be sent; the stream goes on
    event: error              the stream ends: the topic was deleted, or a batch is damaged
    : keep-alive              every 15 s of silence

The next batch is fetched only after the last one was taken by the socket, so a slow reader costs one batch of memory.
Source: WHATWG HTML, server-sent events.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.asgi import header, query, whole_number
from api.http.door import Door
from api.http.errors import BAD_REQUEST, FORMAT_MISMATCH, PAYLOAD, ErrorBody, Problem, no_partition, problem_of
from api.http.formats import Format, Unreadable, out_record
from api.http.lifecycle import Client
from api.http.read import ISOLATION, Decoded, decode, out_of_range, start_offset
from cluster.logs import FetchAsk, FetchLimits, FetchPart
from logstore.errors import LogstoreError, OffsetOutOfRange
from logstore.types import Offset, Record

_FETCH_BYTES: Final = 256 << 10
_RECORDS_PER_SEND: Final = 200
_EVENT_ID: Final = re.compile(r"[0-9]{1,10}:-?[0-9]{1,19}(,[0-9]{1,10}:-?[0-9]{1,19})*")
_KEEP_ALIVE: Final = b": keep-alive\n\n"
_encode = msgspec.json.Encoder().encode


class UnreadableEvent(msgspec.Struct):
    topic: str
    partition: int
    offset: Offset
    error_code: int
    message: str


class GapEvent(msgspec.Struct):
    """Records `from_offset`..`to_offset` (exclusive) cannot be sent any more."""

    topic: str
    partition: int
    from_offset: Offset
    to_offset: Offset


class Tail(Response):
    """One stream. Made before the answer begins, so that a wrong request gets a status of its own."""

    media_type = "text/event-stream"

    def __init__(self, door: Door, scope: Scope, name: str) -> None:
        """Raises `Problem` or `LogstoreError` for a wrong request."""
        self.status_code = 200
        self.background = None
        asked = query(scope, ("partition", "offset", "timestamp", "format"))
        self._door = door
        self._format = _format(asked.get("format", Format.BINARY))
        self._topic = door.node.topic(name)
        count = len(self._topic.partition_ids)
        if (only := asked.get("partition")) is not None:
            index = whole_number("partition", only, low=0, high=2**31 - 1)
            if index >= count:
                raise no_partition(name, index, count)
            indexes: Sequence[int] = [index]
        else:
            indexes = range(count)
        if len(indexes) > (most := door.limits.tail_partitions_max):
            raise Problem(422, PAYLOAD, f"topic {name} has {count} partitions, a tail has at most {most}: name one")
        if len(indexes) > 1 and asked.get("offset", "latest") not in ("earliest", "latest"):
            raise Problem(422, BAD_REQUEST, "a numbered offset needs partition=")
        resumed = _resume(header(scope, b"last-event-id"))
        self._next: dict[int, Offset] = {}
        for index in indexes:
            partition_id = self._topic.partition_ids[index]
            if index in resumed:
                self._next[index] = resumed[index] + 1
                continue
            self._next[index] = offset = start_offset(door, partition_id, asked, "latest")
            head = door.node.head(partition_id)
            if not head.log_start_offset <= offset <= head.high_watermark:
                low, high = head.log_start_offset, head.high_watermark
                error = OffsetOutOfRange("", log_start_offset=low, log_end_offset=high)
                raise out_of_range(name, index, offset, error)
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        counters = self._door.counters
        counters.tails_open += 1
        try:
            async with self._door.lifecycle.client(receive) as client:
                client.watch()
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._event(send, b": " + self._topic.name.encode() + b"\n\n")
                await self._stream(client, send)
            if not client.gone:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            counters.tails_open -= 1

    async def _stream(self, client: Client, send: Send) -> None:
        node = self._door.node
        limits = FetchLimits(1, _FETCH_BYTES, self._door.limits.tail_keep_alive_ms, ISOLATION)
        order = list(self._next)
        while not client.finished:
            asks = [FetchAsk(self._topic.partition_ids[index], self._next[index], _FETCH_BYTES) for index in order]
            parts = await client.wait(node.fetch(asks, limits))
            if parts is None:
                return
            if not any(part.slices or part.error for part in parts):
                await self._event(send, _KEEP_ALIVE)
            for index, part in zip(order, parts, strict=True):
                if part.error is not None and not await self._mend(send, index, part.error):
                    return
                if part.slices and not await self._send_part(client, send, index, part):
                    return
            order.append(order.pop(0))  # a busy partition does not keep the others waiting
            await asyncio.sleep(0)  # data that is always there must not keep the loop

    async def _mend(self, send: Send, index: int, error: LogstoreError) -> bool:
        """Go on behind what retention removed; anything else ends the stream."""
        if not isinstance(error, OffsetOutOfRange):
            return await self._end(send, error)
        before = self._next[index]
        low, high = error.log_start_offset, error.log_end_offset
        self._next[index] = after = low if before < low else high
        gap = GapEvent(self._topic.name, index, before, after)
        await self._event(send, _event(gap, name=b"gap", event_id=self._event_id(index)))
        return True

    async def _end(self, send: Send, error: Problem | LogstoreError) -> bool:
        problem = error if isinstance(error, Problem) else problem_of(error)
        await self._event(send, _event(ErrorBody(problem.error_code, problem.message), name=b"error"))
        return False

    async def _send_part(self, client: Client, send: Send, index: int, part: FetchPart) -> bool:
        """Send what was fetched, batch by batch. False: the stream is over."""
        batches = decode(part.slices, self._next[index])
        while True:
            try:
                batch = await self._door.work(part.size_bytes, lambda: next(batches, None))
            except (Problem, LogstoreError) as error:
                return await self._end(send, error)
            if batch is None:
                return True
            for chunk in _chunks(batch):
                events = b"".join([self._record(index, record) for record in chunk])
                self._door.counters.records_read += len(chunk)
                await self._event(send, events)
                if client.finished:
                    return False
                await asyncio.sleep(0)
            offset, self._next[index] = self._next[index], batch.next_offset
            if batch.unreadable:
                event = UnreadableEvent(self._topic.name, index, offset, FORMAT_MISMATCH, batch.unreadable)
                await self._event(send, _event(event, name=b"unreadable", event_id=self._event_id(index)))

    def _record(self, index: int, record: Record) -> bytes:
        topic = self._topic.name
        self._next[index] = record.offset + 1
        event_id = self._event_id(index)
        try:
            return _event(out_record(topic, index, record, self._format), event_id=event_id)
        except Unreadable as error:
            unreadable = UnreadableEvent(topic, index, record.offset, FORMAT_MISMATCH, str(error))
            return _event(unreadable, name=b"unreadable", event_id=event_id)

    def _event_id(self, index: int) -> bytes:
        if len(self._next) == 1:
            return b"%d:%d" % (index, self._next[index] - 1)
        others = [f"{other}:{offset - 1}" for other, offset in self._next.items() if other != index]
        return f"{index}:{self._next[index] - 1},{','.join(others)}".encode()

    @staticmethod
    async def _event(send: Send, data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})


def _event(data: msgspec.Struct, *, name: bytes = b"", event_id: bytes = b"") -> bytes:
    # A line end would end the field. JSON has raw ones only between its tokens, where a space says the same.
    line = _encode(data).replace(b"\n", b" ").replace(b"\r", b" ")
    named = b"event: " + name + b"\n" if name else b""
    placed = b"id: " + event_id + b"\n" if event_id else b""
    return named + placed + b"data: " + line + b"\n\n"


def _chunks(batch: Decoded) -> Iterator[list[Record]]:
    for start in range(0, len(batch.records), _RECORDS_PER_SEND):
        yield batch.records[start : start + _RECORDS_PER_SEND]


def _format(text: str) -> Format:
    try:
        return Format(text)
    except ValueError:
        raise Problem(400, BAD_REQUEST, f"format={text[:40]} is not known (choose json, binary or string)") from None


def _resume(event_id: str) -> Mapping[int, Offset]:
    """partition -> last offset seen, of a Last-Event-ID. Raises `Problem` for one that we did not send."""
    if not event_id:
        return {}
    if not _EVENT_ID.fullmatch(event_id):
        raise Problem(400, BAD_REQUEST, "last-event-id is not one of this stream's ids (partition:offset,...)")
    places = (place.split(":") for place in event_id.split(","))
    return {int(partition): max(-1, min(int(offset), 2**63 - 2)) for partition, offset in places}

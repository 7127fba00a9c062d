"""Produce without decoding: a request whose beginning came before goes straight to its partition.

A producer's requests for one partition differ in three places only: the correlation id, the size of the records, and
the records. What lies before the size, without the correlation id, is looked up as bytes:

    byte  0          4                8                                        prefix_bytes
          +----------+----------------+----------------------------------------+---------+-----------+--------
          | api key, | correlation id | client id, acks, timeout, 1 topic,     | size of | records … | tags
          | version  |                | its name or id, 1 partition, its index | records |           | from v9
          +----------+----------------+----------------------------------------+---------+-----------+--------
           \\_______/                  \\_____________________________________/
                       what is known of a route: equal bytes mean an equal request

Whoever decodes a request of this shape `learn`s it. Anything else is left to the general way, which then also says
what is wrong: another shape, sizes that do not agree, a batch that is refused. So the two ways give the same answers.
Routes die with the metadata image they were made from, and there are at most ROUTES_MAX for a connection.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

from api.kafka.codec import response_header
from api.kafka.connection import Session, Slot
from api.kafka.produce_codec import (
    FLEXIBLE_SINCE,
    LOG_START_SINCE,
    PRODUCE_KEY,
    ProducePartitionResult,
    ProduceTopicResult,
    last_records,
    write_produce_response,
)
from cluster.node import Node
from logstore.errors import LogstoreError
from logstore.log.partition_log import AppendResult
from logstore.record.batch import HEADER_BYTES

VERSION_FIRST: Final = LOG_START_SINCE  # answers of earlier versions have another shape
ROUTES_MAX: Final = 1024  # of a connection; a route takes about 500 bytes and its prefix
PREFIX_BYTES_MAX: Final = 1024  # a client id may be longer: such requests are decoded each time
LENGTHS_MAX: Final = 8  # of different prefixes of a connection: each is a look-up more

_START = struct.Struct(">ii")  # api key and version as one number, correlation id
_SIZE = struct.Struct(">i")
_OFFSETS = struct.Struct(">qqq")  # of an answer: base offset, append time, log start offset
assert (_START.size, _SIZE.size, _OFFSETS.size) == (8, 4, 24)
_PLACEHOLDERS: Final = (2**62 + 1, 2**62 + 3, 2**62 + 5)

Refuse: TypeAlias = Callable[[int, Slot, LogstoreError], None]
"""(correlation id, slot, error): answer a request of the route that was taken and failed later."""


class Route(msgspec.Struct):
    """What the bytes of a prefix mean, and the answer around the numbers that change in it."""

    key_and_version: int
    prefix_bytes: int
    is_flexible: bool
    partition_id: int
    acks: int
    refuse: Refuse
    answer: struct.Struct  # size, correlation id, head, base offset, append time, log start offset, tail
    size: int
    head: bytes
    tail: bytes


def make_route(
    version: int,
    prefix_bytes: int,
    *,
    topic: str | None,
    topic_id: UUID | None,
    index: int,
    partition_id: int,
    acks: int,
    refuse: Refuse,
) -> Route:
    """The route of one partition. Its answer is the general writer's, with the numbers taken out."""
    result = ProducePartitionResult(index, 0, *_PLACEHOLDERS)
    body = write_produce_response(version, [ProduceTopicResult(topic, topic_id, [result])])
    before, _, tail = body.rpartition(_OFFSETS.pack(*_PLACEHOLDERS))
    head = response_header(PRODUCE_KEY, version, 0)[4:] + before
    answer = struct.Struct(f">ii{len(head)}sqqq{len(tail)}s")
    return Route(
        key_and_version=PRODUCE_KEY << 16 | version,
        prefix_bytes=prefix_bytes,
        is_flexible=version >= FLEXIBLE_SINCE,
        partition_id=partition_id,
        acks=acks,
        refuse=refuse,
        answer=answer,
        size=answer.size - _SIZE.size,
        head=bytes(head),
        tail=bytes(tail),
    )


class ProduceShortcut:
    """The routes that one connection has used. Called with a frame: True when it was served."""

    __slots__ = ("_image", "_lengths", "_node", "_open_slot", "_routes")

    def __init__(self, node: Node, session: Session) -> None:
        self._node = node
        self._open_slot = session.open_slot
        self._image = node.image
        self._routes: dict[bytes, Route] = {}
        self._lengths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self._routes)

    def learn(self, frame: memoryview, route: Route) -> None:
        """Serve requests that begin as `frame` does by `route` from now on, unless that is too much to keep."""
        length = route.prefix_bytes
        if length > PREFIX_BYTES_MAX:
            return
        new_length = length not in self._lengths
        full = len(self._routes) == ROUTES_MAX or (new_length and len(self._lengths) == LENGTHS_MAX)
        if full or self._image is not self._node.image:
            self._forget()
            new_length = True
        if new_length:
            self._lengths = (*self._lengths, length)
        self._routes[bytes(frame[8:length])] = route

    def _forget(self) -> None:
        self._routes.clear()
        self._lengths = ()
        self._image = self._node.image

    def __call__(self, frame: memoryview) -> bool:
        for length in self._lengths:
            route = self._routes.get(bytes(frame[8:length]))
            if route is not None:
                break
        else:
            return False
        if self._image is not self._node.image:
            self._forget()
            return False
        records = _records(frame, route)
        key_and_version, correlation_id = _START.unpack_from(frame)
        if records is None or key_and_version != route.key_and_version:
            return False
        answer = _Answer()
        answer.route = route
        answer.correlation_id = correlation_id
        try:
            answer.result = self._node.stage(route.partition_id, records, answer.settle, acks=route.acks)
        except LogstoreError:
            return False  # nothing was taken: the general way is refused alike, and says why
        answer.slot = self._open_slot()
        return True


def _records(frame: memoryview, route: Route) -> memoryview | None:
    """What follows the prefix of `route`, if it is the records and they fill the frame."""
    at, end = route.prefix_bytes, len(frame)
    if end - at < HEADER_BYTES:
        return None
    if route.is_flexible:
        return last_records(frame, at + 1, end, frame[at])
    (size,) = _SIZE.unpack_from(frame, at)
    at += _SIZE.size
    return frame[at:] if size == end - at else None


class _Answer:
    """The reply of one request, for when its records are where they should be."""

    __slots__ = ("correlation_id", "result", "route", "slot")

    route: Route
    correlation_id: int
    result: AppendResult
    slot: Slot

    def settle(self, error: LogstoreError | None) -> None:
        route = self.route
        if error is not None:
            route.refuse(self.correlation_id, self.slot, error)
        elif route.acks == 0:
            self.slot.skip()
        else:
            base, _, append_ms, start, _ = self.result
            self.slot.fill_frame(
                route.answer.pack(route.size, self.correlation_id, route.head, base, append_ms, start, route.tail)
            )

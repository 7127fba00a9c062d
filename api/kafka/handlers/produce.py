"""Produce (key 0), versions 3 to 13: append record batches to partitions.

Version 13 names topics by id. `acks` 0 gets no reply, and an error then ends the connection, the only sign there is; 1
is answered from the page cache; -1 (all) after an fsync (`flush.policy`). Each partition of a request succeeds or fails
on its own. The record bytes are views of the receive buffer: they are stamped there and written from there at the end
of the turn, never decoded; from the second request of a kind on, the request is not either (`produce_shortcut`).
Transactional batches are refused by the log: no transaction can have begun.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from api.errors import wire
from api.kafka import produce_shortcut
from api.kafka.codec import response_header, write_response
from api.kafka.connection import Slot
from api.kafka.messages.produce import PartitionProduceResponse, ProduceResponse, TopicProduceResponse
from api.kafka.produce_codec import (
    ProducePartitionResult,
    ProduceRequestView,
    ProduceTopicResult,
    read_produce,
    write_produce_response,
)
from api.kafka.schema import ZERO_UUID
from cluster.error_codes import ErrorCode
from cluster.image import TopicImage
from cluster.node import Node
from logstore.errors import InvalidRecord, InvalidRequest, LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 0
VERSIONS = (3, 13)
_MESSAGES_SINCE = 8  # version that carries an error's text (KIP-467)
_ACKS = (-1, 0, 1)


def serve(context: Context, frame: memoryview, slot: Slot) -> None:
    request = read_produce(context.header.api_version, frame, context.header.body_position, len(frame))
    if request.acks not in _ACKS:
        _Produce(context, slot, request).refuse(ErrorCode.INVALID_REQUIRED_ACKS)
        return
    _Produce(context, slot, request).append(context.node)
    if request.prefix_bytes and context.version >= produce_shortcut.VERSION_FIRST:
        _learn(context, frame, request)


def _learn(context: Context, frame: memoryview, request: ProduceRequestView) -> None:
    """Let requests that begin like this one take the shortcut."""
    node, session = context.node, context.session
    ((name, topic_id, ((index, _),)),) = request.topics
    try:
        partition_id = node.partition_id(_topic(node, name, topic_id), index)
    except LogstoreError:
        return
    without_records = ProduceRequestView(request.acks, 0, None, [(name, topic_id, [(index, None)])])
    route = produce_shortcut.make_route(
        context.version,
        request.prefix_bytes,
        topic=name,
        topic_id=topic_id,
        index=index,
        partition_id=partition_id,
        acks=request.acks,
        refuse=partial(_refuse, context, without_records),
    )
    shortcut = session.shortcut
    if not isinstance(shortcut, produce_shortcut.ProduceShortcut):
        session.shortcut = shortcut = produce_shortcut.ProduceShortcut(node, session)
    shortcut.learn(frame, route)


def _refuse(
    context: Context, request: ProduceRequestView, correlation_id: int, slot: Slot, error: LogstoreError
) -> None:
    """What `_Produce` answers to a request like `request` when its append fails."""
    header = msgspec.structs.replace(context.header, correlation_id=correlation_id)
    produce = _Produce(context._replace(header=header), slot, request)
    produce.fail(0, 0, error)
    produce.settle()


def _topic(node: Node, name: str | None, topic_id: UUID | None) -> TopicImage:
    return node.topic_by_id(topic_id) if topic_id is not None else node.topic(name or "")


class _Produce:
    """One request on its way: counts the partitions that are still open, then fills the slot."""

    __slots__ = ("_context", "_errors", "_open", "_request", "_results", "_slot")

    def __init__(self, context: Context, slot: Slot, request: ProduceRequestView) -> None:
        self._context = context
        self._slot = slot
        self._request = request
        self._results: list[list[ProducePartitionResult | None]] = [[None] * len(each[2]) for each in request.topics]
        self._errors: dict[tuple[int, int], LogstoreError] = {}
        self._open = 1  # for `append` itself: nothing is replied before every partition was looked at

    def append(self, node: Node) -> None:
        acks = self._request.acks
        for at_topic, (name, topic_id, partitions) in enumerate(self._request.topics):
            for at_partition, (index, records) in enumerate(partitions):
                try:
                    topic = _topic(node, name, topic_id)
                    if records is None or not len(records):
                        raise InvalidRecord("there are no records for this partition")
                    result = node.stage(
                        node.partition_id(topic, index),
                        records,
                        partial(self._settle_one, at_topic, at_partition),
                        acks=acks,
                    )
                except LogstoreError as error:
                    self.fail(at_topic, at_partition, error)
                    continue
                self._open += 1
                base_offset, _, log_append_time_ms, log_start_offset, _ = result
                self._results[at_topic][at_partition] = ProducePartitionResult(
                    index, 0, base_offset, log_append_time_ms, log_start_offset
                )
        self.settle()

    def refuse(self, code: ErrorCode) -> None:
        """Answer every partition with `code`."""
        for at_topic, (_, _, partitions) in enumerate(self._request.topics):
            for at_partition, (index, _) in enumerate(partitions):
                self._results[at_topic][at_partition] = ProducePartitionResult(index, code, -1)
        if self._request.acks == 0:
            self._errors[0, 0] = InvalidRequest(code.name)
        self.settle()

    def _settle_one(self, at_topic: int, at_partition: int, error: LogstoreError | None) -> None:
        if error is not None:
            self.fail(at_topic, at_partition, error)
        self.settle()

    def fail(self, at_topic: int, at_partition: int, error: LogstoreError) -> None:
        index = self._request.topics[at_topic][2][at_partition][0]
        self._results[at_topic][at_partition] = ProducePartitionResult(index, wire(error).code, -1)
        self._errors[at_topic, at_partition] = error

    def settle(self) -> None:
        self._open -= 1
        if self._open:
            return
        if self._request.acks == 0:
            self._slot.skip()
            if self._errors:
                self._context.session.finish()
            return
        header = self._context.header
        self._slot.fill((response_header(API_KEY, header.api_version, header.correlation_id), self._encode()))

    def _encode(self) -> bytearray:
        version = self._context.header.api_version
        if self._errors and version >= _MESSAGES_SINCE:
            return write_response(API_KEY, version, self._with_messages())
        topics = [
            ProduceTopicResult(name, topic_id, [each for each in results if each is not None])
            for (name, topic_id, _), results in zip(self._request.topics, self._results, strict=True)
        ]
        return write_produce_response(version, topics)

    def _with_messages(self) -> ProduceResponse:
        return ProduceResponse(
            responses=[
                TopicProduceResponse(
                    name=name or "",
                    topic_id=topic_id or ZERO_UUID,
                    partition_responses=[
                        PartitionProduceResponse(
                            index=each.index,
                            error_code=each.error_code,
                            base_offset=each.base_offset,
                            log_append_time_ms=each.log_append_time_ms,
                            log_start_offset=each.log_start_offset,
                            error_message=_text(self._errors.get((at_topic, at_partition))),
                        )
                        for at_partition, each in enumerate(self._results[at_topic])
                        if each is not None
                    ],
                )
                for at_topic, (name, topic_id, _) in enumerate(self._request.topics)
            ]
        )


def _text(error: LogstoreError | None) -> str | None:
    return None if error is None else str(error)

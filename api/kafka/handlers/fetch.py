"""Fetch (key 1), versions 4 to 16: record batches from an offset on, with long poll.

Batches leave as slices of the segment files, whole, compressed as they came. `min_bytes` and `max_wait_ms` park the
request until enough was appended; an error of any partition is told at once. The first batch goes out even above the
limits, so that a consumer can always move on (KIP-74). Version 13 names topics by id. Fetch sessions (KIP-227) are not
kept: every answer has session id 0, by which clients know to send full requests. There are no transactions, so none is
aborted. Versions 17 and 18 are for replicas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from api.errors import wire
from api.kafka.codec import read_request, response_header
from api.kafka.connection import Part, Slot
from api.kafka.fetch_codec import FetchPartitionResult, FetchTopicResult, write_fetch_response
from api.kafka.messages.fetch import FetchPartition, FetchRequest, FetchTopic
from cluster.error_codes import ErrorCode
from cluster.logs import FetchAsk, FetchLimits, FetchPart
from cluster.node import Node
from cluster.pending import Pending
from logstore.errors import LogstoreError
from logstore.types import Isolation

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 1
VERSIONS = (4, 16)
_TOPIC_IDS_SINCE = 13
_WAIT_MS_MAX = 5 * 60 * 1000  # a parked request holds memory: no client waits longer (Java's default is 500 ms)


def serve(context: Context, frame: memoryview, slot: Slot) -> None:
    header = context.header
    request = cast(FetchRequest, read_request(API_KEY, header.api_version, frame, header.body_position))
    fetch = _Fetch(context, request)
    pending = context.node.fetch(fetch.asks, fetch.limits)
    if pending.done:
        slot.fill(fetch.encode(pending.result()))
        return
    on_close, cancel = context.session.on_close, pending.cancel
    on_close.append(cancel)

    def answer(done: Pending[list[FetchPart]]) -> None:
        on_close.remove(cancel)
        slot.fill(fetch.encode(done.result()))

    pending.when_done(answer)


class _Fetch:
    """One request: what it asks of which partition, and how the parts go back into the shape of the request."""

    __slots__ = ("_context", "_refused", "_request", "asks", "limits")

    def __init__(self, context: Context, request: FetchRequest) -> None:
        node = context.node
        self._context = context
        self._request = request
        self._refused: dict[tuple[int, int], ErrorCode] = {}
        self.asks: list[FetchAsk] = []
        for at_topic, topic in enumerate(request.topics):
            for at_partition, each in enumerate(topic.partitions):
                try:
                    self.asks.append(self._ask(node, topic, each))
                except LogstoreError as error:
                    self._refused[at_topic, at_partition] = wire(error).code
        self.limits = FetchLimits(
            bytes_min=max(0, request.min_bytes),
            bytes_max=max(0, min(request.max_bytes, node.config.fetch_max_bytes)),
            wait_ms_max=0 if self._refused else min(request.max_wait_ms, _WAIT_MS_MAX),
            isolation=Isolation.READ_COMMITTED if request.isolation_level else Isolation.READ_UNCOMMITTED,
        )

    def _ask(self, node: Node, topic: FetchTopic, each: FetchPartition) -> FetchAsk:
        by_id = self._context.header.api_version >= _TOPIC_IDS_SINCE
        image = node.topic_by_id(topic.topic_id) if by_id else node.topic(topic.topic)
        return FetchAsk(node.partition_id(image, each.partition), each.fetch_offset, max(0, each.partition_max_bytes))

    def encode(self, parts: list[FetchPart]) -> list[Part]:
        """The response's buffers and file slices, in the order of the request."""
        header = self._context.header
        left = iter(parts)
        topics = []
        for at_topic, topic in enumerate(self._request.topics):
            results = []
            for at_partition, each in enumerate(topic.partitions):
                refused = self._refused.get((at_topic, at_partition))
                results.append(
                    _refused(each.partition, refused) if refused is not None else self._part(each, next(left))
                )
            topics.append(FetchTopicResult(topic.topic, topic.topic_id, results))
        pieces = write_fetch_response(header.api_version, 0, 0, 0, topics)
        return [response_header(API_KEY, header.api_version, header.correlation_id), *pieces]

    def _part(self, asked: FetchPartition, part: FetchPart) -> FetchPartitionResult:
        if part.error is not None:
            return _refused(asked.partition, wire(part.error).code)
        aborted: tuple[tuple[int, int], ...] | None = () if self.limits.isolation is Isolation.READ_COMMITTED else None
        return FetchPartitionResult(
            asked.partition,
            0,
            part.high_watermark,
            part.last_stable_offset,
            part.log_start_offset,
            aborted,
            part.slices,
        )


def _refused(partition: int, code: ErrorCode) -> FetchPartitionResult:
    return FetchPartitionResult(partition, code, -1, -1, -1, None, ())

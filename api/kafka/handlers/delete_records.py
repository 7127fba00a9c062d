"""DeleteRecords (key 21), versions 0 to 2: move the log start offset up (KIP-107); -1 means to the high watermark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.messages.delete_records import (
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopic,
    DeleteRecordsTopicResult,
)
from cluster.error_codes import ErrorCode
from cluster.node import Node
from logstore.errors import LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 21
VERSIONS = (0, 2)


async def handle(context: Context, request: DeleteRecordsRequest) -> DeleteRecordsResponse:
    node = context.node
    cuts: dict[int, int] = {}
    asked: list[tuple[DeleteRecordsTopic, list[int | LogstoreError]]] = []
    for topic in request.topics:
        places = [_place(node, topic.name, each.partition_index) for each in topic.partitions]
        asked.append((topic, places))
        for place, each in zip(places, topic.partitions, strict=True):
            if isinstance(place, int):
                cuts[place] = each.offset
    results = await node.delete_records(cuts)
    return DeleteRecordsResponse(
        topics=[
            DeleteRecordsTopicResult(
                topic.name,
                [
                    _result(each.partition_index, results[place] if isinstance(place, int) else place)
                    for place, each in zip(places, topic.partitions, strict=True)
                ],
            )
            for topic, places in asked
        ]
    )


def _place(node: Node, topic: str, index: int) -> int | LogstoreError:
    try:
        return node.partition_id(node.topic(topic), index)
    except LogstoreError as error:
        return error


def _result(index: int, outcome: int | LogstoreError) -> DeleteRecordsPartitionResult:
    if isinstance(outcome, LogstoreError):
        return DeleteRecordsPartitionResult(index, -1, wire(outcome).code)
    return DeleteRecordsPartitionResult(index, outcome, ErrorCode.NONE)

"""DeleteRecords (key 21), versions 0 to 2: move the log start offset up (KIP-107); -1 means to the high watermark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.messages.delete_records import (
    DeleteRecordsPartition,
    DeleteRecordsPartitionResult,
    DeleteRecordsRequest,
    DeleteRecordsResponse,
    DeleteRecordsTopicResult,
)
from cluster.error_codes import ErrorCode
from cluster.node import Node
from logstore.errors import LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 21
VERSIONS = (0, 2)


def handle(context: Context, request: DeleteRecordsRequest) -> DeleteRecordsResponse:
    return DeleteRecordsResponse(
        topics=[
            DeleteRecordsTopicResult(
                topic.name, [_delete(context.node, topic.name, partition) for partition in topic.partitions]
            )
            for topic in request.topics
        ]
    )


def _delete(node: Node, topic: str, asked: DeleteRecordsPartition) -> DeleteRecordsPartitionResult:
    index = asked.partition_index
    try:
        low_watermark = node.delete_records(node.partition_id(node.topic(topic), index), asked.offset)
    except LogstoreError as error:
        return DeleteRecordsPartitionResult(index, -1, wire(error).code)
    return DeleteRecordsPartitionResult(index, low_watermark, ErrorCode.NONE)

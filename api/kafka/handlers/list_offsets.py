"""ListOffsets (key 2), versions 1 to 11: offsets by timestamp.

Special timestamps: -1 latest, -2 earliest, -3 the record with the largest timestamp (version 7, KIP-734); from version
8 on the tiered ones, -4 earliest local, -5 latest tiered and -6 earliest pending upload, for which a log without a
second tier has the earliest, none and none. The latest of a read_committed client is the last stable offset. Leader
epochs are constant 0 here, so a client's epoch is only checked against being newer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.messages.list_offsets import (
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopicResponse,
)
from cluster.error_codes import ErrorCode
from cluster.node import EARLIEST, Node
from logstore.errors import LogstoreError
from logstore.types import Isolation

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 2
VERSIONS = (1, 11)
_EARLIEST_LOCAL = -4
_TIERED = (-5, -6)


def handle(context: Context, request: ListOffsetsRequest) -> ListOffsetsResponse:
    isolation = Isolation.READ_COMMITTED if request.isolation_level else Isolation.READ_UNCOMMITTED
    return ListOffsetsResponse(
        topics=[
            ListOffsetsTopicResponse(
                topic.name, [_look_up(context.node, topic.name, each, isolation) for each in topic.partitions]
            )
            for topic in request.topics
        ]
    )


def _look_up(node: Node, topic: str, asked: ListOffsetsPartition, isolation: Isolation) -> ListOffsetsPartitionResponse:
    index = asked.partition_index
    if asked.current_leader_epoch > 0:
        return ListOffsetsPartitionResponse(index, ErrorCode.UNKNOWN_LEADER_EPOCH)
    if asked.timestamp in _TIERED:
        return ListOffsetsPartitionResponse(index, ErrorCode.NONE)
    timestamp = EARLIEST if asked.timestamp == _EARLIEST_LOCAL else asked.timestamp
    try:
        found = node.list_offset(node.partition_id(node.topic(topic), index), timestamp, isolation)
    except LogstoreError as error:
        return ListOffsetsPartitionResponse(index, wire(error).code)
    if found is None:
        return ListOffsetsPartitionResponse(index, ErrorCode.NONE)
    return ListOffsetsPartitionResponse(index, ErrorCode.NONE, found.timestamp_ms, found.offset, 0)

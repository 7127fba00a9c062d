"""OffsetDelete (key 47), version 0: forget a group's offsets of topics its members do not subscribe to (KIP-496)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.messages.offset_delete import (
    OffsetDeleteRequest,
    OffsetDeleteResponse,
    OffsetDeleteResponsePartition,
    OffsetDeleteResponseTopic,
)
from cluster.error_codes import ErrorCode
from cluster.group.events import DeleteOffsets

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 47
VERSIONS = (0, 0)


async def handle(context: Context, request: OffsetDeleteRequest) -> OffsetDeleteResponse:
    image = context.node.image
    named = [
        (topic.name, each.partition_index, image.partition_id(topic.name, each.partition_index))
        for topic in request.topics
        for each in topic.partitions
    ]
    partitions = {partition_id: name for name, _, partition_id in named if partition_id is not None}
    done = await context.node.groups.submit(request.group_id, DeleteOffsets(partitions))
    if done.error:
        return OffsetDeleteResponse(error_code=done.error)
    topics: dict[str, OffsetDeleteResponseTopic] = {}
    for name, index, partition_id in named:
        topic = topics.setdefault(name, OffsetDeleteResponseTopic(name, []))
        code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if partition_id is not None:
            code = done.partitions.get(partition_id, ErrorCode.NONE)
        topic.partitions.append(OffsetDeleteResponsePartition(index, code))
    return OffsetDeleteResponse(error_code=ErrorCode.NONE, topics=list(topics.values()))

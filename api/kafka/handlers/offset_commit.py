"""OffsetCommit (key 8), versions 2 to 10: keep a group's place in partitions; durable before it is answered.

Each partition is accepted or refused on its own. Version 10 names topics by id (KIP-848). `retention_time_ms` of
versions 2 to 4 is ignored: `offsets.retention.minutes` of the broker holds (KIP-211).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.messages.offset_commit import (
    OffsetCommitRequest,
    OffsetCommitResponse,
    OffsetCommitResponsePartition,
    OffsetCommitResponseTopic,
)
from cluster.error_codes import ErrorCode
from cluster.group.events import CommittedOffset, OffsetCommit

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 8
VERSIONS = (2, 10)
_TOPIC_IDS_SINCE = 10


async def handle(context: Context, request: OffsetCommitRequest) -> OffsetCommitResponse:
    image = context.node.image
    by_id = context.version >= _TOPIC_IDS_SINCE
    unknown = ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    offsets: dict[int, CommittedOffset] = {}
    asked: list[tuple[OffsetCommitResponseTopic, list[tuple[int, int | None, ErrorCode]]]] = []
    for topic in request.topics:
        found = image.topics_by_id.get(topic.topic_id) if by_id else image.topics.get(topic.name)
        rows: list[tuple[int, int | None, ErrorCode]] = []
        for each in topic.partitions:
            partition_id = None
            code = unknown if found is None else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            if found is not None and 0 <= each.partition_index < len(found.partition_ids):
                partition_id = found.partition_ids[each.partition_index]
                offsets[partition_id] = CommittedOffset(
                    each.committed_offset, each.committed_leader_epoch, each.committed_metadata or ""
                )
            rows.append((each.partition_index, partition_id, code))
        asked.append((OffsetCommitResponseTopic(topic_id=topic.topic_id, name=topic.name), rows))
    event = OffsetCommit(offsets, request.member_id, request.generation_id_or_member_epoch, request.group_instance_id)
    done = await context.node.groups.submit(request.group_id, event)
    for response, rows in asked:
        response.partitions = [
            OffsetCommitResponsePartition(
                index,
                code if partition_id is None else done.error or done.partitions.get(partition_id, ErrorCode.NONE),
            )
            for index, partition_id, code in rows
        ]
    return OffsetCommitResponse(topics=[response for response, _ in asked])

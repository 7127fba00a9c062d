"""OffsetFetch (key 9), versions 1 to 10: what groups have committed.

Null topics (version 2) ask for all partitions with an offset. Version 8 asks for several groups at once (KIP-709), 10
names topics by id (KIP-848). A partition without a commit has offset -1 and no error. `require_stable` (7) has nothing
to wait for: there are no transactions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from api.kafka.handlers.once import once
from api.kafka.messages.offset_fetch import (
    OffsetFetchRequest,
    OffsetFetchRequestTopic,
    OffsetFetchRequestTopics,
    OffsetFetchResponse,
    OffsetFetchResponseGroup,
    OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
)
from api.kafka.schema import ZERO_UUID
from cluster.error_codes import ErrorCode
from cluster.group.events import CommittedOffset, FetchOffsets
from cluster.image import MetadataImage, TopicImage
from cluster.node import Node

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 9
VERSIONS = (1, 10)
_SEVERAL_SINCE = 8
_TOPIC_IDS_SINCE = 10
_NOTHING = CommittedOffset(-1)


class _Asked(NamedTuple):
    """One topic of a request; `image` is None for a topic that is not here."""

    name: str
    topic_id: UUID
    indexes: Sequence[int]
    image: TopicImage | None


class _Found(NamedTuple):
    partition: int
    committed: CommittedOffset
    error: ErrorCode


async def handle(context: Context, request: OffsetFetchRequest) -> OffsetFetchResponse:
    node, by_id = context.node, context.version >= _TOPIC_IDS_SINCE
    if context.version >= _SEVERAL_SINCE:
        groups = []
        for group in once(request.groups, lambda each: each.group_id):
            topics = None if group.topics is None else _asked(node, group.topics, by_id)
            error, found = await _fetch(node, group.group_id, topics, by_id)
            groups.append(
                OffsetFetchResponseGroup(
                    group.group_id,
                    [
                        OffsetFetchResponseTopics(
                            topic_id=topic.topic_id,
                            name=topic.name,
                            partitions=[OffsetFetchResponsePartitions(*_fields(each)) for each in rows],
                        )
                        for topic, rows in found
                    ],
                    error,
                )
            )
        return OffsetFetchResponse(groups=groups)
    # The older requests name a topic and its partitions as the newer do.
    topics = None if request.topics is None else _asked(node, request.topics, by_id)
    error, found = await _fetch(node, request.group_id, topics, by_id)
    if error and context.version < 2:  # no error of the whole reply yet: each partition carries it
        found = [(topic, [_Found(each, _NOTHING, error) for each in topic.indexes]) for topic in topics or ()]
    return OffsetFetchResponse(
        topics=[
            OffsetFetchResponseTopic(topic.name, [OffsetFetchResponsePartition(*_fields(each)) for each in rows])
            for topic, rows in found
        ],
        error_code=error,
    )


def _asked(
    node: Node, topics: Sequence[OffsetFetchRequestTopic | OffsetFetchRequestTopics], by_id: bool
) -> list[_Asked]:
    image = node.image
    asked = []
    for each in topics:
        topic_id = each.topic_id if isinstance(each, OffsetFetchRequestTopics) else ZERO_UUID
        found = image.topics_by_id.get(topic_id) if by_id else image.topics.get(each.name)
        asked.append(_Asked(each.name, topic_id, tuple(dict.fromkeys(each.partition_indexes)), found))
    return list(once(asked, lambda each: (each.name, each.topic_id)))


async def _fetch(
    node: Node, group_id: str, topics: Sequence[_Asked] | None, by_id: bool
) -> tuple[ErrorCode, list[tuple[_Asked, list[_Found]]]]:
    wanted = None if topics is None else [each for topic in topics for each in _partition_ids(topic)]
    done = await node.groups.submit(group_id, FetchOffsets(wanted))
    if done.error:
        return done.error, []
    if topics is None:
        topics = _all_topics(node.image, done.offsets)
    unknown = ErrorCode.UNKNOWN_TOPIC_ID if by_id else ErrorCode.NONE
    found = []
    for topic in topics:
        rows = []
        for index in topic.indexes:
            committed = None
            if topic.image is not None and 0 <= index < len(topic.image.partition_ids):
                committed = done.offsets.get(topic.image.partition_ids[index])
            rows.append(_Found(index, committed or _NOTHING, unknown if topic.image is None else ErrorCode.NONE))
        found.append((topic, rows))
    return ErrorCode.NONE, found


def _partition_ids(topic: _Asked) -> list[int]:
    if topic.image is None:
        return []
    ids = topic.image.partition_ids
    return [ids[index] for index in topic.indexes if 0 <= index < len(ids)]


def _all_topics(image: MetadataImage, offsets: Mapping[int, CommittedOffset]) -> list[_Asked]:
    indexes: dict[str, list[int]] = {}
    for partition_id in offsets:
        place = image.partition(partition_id)
        if place is not None:
            indexes.setdefault(place[0].name, []).append(place[1])
    topics = ((image.topics[name], sorted(each)) for name, each in sorted(indexes.items()))
    return [_Asked(topic.name, topic.topic_id, each, topic) for topic, each in topics]


def _fields(found: _Found) -> tuple[int, int, int, str, int]:
    committed = found.committed
    return found.partition, committed.offset, committed.leader_epoch, committed.metadata, found.error

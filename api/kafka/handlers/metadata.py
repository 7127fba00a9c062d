"""Metadata (key 3), versions 0 to 13: brokers, and the topics asked for with their partitions.

No list (null; empty in version 0) means every topic. Unknown topics asked for by name are created with the broker's
defaults if the request (from version 4) and `auto.create.topics.enable` allow it, and are answered ready to use. From
version 10 topics have ids, from 12 they can be asked for by id, which never creates one (KIP-516).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.handlers.once import once
from api.kafka.messages.metadata import (
    MetadataRequest,
    MetadataRequestTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from api.kafka.schema import ZERO_UUID
from cluster.error_codes import ErrorCode
from cluster.image import TopicImage
from cluster.node import Node
from logstore.errors import LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 3
VERSIONS = (0, 13)


async def handle(context: Context, request: MetadataRequest) -> MetadataResponse:
    node = context.node
    if request.topics is None or (context.version == 0 and not request.topics):
        topics = [_describe(node, topic) for topic in node.image.topics.values()]
    else:
        # Versions 0 to 3 always allowed it: their decoded default is true.
        wanted = once(request.topics, lambda each: (each.name, each.topic_id))
        topics = [await _look_up(node, asked, request.allow_auto_topic_creation) for asked in wanted]
    return MetadataResponse(
        brokers=[MetadataResponseBroker(each.node_id, each.host, each.port, each.rack) for each in node.brokers],
        cluster_id=node.image.cluster_id,
        controller_id=node.node_id,
        topics=topics,
    )


async def _look_up(node: Node, asked: MetadataRequestTopic, may_create: bool) -> MetadataResponseTopic:
    try:
        if asked.name is None:
            topic = node.topic_by_id(asked.topic_id)
        else:
            topic = await node.topic_or_create(asked.name) if may_create else node.topic(asked.name)
    except LogstoreError as error:
        return MetadataResponseTopic(wire(error).code, asked.name, asked.topic_id if asked.name is None else ZERO_UUID)
    return _describe(node, topic)


def _describe(node: Node, topic: TopicImage) -> MetadataResponseTopic:
    partitions = []
    for index, partition_id in enumerate(topic.partition_ids):
        leader_id = node.router.leader(partition_id)
        partitions.append(MetadataResponsePartition(ErrorCode.NONE, index, leader_id, 0, [leader_id], [leader_id], []))
    return MetadataResponseTopic(ErrorCode.NONE, topic.name, topic.topic_id, False, partitions)

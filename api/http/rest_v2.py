"""REST proxy v2 off the hot path: topics, partitions, offsets, brokers."""

from __future__ import annotations

from fastapi import APIRouter

from api.http.asgi import partition_number
from api.http.door import Door
from api.http.errors import no_partition
from api.http.hot_docs import refusals
from api.http.models import Brokers, Offsets, Partition, Replica, Topic
from cluster.image import TopicImage
from logstore.config import OPTIONS, format_option

_UNKNOWN = refusals(s404="No such topic (40401) or partition (40402)")


def router(door: Door) -> APIRouter:
    routes = APIRouter(tags=["topics"])

    @routes.get("/topics")
    async def list_topics() -> list[str]:
        """The names of all topics."""
        return sorted(door.node.image.topics)

    @routes.get("/topics/{topic}", responses=_UNKNOWN)
    async def describe_topic(topic: str) -> Topic:
        """A topic with every option in force and its partitions."""
        image = door.node.topic(topic)
        config = door.config(image)
        return Topic(
            name=image.name,
            configs={name: format_option(config, name) for name in OPTIONS},
            partitions=_partitions(door, image),
        )

    @routes.get("/topics/{topic}/partitions", responses=_UNKNOWN)
    async def list_partitions(topic: str) -> list[Partition]:
        """The partitions of a topic."""
        return _partitions(door, door.node.topic(topic))

    @routes.get("/topics/{topic}/partitions/{partition}", responses=_UNKNOWN)
    async def describe_partition(topic: str, partition: str) -> Partition:
        """One partition of a topic."""
        image = door.node.topic(topic)
        return _partition(door, partition_index(image, partition))

    @routes.get("/topics/{topic}/partitions/{partition}/offsets", responses=_UNKNOWN)
    async def partition_offsets(topic: str, partition: str) -> Offsets:
        """Where a partition begins and ends."""
        image = door.node.topic(topic)
        head = door.node.head(image.partition_ids[partition_index(image, partition)])
        return Offsets(beginning_offset=head.log_start_offset, end_offset=head.high_watermark)

    @routes.get("/brokers")
    async def list_brokers() -> Brokers:
        """The node ids of the cluster's brokers."""
        return Brokers(brokers=[broker.node_id for broker in door.node.brokers])

    return routes


def partition_index(image: TopicImage, text: str) -> int:
    index = partition_number(text)
    if index >= len(image.partition_ids):
        raise no_partition(image.name, index, len(image.partition_ids))
    return index


def _partitions(door: Door, image: TopicImage) -> list[Partition]:
    return [_partition(door, index) for index in range(len(image.partition_ids))]


def _partition(door: Door, index: int) -> Partition:
    node_id = door.node.node_id
    return Partition(partition=index, leader=node_id, replicas=[Replica(broker=node_id, leader=True, in_sync=True)])

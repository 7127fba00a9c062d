"""Topics, configs and brokers as one immutable value; every look-up goes here. Pure.

A `MetadataImage` is a prefix of one total order of changes: whoever holds version v has seen every change up to v.
`apply` makes the next image from a delta and shares with the old one whatever the delta does not touch.
"""

from __future__ import annotations

import uuid
from collections.abc import Container, Mapping

from msgspec import Struct, field

from logstore.names import collision_key


class TopicImage(Struct, frozen=True):
    """One topic. `partition_ids[index]` is the dense internal id of partition `index`; ids are never used twice."""

    name: str
    topic_id: uuid.UUID
    partition_ids: tuple[int, ...]
    config: Mapping[str, str] = field(default_factory=dict)
    """Overrides only, as the user wrote them."""
    version: int = 0
    """The metadata version of its last change."""


class BrokerImage(Struct, frozen=True):
    """One node as clients should reach it. `epoch` counts its starts."""

    node_id: int
    host: str
    port: int
    epoch: int
    rack: str | None = None


class MetaDelta(Struct, frozen=True):
    """What changed after version `since`, up to and including `version`: whole rows, so applying twice is safe."""

    since: int
    version: int
    cluster_id: str
    topics: tuple[TopicImage, ...] = ()
    deleted_topic_ids: tuple[uuid.UUID, ...] = ()
    brokers: tuple[BrokerImage, ...] = ()


class MetadataImage:
    """Never changes; hold one as long as a request lasts and its answers agree with each other."""

    __slots__ = ("_brokers", "_by_id", "_by_name", "_by_partition_id", "_folded", "cluster_id", "version")

    def __init__(self, cluster_id: str = "") -> None:
        self.version = 0
        self.cluster_id = cluster_id
        self._by_name: dict[str, TopicImage] = {}
        self._by_id: dict[uuid.UUID, TopicImage] = {}
        self._by_partition_id: dict[int, tuple[TopicImage, int]] = {}
        self._brokers: dict[int, BrokerImage] = {}
        self._folded: dict[str, int] = {}

    @property
    def topics(self) -> Mapping[str, TopicImage]:
        return self._by_name

    @property
    def topics_by_id(self) -> Mapping[uuid.UUID, TopicImage]:
        return self._by_id

    @property
    def folded_names(self) -> Container[str]:
        """The names with each `.` as `_`: Kafka takes no two topics that differ only there."""
        return self._folded

    @property
    def brokers(self) -> Mapping[int, BrokerImage]:
        return self._brokers

    def partition(self, partition_id: int) -> tuple[TopicImage, int] | None:
        """The topic and the index within it of an internal partition id."""
        return self._by_partition_id.get(partition_id)

    def partition_id(self, name: str, index: int) -> int | None:
        topic = self._by_name.get(name)
        return topic.partition_ids[index] if topic is not None and 0 <= index < len(topic.partition_ids) else None

    def apply(self, delta: MetaDelta) -> MetadataImage:
        """The image after `delta`; `self` when it brings nothing new.

        Costs at most one shallow copy of each look-up table the delta touches. Raises `ValueError` if the delta
        starts after this image ends: changes between the two would be lost.
        """
        if delta.since > self.version:
            raise ValueError(f"a delta from version {delta.since} does not follow an image of version {self.version}")
        if delta.version <= self.version and delta.cluster_id == self.cluster_id:
            return self
        image = MetadataImage(delta.cluster_id)
        image.version = max(self.version, delta.version)
        image._brokers = self._brokers | {broker.node_id: broker for broker in delta.brokers}
        image._by_name, image._by_id, image._by_partition_id = self._by_name, self._by_id, self._by_partition_id
        image._folded = self._folded
        if delta.topics or delta.deleted_topic_ids:
            image._by_name = self._by_name.copy()
            image._by_id = self._by_id.copy()
            image._by_partition_id = self._by_partition_id.copy()
            image._folded = self._folded.copy()
            # Deletions first: a name may have been deleted and created anew within one delta.
            for topic_id in delta.deleted_topic_ids:
                image._forget(topic_id)
            for topic in delta.topics:
                image._learn(topic)
        return image

    def _forget(self, topic_id: uuid.UUID) -> None:
        gone = self._by_id.pop(topic_id, None)
        if gone is not None:
            del self._by_name[gone.name]
            folded = collision_key(gone.name)
            self._folded[folded] -= 1
            if not self._folded[folded]:
                del self._folded[folded]
            for partition_id in gone.partition_ids:
                del self._by_partition_id[partition_id]

    def _learn(self, topic: TopicImage) -> None:
        if topic.name not in self._by_name:
            folded = collision_key(topic.name)
            self._folded[folded] = self._folded.get(folded, 0) + 1
        self._by_name[topic.name] = topic
        self._by_id[topic.topic_id] = topic
        for index, partition_id in enumerate(topic.partition_ids):
            self._by_partition_id[partition_id] = (topic, index)

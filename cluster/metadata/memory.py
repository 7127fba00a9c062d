"""MetaStore in memory: for tests, simulations and stores that need not outlive the process."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence

from msgspec.structs import replace

from cluster.image import BrokerImage, MetaDelta, TopicImage
from cluster.metadata.store import (
    AddPartitions,
    AlterTopicConfig,
    BrokerFence,
    BrokerInfo,
    CreateTopic,
    DeleteTopic,
    GroupRow,
    MetaChange,
    OffsetRow,
    SlotFence,
    SlotKind,
    SlotState,
    check_partition_count,
    stale_broker,
    stale_slot,
)
from logstore.clock import Chance
from logstore.errors import Closed, TopicExists, UnknownTopicOrPartition


class MemoryMetaStore:
    """Every operation is done within one turn of the loop, so callers never see each other half way."""

    def __init__(self, chance: Chance) -> None:
        self._open = False
        self._cluster_id = encode_cluster_id(chance.uuid())
        self._version = 0
        self._topics: dict[uuid.UUID, TopicImage] = {}
        self._deleted: dict[uuid.UUID, int] = {}  # topic id -> version of its deletion
        self._created: dict[uuid.UUID, int] = {}  # topic id -> version of its creation
        self._names: dict[str, uuid.UUID] = {}
        self._next_partition_id = 1
        self._partition_ids: set[int] = set()
        self._brokers: dict[int, tuple[BrokerImage, int]] = {}  # node id -> row, version
        self._slots: dict[tuple[SlotKind, int], int] = {}
        self._groups: dict[tuple[int, str], GroupRow] = {}
        self._offsets: dict[tuple[int, str, int], OffsetRow] = {}
        self._next_producer_id = 0

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False

    async def cluster_id(self) -> str:
        self._check_open()
        return self._cluster_id

    async def register(self, broker: BrokerInfo) -> BrokerFence:
        self._check_open()
        known = self._brokers.get(broker.node_id)
        epoch = known[0].epoch + 1 if known else 1
        self._version += 1
        row = BrokerImage(broker.node_id, broker.host, broker.port, epoch, broker.rack)
        self._brokers[broker.node_id] = (row, self._version)
        return BrokerFence(broker.node_id, epoch)

    async def image(self, since: int) -> MetaDelta:
        self._check_open()
        return MetaDelta(
            since,
            self._version,
            self._cluster_id,
            topics=tuple(topic for topic in self._topics.values() if topic.version > since),
            deleted_topic_ids=tuple(each for each, version in self._deleted.items() if version > since > 0),
            brokers=tuple(row for row, version in self._brokers.values() if version > since),
        )

    async def deleted_topic_ids(self) -> frozenset[uuid.UUID]:
        self._check_open()
        return frozenset(self._deleted)

    async def mutate(self, fence: BrokerFence, change: MetaChange) -> int:
        self._check_broker(fence)
        match change:
            case CreateTopic():
                return self._create(change)
            case DeleteTopic(topic_id):
                return self._delete(topic_id)
            case AlterTopicConfig(topic_id):
                topic = self._topic(topic_id)
                config = {k: v for k, v in topic.config.items() if k not in change.delete} | dict(change.set)
                return self._replace(topic, replace(topic, config=config))
            case AddPartitions(topic_id, count):
                topic = self._topic(topic_id)
                check_partition_count(topic.name, count, len(topic.partition_ids))
                more = self._take_partition_ids(count - len(topic.partition_ids))
                return self._replace(topic, replace(topic, partition_ids=topic.partition_ids + more))

    async def acquire(self, kind: SlotKind, slot: int, fence: BrokerFence) -> SlotFence:
        self._check_broker(fence)
        epoch = self._slots.get((kind, slot), 0) + 1
        self._slots[kind, slot] = epoch
        return SlotFence(kind, slot, epoch)

    async def load_slot(self, fence: SlotFence) -> SlotState:
        self._check_slot(fence)
        return SlotState(
            tuple(row for key, row in sorted(self._groups.items()) if key[0] == fence.slot),
            tuple(row for key, row in sorted(self._offsets.items()) if key[0] == fence.slot),
        )

    async def save_groups(self, fence: SlotFence, rows: Sequence[GroupRow]) -> None:
        self._check_slot(fence)
        self._groups.update({(fence.slot, row.group_id): row for row in rows})

    async def delete_groups(self, fence: SlotFence, group_ids: Sequence[str]) -> None:
        self._check_slot(fence)
        gone = {(fence.slot, group_id) for group_id in group_ids}
        for key in gone:
            self._groups.pop(key, None)
        self._offsets = {key: row for key, row in self._offsets.items() if key[:2] not in gone}

    async def save_offsets(self, fence: SlotFence, rows: Sequence[OffsetRow]) -> None:
        self._check_slot(fence)
        self._offsets.update(
            {
                (fence.slot, row.group_id, row.partition_id): row
                for row in rows
                if row.partition_id in self._partition_ids
            }
        )

    async def delete_offsets(self, fence: SlotFence, keys: Sequence[tuple[str, int]]) -> None:
        self._check_slot(fence)
        for group_id, partition_id in keys:
            self._offsets.pop((fence.slot, group_id, partition_id), None)

    async def allocate_producer_ids(self, fence: BrokerFence, count: int) -> int:
        self._check_broker(fence)
        if count < 1:
            raise ValueError(f"{count} producer ids asked for")
        first = self._next_producer_id
        self._next_producer_id += count
        return first

    def _check_open(self) -> None:
        if not self._open:
            raise Closed("the metadata store is not open")

    def _check_broker(self, fence: BrokerFence) -> None:
        self._check_open()
        known = self._brokers.get(fence.node_id)
        if known is None or known[0].epoch != fence.epoch:
            raise stale_broker(fence)

    def _check_slot(self, fence: SlotFence) -> None:
        self._check_open()
        if self._slots.get((fence.kind, fence.slot)) != fence.epoch:
            raise stale_slot(fence)

    def _topic(self, topic_id: uuid.UUID) -> TopicImage:
        topic = self._topics.get(topic_id)
        if topic is None:
            raise UnknownTopicOrPartition(f"topic id {topic_id} is not here")
        return topic

    def _create(self, change: CreateTopic) -> int:
        if change.topic_id in self._created:
            return self._created[change.topic_id]
        if change.name in self._names:
            raise TopicExists(f"topic {change.name} is there already")
        check_partition_count(change.name, change.partitions)
        self._version += 1
        ids = self._take_partition_ids(change.partitions)
        topic = TopicImage(change.name, change.topic_id, ids, dict(change.config), self._version)
        self._topics[change.topic_id] = topic
        self._names[change.name] = change.topic_id
        self._created[change.topic_id] = self._version
        return self._version

    def _delete(self, topic_id: uuid.UUID) -> int:
        if topic_id in self._deleted:
            return self._deleted[topic_id]
        topic = self._topic(topic_id)
        self._version += 1
        del self._topics[topic_id], self._names[topic.name]
        self._deleted[topic_id] = self._version
        self._partition_ids.difference_update(topic.partition_ids)
        self._offsets = {key: row for key, row in self._offsets.items() if row.partition_id in self._partition_ids}
        return self._version

    def _replace(self, old: TopicImage, new: TopicImage) -> int:
        if new != old:
            self._version += 1
            self._topics[old.topic_id] = replace(new, version=self._version)
        return self._topics[old.topic_id].version

    def _take_partition_ids(self, count: int) -> tuple[int, ...]:
        ids = tuple(range(self._next_partition_id, self._next_partition_id + count))
        self._next_partition_id += count
        self._partition_ids.update(ids)
        return ids


def encode_cluster_id(identity: uuid.UUID) -> str:
    """As Kafka writes it: URL-safe base64 without padding, 22 characters."""
    return base64.urlsafe_b64encode(identity.bytes).rstrip(b"=").decode()

"""The use cases: what every door calls, whatever protocol it speaks.

A door authenticates and translates; the node decides. Below it are numbered partitions (`LogStore`), the metadata image
and its store, and the groups' runtime. Everything runs on the loop's thread; what must wait is `async` or `Pending`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from uuid import UUID

from cluster.config import BrokerConfig
from cluster.image import BrokerImage, MetadataImage, TopicImage
from cluster.logs import FetchAsk, FetchLimits, FetchPart, Head, LocalLogStore, Settle
from cluster.metadata.store import (
    AddPartitions,
    AlterTopicConfig,
    BrokerFence,
    CreateTopic,
    DeleteTopic,
    MetaChange,
    MetaStore,
)
from cluster.pending import Pending
from cluster.routing import RendezvousRouter
from cluster.runtime import GroupRuntime
from logstore.clock import Chance
from logstore.config import parse_topic_config
from logstore.errors import (
    InvalidPartitions,
    InvalidRequest,
    InvalidTopicName,
    LogstoreError,
    TopicExists,
    UnknownTopicId,
    UnknownTopicOrPartition,
)
from logstore.log.partition_log import AppendResult
from logstore.names import collision_key, validate_topic_name
from logstore.store import StoredTopic
from logstore.types import Isolation, Offset, TimestampedOffset

EARLIEST = -2
LATEST = -1
MAX_TIMESTAMP = -3
_PRODUCER_ID_BLOCK = 1000  # ids taken from the metadata store at a time; Kafka's block size


class ProducerIdentity(NamedTuple):
    producer_id: int
    producer_epoch: int


class Node:
    """One broker: topics, records and groups of one data directory."""

    def __init__(
        self,
        *,
        config: BrokerConfig,
        fence: BrokerFence,
        meta: MetaStore,
        logs: LocalLogStore,
        groups: GroupRuntime,
        chance: Chance,
    ) -> None:
        self.config = config
        self.groups = groups
        self.image = MetadataImage()
        self.node_id = fence.node_id
        self.router = RendezvousRouter([fence.node_id])
        self._fence = fence
        self._meta = meta
        self._logs = logs
        self._chance = chance
        logs.place_of = self._place_of
        self.topic_defaults = config.topic_defaults()
        self._changing: dict[str, asyncio.Future[None]] = {}
        self._producer_ids = iter(range(0))

    async def open(self, stored: Mapping[str, StoredTopic]) -> None:
        """Bring directory and metadata together: make what a crash left unmade, adopt what a library made.

        A topic of the metadata whose directories are missing is created, one whose options or partitions were not
        carried out is brought up to date; a directory of a topic that the metadata has deleted is removed; a directory
        that it never knew was made by the embedded library and is adopted.
        """
        self.image = self.image.apply(await self._meta.image(0))
        deleted = await self._meta.deleted_topic_ids()
        for name, on_disk in stored.items():
            known = self.image.topics.get(name)
            if on_disk.topic_id in deleted or (known is not None and known.topic_id != on_disk.topic_id):
                await self._logs.delete_topic(name, ())
            elif known is None:
                await self._change(CreateTopic(name, on_disk.topic_id, on_disk.partitions, dict(on_disk.config)))
        for topic in self.image.topics.values():
            there = stored.get(topic.name)
            if there is None or there.topic_id != topic.topic_id:
                await self._logs.create_topic(topic.name, topic.topic_id, len(topic.partition_ids), topic.config)
            elif there.partitions < len(topic.partition_ids):
                await self._logs.add_partitions(topic.name, len(topic.partition_ids))
            if there is not None and there.topic_id == topic.topic_id and there.config != topic.config:
                await self._logs.set_config(topic.name, topic.config)

    def _place_of(self, partition_id: int) -> tuple[str, int] | None:
        found = self.image.partition(partition_id)
        return None if found is None else (found[0].name, found[1])

    # --- topics ------------------------------------------------------------------------------------------------------

    @property
    def brokers(self) -> Sequence[BrokerImage]:
        return tuple(self.image.brokers.values())

    def topic(self, name: str) -> TopicImage:
        topic = self.image.topics.get(name)
        if topic is None:
            raise UnknownTopicOrPartition(f"topic {name} is not here", hint="create it, or check the name")
        return topic

    def topic_by_id(self, topic_id: UUID) -> TopicImage:
        topic = self.image.topics_by_id.get(topic_id)
        if topic is None:
            raise UnknownTopicId(f"topic id {topic_id} is not here")
        return topic

    @staticmethod
    def partition_id(topic: TopicImage, index: int) -> int:
        if not 0 <= index < len(topic.partition_ids):
            raise UnknownTopicOrPartition(f"topic {topic.name} has partitions 0..{len(topic.partition_ids) - 1}")
        return topic.partition_ids[index]

    async def create_topic(
        self, name: str, partitions: int = -1, config: Mapping[str, str] | None = None, *, validate_only: bool = False
    ) -> TopicImage:
        """Make a topic; `partitions` -1 is the broker's `num.partitions`.

        Its files come first, then the metadata: who sees a topic can use it. A crash in between leaves files that
        `open` takes for a topic; nobody was told that there is none.
        Raises: `InvalidTopicName`, `InvalidPartitions`, `InvalidConfig`, `TopicExists`.
        """
        config = dict(config or {})
        count = self.config.num_partitions if partitions == -1 else partitions
        validate_topic_name(name)
        if not 1 <= count <= self.config.max_partitions_per_topic:
            raise InvalidPartitions(
                f"{count} partitions asked for topic {name}",
                hint=f"between 1 and {self.config.max_partitions_per_topic} (max.partitions.per.topic)",
            )
        parse_topic_config(config)
        async with self._alone(name):
            self._check_free(name)
            topic_id = self._chance.uuid()
            if validate_only:
                return TopicImage(name, topic_id, (-1,) * count, config, self.image.version)
            await self._logs.create_topic(name, topic_id, count, config)
            try:
                await self._change(CreateTopic(name, topic_id, count, config))
            except LogstoreError:
                await self._logs.delete_topic(name, ())
                raise
            return self.image.topics[name]

    async def topic_or_create(self, name: str) -> TopicImage:
        """The topic, made with the broker's defaults if `auto.create.topics.enable` allows it."""
        if name not in self.image.topics and self.config.auto_create_topics_enable:
            # Somebody else may be faster, and may even have deleted it again: then it is not here.
            with suppress(TopicExists):
                return await self.create_topic(name)
        return self.topic(name)

    async def delete_topic(self, topic: TopicImage) -> None:
        """Gone from the metadata, durably, when it returns; its files are on their way."""
        if not self.config.delete_topic_enable:
            raise InvalidRequest("topics cannot be deleted here", hint="delete.topic.enable=true allows it")
        async with self._alone(topic.name):
            topic = self.topic_by_id(topic.topic_id)
            await self._change(DeleteTopic(topic.topic_id))
            self.groups.forget_partitions(topic.partition_ids)
            await self._logs.delete_topic(topic.name, topic.partition_ids)

    async def alter_topic_config(
        self, topic: TopicImage, values: Mapping[str, str], removed: Sequence[str], *, validate_only: bool = False
    ) -> None:
        """Set and unset options of a topic at once. Raises `InvalidConfig`, and then nothing has changed."""
        async with self._alone(topic.name):
            topic = self.topic_by_id(topic.topic_id)
            config = {name: value for name, value in {**topic.config, **values}.items() if name not in removed}
            parse_topic_config(config)
            if not validate_only:
                await self._change(AlterTopicConfig(topic.topic_id, dict(values), tuple(removed)))
                await self._logs.set_config(topic.name, config)

    async def add_partitions(self, topic: TopicImage, count: int, *, validate_only: bool = False) -> None:
        """Grow a topic to `count` partitions. Keyed records written before stay where they are."""
        async with self._alone(topic.name):
            topic = self.topic_by_id(topic.topic_id)
            present, most = len(topic.partition_ids), self.config.max_partitions_per_topic
            if not present < count <= most:
                raise InvalidPartitions(
                    f"topic {topic.name} has {present} partitions, {count} were asked for",
                    hint=f"a topic only grows, and to no more than {most} (max.partitions.per.topic)",
                )
            if not validate_only:
                await self._change(AddPartitions(topic.topic_id, count))
                await self._logs.add_partitions(topic.name, count)

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """Operations on one topic, and on names that collide with it, come one after another."""
        key = collision_key(name)
        while (before := self._changing.get(key)) is not None:
            await asyncio.shield(before)
        done = self._changing[key] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._changing[key]
            done.set_result(None)

    async def _change(self, change: MetaChange) -> None:
        await self._meta.mutate(self._fence, change)
        delta = await self._meta.image(self.image.version)
        if delta.version > self.image.version:  # another change's look may have brought this one along
            self.image = self.image.apply(delta)

    def _check_free(self, name: str) -> None:
        """Refuse a name that is taken, or that differs from a taken one only in `.` and `_`: metric names fold them."""
        if name in self.image.topics:
            raise TopicExists(f"topic {name} is there already")
        if collision_key(name) in self.image.folded_names:
            raise InvalidTopicName(
                f"topic {name} collides with one that differs only in . and _", hint="choose another name"
            )

    # --- records -----------------------------------------------------------------------------------------------------

    def produce(self, partition_id: int, records: memoryview, *, acks: int) -> Pending[AppendResult]:
        """Append whole batches to one partition; see `LogStore.append`. `acks` is 0, 1 or -1 (all)."""
        return self._logs.append(partition_id, records, durable=acks == -1)

    def stage(self, partition_id: int, records: memoryview, settle: Settle, *, acks: int) -> AppendResult:
        """`produce` without a `Pending`, for the hot path; see `LogStore.stage`."""
        return self._logs.stage(partition_id, records, settle, durable=acks == -1)

    def end_of_turn(self) -> None:
        """Write what `produce` took since the last call. Every door calls it once per turn of the loop."""
        self._logs.end_of_turn()

    def fetch(self, asks: Sequence[FetchAsk], limits: FetchLimits) -> Pending[list[FetchPart]]:
        """Read, or wait for bytes; see `LogStore.fetch`."""
        return self._logs.fetch(asks, limits)

    def head(self, partition_id: int) -> Head:
        return self._logs.head(partition_id)

    def list_offset(self, partition_id: int, timestamp_ms: int, isolation: Isolation) -> TimestampedOffset | None:
        """An offset by timestamp, or by the special ones EARLIEST, LATEST and MAX_TIMESTAMP (ListOffsets).

        The timestamp of EARLIEST and LATEST is -1; None when no record is that young.
        """
        if timestamp_ms == EARLIEST:
            return TimestampedOffset(-1, self._logs.head(partition_id).log_start_offset)
        if timestamp_ms == LATEST:
            head = self._logs.head(partition_id)
            committed = isolation is Isolation.READ_COMMITTED
            return TimestampedOffset(-1, head.last_stable_offset if committed else head.high_watermark)
        if timestamp_ms == MAX_TIMESTAMP:
            return self._logs.max_timestamp(partition_id)
        if timestamp_ms < 0:
            raise InvalidRequest(f"{timestamp_ms} is not a timestamp", hint="-1 latest, -2 earliest, -3 max timestamp")
        return self._logs.offset_for_time(partition_id, timestamp_ms)

    async def delete_records(self, cuts: Mapping[int, Offset]) -> dict[int, Offset | LogstoreError]:
        """Move log start offsets up; see `LogStore.delete_records`."""
        return await self._logs.delete_records(cuts)

    # --- producers ---------------------------------------------------------------------------------------------------

    async def new_producer(self) -> ProducerIdentity:
        """An id no producer had before, at epoch 0 (InitProducerId without a transactional id)."""
        producer_id = next(self._producer_ids, None)
        if producer_id is None:
            first = await self._meta.allocate_producer_ids(self._fence, _PRODUCER_ID_BLOCK)
            # A second caller may have fetched a block meanwhile: the rest of that one is skipped, ids are plenty.
            self._producer_ids = iter(range(first + 1, first + _PRODUCER_ID_BLOCK))
            producer_id = first
        return ProducerIdentity(producer_id, 0)

"""A node brings directory and metadata together at its start, whatever a crash or the library left behind."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from cluster.config import parse_broker_config
from cluster.logs import LocalLogStore
from cluster.metadata.memory import MemoryMetaStore
from cluster.metadata.store import AddPartitions, AlterTopicConfig, BrokerInfo, CreateTopic, DeleteTopic
from cluster.node import Node
from cluster.runtime import GroupRuntime, group_settings
from cluster.testing import VirtualTime
from logstore.clock import SeededChance
from logstore.errors import (
    InvalidRequest,
    InvalidTopicName,
    NotOwner,
    NotWritten,
    RecordTooLarge,
    TopicExists,
    UnknownTopicId,
    UnknownTopicOrPartition,
)
from logstore.log.group_commit import GroupCommit
from logstore.record.records import encode_batch
from logstore.store import Store


class House:
    """One directory and one metadata store through many starts of the node."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta = MemoryMetaStore(SeededChance(3))
        self.options: dict[str, str] = {}
        self.store: Any = None

    async def start(self) -> Node:
        time, chance, config = VirtualTime(), SeededChance(5), parse_broker_config(self.options)
        self.store = Store.open(self.path, clock=time, chance=chance)
        logs = LocalLogStore(self.store, GroupCommit(lambda: None), time, time)
        fence = await self.meta.register(BrokerInfo(1, "localhost", 9092))
        groups = GroupRuntime(self.meta, time, time, chance, group_settings(config))
        node = Node(config=config, fence=fence, meta=self.meta, logs=logs, groups=groups, chance=chance)
        await node.open(self.store.topics())
        return node

    def stop(self) -> None:
        self.store.close()

    def directories(self) -> set[str]:
        return {path.name for path in self.path.iterdir() if path.is_dir() and "." not in path.name}


@pytest.fixture
async def house(tmp_path: Path) -> Any:
    house = House(tmp_path / "data")
    await house.meta.open()
    yield house
    house.stop()


def append(node: Node, topic: str, value: bytes) -> None:
    records = memoryview(encode_batch([(1_700_000_000_000, None, value, ())]))
    node.produce(node.topic(topic).partition_ids[0], records, acks=1)
    node.end_of_turn()


def high_watermark(node: Node, topic: str) -> int:
    return node.head(node.topic(topic).partition_ids[0]).high_watermark


async def test_topics_and_records_are_there_after_a_restart(house: Any) -> None:
    node = await house.start()
    created = await node.create_topic("t", 3, {"retention.ms": "5d"})
    append(node, "t", b"v")
    house.stop()
    node = await house.start()
    found = node.topic("t")
    assert (found.topic_id, found.partition_ids, found.config) == (
        created.topic_id,
        created.partition_ids,
        created.config,
    )
    assert high_watermark(node, "t") == 1


async def test_a_topic_whose_directories_a_crash_left_unmade_is_made(house: Any) -> None:
    node = await house.start()
    await node.create_topic("other")
    house.stop()
    fence = await house.meta.register(BrokerInfo(1, "localhost", 9092))
    await house.meta.mutate(fence, CreateTopic("t", uuid.UUID(int=9), 2, {}))
    node = await house.start()
    append(node, "t", b"v")
    assert high_watermark(node, "t") == 1
    assert house.directories() == {"other-0", "t-0", "t-1"}


async def test_partitions_whose_directories_a_crash_left_unmade_are_made(house: Any) -> None:
    node = await house.start()
    topic = await node.create_topic("t")
    append(node, "t", b"kept")
    house.stop()
    fence = await house.meta.register(BrokerInfo(1, "localhost", 9092))
    await house.meta.mutate(fence, AddPartitions(topic.topic_id, 3))
    node = await house.start()
    assert house.directories() == {"t-0", "t-1", "t-2"}
    assert high_watermark(node, "t") == 1


async def test_a_deleted_topic_whose_directories_a_crash_left_is_removed(house: Any) -> None:
    node = await house.start()
    topic = await node.create_topic("t")
    append(node, "t", b"v")
    house.stop()
    fence = await house.meta.register(BrokerInfo(1, "localhost", 9092))
    await house.meta.mutate(fence, DeleteTopic(topic.topic_id))
    node = await house.start()
    assert house.directories() == set()
    with pytest.raises(UnknownTopicOrPartition):
        node.topic("t")


async def test_a_topic_the_library_made_is_adopted_with_its_records_and_options(house: Any) -> None:
    with Store.open(house.path) as store:
        store.create_topic("lib", 2, {"segment.bytes": "2048"})
        store.log("lib", 0).append(memoryview(encode_batch([(1, None, b"v", ())])), now_ms=1)
        store.log("lib", 0).write()
    node = await house.start()
    assert len(node.topic("lib").partition_ids) == 2
    assert node.topic("lib").config == {"segment.bytes": "2048"}
    assert high_watermark(node, "lib") == 1


async def test_a_directory_of_another_topic_with_the_same_name_does_not_become_this_one(house: Any) -> None:
    node = await house.start()
    topic = await node.create_topic("t")
    append(node, "t", b"old")
    house.stop()
    fence = await house.meta.register(BrokerInfo(1, "localhost", 9092))
    await house.meta.mutate(fence, DeleteTopic(topic.topic_id))
    await house.meta.mutate(fence, CreateTopic("t", uuid.UUID(int=4), 1, {}))
    node = await house.start()
    assert node.topic("t").topic_id == uuid.UUID(int=4)
    assert high_watermark(node, "t") == 0


async def test_a_topic_that_cannot_get_its_files_is_not_there(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await house.start()

    def no_room(*_: object) -> None:
        raise NotWritten("no space left")

    monkeypatch.setattr(house.store, "_make_partitions", no_room)
    with pytest.raises(NotWritten):
        await node.create_topic("t")
    monkeypatch.undo()
    assert "t" not in node.image.topics
    await node.create_topic("t")
    append(node, "t", b"v")


async def test_names_that_collide_are_refused_even_while_one_is_being_made(house: Any) -> None:
    node = await house.start()
    first, second = await asyncio.gather(node.create_topic("a.b"), node.create_topic("a_b"), return_exceptions=True)
    assert first == node.topic("a.b")
    assert isinstance(second, InvalidTopicName)
    with pytest.raises(TopicExists):
        await node.create_topic("a.b")


async def test_topic_or_create_obeys_auto_create_and_delete_obeys_its_switch(house: Any) -> None:
    house.options = {"auto.create.topics.enable": "false", "delete.topic.enable": "false"}
    node = await house.start()
    with pytest.raises(UnknownTopicOrPartition):
        await node.topic_or_create("t")
    topic = await node.create_topic("t")
    assert await node.topic_or_create("t") == topic
    with pytest.raises(InvalidRequest):
        await node.delete_topic(topic)


async def test_an_older_run_of_the_node_may_change_nothing(house: Any) -> None:
    node = await house.start()
    await house.meta.register(BrokerInfo(1, "localhost", 9092))
    with pytest.raises(NotOwner):
        await node.create_topic("t")
    assert house.directories() == set()


async def test_options_a_crash_kept_from_being_carried_out_are_in_force_after_the_next_start(house: Any) -> None:
    node = await house.start()
    topic = await node.create_topic("t", 2, {"retention.ms": "5000"})
    house.stop()
    fence = await house.meta.register(BrokerInfo(1, "localhost", 9092))
    await house.meta.mutate(fence, AlterTopicConfig(topic.topic_id, {"max.message.bytes": "100"}, ("retention.ms",)))
    node = await house.start()
    records = memoryview(encode_batch([(1_700_000_000_000, None, b"v" * 200, ())]))
    with pytest.raises(RecordTooLarge):
        node.produce(node.topic("t").partition_ids[0], records, acks=1).result()
    assert house.store.topic("t").config == {"max.message.bytes": "100"}


async def test_an_automatic_topic_whose_files_are_there_already_is_refused_and_not_tried_for_ever(house: Any) -> None:
    node = await house.start()
    house.store.create_topic("t")  # as a rollback that failed leaves it
    with pytest.raises(UnknownTopicOrPartition):
        await asyncio.wait_for(node.topic_or_create("t"), 5)


async def test_a_topic_id_nobody_has_is_told_apart_from_a_partition_nobody_has(house: Any) -> None:
    node = await house.start()
    topic = await node.create_topic("t")
    with pytest.raises(UnknownTopicId):
        node.topic_by_id(uuid.UUID(int=99))
    with pytest.raises(UnknownTopicOrPartition) as missing:
        node.partition_id(topic, 1)
    assert not isinstance(missing.value, UnknownTopicId)

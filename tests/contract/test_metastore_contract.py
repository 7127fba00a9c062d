"""What every MetaStore promises, run on each implementation."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cluster.image import MetadataImage
from cluster.metadata.memory import MemoryMetaStore
from cluster.metadata.sqlite import SqliteMetaStore
from cluster.metadata.store import (
    PARTITIONS_MAX,
    AddPartitions,
    AlterTopicConfig,
    BrokerFence,
    BrokerInfo,
    CreateTopic,
    DeleteTopic,
    GroupRow,
    MetaStore,
    OffsetRow,
    SlotFence,
    SlotKind,
)
from logstore.clock import SeededChance
from logstore.errors import Closed, InvalidPartitions, NotOwner, TopicExists, UnknownTopicOrPartition

BROKER = BrokerInfo(1, "localhost", 9092)
T1, T2, T3 = (uuid.UUID(int=number) for number in (1, 2, 3))


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MetaStore]:
    chance = SeededChance(1)
    opened: MetaStore = MemoryMetaStore(chance) if request.param == "memory" else SqliteMetaStore(tmp_path, chance)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def fence(store: MetaStore) -> BrokerFence:
    return await store.register(BROKER)


@pytest.fixture
async def slot(store: MetaStore, fence: BrokerFence) -> SlotFence:
    return await store.acquire(SlotKind.GROUP, 7, fence)


async def partitions(
    store: MetaStore, fence: BrokerFence, topic_id: uuid.UUID, name: str, count: int
) -> tuple[int, ...]:
    await store.mutate(fence, CreateTopic(name, topic_id, count))
    return await partition_ids(store, name)


async def partition_ids(store: MetaStore, name: str) -> tuple[int, ...]:
    return (await whole(store)).topics[name].partition_ids


async def whole(store: MetaStore) -> MetadataImage:
    return MetadataImage().apply(await store.image(0))


def group(name: str, generation: int = 1, body: bytes = b"body") -> GroupRow:
    return GroupRow(name, "classic", generation, body, 1_700_000_000_000)


def offset(group_id: str, partition_id: int, value: int, metadata: str = "") -> OffsetRow:
    return OffsetRow(group_id, partition_id, value, 0, metadata, 1_700_000_000_000)


# --- cluster id, brokers ---------------------------------------------------------------------------------------------


async def test_the_cluster_id_is_drawn_once(store: MetaStore) -> None:
    first = await store.cluster_id()
    assert len(first) == 22
    assert await store.cluster_id() == first
    assert (await store.image(0)).cluster_id == first


async def test_each_registration_is_a_new_epoch_and_shows_in_the_image(store: MetaStore) -> None:
    first = await store.register(BROKER)
    other = await store.register(BrokerInfo(2, "elsewhere", 9093, "rack-b"))
    second = await store.register(BrokerInfo(1, "moved", 9094))
    assert (first.epoch, other.epoch, second.epoch) == (1, 1, 2)
    brokers = (await whole(store)).brokers
    assert {(b.node_id, b.host, b.port, b.epoch, b.rack) for b in brokers.values()} == {
        (1, "moved", 9094, 2, None),
        (2, "elsewhere", 9093, 1, "rack-b"),
    }


async def test_an_older_epoch_of_a_node_writes_nothing(store: MetaStore, fence: BrokerFence) -> None:
    await store.register(BROKER)
    before = await store.image(0)
    for change in (
        CreateTopic("t", T1, 1),
        DeleteTopic(T1),
        AlterTopicConfig(T1, {"a": "b"}),
        AddPartitions(T1, 2),
    ):
        with pytest.raises(NotOwner):
            await store.mutate(fence, change)
    with pytest.raises(NotOwner):
        await store.acquire(SlotKind.GROUP, 0, fence)
    with pytest.raises(NotOwner):
        await store.allocate_producer_ids(fence, 1)
    with pytest.raises(NotOwner):
        await store.mutate(BrokerFence(99, 1), CreateTopic("t", T1, 1))
    assert await store.image(0) == before


# --- topics ----------------------------------------------------------------------------------------------------------


async def test_a_topic_is_created_once_under_its_id(store: MetaStore, fence: BrokerFence) -> None:
    change = CreateTopic("orders", T1, 3, {"retention.ms": "5"})
    version = await store.mutate(fence, change)
    assert await store.mutate(fence, change) == version
    topic = (await whole(store)).topics["orders"]
    assert (topic.topic_id, len(topic.partition_ids), topic.config, topic.version) == (
        T1,
        3,
        {"retention.ms": "5"},
        version,
    )
    with pytest.raises(TopicExists):
        await store.mutate(fence, CreateTopic("orders", T2, 1))


async def test_partition_ids_are_dense_and_never_used_again(store: MetaStore, fence: BrokerFence) -> None:
    first = await partitions(store, fence, T1, "a", 2)
    second = await partitions(store, fence, T2, "b", 3)
    assert sorted(first + second) == list(range(min(first), min(first) + 5))
    await store.mutate(fence, DeleteTopic(T2))
    third = await partitions(store, fence, T3, "b", 1)
    assert min(third) > max(second)


@pytest.mark.parametrize("count", [-1, 0, PARTITIONS_MAX + 1])
async def test_partition_counts_have_bounds(store: MetaStore, fence: BrokerFence, count: int) -> None:
    with pytest.raises(InvalidPartitions):
        await store.mutate(fence, CreateTopic("t", T1, count))
    assert not (await whole(store)).topics


async def test_partitions_are_added_behind_and_never_taken_away(store: MetaStore, fence: BrokerFence) -> None:
    before = await partitions(store, fence, T1, "t", 2)
    version = await store.mutate(fence, AddPartitions(T1, 4))
    after = await partition_ids(store, "t")
    assert after[:2] == before
    assert len(set(after)) == 4
    assert await store.mutate(fence, AddPartitions(T1, 4)) == version
    for count in (3, 0, PARTITIONS_MAX + 1):
        with pytest.raises(InvalidPartitions):
            await store.mutate(fence, AddPartitions(T1, count))
    with pytest.raises(UnknownTopicOrPartition):
        await store.mutate(fence, AddPartitions(T2, 4))
    assert await partition_ids(store, "t") == after


async def test_config_is_set_and_unset_at_once(store: MetaStore, fence: BrokerFence) -> None:
    await store.mutate(fence, CreateTopic("t", T1, 1, {"a": "1", "b": "2"}))
    version = await store.mutate(fence, AlterTopicConfig(T1, {"c": "3", "a": "0"}, ("b", "never-set")))
    assert (await whole(store)).topics["t"].config == {"a": "0", "c": "3"}
    assert await store.mutate(fence, AlterTopicConfig(T1, {"c": "3", "a": "0"}, ("b", "never-set"))) == version
    with pytest.raises(UnknownTopicOrPartition):
        await store.mutate(fence, AlterTopicConfig(T2, {"a": "b"}))


async def test_a_deleted_topic_is_gone_and_its_name_free(store: MetaStore, fence: BrokerFence) -> None:
    await store.mutate(fence, CreateTopic("t", T1, 1))
    version = await store.mutate(fence, DeleteTopic(T1))
    assert await store.mutate(fence, DeleteTopic(T1)) == version
    assert not (await whole(store)).topics
    assert await store.deleted_topic_ids() == {T1}
    await store.mutate(fence, CreateTopic("t", T1, 1))  # a late retry of the first creation: not a new topic
    assert not (await whole(store)).topics
    await store.mutate(fence, CreateTopic("t", T2, 1))
    assert (await whole(store)).topics["t"].topic_id == T2
    with pytest.raises(UnknownTopicOrPartition):
        await store.mutate(fence, DeleteTopic(T3))


async def test_deltas_lead_from_any_version_to_the_present(store: MetaStore) -> None:
    images = [await whole(store)]

    async def look() -> None:
        images.append(images[-1].apply(await store.image(images[-1].version)))

    fence = await store.register(BROKER)
    await look()
    for change in (
        CreateTopic("a", T1, 1),
        CreateTopic("b", T2, 2),
        AlterTopicConfig(T1, {"k": "v"}),
        AddPartitions(T2, 5),
        DeleteTopic(T1),
        CreateTopic("a", T3, 1),
    ):
        version = await store.mutate(fence, change)
        await look()
        assert images[-1].version == version == images[-2].version + 1
    present = await whole(store)
    for image in images:
        caught_up = image.apply(await store.image(image.version))
        assert caught_up.topics == present.topics
        assert caught_up.brokers == present.brokers
        assert caught_up.version == present.version


# --- slots, groups, offsets ------------------------------------------------------------------------------------------


async def test_only_the_newest_owner_of_a_slot_writes(store: MetaStore, fence: BrokerFence) -> None:
    (partition_id,) = await partitions(store, fence, T1, "t", 1)
    old = await store.acquire(SlotKind.GROUP, 3, fence)
    await store.save_groups(old, [group("g")])
    await store.save_offsets(old, [offset("g", partition_id, 5)])
    new = await store.acquire(SlotKind.GROUP, 3, fence)
    assert new.epoch == old.epoch + 1
    for attempt in (
        lambda: store.save_groups(old, [group("g", 9)]),
        lambda: store.save_offsets(old, [offset("g", partition_id, 9)]),
        lambda: store.delete_groups(old, ["g"]),
        lambda: store.delete_offsets(old, [("g", partition_id)]),
        lambda: store.load_slot(old),
    ):
        with pytest.raises(NotOwner):
            await attempt()
    state = await store.load_slot(new)
    assert state.groups == (group("g"),)
    assert state.offsets == (offset("g", partition_id, 5),)


async def test_slots_of_one_kind_do_not_touch_those_of_another(store: MetaStore, fence: BrokerFence) -> None:
    groups = await store.acquire(SlotKind.GROUP, 3, fence)
    await store.acquire(SlotKind.TRANSACTION, 3, fence)
    other = await store.acquire(SlotKind.GROUP, 4, fence)
    await store.save_groups(groups, [group("g")])
    assert (await store.load_slot(other)).groups == ()
    assert (await store.load_slot(groups)).groups == (group("g"),)


async def test_groups_are_replaced_and_deleted_with_their_offsets(
    store: MetaStore, fence: BrokerFence, slot: SlotFence
) -> None:
    (partition_id,) = await partitions(store, fence, T1, "t", 1)
    await store.save_groups(slot, [group("b"), group("a"), group("b", 2, b"\x00\xff")])
    await store.save_offsets(slot, [offset("a", partition_id, 1), offset("b", partition_id, 2)])
    assert (await store.load_slot(slot)).groups == (group("a"), group("b", 2, b"\x00\xff"))
    await store.delete_groups(slot, ["b", "never-there"])
    state = await store.load_slot(slot)
    assert state.groups == (group("a"),)
    assert state.offsets == (offset("a", partition_id, 1),)


async def test_offsets_are_kept_by_group_and_partition(store: MetaStore, fence: BrokerFence, slot: SlotFence) -> None:
    first, second = await partitions(store, fence, T1, "t", 2)
    text = "näher \u0000 '\"; DROP TABLE groups; --"
    await store.save_offsets(slot, [offset("g", second, 7), offset("g", first, 1), offset("h", first, 3)])
    await store.save_offsets(slot, [offset("g", first, 2**62, text)])
    assert (await store.load_slot(slot)).offsets == (
        offset("g", first, 2**62, text),
        offset("g", second, 7),
        offset("h", first, 3),
    )
    await store.delete_offsets(slot, [("g", first), ("g", 999), ("nobody", first)])
    assert (await store.load_slot(slot)).offsets == (offset("g", second, 7), offset("h", first, 3))


async def test_deleting_a_topic_takes_its_offsets_along_for_good(
    store: MetaStore, fence: BrokerFence, slot: SlotFence
) -> None:
    (gone,) = await partitions(store, fence, T1, "gone", 1)
    (kept,) = await partitions(store, fence, T2, "kept", 1)
    await store.save_offsets(slot, [offset("g", gone, 1), offset("g", kept, 2)])
    await store.mutate(fence, DeleteTopic(T1))
    assert (await store.load_slot(slot)).offsets == (offset("g", kept, 2),)
    await store.save_offsets(slot, [offset("g", gone, 1), offset("g", kept, 3)])  # a commit that came too late
    assert (await store.load_slot(slot)).offsets == (offset("g", kept, 3),)


async def test_empty_writes_are_still_fenced(store: MetaStore, slot: SlotFence) -> None:
    await store.save_groups(slot, [])
    await store.save_offsets(slot, [])
    stale = SlotFence(slot.kind, slot.slot, slot.epoch - 1)
    with pytest.raises(NotOwner):
        await store.save_offsets(stale, [])


# --- producer ids ----------------------------------------------------------------------------------------------------


async def test_producer_ids_come_in_blocks_that_never_overlap(store: MetaStore, fence: BrokerFence) -> None:
    firsts = await asyncio.gather(*(store.allocate_producer_ids(fence, 10) for _ in range(20)))
    assert sorted(firsts) == list(range(min(firsts), min(firsts) + 200, 10))
    assert min(firsts) >= 0
    assert await store.allocate_producer_ids(fence, 1) == max(firsts) + 10
    with pytest.raises(ValueError, match="0 producer ids"):
        await store.allocate_producer_ids(fence, 0)


# --- many callers ----------------------------------------------------------------------------------------------------


async def test_one_of_many_creators_of_a_name_wins(store: MetaStore, fence: BrokerFence) -> None:
    ids = [uuid.UUID(int=100 + number) for number in range(20)]
    calls = (store.mutate(fence, CreateTopic("contested", topic_id, 1)) for topic_id in ids)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, TopicExists) for result in results) == 19
    (winner,) = (topic_id for topic_id, result in zip(ids, results, strict=True) if isinstance(result, int))
    assert (await whole(store)).topics["contested"].topic_id == winner


async def test_a_refused_call_does_not_hurt_its_neighbours(
    store: MetaStore, fence: BrokerFence, slot: SlotFence
) -> None:
    results = await asyncio.gather(
        store.save_groups(slot, [group("a")]),
        store.save_groups(SlotFence(slot.kind, slot.slot, 99), [group("stale")]),
        store.mutate(fence, CreateTopic("bad", T1, 0)),
        store.mutate(fence, CreateTopic("good", T2, 1)),
        store.save_groups(slot, [group("b")]),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), NotOwner, InvalidPartitions, int, type(None)]
    assert [row.group_id for row in (await store.load_slot(slot)).groups] == ["a", "b"]
    assert set((await whole(store)).topics) == {"good"}


async def test_versions_grow_by_one_whoever_calls(store: MetaStore, fence: BrokerFence) -> None:
    before = (await store.image(0)).version
    changes = [CreateTopic(f"t{number}", uuid.UUID(int=50 + number), 1) for number in range(20)]
    versions = await asyncio.gather(*(store.mutate(fence, change) for change in changes))
    assert sorted(versions) == list(range(before + 1, before + 21))


async def test_a_cancelled_caller_leaves_a_whole_operation(
    store: MetaStore, fence: BrokerFence, slot: SlotFence
) -> None:
    ids = await partitions(store, fence, T1, "t", 2)
    tasks = [
        asyncio.create_task(store.save_offsets(slot, [offset(f"g{number}", each, number) for each in ids]))
        for number in range(10)
    ]
    for turn in range(3):
        await asyncio.sleep(0)
        tasks[turn].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
    rows = (await store.load_slot(slot)).offsets
    by_group = {row.group_id: sum(other.group_id == row.group_id for other in rows) for row in rows}
    assert set(by_group.values()) == {2}
    assert {f"g{number}" for number, result in enumerate(results) if result is None} <= by_group.keys()


async def test_a_closed_store_says_so(store: MetaStore, fence: BrokerFence, slot: SlotFence) -> None:
    await store.close()
    await store.close()
    calls: list[Callable[[], object]] = [
        store.cluster_id,
        lambda: store.image(0),
        lambda: store.register(BROKER),
        lambda: store.mutate(fence, CreateTopic("t", T1, 1)),
        lambda: store.load_slot(slot),
        lambda: store.allocate_producer_ids(fence, 1),
    ]
    for call in calls:
        with pytest.raises(Closed):
            await call()  # type: ignore[misc]  # every one of them returns a coroutine

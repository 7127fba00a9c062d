"""The group runtime: durable first, in order, one answer each, and what happens when the store does not play along."""

import asyncio
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cluster.error_codes import ErrorCode
from cluster.group.events import (
    CommittedOffset,
    DeleteGroup,
    DeleteOffsets,
    FetchOffsets,
    Heartbeat,
    JoinGroup,
    JoinReply,
    LeaveGroup,
    LeavingMember,
    OffsetCommit,
    SyncGroup,
)
from cluster.group.state import GroupPhase, GroupSettings
from cluster.metadata.memory import MemoryMetaStore
from cluster.metadata.sqlite import SqliteMetaStore
from cluster.metadata.store import BrokerFence, BrokerInfo, CreateTopic, GroupRow, OffsetRow, SlotFence, SlotKind
from cluster.pending import Pending
from cluster.routing import slot_of
from cluster.runtime import GroupRuntime, group_settings
from cluster.testing import WALL_MS, VirtualTime
from logstore.clock import SeededChance
from logstore.errors import NotWritten

NONE = ErrorCode.NONE
SETTINGS = GroupSettings(initial_rebalance_delay_ms=0, offsets_retention_ms=1_000_000)
PARTITIONS = (1, 2, 3)  # what a fresh memory store numbers them


class GatedStore(MemoryMetaStore):
    """A store that can be made to wait or to fail, and that counts its writes."""

    def __init__(self) -> None:
        super().__init__(SeededChance(1))
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.writes: list[tuple[str, int]] = []

    async def _pass(self, name: str, count: int) -> None:
        self.writes.append((name, count))
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure

    async def save_groups(self, fence: SlotFence, rows: Sequence[GroupRow]) -> None:
        await self._pass("groups", len(rows))
        await super().save_groups(fence, rows)

    async def save_offsets(self, fence: SlotFence, rows: Sequence[OffsetRow]) -> None:
        await self._pass("offsets", len(rows))
        await super().save_offsets(fence, rows)

    async def delete_groups(self, fence: SlotFence, group_ids: Sequence[str]) -> None:
        await self._pass("delete groups", len(group_ids))
        await super().delete_groups(fence, group_ids)


class World:
    def __init__(self) -> None:
        self.store = GatedStore()
        self.time = VirtualTime()
        self.runtime: GroupRuntime
        self.fence: BrokerFence

    async def start(self, settings: GroupSettings = SETTINGS) -> None:
        await self.store.open()
        self.fence = await self.store.register(BrokerInfo(1, "localhost", 9092))
        await self.store.mutate(self.fence, CreateTopic("t", uuid.UUID(int=1), len(PARTITIONS)))
        self.runtime = GroupRuntime(self.store, self.time, self.time, SeededChance(2), settings)
        await self.runtime.load(self.fence)


@pytest.fixture
async def world() -> World:
    made = World()
    await made.start()
    return made


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def joining(member_id: str = "", **changes: Any) -> JoinGroup:
    fields: dict[str, Any] = {
        "protocol_type": "consumer",
        "protocols": (("range", b""),),
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 30_000,
        "requires_member_id": False,
    }
    return JoinGroup(member_id, **(fields | changes))


def fetch_offsets(
    runtime: GroupRuntime, group_id: str, partition_ids: Sequence[int] | None = None
) -> tuple[ErrorCode, dict[int, CommittedOffset]]:
    reply = runtime.submit(group_id, FetchOffsets(partition_ids)).result()
    return reply.error, dict(reply.offsets)


def commit(value: int, partition_id: int = 1, **changes: Any) -> OffsetCommit:
    return OffsetCommit({partition_id: CommittedOffset(value)}, **changes)


async def lone_member(world: World, group_id: str = "g") -> tuple[str, int]:
    """A stable group of one."""
    joined = await world.runtime.submit(group_id, joining())
    synced = world.runtime.submit(
        group_id, SyncGroup(joined.member_id, joined.generation, assignments={joined.member_id: b"all"})
    )
    assert (await synced).assignment == b"all"
    return joined.member_id, joined.generation


# --- order and durability --------------------------------------------------------------------------------------------


async def test_what_needs_no_store_is_answered_before_submit_returns(world: World) -> None:
    member_id, generation = await lone_member(world)
    world.store.writes.clear()
    pending = world.runtime.submit("g", Heartbeat(member_id, generation))
    assert pending.done
    assert pending.result().error is NONE
    assert world.store.writes == []


async def test_nobody_hears_of_a_generation_before_it_is_stored(world: World) -> None:
    joined = await world.runtime.submit("g", joining())
    world.store.gate.clear()
    synced = world.runtime.submit("g", SyncGroup(joined.member_id, 1, assignments={joined.member_id: b"all"}))
    await settle()
    assert not synced.done
    assert world.runtime.describe_group("g").phase is GroupPhase.COMPLETING_REBALANCE
    world.store.gate.set()
    assert (await synced).assignment == b"all"
    assert world.runtime.describe_group("g").phase is GroupPhase.STABLE


async def test_events_of_a_group_wait_for_its_write_and_other_groups_do_not(world: World) -> None:
    member_id, generation = await lone_member(world)
    world.store.gate.clear()
    order: list[str] = []
    committed = world.runtime.submit("g", commit(5, member_id=member_id, generation=generation))
    beat = world.runtime.submit("g", Heartbeat(member_id, generation))
    committed.when_done(lambda _: order.append("commit"))
    beat.when_done(lambda _: order.append("heartbeat"))
    other = world.runtime.submit("h", joining())
    await settle()
    assert other.done
    assert order == []
    assert world.runtime.offsets("g") == {}
    world.store.gate.set()
    await settle()
    assert order == ["commit", "heartbeat"]
    assert fetch_offsets(world.runtime, "g")[1][1].offset == 5


async def test_offsets_are_fetched_after_the_commits_that_were_asked_for_before(world: World) -> None:
    world.store.gate.clear()
    world.runtime.submit("simple", commit(5))
    fetched = world.runtime.submit("simple", FetchOffsets((1, 2)))
    world.runtime.submit("simple", commit(6))
    await settle()
    assert not fetched.done
    world.store.gate.set()
    reply = await fetched
    assert (reply.error, {key: each.offset for key, each in reply.offsets.items()}) == (NONE, {1: 5})


async def test_commits_that_queue_together_are_one_write(world: World) -> None:
    world.store.gate.clear()
    pending = [world.runtime.submit("simple", commit(value, 1 + value % 3)) for value in range(30)]
    await settle()
    world.store.gate.set()
    assert {(await each).error for each in pending} == {NONE}
    assert world.store.writes == [("offsets", 1), ("offsets", 3)]
    _, offsets = fetch_offsets(world.runtime, "simple")
    assert {key: each.offset for key, each in offsets.items()} == {1: 27, 2: 28, 3: 29}


async def test_an_answers_listener_may_ask_again_at_once(world: World) -> None:
    member_id, generation = await lone_member(world)
    beats: list[Pending[Any]] = []

    def again(_: object) -> None:
        if len(beats) < 3:
            beats.append(world.runtime.submit("g", Heartbeat(member_id, generation)))
            beats[-1].when_done(again)

    again(None)
    await settle()
    assert [each.result().error for each in beats] == [NONE] * 3


async def test_an_answer_nobody_waits_for_is_dropped_but_done(world: World) -> None:
    world.store.gate.clear()
    pending = world.runtime.submit("g", commit(5))
    pending.cancel()
    world.store.gate.set()
    await settle()
    assert not pending.done
    assert fetch_offsets(world.runtime, "g")[1][1].offset == 5


# --- a store that fails ----------------------------------------------------------------------------------------------


async def test_a_failed_write_changes_nothing_and_may_be_retried(world: World) -> None:
    joined = await world.runtime.submit("g", joining())
    world.store.failure = NotWritten("no space left")
    sync = SyncGroup(joined.member_id, 1, assignments={joined.member_id: b"all"})
    assert (await world.runtime.submit("g", sync)).error is ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert (await world.runtime.submit("h", commit(1))).error is ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert fetch_offsets(world.runtime, "h") == (NONE, {})
    assert world.runtime.describe_group("g").phase is GroupPhase.COMPLETING_REBALANCE
    world.store.failure = None
    assert (await world.runtime.submit("g", sync)).assignment == b"all"


async def test_a_timer_whose_consequence_failed_comes_back(world: World) -> None:
    await lone_member(world)
    world.store.failure = RuntimeError("anything at all")
    world.time.advance(10_000)
    await settle()
    assert len(world.runtime.describe_group("g").members) == 1
    world.store.failure = None
    world.time.advance(1_000)
    await settle()
    assert world.runtime.describe_group("g").phase is GroupPhase.EMPTY


async def test_a_heartbeat_ahead_of_a_late_timer_saves_its_member(world: World) -> None:
    member_id, generation = await lone_member(world)
    world.store.gate.clear()
    world.runtime.submit("g", commit(1, member_id=member_id, generation=generation))
    await settle()
    world.time.advance(9_000)
    beat = world.runtime.submit("g", Heartbeat(member_id, generation))
    world.time.advance(5_000)  # the session ends while the store hangs, but the heartbeat is in the queue
    world.store.gate.set()
    await settle()
    assert beat.result().error is NONE
    assert len(world.runtime.describe_group("g").members) == 1
    world.time.advance(9_999)
    assert len(world.runtime.describe_group("g").members) == 1
    world.time.advance(1)
    await settle()
    assert world.runtime.describe_group("g").members == ()


async def test_a_lost_slot_sends_its_groups_away(world: World) -> None:
    member_id, generation = await lone_member(world)
    parked = world.runtime.submit("g", joining())  # waits for the first member to rejoin
    usurper = await world.store.acquire(SlotKind.GROUP, slot_of("g"), world.fence)
    world.store.gate.clear()
    writing = world.runtime.submit("g", commit(1, member_id=member_id, generation=generation))
    queued = world.runtime.submit("g", Heartbeat(member_id, generation))
    await settle()
    assert not parked.done
    world.store.gate.set()
    await settle()
    assert {each.result().error for each in (parked, writing, queued)} == {ErrorCode.NOT_COORDINATOR}
    assert (await world.runtime.submit("g", joining())).error is ErrorCode.NOT_COORDINATOR
    assert fetch_offsets(world.runtime, "g")[0] is ErrorCode.NOT_COORDINATOR
    world.time.advance(60_000)  # timers that are left over wake nobody
    await settle()
    state = await world.store.load_slot(usurper)
    assert (state.groups[0].generation, state.offsets) == (generation, ())
    elsewhere = next(f"g{number}" for number in range(100) if slot_of(f"g{number}") != slot_of("g"))
    assert (await world.runtime.submit(elsewhere, joining())).error is NONE


async def test_a_slot_that_is_not_ours_is_somebody_elses() -> None:
    world = World()
    await world.start()
    runtime = GroupRuntime(world.store, world.time, world.time, SeededChance(3), SETTINGS)
    await runtime.load(world.fence, [slot_of("mine")])
    assert (await runtime.submit("mine", joining())).error is NONE
    other = next(f"g{number}" for number in range(100) if slot_of(f"g{number}") != slot_of("mine"))
    reply = await runtime.submit(other, joining("m"))
    assert reply == JoinReply(ErrorCode.NOT_COORDINATOR, "m")
    assert runtime.describe_group(other).error is ErrorCode.NOT_COORDINATOR


async def test_closing_answers_everybody_once() -> None:
    world = World()
    await world.start(GroupSettings(initial_rebalance_delay_ms=3_000))
    parked = [world.runtime.submit("g", joining()) for _ in range(3)]
    world.store.gate.clear()
    writing, queued = (world.runtime.submit("h", commit(value)) for value in (1, 2))
    await settle()
    closing = asyncio.create_task(world.runtime.close())
    await settle()
    world.store.gate.set()
    await closing
    assert [each.result().error for each in parked] == [ErrorCode.COORDINATOR_NOT_AVAILABLE] * 3
    assert writing.result().error is NONE
    assert queued.result().error is ErrorCode.COORDINATOR_NOT_AVAILABLE
    late = world.runtime.submit("g", joining())
    assert late.result().error is ErrorCode.COORDINATOR_NOT_AVAILABLE
    assert world.time.next_ms() is None


# --- restart ---------------------------------------------------------------------------------------------------------


async def test_groups_and_offsets_survive_a_restart_on_disk(tmp_path: Path) -> None:
    world = World()
    for run in range(2):
        store = SqliteMetaStore(tmp_path, SeededChance(1))
        await store.open()
        fence = await store.register(BrokerInfo(1, "localhost", 9092))
        runtime = GroupRuntime(store, world.time, world.time, SeededChance(2), SETTINGS)
        if run == 0:
            await store.mutate(fence, CreateTopic("t", uuid.UUID(int=1), 1))
            loading = asyncio.create_task(runtime.load(fence))
            await asyncio.sleep(0)
            loaded_too_soon = runtime.submit("g", joining()).result()
            assert loaded_too_soon.error is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            await loading
            world.runtime = runtime
            member_id, generation = await lone_member(world)
            done = await runtime.submit("g", commit(42, member_id=member_id, generation=generation))
            assert done.error is NONE
            assert (await runtime.submit("simple", commit(7))).error is NONE
        else:
            await runtime.load(fence)
            assert runtime.submit("g", Heartbeat(member_id, generation)).result().error is NONE
            assert runtime.submit("g", SyncGroup(member_id, generation)).result().assignment == b"all"
            assert fetch_offsets(runtime, "g", [1])[1] == {1: CommittedOffset(42, commit_timestamp_ms=WALL_MS)}
            assert {each.group_id for each in runtime.list_groups()} == {"g", "simple"}
        await runtime.close()
        await store.close()


async def test_a_damaged_group_does_not_hold_up_the_others(world: World) -> None:
    await lone_member(world, "good")
    slot = await world.store.acquire(SlotKind.GROUP, slot_of("bad"), world.fence)
    row = GroupRow("bad", "classic", 1, b"damaged", 0)
    later = GroupRow("later", "consumer", 1, b"of another kind", 0)
    await world.store.save_groups(slot, [row, later])
    await world.store.save_offsets(slot, [OffsetRow("bad", 1, 9, 0, "", 0)])
    runtime = GroupRuntime(world.store, world.time, world.time, SeededChance(2), SETTINGS)
    await runtime.load(world.fence)
    assert runtime.describe_group("good").phase is GroupPhase.STABLE
    assert runtime.describe_group("bad").phase is GroupPhase.EMPTY
    assert fetch_offsets(runtime, "bad")[1][1].offset == 9


# --- offsets, deletion, expiry ---------------------------------------------------------------------------------------


async def test_commits_are_checked_against_the_membership(world: World) -> None:
    async def error(**changes: Any) -> ErrorCode:
        return (await world.runtime.submit("g", commit(1, **changes))).error

    assert await error(member_id="m", generation=3) is ErrorCode.ILLEGAL_GENERATION  # no such group
    member_id, generation = await lone_member(world)
    assert await error(member_id=member_id, generation=generation) is NONE
    assert await error(member_id="stranger", generation=generation) is ErrorCode.UNKNOWN_MEMBER_ID
    assert await error(member_id=member_id, generation=generation + 1) is ErrorCode.ILLEGAL_GENERATION
    assert await error() is ErrorCode.UNKNOWN_MEMBER_ID  # a simple commit into a group with members
    parked = world.runtime.submit("g", joining())
    assert await error(member_id=member_id, generation=generation) is NONE  # may still commit what it has read
    world.runtime.submit("g", joining(member_id))
    assert parked.done
    assert await error(member_id=member_id, generation=generation + 1) is ErrorCode.REBALANCE_IN_PROGRESS


async def test_a_refused_partition_does_not_refuse_the_others(world: World) -> None:
    request = OffsetCommit({1: CommittedOffset(1), 2: CommittedOffset(2, metadata="x" * 5000)})
    reply = await world.runtime.submit("g", request)
    assert (reply.error, reply.partitions) == (NONE, {2: ErrorCode.OFFSET_METADATA_TOO_LARGE})
    assert set(fetch_offsets(world.runtime, "g")[1]) == {1}
    only_bad = await world.runtime.submit("h", OffsetCommit({2: CommittedOffset(2, metadata="x" * 5000)}))
    assert only_bad.partitions
    assert {each.group_id for each in world.runtime.list_groups()} == {"g"}


async def test_a_commit_keeps_its_member_alive(world: World) -> None:
    member_id, generation = await lone_member(world)
    for value in range(5):
        world.time.advance(9_999)
        assert (
            await world.runtime.submit("g", commit(value, member_id=member_id, generation=generation))
        ).error is NONE
    assert len(world.runtime.describe_group("g").members) == 1


async def test_only_an_empty_group_is_deleted_and_then_it_is_gone(world: World) -> None:
    member_id, generation = await lone_member(world)
    await world.runtime.submit("g", commit(1, member_id=member_id, generation=generation))
    assert (await world.runtime.submit("g", DeleteGroup())).error is ErrorCode.NON_EMPTY_GROUP
    assert (await world.runtime.submit("nobody", DeleteGroup())).error is ErrorCode.GROUP_ID_NOT_FOUND
    await world.runtime.submit("g", LeaveGroup((LeavingMember(member_id),)))
    assert (await world.runtime.submit("g", DeleteGroup())).error is NONE
    assert world.runtime.list_groups() == []
    assert fetch_offsets(world.runtime, "g") == (NONE, {})
    assert world.runtime.describe_group("g").phase is GroupPhase.DEAD
    slot = await world.store.acquire(SlotKind.GROUP, slot_of("g"), world.fence)
    state = await world.store.load_slot(slot)
    assert (state.groups, state.offsets) == ((), ())


async def test_offsets_of_subscribed_topics_are_not_deleted(world: World) -> None:
    subscribed = b"\x00\x01\x00\x00\x00\x01\x00\x01t" + b"\xff" * 4
    joined = await world.runtime.submit("g", joining(protocols=(("range", subscribed),)))
    await world.runtime.submit("g", SyncGroup(joined.member_id, 1))
    offsets = {key: CommittedOffset(key) for key in PARTITIONS}
    await world.runtime.submit("g", OffsetCommit(offsets, joined.member_id, 1))
    reply = await world.runtime.submit("g", DeleteOffsets({1: "t", 2: "other", 99: "other"}))
    assert (reply.error, reply.partitions) == (NONE, {1: ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC})
    assert set(fetch_offsets(world.runtime, "g")[1]) == {1, 3}
    assert (await world.runtime.submit("nobody", DeleteOffsets({1: "t"}))).error is ErrorCode.GROUP_ID_NOT_FOUND
    await world.runtime.submit("c", joining(protocol_type="connect"))
    assert (await world.runtime.submit("c", DeleteOffsets({1: "t"}))).error is ErrorCode.NON_EMPTY_GROUP


async def test_offsets_expire_and_the_group_with_the_last_of_them() -> None:
    world = World()
    await world.start(GroupSettings(offsets_retention_ms=1_000_000, offsets_retention_check_interval_ms=600_000))
    await world.runtime.submit("g", commit(1, 1))
    world.time.advance(700_000)
    await settle()
    await world.runtime.submit("g", commit(2, 2))
    world.time.advance(500_000)
    await settle()
    assert set(fetch_offsets(world.runtime, "g")[1]) == {2}
    world.time.advance(600_000)
    await settle()
    assert world.runtime.list_groups() == []
    slot = await world.store.acquire(SlotKind.GROUP, slot_of("g"), world.fence)
    assert (await world.store.load_slot(slot)).offsets == ()


async def test_a_group_that_became_empty_keeps_its_offsets_for_the_retention(world: World) -> None:
    member_id, generation = await lone_member(world)
    await world.runtime.submit("g", commit(1, member_id=member_id, generation=generation))
    for _ in range(200):
        world.time.advance(9_000)
        await world.runtime.submit("g", Heartbeat(member_id, generation))
    await world.runtime.submit("g", LeaveGroup((LeavingMember(member_id),)))
    world.time.advance(900_000)
    await settle()
    assert set(fetch_offsets(world.runtime, "g")[1]) == {1}
    world.time.advance(900_000)
    await settle()
    assert world.runtime.list_groups() == []


async def test_deleted_partitions_are_forgotten(world: World) -> None:
    await world.runtime.submit("g", OffsetCommit({1: CommittedOffset(1), 2: CommittedOffset(2)}))
    world.runtime.forget_partitions([1])
    assert set(fetch_offsets(world.runtime, "g")[1]) == {2}
    world.runtime.forget_partitions([2, 3])
    assert world.runtime.list_groups() == []


# --- hostile askers --------------------------------------------------------------------------------------------------


async def test_a_group_needs_a_name_except_for_offsets(world: World) -> None:
    for request in (joining(), SyncGroup("m", 1), Heartbeat("m", 1), LeaveGroup(())):
        assert (await world.runtime.submit("", request)).error is ErrorCode.INVALID_GROUP_ID
    assert (await world.runtime.submit("", commit(1))).error is NONE
    assert fetch_offsets(world.runtime, "")[1][1].offset == 1


async def test_asking_for_groups_that_are_not_there_leaves_nothing_behind(world: World) -> None:
    for number in range(100):
        name = f"probe-{number}"
        await world.runtime.submit(name, Heartbeat("m", 1))
        await world.runtime.submit(name, joining("m"))
        await world.runtime.submit(name, joining(session_timeout_ms=1))
        assert (await world.runtime.submit(name, joining(requires_member_id=True))).member_id
        world.runtime.describe_group(name)
    world.time.advance(10_000)
    await settle()
    assert world.runtime._cells == {}
    assert world.runtime._parked == {}
    assert len(world.runtime._timers) == 0


async def test_a_listener_that_fails_does_not_stop_the_group(world: World) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a door's mistake")

    world.store.gate.clear()
    world.runtime.submit("g", commit(1)).when_done(fail)
    second = world.runtime.submit("g", commit(2))
    world.store.gate.set()
    assert (await second).error is NONE


def test_settings_follow_the_brokers_options() -> None:
    from cluster.config import parse_broker_config

    config = parse_broker_config({"group.max.size": "7", "offsets.retention.minutes": "2"})
    settings = group_settings(config)
    assert (settings.members_max, settings.offsets_retention_ms) == (7, 120_000)
    assert settings.initial_rebalance_delay_ms == config.group_initial_rebalance_delay_ms

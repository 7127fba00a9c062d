"""Twenty clients with moods of their own against one group, on virtual time, from a seed.

They join, crash, come back, leave, change their metadata and lose interest while the store is slow and sometimes fails
and the coordinator sometimes restarts. Held at every step: one answer per request, one leader per generation, and to
each member exactly what its leader assigned. Held in the end, when all is calm: everybody alive is stable in one
generation.
"""

import asyncio
import random
import uuid
from collections.abc import Sequence

import pytest

from cluster.error_codes import ErrorCode
from cluster.group.events import (
    CommitReply,
    CommittedOffset,
    Heartbeat,
    HeartbeatReply,
    JoinGroup,
    JoinReply,
    LeaveGroup,
    LeavingMember,
    OffsetCommit,
    Reply,
    SyncGroup,
    SyncReply,
)
from cluster.group.state import GroupPhase, GroupSettings
from cluster.metadata.memory import MemoryMetaStore
from cluster.metadata.store import BrokerInfo, CreateTopic, GroupRow, OffsetRow, SlotFence
from cluster.pending import Pending
from cluster.runtime import GroupRuntime
from cluster.testing import VirtualTime
from logstore.clock import SeededChance
from logstore.errors import NotWritten

GROUP = "simulated"
SESSION_MS, REBALANCE_MS = 10_000, 20_000
GONE = {ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS}


class MoodyStore(MemoryMetaStore):
    """Slow by up to 300 ms of virtual time; one write in ten fails while `moody`."""

    def __init__(self, chance: random.Random, time: VirtualTime) -> None:
        super().__init__(SeededChance(0))
        self.chance, self.time, self.moody = chance, time, False

    async def _mood(self) -> None:
        if not self.moody:
            return
        woken = asyncio.get_running_loop().create_future()
        self.time.call_at_ms(self.time.monotonic_ms() + self.chance.randrange(300), lambda: woken.set_result(None))
        await woken
        if self.chance.random() < 0.1:
            raise NotWritten("a bad moment")

    async def save_groups(self, fence: SlotFence, rows: Sequence[GroupRow]) -> None:
        await self._mood()
        await super().save_groups(fence, rows)

    async def save_offsets(self, fence: SlotFence, rows: Sequence[OffsetRow]) -> None:
        await self._mood()
        await super().save_offsets(fence, rows)


class StrictRuntime(GroupRuntime):
    """Answering nobody, or somebody twice, is a fault."""

    faults: list[str]

    def _reply(self, token: int, reply: Reply) -> None:
        if token not in self._parked:
            self.faults.append(f"{reply} has no request any more")
        super()._reply(token, reply)


class World:
    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.time = VirtualTime()
        self.store = MoodyStore(self.chance, self.time)
        self.runtime: StrictRuntime
        self.incarnation = 0
        self.leaders: dict[tuple[int, int], str] = {}
        self.given: dict[tuple[int, int], dict[str, bytes]] = {}
        self.asked = self.answered = 0
        self.stable_seen = 0
        self.faults: list[str] = []

    async def start(self) -> None:
        self.incarnation += 1
        fence = await self.store.register(BrokerInfo(1, "localhost", 9092))
        if self.incarnation == 1:
            await self.store.mutate(fence, CreateTopic("t", uuid.UUID(int=1), 1))
        settings = GroupSettings(initial_rebalance_delay_ms=self.chance.choice([0, 500]), members_max=18)
        chance = SeededChance(self.chance.getrandbits(32))
        self.runtime = StrictRuntime(self.store, self.time, self.time, chance, settings)
        self.runtime.faults = self.faults
        await self.runtime.load(fence)


class Client:
    """What a consumer does, reduced to the protocol."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"i{number}" if number % 3 == 0 else None
        self.life = 0  # counts up when it dies: answers to an earlier life are not heard
        self.alive = False
        self.member_id = ""
        self.generation = -1
        self.stable = False
        self.metadata = b"0"

    def ask(self, request: JoinGroup | SyncGroup | Heartbeat | LeaveGroup | OffsetCommit) -> None:
        self.world.asked += 1
        life, incarnation = self.life, self.world.incarnation
        pending: Pending[Reply] = self.world.runtime.submit(GROUP, request)  # type: ignore[assignment,arg-type]  # any

        def heard(answer: Pending[Reply]) -> None:
            self.world.answered += 1
            if self.alive and life == self.life:
                try:
                    self.hear(answer.result(), incarnation)
                except Exception as error:  # the runtime would go on regardless
                    self.world.faults.append(repr(error))

        pending.when_done(heard)

    def later(self, delay_ms: int, action: str) -> None:
        life = self.life

        def act() -> None:
            if self.alive and life == self.life:
                getattr(self, action)()

        self.world.time.call_at_ms(self.world.time.monotonic_ms() + delay_ms, act)

    def begin(self) -> None:
        self.alive, self.stable, self.member_id, self.generation = True, False, "", -1
        self.life += 1
        self.join()
        self.later(self.world.chance.randrange(3_000), "beat")

    def die(self) -> None:
        self.alive = self.stable = False

    def leave(self) -> None:
        if self.member_id:
            self.ask(LeaveGroup((LeavingMember(self.member_id, self.name),)))
        self.die()

    def join(self) -> None:
        self.stable = False
        protocols = (("a", self.metadata), ("b", self.metadata))
        modern = self.world.chance.random() < 0.7
        self.ask(
            JoinGroup(
                self.member_id, "consumer", protocols, SESSION_MS, REBALANCE_MS, self.name,
                requires_member_id=modern, can_skip_assignment=True,
            )
        )  # fmt: skip

    def beat(self) -> None:
        if self.stable or (self.member_id and self.generation >= 0):
            self.ask(Heartbeat(self.member_id, self.generation, self.name))
            if self.stable and self.world.chance.random() < 0.3:
                offsets = {1: CommittedOffset(self.world.chance.randrange(1000))}
                self.ask(OffsetCommit(offsets, self.member_id, self.generation, self.name))
        self.later(3_000, "beat")

    def hear(self, reply: Reply, incarnation: int) -> None:
        match reply:
            case JoinReply(error=ErrorCode.NONE):
                self.joined(reply, incarnation)
            case JoinReply(error=ErrorCode.MEMBER_ID_REQUIRED):
                self.member_id = reply.member_id
                self.join()
            case SyncReply(error=ErrorCode.NONE):
                given = self.world.given.get((incarnation, self.generation))
                if given is not None:  # else: restored from an earlier incarnation
                    assert reply.assignment == given[self.name or self.member_id]
                self.stable = True
                self.world.stable_seen += 1
            case HeartbeatReply() | CommitReply():
                if reply.error and self.stable:
                    self.again(reply.error)
            case JoinReply() | SyncReply():
                self.again(reply.error)

    def joined(self, reply: JoinReply, incarnation: int) -> None:
        self.member_id, self.generation = reply.member_id, reply.generation
        key = (incarnation, reply.generation)
        assignments: dict[str, bytes] = {}
        if reply.leader == self.member_id and not reply.skip_assignment:
            assert self.world.leaders.setdefault(key, self.name or self.member_id) == (self.name or self.member_id)
            owners = {each.member_id: each.instance_id or each.member_id for each in reply.members}
            assert self.member_id in owners
            assignments = {member_id: f"{key}{owner}".encode() for member_id, owner in owners.items()}
            self.world.given[key] = {owner: assignments[member_id] for member_id, owner in owners.items()}
        self.ask(SyncGroup(self.member_id, self.generation, self.name, assignments=assignments))

    def again(self, error: ErrorCode) -> None:
        self.stable = False
        if error in GONE or error is ErrorCode.GROUP_MAX_SIZE_REACHED:
            if error is ErrorCode.GROUP_MAX_SIZE_REACHED:
                self.member_id = ""
            self.later(500 + self.world.chance.randrange(500), "join")
            return
        assert error in (
            ErrorCode.UNKNOWN_MEMBER_ID,
            ErrorCode.REBALANCE_IN_PROGRESS,
            ErrorCode.ILLEGAL_GENERATION,
            ErrorCode.FENCED_INSTANCE_ID,
        ), error.name
        if error is ErrorCode.FENCED_INSTANCE_ID:
            self.die()
            return
        if error is ErrorCode.UNKNOWN_MEMBER_ID:
            self.member_id, self.generation = "", -1
        self.join()


async def pass_time(world: World, total_ms: int, step_ms: int = 100) -> None:
    for _ in range(total_ms // step_ms):
        world.time.advance(step_ms)
        for _ in range(4):
            await asyncio.sleep(0)


def one_mood(world: World, client: Client) -> None:
    mood = world.chance.random()
    if not client.alive:
        client.begin()
    elif mood < 0.35:
        client.die()
    elif mood < 0.6:
        client.leave()
    elif mood < 0.8:
        client.metadata = str(world.chance.randrange(1000)).encode()
        if client.stable:
            client.join()
    elif client.name is not None:
        client.begin()  # a static member restarts at once, without a word


@pytest.mark.parametrize("seed", range(8))
async def test_any_schedule_ends_stable_and_everybody_was_answered_once(seed: int) -> None:
    print(f"seed {seed}")
    world = World(seed)
    await world.store.open()
    await world.start()
    clients = [Client(world, number) for number in range(20)]
    world.store.moody = True
    for _ in range(120):
        one_mood(world, world.chance.choice(clients))
        await pass_time(world, world.chance.choice([100, 500, 2_000, 6_000]))
        if world.chance.random() < 0.03:
            closing = asyncio.create_task(world.runtime.close())
            await pass_time(world, 500)
            await closing
            world.store.moody = False
            await world.start()
            world.store.moody = True
    world.store.moody = False
    for client in clients[:15]:
        if not client.alive:
            client.begin()
    for client in clients[15:]:
        client.die()
    await pass_time(world, 120_000)
    assert world.faults == []
    alive = [client for client in clients if client.alive]
    description = world.runtime.describe_group(GROUP)
    assert description.phase is GroupPhase.STABLE
    assert {client.generation for client in alive} == {description.generation}
    assert all(client.stable for client in alive)
    assert {each.member_id for each in description.members} == {client.member_id for client in alive}
    assert len(alive) == 15
    assert world.stable_seen > 50
    await world.runtime.close()
    assert world.answered == world.asked
    assert world.faults == []

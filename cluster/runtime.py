"""The only loop that waits for coordination: event -> decide -> store -> apply -> timers -> replies.

Events of one group are carried out strictly in order; groups do not wait for each other. An event whose decision has
nothing to store is answered before `submit` returns. Otherwise the store is awaited, and what arrives meanwhile queues
in the group; the offset commits that queued together become one write. If the store fails, nothing has changed: whoever
asked is told to try again, whoever is parked stays so, and a timer comes back.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, NamedTuple, TypeAlias, overload

from msgspec.structs import replace

from cluster.config import BrokerConfig
from cluster.error_codes import ErrorCode
from cluster.group.classic import ClassicGroup, session_renewed
from cluster.group.events import (
    NO_TOKEN,
    ArmTimer,
    CancelTimer,
    CommitReply,
    CommittedOffset,
    Decision,
    DeleteGroup,
    DeleteGroupReply,
    DeleteOffsets,
    DeleteOffsetsReply,
    FetchOffsets,
    Heartbeat,
    HeartbeatReply,
    JoinGroup,
    JoinReply,
    LeaveGroup,
    LeaveReply,
    Loaded,
    MembershipEvent,
    OffsetCommit,
    OffsetsReply,
    PendingTimer,
    Reply,
    Request,
    SyncGroup,
    SyncReply,
    TimerFired,
    TimerKey,
    refuse,
)
from cluster.group.offsets import CommittedOffsets, admit, subscribed_topics
from cluster.group.state import GroupPhase, GroupSettings, GroupState
from cluster.group.stored import decode_group, encode_group
from cluster.group.views import GroupDescription, GroupOverview, describe
from cluster.metadata.store import BrokerFence, GroupRow, MetaStore, OffsetRow, SlotFence, SlotKind, SlotState
from cluster.pending import Pending
from cluster.routing import SLOT_COUNT, slot_of
from cluster.scheduler import Scheduler, Timer
from cluster.timers import TimerHeap
from logstore.clock import Chance, Clock
from logstore.errors import DamagedSegment, NotOwner

CLASSIC: Final = "classic"
_RETRY_MS: Final = 1_000  # a timer whose consequence could not be stored comes back after so long
_log = logging.getLogger("logstore.groups")


class _Expire(NamedTuple):
    """Look for offsets that have outlived their retention."""


_Event: TypeAlias = Request | MembershipEvent | _Expire


class _Asked(NamedTuple):
    event: _Event
    token: int


class _Parked(NamedTuple):
    group_id: str
    request: Request
    pending: Pending[Any]


class _Write(NamedTuple):
    """A decision that waits for the store: what to store, what follows, and who is told if it fails."""

    store: Coroutine[Any, Any, None]
    then: Callable[[], None]
    asked: tuple[_Asked, ...]


class _Cell:
    """One group with all that belongs to it."""

    __slots__ = ("busy", "fence", "group", "group_id", "offsets", "queue", "saved_at_ms")

    def __init__(self, group_id: str, fence: SlotFence, state: GroupState, settings: GroupSettings) -> None:
        self.group_id = group_id
        self.fence = fence
        self.group = ClassicGroup(state, settings)
        self.offsets = CommittedOffsets()
        self.saved_at_ms = 0
        self.queue: deque[_Asked] = deque()
        self.busy = False

    @property
    def is_unknown(self) -> bool:
        """Neither members nor offsets nor a past: as good as no group."""
        return self.group.state.is_forgettable and not self.offsets


class GroupRuntime:
    """Every group this node coordinates. Runs on the loop's thread; nothing here is thread-safe."""

    def __init__(
        self, store: MetaStore, clock: Clock, scheduler: Scheduler, chance: Chance, settings: GroupSettings
    ) -> None:
        self._store = store
        self._clock = clock
        self._scheduler = scheduler
        self._chance = chance
        self._settings = settings
        self._fences: dict[int, SlotFence] = {}
        self._loading: set[int] = set()
        self._cells: dict[str, _Cell] = {}
        self._parked: dict[int, _Parked] = {}
        self._tokens = itertools.count(NO_TOKEN + 1)
        self._timers: TimerHeap[tuple[str, TimerKey]] = TimerHeap()
        self._alarm: tuple[int, Timer] | None = None
        self._expiry: Timer | None = None
        self._writing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def load(self, fence: BrokerFence, slots: Iterable[int] = range(SLOT_COUNT)) -> None:
        """Acquire those of these slots that are not ours yet and bring their groups to life.

        Raises `NotOwner` and what the store raises; then none of them is ours.
        """
        wanted = [slot for slot in slots if slot not in self._fences]
        self._loading.update(wanted)
        try:
            fences = await asyncio.gather(*(self._store.acquire(SlotKind.GROUP, slot, fence) for slot in wanted))
            states = await asyncio.gather(*(self._store.load_slot(each) for each in fences))
        finally:
            self._loading.difference_update(wanted)
        for slot_fence, state in zip(fences, states, strict=True):
            self._fences[slot_fence.slot] = slot_fence
            self._restore(slot_fence, state)
        if self._expiry is None:
            self._expiry = self._scheduler.call_at_ms(self._next_expiry_ms(), self._expire)

    async def close(self) -> None:
        """Let writes that are under way finish, then send everybody away with COORDINATOR_NOT_AVAILABLE."""
        self._closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        if self._alarm is not None:
            self._alarm[1].cancel()
        for cell in self._cells.values():
            self._refuse_queued(cell, ErrorCode.COORDINATOR_NOT_AVAILABLE)
        if self._writing:
            await asyncio.wait(self._writing)
        for token, parked in list(self._parked.items()):
            self._reply(token, refuse(parked.request, ErrorCode.COORDINATOR_NOT_AVAILABLE))
        self._cells.clear()
        self._fences.clear()

    # --- asking ------------------------------------------------------------------------------------------------------

    @overload
    def submit(self, group_id: str, request: JoinGroup) -> Pending[JoinReply]: ...
    @overload
    def submit(self, group_id: str, request: SyncGroup) -> Pending[SyncReply]: ...
    @overload
    def submit(self, group_id: str, request: Heartbeat) -> Pending[HeartbeatReply]: ...
    @overload
    def submit(self, group_id: str, request: LeaveGroup) -> Pending[LeaveReply]: ...
    @overload
    def submit(self, group_id: str, request: OffsetCommit) -> Pending[CommitReply]: ...
    @overload
    def submit(self, group_id: str, request: FetchOffsets) -> Pending[OffsetsReply]: ...
    @overload
    def submit(self, group_id: str, request: DeleteGroup) -> Pending[DeleteGroupReply]: ...
    @overload
    def submit(self, group_id: str, request: DeleteOffsets) -> Pending[DeleteOffsetsReply]: ...

    def submit(self, group_id: str, request: Request) -> Pending[Any]:
        """Ask a group. The reply's error code says what went wrong; nothing is raised.

        Cancelling the answer makes it undelivered, not the request undone: a parked member still counts as waiting.
        """
        error = self._check(group_id, is_membership=isinstance(request, JoinGroup | SyncGroup | Heartbeat | LeaveGroup))
        if error:
            return Pending.settled(refuse(request, error))
        pending: Pending[Any] = Pending()
        token = next(self._tokens)
        self._parked[token] = _Parked(group_id, request, pending)
        pending.on_cancel(lambda: self._drop(token))
        cell = self._cells.get(group_id)
        if cell is None:
            fence = self._fences[slot_of(group_id)]
            cell = self._cells[group_id] = _Cell(group_id, fence, GroupState(group_id), self._settings)
        cell.queue.append(_Asked(request, token))
        self._pump(cell)
        return pending

    def offsets(self, group_id: str) -> dict[int, CommittedOffset]:
        """What the group has committed until now, without waiting for commits under way."""
        cell = self._cells.get(group_id)
        return {} if cell is None else cell.offsets.fetch()

    def list_groups(self) -> list[GroupOverview]:
        return [
            GroupOverview(group_id, cell.group.state.protocol_type or "", cell.group.state.phase, CLASSIC)
            for group_id, cell in self._cells.items()
            if not cell.is_unknown
        ]

    def describe_group(self, group_id: str) -> GroupDescription:
        """A group that does not exist is DEAD, without an error."""
        error = self._check(group_id)
        cell = self._cells.get(group_id)
        if error or cell is None or cell.is_unknown:
            return GroupDescription(error, group_id, GroupPhase.DEAD)
        return describe(cell.group.state)

    def forget_partitions(self, partition_ids: Iterable[int]) -> None:
        """Partitions were deleted, and the store has deleted their offsets: forget them here, too."""
        gone = tuple(partition_ids)
        for cell in list(self._cells.values()):
            cell.offsets.remove(gone)
            self._forget_if_idle(cell)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _pump(self, cell: _Cell) -> None:
        """Carry out what waits in a group, up to the first event that has to be stored."""
        if cell.busy:  # a write is under way, or this is a reply's listener asking again
            return
        cell.busy = True
        while cell.queue:
            write = self._step(cell, cell.queue.popleft())
            if write is not None:
                task = asyncio.get_running_loop().create_task(self._carry_out(cell, write))
                self._writing.add(task)
                task.add_done_callback(self._writing.discard)
                return
        cell.busy = False
        self._forget_if_idle(cell)

    async def _carry_out(self, cell: _Cell, write: _Write) -> None:
        try:
            await write.store
        except NotOwner as error:
            _log.warning("lost the slot of group %s: %s", cell.group_id, error)
            self._answer_all(write.asked, ErrorCode.NOT_COORDINATOR)
            self._lose_slot(cell.fence)
        except Exception as error:  # whatever it was: nothing is applied, so nothing may be claimed
            _log.error("group %s could not be stored: %s", cell.group_id, error)
            self._answer_all(write.asked, ErrorCode.COORDINATOR_NOT_AVAILABLE)
            for event, _ in write.asked:
                if isinstance(event, TimerFired) and (cell.group_id, event.key) not in self._timers:
                    self._arm(cell, event.key, self._clock.monotonic_ms() + _RETRY_MS)
        else:
            write.then()
        cell.busy = False
        self._pump(cell)

    def _step(self, cell: _Cell, asked: _Asked) -> _Write | None:
        match asked.event:
            case OffsetCommit():
                return self._commit(cell, asked)
            case FetchOffsets(partition_ids):
                self._reply(asked.token, OffsetsReply(ErrorCode.NONE, cell.offsets.fetch(partition_ids)))
                return None
            case DeleteGroup():
                return self._delete_group(cell, asked)
            case DeleteOffsets():
                return self._delete_offsets(cell, asked)
            case _Expire():
                return self._expire_offsets(cell, asked)
            case TimerFired(key) if (cell.group_id, key) in self._timers:
                return None  # an event ahead of it in the queue has armed it anew
            case event:
                return self._decide(cell, event, asked)

    def _decide(self, cell: _Cell, event: MembershipEvent, asked: _Asked) -> _Write | None:
        fresh_id = str(self._chance.uuid()) if isinstance(event, JoinGroup) and not event.member_id else ""
        now_ms = self._clock.monotonic_ms()
        decision = cell.group.decide(event, now_ms, token=asked.token, fresh_id=fresh_id)
        if not decision.save or decision.state is None:
            self._apply(cell, decision)
            return None
        state, wall_ms = decision.state, self._clock.now_ms()
        row = GroupRow(cell.group_id, CLASSIC, state.generation, encode_group(state), wall_ms)

        def then() -> None:
            cell.saved_at_ms = wall_ms
            self._apply(cell, decision)

        return _Write(self._store.save_groups(cell.fence, [row]), then, (asked,))

    def _apply(self, cell: _Cell, decision: Decision) -> None:
        cell.group.apply(decision)
        if self._cells.get(cell.group_id) is cell and not self._closed:
            for timer in decision.timers:
                match timer:
                    case ArmTimer(key, deadline_ms):
                        self._arm(cell, key, deadline_ms)
                    case CancelTimer(key):
                        self._timers.cancel((cell.group_id, key))
        for token, reply in decision.replies:
            self._reply(token, reply)

    def _commit(self, cell: _Cell, first: _Asked) -> _Write | None:
        """`first` and every commit directly behind it, in one write."""
        batch = [first]
        while cell.queue and isinstance(cell.queue[0].event, OffsetCommit):
            batch.append(cell.queue.popleft())
        state, now_ms, wall_ms = cell.group.state, self._clock.monotonic_ms(), self._clock.now_ms()
        offsets: dict[int, CommittedOffset] = {}
        answers: list[tuple[_Asked, CommitReply]] = []
        for asked in batch:
            commit = asked.event
            assert isinstance(commit, OffsetCommit)
            error = state.check_commit(commit.member_id, commit.instance_id, commit.generation)
            if error:
                self._reply(asked.token, CommitReply(error))
                continue
            member = state.members.get(commit.member_id)
            if member is not None:
                renewed = session_renewed(member, now_ms)
                self._arm(cell, renewed.key, renewed.deadline_ms)
            taken, refused = admit(commit.offsets, self._settings.offset_metadata_bytes_max)
            answers.append((asked, CommitReply(ErrorCode.NONE, refused)))
            offsets.update({key: replace(each, commit_timestamp_ms=wall_ms) for key, each in taken.items()})

        def then() -> None:
            cell.offsets.apply(offsets)
            for asked, reply in answers:
                self._reply(asked.token, reply)

        if not offsets:
            then()
            return None
        rows = [
            OffsetRow(cell.group_id, key, each.offset, each.leader_epoch, each.metadata, each.commit_timestamp_ms)
            for key, each in offsets.items()
        ]
        return _Write(self._store.save_offsets(cell.fence, rows), then, tuple(asked for asked, _ in answers))

    def _delete_group(self, cell: _Cell, asked: _Asked) -> _Write | None:
        error = ErrorCode.NONE
        if cell.is_unknown:
            error = ErrorCode.GROUP_ID_NOT_FOUND
        elif cell.group.state.phase is not GroupPhase.EMPTY:
            error = ErrorCode.NON_EMPTY_GROUP
        if error:
            self._reply(asked.token, DeleteGroupReply(error))
            return None

        def then() -> None:
            self._reset(cell)
            self._reply(asked.token, DeleteGroupReply(ErrorCode.NONE))

        return _Write(self._store.delete_groups(cell.fence, [cell.group_id]), then, (asked,))

    def _delete_offsets(self, cell: _Cell, asked: _Asked) -> _Write | None:
        request = asked.event
        assert isinstance(request, DeleteOffsets)
        state = cell.group.state
        error = ErrorCode.NONE
        if cell.is_unknown:
            error = ErrorCode.GROUP_ID_NOT_FOUND
        elif state.members and state.protocol_type != "consumer":
            error = ErrorCode.NON_EMPTY_GROUP
        if error:
            self._reply(asked.token, DeleteOffsetsReply(error))
            return None
        subscribed = subscribed_topics(state)
        used = {key for key, topic in request.partitions.items() if subscribed is None or topic in subscribed}
        gone = [key for key in cell.offsets.fetch(request.partitions) if key not in used]

        def then() -> None:
            cell.offsets.remove(gone)
            refused = dict.fromkeys(used, ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC)
            self._reply(asked.token, DeleteOffsetsReply(ErrorCode.NONE, refused))

        if not gone:
            then()
            return None
        keys = [(cell.group_id, key) for key in gone]
        return _Write(self._store.delete_offsets(cell.fence, keys), then, (asked,))

    def _expire_offsets(self, cell: _Cell, asked: _Asked) -> _Write | None:
        state = cell.group.state
        retention_ms = self._settings.offsets_retention_ms
        gone = cell.offsets.expired(state, cell.saved_at_ms, retention_ms, self._clock.now_ms())
        if state.phase is GroupPhase.EMPTY and not state.pending and len(gone) == len(cell.offsets):
            store = self._store.delete_groups(cell.fence, [cell.group_id])
            return _Write(store, lambda: self._reset(cell), (asked,))
        if not gone:
            return None
        keys = [(cell.group_id, key) for key in gone]
        return _Write(self._store.delete_offsets(cell.fence, keys), lambda: cell.offsets.remove(gone), (asked,))

    # --- groups coming and going -------------------------------------------------------------------------------------

    def _restore(self, fence: SlotFence, slot: SlotState) -> None:
        for row in slot.groups:
            try:
                if row.kind != CLASSIC:
                    raise DamagedSegment(f"group {row.group_id} is of unknown kind {row.kind}", path="", position=0)
                state = decode_group(row.group_id, row.body)
            except DamagedSegment as error:  # one group's members join anew; the others are not held up
                _log.error("%s", error)
                state = GroupState(row.group_id)
            cell = self._cells[row.group_id] = _Cell(row.group_id, fence, state, self._settings)
            cell.saved_at_ms = row.saved_at_ms
        for group_id, rows in itertools.groupby(slot.offsets, key=lambda row: row.group_id):
            if group_id not in self._cells:
                self._cells[group_id] = _Cell(group_id, fence, GroupState(group_id), self._settings)
            self._cells[group_id].offsets.apply({row.partition_id: CommittedOffset(*row[2:]) for row in rows})
        for row in slot.groups:
            cell = self._cells[row.group_id]
            cell.queue.append(_Asked(Loaded(), NO_TOKEN))
            self._pump(cell)

    def _reset(self, cell: _Cell) -> None:
        """The group was deleted. It stays for as long as somebody waits in its queue."""
        for member_id in cell.group.state.pending:
            self._timers.cancel((cell.group_id, PendingTimer(member_id)))
        cell.group.apply(Decision(state=GroupState(cell.group_id)))
        cell.offsets = CommittedOffsets()

    def _forget_if_idle(self, cell: _Cell) -> None:
        if cell.is_unknown and not cell.queue and not cell.busy and self._cells.get(cell.group_id) is cell:
            del self._cells[cell.group_id]

    def _lose_slot(self, fence: SlotFence) -> None:
        """Another node coordinates these groups now: send everybody there."""
        if self._fences.get(fence.slot) == fence:
            del self._fences[fence.slot]
        for group_id, cell in list(self._cells.items()):
            if cell.fence != fence:
                continue
            del self._cells[group_id]
            self._refuse_queued(cell, ErrorCode.NOT_COORDINATOR)
        for token, parked in list(self._parked.items()):
            if slot_of(parked.group_id) == fence.slot:
                self._reply(token, refuse(parked.request, ErrorCode.NOT_COORDINATOR))

    def _check(self, group_id: str, *, is_membership: bool = False) -> ErrorCode:
        slot = slot_of(group_id)
        if is_membership and not group_id:
            return ErrorCode.INVALID_GROUP_ID
        if self._closed:
            return ErrorCode.COORDINATOR_NOT_AVAILABLE
        if slot in self._loading:
            return ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        return ErrorCode.NONE if slot in self._fences else ErrorCode.NOT_COORDINATOR

    # --- replies and timers ------------------------------------------------------------------------------------------

    def _reply(self, token: int, reply: Reply) -> None:
        parked = self._parked.pop(token, None)
        if parked is None:  # nobody wants the answer any more
            return
        try:
            parked.pending.resolve(reply)
        except Exception:  # a listener's fault is not the group's
            _log.exception("an answer of group %s could not be delivered", parked.group_id)

    def _drop(self, token: int) -> None:
        self._parked.pop(token, None)

    def _answer_all(self, asked: Iterable[_Asked], error: ErrorCode) -> None:
        for _, token in asked:
            parked = self._parked.get(token)
            if parked is not None:
                self._reply(token, refuse(parked.request, error))

    def _refuse_queued(self, cell: _Cell, error: ErrorCode) -> None:
        queued = tuple(cell.queue)
        cell.queue.clear()
        self._answer_all(queued, error)

    def _arm(self, cell: _Cell, key: TimerKey, deadline_ms: int) -> None:
        self._timers.arm((cell.group_id, key), deadline_ms)
        self._set_alarm()

    def _set_alarm(self) -> None:
        deadline_ms = self._timers.next_deadline_ms()
        if deadline_ms is None or self._closed or (self._alarm is not None and self._alarm[0] <= deadline_ms):
            return
        if self._alarm is not None:
            self._alarm[1].cancel()
        self._alarm = (deadline_ms, self._scheduler.call_at_ms(deadline_ms, self._ring))

    def _ring(self) -> None:
        self._alarm = None
        for group_id, key in self._timers.expired(self._clock.monotonic_ms()):
            cell = self._cells.get(group_id)
            if cell is not None:
                cell.queue.append(_Asked(TimerFired(key), NO_TOKEN))
                self._pump(cell)
        self._set_alarm()

    def _next_expiry_ms(self) -> int:
        return self._clock.monotonic_ms() + self._settings.offsets_retention_check_interval_ms

    def _expire(self) -> None:
        for cell in list(self._cells.values()):
            if not cell.group.state.members:
                cell.queue.append(_Asked(_Expire(), NO_TOKEN))
                self._pump(cell)
        self._expiry = self._scheduler.call_at_ms(self._next_expiry_ms(), self._expire)


def group_settings(config: BrokerConfig) -> GroupSettings:
    """What the broker's options say about groups."""
    return GroupSettings(
        session_timeout_min_ms=config.group_min_session_timeout_ms,
        session_timeout_max_ms=config.group_max_session_timeout_ms,
        initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
        members_max=config.group_max_size,
        offset_metadata_bytes_max=config.offset_metadata_max_bytes,
        offsets_retention_ms=config.offsets_retention_minutes * 60_000,
        offsets_retention_check_interval_ms=config.offsets_retention_check_interval_ms,
    )

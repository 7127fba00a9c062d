"""A group while a decision about it is being made: a mutable copy, and the effects gathered on the way. Pure.

The steps here are the ones several events lead to: parking, removing members, beginning and completing a rebalance.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from cluster.error_codes import ErrorCode
from cluster.group.events import (
    ArmTimer,
    CancelTimer,
    Decision,
    JoinReply,
    JoinTimer,
    PendingTimer,
    Reply,
    SessionTimer,
    SyncReply,
    SyncTimer,
    TimerKey,
)
from cluster.group.state import (
    GroupPhase,
    GroupSettings,
    GroupState,
    InitialDelay,
    JoinedMember,
    Member,
    select_protocol,
)

NEW_MEMBER_TIMEOUT_MS: Final = 5 * 60_000
"""How long the JoinGroup of a new member may stay parked. It cannot heartbeat, so nothing else would show that it is
gone; Kafka's figure."""


class Draft:
    """Starts as a copy of `state`; `decision()` is what came of it."""

    def __init__(self, state: GroupState, settings: GroupSettings, now_ms: int) -> None:
        self.before = state
        self.settings = settings
        self.now_ms = now_ms
        self.phase = state.phase
        self.generation = state.generation
        self.protocol_type = state.protocol_type
        self.protocol = state.protocol
        self.leader = state.leader
        self.members = dict(state.members)
        self.static_ids = dict(state.static_ids)
        self.pending = set(state.pending)
        self.initial = state.initial
        self.save = False
        self._replies: list[tuple[int, Reply]] = []
        self._timers: list[ArmTimer | CancelTimer] = []

    def decision(self) -> Decision:
        state = GroupState(
            self.before.group_id,
            self.phase,
            self.generation,
            self.protocol_type,
            self.protocol,
            self.leader,
            self.members,
            self.static_ids,
            frozenset(self.pending),
            self.initial,
        )
        return Decision(tuple(self._replies), tuple(self._timers), state, self.save)

    def reply(self, token: int, reply: Reply) -> None:
        self._replies.append((token, reply))

    def arm(self, key: TimerKey, timeout_ms: int) -> None:
        self._timers.append(ArmTimer(key, self.now_ms + timeout_ms))

    def cancel(self, key: TimerKey) -> None:
        self._timers.append(CancelTimer(key))

    def arm_session(self, member: Member) -> None:
        self.arm(SessionTimer(member.member_id), member.session_timeout_ms)

    # --- members -----------------------------------------------------------------------------------------------------

    def put(self, member: Member) -> None:
        self.members[member.member_id] = member
        if member.instance_id is not None:
            self.static_ids[member.instance_id] = member.member_id
        if self.leader is None:
            self.leader = member.member_id

    def park_join(self, member: Member, token: int) -> None:
        """Its reply comes when the rebalance completes. An older one of the same member is sent away: its client asked
        again, so it has given up waiting for that one."""
        self._answer_parked(member, ErrorCode.REBALANCE_IN_PROGRESS)
        self.put(replace(member, join_token=token, sync_token=None))

    def remove(self, member_id: str, error: ErrorCode = ErrorCode.UNKNOWN_MEMBER_ID) -> None:
        """Take a member out; what it has parked is answered with `error`."""
        member = self.members.pop(member_id)
        self._answer_parked(member, error)
        self.cancel(SessionTimer(member_id))
        if member.instance_id is not None and self.static_ids.get(member.instance_id) == member_id:
            del self.static_ids[member.instance_id]
        if self.leader == member_id:
            self.leader = next(iter(self.members), None)

    def replace_static(self, old_id: str, new: Member) -> None:
        """The same instance under a new member id, in the old one's place. The old one, if it lives, is fenced."""
        old = self.members[old_id]
        self._answer_parked(old, ErrorCode.FENCED_INSTANCE_ID)
        self.cancel(SessionTimer(old_id))
        self.members = {new.member_id if key == old_id else key: each for key, each in self.members.items()}
        self.members[new.member_id] = new
        if new.instance_id is not None:
            self.static_ids[new.instance_id] = new.member_id
        if self.leader == old_id:
            self.leader = new.member_id

    def drop_pending(self, member_id: str) -> None:
        self.pending.discard(member_id)
        self.cancel(PendingTimer(member_id))

    def _answer_parked(self, member: Member, error: ErrorCode) -> None:
        if member.join_token is not None:
            # A fenced instance is told under its own id; whoever is merely unknown starts again without one.
            member_id = member.member_id if error is not ErrorCode.UNKNOWN_MEMBER_ID else ""
            self.reply(member.join_token, JoinReply(error, member_id))
        if member.sync_token is not None:
            self.reply(member.sync_token, SyncReply(error))

    # --- rebalance ---------------------------------------------------------------------------------------------------

    def rebalance(self) -> None:
        """Membership or metadata changed: begin a rebalance unless one is on, and complete it if nobody is missing."""
        if self.phase is not GroupPhase.PREPARING_REBALANCE:
            self._prepare()
        self.try_complete_join()

    def try_complete_join(self) -> None:
        """Complete the rebalance once every member has rejoined and nobody is expected back."""
        if self.phase is not GroupPhase.PREPARING_REBALANCE or self.initial is not None or self.pending:
            return
        if all(member.join_token is not None for member in self.members.values()):
            self.complete_join()

    def complete_join(self) -> None:
        """Begin the next generation with whoever is there. Static members may be away for a session timeout."""
        for member in list(self.members.values()):
            if member.join_token is None and member.instance_id is None:
                self.remove(member.member_id)
        self.initial = None
        if not self._elect_leader():
            # Only static members, and none of them is back: their sessions decide, meanwhile nothing changes.
            # Not at once again, whatever timeout they asked for.
            self.arm(JoinTimer(self.generation), max(self._rebalance_timeout_ms(), 1000))
            return
        self.cancel(JoinTimer(self.generation))
        self.generation += 1
        if not self.members:
            self.phase, self.protocol, self.leader = GroupPhase.EMPTY, None, None
            self.save = True
            return
        self.phase = GroupPhase.COMPLETING_REBALANCE
        self.protocol = select_protocol(self.members)
        joined = self.members
        self.members = {}
        roster = tuple(JoinedMember(m.member_id, m.instance_id, m.metadata(self.protocol)) for m in joined.values())
        for member_id, member in joined.items():
            if member.join_token is not None:
                self.reply(member.join_token, self.join_reply(member, roster if member_id == self.leader else ()))
            self.members[member_id] = replace(member, join_token=None, is_new=False, synced=False)
            self.arm_session(member)
        self.arm(SyncTimer(self.generation), self._rebalance_timeout_ms())

    def join_reply(
        self, member: Member, roster: tuple[JoinedMember, ...] = (), *, leader: str | None = None
    ) -> JoinReply:
        """This generation as `member` is told of it."""
        return JoinReply(
            ErrorCode.NONE,
            member.member_id,
            self.generation,
            self.protocol_type,
            self.protocol,
            leader if leader is not None else self.leader or "",
            members=roster,
        )

    def roster(self) -> tuple[JoinedMember, ...]:
        return tuple(JoinedMember(m.member_id, m.instance_id, m.metadata(self.protocol)) for m in self.members.values())

    def _prepare(self) -> None:
        if self.phase is GroupPhase.COMPLETING_REBALANCE:
            for member in list(self.members.values()):
                if member.sync_token is not None:
                    self.reply(member.sync_token, SyncReply(ErrorCode.REBALANCE_IN_PROGRESS))
                    self.arm_session(member)
                self.members[member.member_id] = replace(member, sync_token=None, assignment=b"")
        self.cancel(SyncTimer(self.generation))
        timeout_ms = self._rebalance_timeout_ms()
        delay_ms = self.settings.initial_rebalance_delay_ms
        if self.phase is GroupPhase.EMPTY and delay_ms > 0:
            self.initial = InitialDelay(max(timeout_ms - delay_ms, 0), member_added=False)
            timeout_ms = delay_ms
        self.phase = GroupPhase.PREPARING_REBALANCE
        self.arm(JoinTimer(self.generation), timeout_ms)

    def _elect_leader(self) -> bool:
        """The leader must be among those who rejoined. False if members are left and none of them rejoined."""
        leader = self.members.get(self.leader or "")
        if leader is None or leader.join_token is None:
            rejoined = (member.member_id for member in self.members.values() if member.join_token is not None)
            leader_id = next(rejoined, None)
            if leader_id is None:
                return not self.members
            self.leader = leader_id
        return True

    def _rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self.members.values()), default=0)

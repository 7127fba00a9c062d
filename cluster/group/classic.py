"""The classic consumer group: `decide` says what an event leads to, `apply` makes it so. Pure.

Nothing here waits, reads a clock or draws chance: the time (monotonic milliseconds), the token of a request and a fresh
id come in, replies and timers go out as data. `decide` changes nothing, so a decision that could not be saved is simply
dropped. The saved row restores a group in which members go on heartbeating without a rebalance.
"""

from __future__ import annotations

from msgspec.structs import replace

from cluster.error_codes import ErrorCode
from cluster.group.draft import Draft
from cluster.group.events import (
    NO_TOKEN,
    ArmTimer,
    Decision,
    Heartbeat,
    HeartbeatReply,
    JoinGroup,
    JoinTimer,
    LeaveGroup,
    LeaveReply,
    LeavingMember,
    Loaded,
    MembershipEvent,
    PendingTimer,
    SessionTimer,
    SyncGroup,
    SyncReply,
    SyncTimer,
    TimerFired,
)
from cluster.group.joining import decide_join
from cluster.group.state import GroupPhase, GroupSettings, GroupState, Member


class ClassicGroup:
    """One group. `state` is a value: whoever holds it keeps a picture that does not change."""

    __slots__ = ("settings", "state")

    def __init__(self, state: GroupState, settings: GroupSettings) -> None:
        self.state = state
        self.settings = settings

    def decide(self, event: MembershipEvent, now_ms: int, *, token: int = NO_TOKEN, fresh_id: str = "") -> Decision:
        """What `event` leads to. `token` addresses the reply to a request, `fresh_id` is needed by JoinGroup only."""
        match event:
            case Heartbeat():
                return _heartbeat(self.state, event, now_ms, token)
            case JoinGroup():
                return decide_join(self.state, self.settings, event, now_ms, token, fresh_id)
            case SyncGroup():
                return _sync(self.state, self.settings, event, now_ms, token)
            case LeaveGroup():
                return _leave(Draft(self.state, self.settings, now_ms), event, token)
            case TimerFired():
                return _timer(Draft(self.state, self.settings, now_ms), event)
            case Loaded():
                return _loaded(Draft(self.state, self.settings, now_ms))

    def apply(self, decision: Decision) -> None:
        """The only mutator."""
        if decision.state is not None:
            self.state = decision.state


def session_renewed(member: Member, now_ms: int) -> ArmTimer:
    return ArmTimer(SessionTimer(member.member_id), now_ms + member.session_timeout_ms)


def _heartbeat(state: GroupState, event: Heartbeat, now_ms: int, token: int) -> Decision:
    error = state.check_member(event.member_id, event.instance_id)
    if not error and event.generation != state.generation:
        error = ErrorCode.ILLEGAL_GENERATION
    if error:
        return Decision(((token, HeartbeatReply(error)),))
    if state.phase is GroupPhase.PREPARING_REBALANCE:
        error = ErrorCode.REBALANCE_IN_PROGRESS
    renewed = session_renewed(state.members[event.member_id], now_ms)
    return Decision(((token, HeartbeatReply(error)),), (renewed,))


def _sync(state: GroupState, settings: GroupSettings, event: SyncGroup, now_ms: int, token: int) -> Decision:
    error = _check_sync(state, settings, event)
    if error:
        return Decision(((token, SyncReply(error)),))
    member = state.members[event.member_id]
    if state.phase is GroupPhase.STABLE and member.synced:
        reply = SyncReply(ErrorCode.NONE, member.assignment, state.protocol_type, state.protocol)
        return Decision(((token, reply),), (session_renewed(member, now_ms),))
    draft = Draft(state, settings, now_ms)
    if member.sync_token is not None:  # asked again: the first request is given up
        draft.reply(member.sync_token, SyncReply(ErrorCode.REBALANCE_IN_PROGRESS))
    draft.members[member.member_id] = replace(member, synced=True, sync_token=token)
    if draft.leader == member.member_id and state.phase is GroupPhase.COMPLETING_REBALANCE:
        for member_id, each in draft.members.items():
            draft.members[member_id] = replace(each, assignment=event.assignments.get(member_id, b""))
        draft.phase = GroupPhase.STABLE
        draft.save = True
    if draft.phase is GroupPhase.STABLE:
        _hand_out(draft)
    return draft.decision()


def _check_sync(state: GroupState, settings: GroupSettings, event: SyncGroup) -> ErrorCode:
    error = state.check_member(event.member_id, event.instance_id)
    if error:
        return error
    if event.generation != state.generation:
        return ErrorCode.ILLEGAL_GENERATION
    if (event.protocol_type not in (None, state.protocol_type)) or (event.protocol not in (None, state.protocol)):
        return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    if state.phase is GroupPhase.PREPARING_REBALANCE:
        return ErrorCode.REBALANCE_IN_PROGRESS
    if sum(map(len, event.assignments.values())) > settings.assignment_bytes_max:
        return ErrorCode.INVALID_REQUEST
    return ErrorCode.NONE


def _hand_out(draft: Draft) -> None:
    """Answer every parked SyncGroup of a stable group."""
    for member_id, member in draft.members.items():
        if member.sync_token is not None:
            reply = SyncReply(ErrorCode.NONE, member.assignment, draft.protocol_type, draft.protocol)
            draft.reply(member.sync_token, reply)
            draft.arm_session(member)
            draft.members[member_id] = replace(member, sync_token=None)
    if all(member.synced for member in draft.members.values()):
        draft.cancel(SyncTimer(draft.generation))


def _leave(draft: Draft, event: LeaveGroup, token: int) -> Decision:
    answers = tuple((leaving, _leave_one(draft, leaving)) for leaving in event.members)
    if len(draft.members) != len(draft.before.members):
        draft.rebalance()
    else:
        draft.try_complete_join()
    draft.reply(token, LeaveReply(ErrorCode.NONE, answers))
    return draft.decision()


def _leave_one(draft: Draft, leaving: LeavingMember) -> ErrorCode:
    member_id = leaving.member_id
    static_id = draft.static_ids.get(leaving.instance_id) if leaving.instance_id is not None else None
    if member_id in draft.pending and leaving.instance_id is None:
        draft.drop_pending(member_id)
        return ErrorCode.NONE
    if leaving.instance_id is not None:
        if static_id is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if member_id not in ("", static_id):
            return ErrorCode.FENCED_INSTANCE_ID
        member_id = static_id
    if member_id not in draft.members:
        return ErrorCode.UNKNOWN_MEMBER_ID
    draft.remove(member_id)
    return ErrorCode.NONE


def _timer(draft: Draft, event: TimerFired) -> Decision:
    match event.key:
        case SessionTimer(member_id):
            member = draft.members.get(member_id)
            # Whoever waits for our answer is alive; a new member only for as long as its first join may take.
            waits = member is not None and (member.join_token is not None or member.sync_token is not None)
            if member is None or (waits and not member.is_new):
                return Decision()
            draft.remove(member_id)
            draft.rebalance()
        case PendingTimer(member_id):
            if member_id not in draft.pending:
                return Decision()
            draft.drop_pending(member_id)
            draft.try_complete_join()
        case JoinTimer(generation):
            if generation != draft.generation or draft.phase is not GroupPhase.PREPARING_REBALANCE:
                return Decision()
            _join_timeout(draft)
        case SyncTimer(generation):
            late = [member.member_id for member in draft.members.values() if not member.synced]
            begun = draft.phase in (GroupPhase.COMPLETING_REBALANCE, GroupPhase.STABLE)
            if generation != draft.generation or not begun or not late:
                return Decision()
            for member_id in late:
                draft.remove(member_id)
            draft.rebalance()
    return draft.decision()


def _join_timeout(draft: Draft) -> None:
    initial = draft.initial
    if initial is not None and initial.member_added and initial.remaining_ms > 0:
        delay_ms = min(draft.settings.initial_rebalance_delay_ms, initial.remaining_ms)
        draft.initial = type(initial)(initial.remaining_ms - delay_ms, member_added=False)
        draft.arm(JoinTimer(draft.generation), delay_ms)
    else:
        draft.complete_join()


def _loaded(draft: Draft) -> Decision:
    for member in draft.members.values():
        draft.arm_session(member)
    if len(draft.members) > draft.settings.members_max:  # the bound was lowered: the first to rejoin stay
        draft.rebalance()
    return draft.decision()

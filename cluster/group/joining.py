"""JoinGroup of the classic group: who is let in, under which id, and whether that takes a rebalance. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from cluster.error_codes import ErrorCode
from cluster.group.draft import NEW_MEMBER_TIMEOUT_MS, Draft
from cluster.group.events import Decision, JoinGroup, JoinReply, PendingTimer, SessionTimer
from cluster.group.state import GroupPhase, GroupSettings, GroupState, Member, select_protocol, supports

_INSTANCE_ID_CHARS_MAX = 249  # as Kafka: a topic name's bound
_CLIENT_ID_CHARS_MAX = 255  # of a client id, in a member id: the member sends it back with every request


def decide_join(
    state: GroupState, settings: GroupSettings, event: JoinGroup, now_ms: int, token: int, fresh_id: str
) -> Decision:
    """`fresh_id` is a random text nobody had before, used if a member id has to be made."""
    error = _check(settings, event)
    if error:
        return Decision(((token, JoinReply(error, event.member_id)),))
    draft = Draft(state, settings, now_ms)
    if not _has_room(state, settings, event.member_id):
        if event.member_id in draft.members:
            draft.remove(event.member_id)
            draft.try_complete_join()
        draft.reply(token, JoinReply(ErrorCode.GROUP_MAX_SIZE_REACHED))
    elif not supports(state, event.protocol_type, event.protocols):
        draft.reply(token, JoinReply(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, event.member_id))
    elif event.member_id:
        _join_known(draft, event, token)
    else:
        _join_unknown(draft, event, token, fresh_id)
    return draft.decision()


def _check(settings: GroupSettings, event: JoinGroup) -> ErrorCode:
    if not settings.session_timeout_min_ms <= event.session_timeout_ms <= settings.session_timeout_max_ms:
        return ErrorCode.INVALID_SESSION_TIMEOUT
    size_bytes = sum(len(name) + len(metadata) for name, metadata in event.protocols)
    bad_instance = event.instance_id is not None and not 0 < len(event.instance_id) <= _INSTANCE_ID_CHARS_MAX
    bad = bad_instance or size_bytes > settings.join_bytes_max or event.rebalance_timeout_ms < 0
    return ErrorCode.INVALID_REQUEST if bad else ErrorCode.NONE


def _has_room(state: GroupState, settings: GroupSettings, member_id: str) -> bool:
    """While members rejoin, the first come are in, be they old or new; otherwise whoever is in stays."""
    if state.phase is GroupPhase.PREPARING_REBALANCE:
        known = state.members.get(member_id)
        if known is not None and known.join_token is not None:
            return True
        return sum(member.join_token is not None for member in state.members.values()) < settings.members_max
    return member_id in state.members or len(state.members) < settings.members_max


def _join_unknown(draft: Draft, event: JoinGroup, token: int, fresh_id: str) -> None:
    member_id = f"{event.instance_id or event.client_id[:_CLIENT_ID_CHARS_MAX]}-{fresh_id}"
    old_id = draft.static_ids.get(event.instance_id) if event.instance_id is not None else None
    if old_id is not None:
        _replace_static(draft, event, token, old_id, member_id)
    elif event.instance_id is None and event.requires_member_id:
        if len(draft.pending) >= draft.settings.pending_members_max:
            draft.reply(token, JoinReply(ErrorCode.GROUP_MAX_SIZE_REACHED))
            return
        draft.pending.add(member_id)
        draft.arm(PendingTimer(member_id), event.session_timeout_ms)
        draft.reply(token, JoinReply(ErrorCode.MEMBER_ID_REQUIRED, member_id))
    else:
        _add(draft, event, token, member_id)


def _join_known(draft: Draft, event: JoinGroup, token: int) -> None:
    if event.member_id in draft.pending and event.instance_id is None:
        draft.drop_pending(event.member_id)
        _add(draft, event, token, event.member_id)
        return
    error = draft.before.check_member(event.member_id, event.instance_id)
    if error:
        draft.reply(token, JoinReply(error, event.member_id))
        return
    member = draft.members[event.member_id]
    is_leader = draft.leader == member.member_id
    unchanged = member.protocols == event.protocols
    # The leader asks for a rebalance by joining again: it may have seen topics change.
    if unchanged and (
        draft.phase is GroupPhase.COMPLETING_REBALANCE or (draft.phase is GroupPhase.STABLE and not is_leader)
    ):
        draft.arm_session(member)
        draft.reply(token, draft.join_reply(member, draft.roster() if is_leader else ()))
        return
    draft.park_join(_updated(member, event), token)
    draft.rebalance()


def _add(draft: Draft, event: JoinGroup, token: int, member_id: str) -> None:
    if not draft.members:
        draft.protocol_type = event.protocol_type
    if draft.initial is not None:
        draft.initial = draft.initial._replace(member_added=True)
    member = Member(
        member_id,
        event.instance_id,
        event.client_id,
        event.client_host,
        event.rebalance_timeout_ms,
        event.session_timeout_ms,
        event.protocols,
        join_token=token,
        is_new=True,
    )
    draft.put(member)
    draft.arm(SessionTimer(member_id), NEW_MEMBER_TIMEOUT_MS)
    draft.rebalance()


def _replace_static(draft: Draft, event: JoinGroup, token: int, old_id: str, member_id: str) -> None:
    """A static member has restarted: it keeps its assignment, and a stable group notices nothing."""
    old_leader = draft.leader
    old = draft.members[old_id]
    member = replace(_updated(old, event), member_id=member_id, join_token=None, sync_token=None)
    draft.replace_static(old_id, member)
    draft.arm(SessionTimer(member_id), NEW_MEMBER_TIMEOUT_MS if member.is_new else member.session_timeout_ms)
    if draft.phase is not GroupPhase.STABLE or select_protocol(draft.members) != draft.protocol:
        # While assignments are awaited, the leader would assign to the old id.
        draft.park_join(member, token)
        draft.rebalance()
        return
    draft.save = True
    if draft.leader != member_id:
        draft.reply(token, draft.join_reply(member))
    elif event.can_skip_assignment:
        draft.reply(token, replace(draft.join_reply(member, draft.roster()), skip_assignment=True))
    else:
        # An older client told that it leads would assign anew, for nobody to hear. It is shown the old id as leader.
        draft.reply(token, draft.join_reply(member, leader=old_leader))


def _updated(member: Member, event: JoinGroup) -> Member:
    return replace(
        member,
        client_id=event.client_id,
        client_host=event.client_host,
        rebalance_timeout_ms=event.rebalance_timeout_ms,
        session_timeout_ms=event.session_timeout_ms,
        protocols=event.protocols,
    )

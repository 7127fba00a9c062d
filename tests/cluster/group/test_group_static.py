"""Static members (KIP-345): an instance that restarts keeps its place, and its older self is fenced."""

from typing import Any

import pytest

from cluster.error_codes import ErrorCode
from cluster.group.events import (
    Heartbeat,
    JoinGroup,
    JoinReply,
    LeaveGroup,
    LeaveReply,
    LeavingMember,
    SyncGroup,
    SyncReply,
)
from cluster.group.state import GroupPhase, GroupSettings
from cluster.testing import GroupTalk

SESSION_MS, REBALANCE_MS = 10_000, 60_000


def joining(instance_id: str | None, member_id: str = "", **changes: Any) -> JoinGroup:
    fields: dict[str, Any] = {
        "protocol_type": "consumer",
        "protocols": (("range", b"meta"),),
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": REBALANCE_MS,
    }
    return JoinGroup(member_id, instance_id=instance_id, **(fields | changes))


def taken(talk: GroupTalk, token: int) -> JoinReply:
    reply = talk.take(token)
    assert isinstance(reply, JoinReply)
    return reply


def asked(talk: GroupTalk, event: JoinGroup) -> JoinReply:
    return taken(talk, talk.send(event))


def stable_pair(talk: GroupTalk) -> tuple[str, str, int]:
    """Static members `a` (leader) and `b`, assigned b"A" and b"B"; returns their member ids and the generation."""
    first = asked(talk, joining("a"))
    waiting = talk.send(joining("b"))
    again = asked(talk, joining("a", first.member_id))
    second = taken(talk, waiting)
    a, b, generation = again.member_id, second.member_id, again.generation
    parked = talk.send(SyncGroup(b, generation, "b"))
    talk.ask(SyncGroup(a, generation, "a", assignments={a: b"A", b: b"B"}))
    assert talk.take(parked) == SyncReply(ErrorCode.NONE, b"B", "consumer", "range")
    return a, b, generation


@pytest.fixture
def talk() -> GroupTalk:
    return GroupTalk()


def test_a_static_member_joins_in_one_round_trip(talk: GroupTalk) -> None:
    reply = asked(talk, joining("a"))
    assert (reply.error, reply.generation) == (ErrorCode.NONE, 1)
    assert reply.member_id.startswith("a-")
    assert reply.members[0].instance_id == "a"


def test_a_follower_that_restarts_keeps_its_assignment_without_a_rebalance(talk: GroupTalk) -> None:
    a, b, generation = stable_pair(talk)
    reply = asked(talk, joining("b"))
    assert (reply.error, reply.generation, reply.leader, reply.skip_assignment) == (
        ErrorCode.NONE,
        generation,
        a,
        False,
    )
    assert reply.member_id != b
    assert talk.group.state.phase is GroupPhase.STABLE
    synced = talk.ask(SyncGroup(reply.member_id, generation, "b"))
    assert isinstance(synced, SyncReply)
    assert synced.assignment == b"B"
    assert talk.ask(Heartbeat(a, generation, "a")).error is ErrorCode.NONE
    talk.restart()  # the replacement was saved
    assert talk.ask(Heartbeat(reply.member_id, generation, "b")).error is ErrorCode.NONE


def test_a_leader_that_restarts_leads_but_need_not_assign(talk: GroupTalk) -> None:
    a, b, generation = stable_pair(talk)
    reply = asked(talk, joining("a"))
    assert (reply.leader, reply.skip_assignment) == (reply.member_id, True)
    assert {each.member_id for each in reply.members} == {reply.member_id, b}
    assert talk.group.state.leader == reply.member_id != a
    synced = talk.ask(SyncGroup(reply.member_id, generation, "a"))
    assert isinstance(synced, SyncReply)
    assert synced.assignment == b"A"


def test_an_older_client_that_restarts_as_leader_is_shown_its_old_id(talk: GroupTalk) -> None:
    a, _, _ = stable_pair(talk)
    reply = asked(talk, joining("a", can_skip_assignment=False))
    assert (reply.leader, reply.skip_assignment, reply.members) == (a, False, ())
    assert reply.member_id != a


def test_the_older_self_is_fenced_everywhere(talk: GroupTalk) -> None:
    _, b, generation = stable_pair(talk)
    asked(talk, joining("b"))
    fenced = ErrorCode.FENCED_INSTANCE_ID
    assert asked(talk, joining("b", b)).error is fenced
    assert talk.ask(Heartbeat(b, generation, "b")).error is fenced
    assert talk.ask(SyncGroup(b, generation, "b")).error is fenced
    leave = talk.ask(LeaveGroup((LeavingMember(b, "b"),)))
    assert isinstance(leave, LeaveReply)
    assert leave.members[0][1] is fenced
    assert talk.group.state.check_commit(b, "b", generation) is fenced
    assert len(talk.group.state.members) == 2


def test_a_parked_join_of_the_older_self_is_fenced(talk: GroupTalk) -> None:
    a, b, _ = stable_pair(talk)
    parked = talk.send(joining("a", a))
    newer = talk.send(joining("a"))
    assert taken(talk, parked) == JoinReply(ErrorCode.FENCED_INSTANCE_ID, a)
    assert talk.take(newer) is None
    assert asked(talk, joining("b", b)).leader == taken(talk, newer).member_id


def test_a_restart_while_assignments_are_awaited_begins_anew(talk: GroupTalk) -> None:
    first = asked(talk, joining("a"))
    waiting = talk.send(joining("b"))
    generation = asked(talk, joining("a", first.member_id)).generation
    b = taken(talk, waiting).member_id
    parked = talk.send(SyncGroup(b, generation, "b"))
    newer = talk.send(joining("b"))
    fenced = talk.take(parked)
    assert isinstance(fenced, SyncReply)
    assert fenced.error is ErrorCode.FENCED_INSTANCE_ID
    assert talk.take(newer) is None
    assert asked(talk, joining("a", first.member_id)).generation == generation + 1
    assert taken(talk, newer).generation == generation + 1


def test_a_restart_that_changes_the_groups_protocol_begins_a_rebalance(talk: GroupTalk) -> None:
    both = (("range", b"1"), ("sticky", b"2"))
    first = asked(talk, joining("a", protocols=both))
    waiting = talk.send(joining("b", protocols=both))
    generation = asked(talk, joining("a", first.member_id, protocols=both)).generation
    b = taken(talk, waiting).member_id
    for member_id, instance_id in ((b, "b"), (first.member_id, "a")):
        talk.send(SyncGroup(member_id, generation, instance_id))
    newer = talk.send(joining("b", protocols=(("sticky", b"2"),)))
    assert talk.take(newer) is None
    assert asked(talk, joining("a", first.member_id, protocols=both)).protocol == "sticky"


def test_a_static_member_may_miss_a_rebalance_within_its_session(talk: GroupTalk) -> None:
    talk.settings = GroupSettings(initial_rebalance_delay_ms=0)
    long = {"session_timeout_ms": 10 * REBALANCE_MS}
    a = asked(talk, joining("a", **long)).member_id
    waiting = talk.send(joining("b", **long))
    asked(talk, joining("a", a, **long))
    b = taken(talk, waiting).member_id
    parked = talk.send(joining("a", a, **long))
    talk.advance(REBALANCE_MS)
    reply = taken(talk, parked)
    assert {each.member_id for each in reply.members} == {a, b}


def test_a_leader_that_misses_a_rebalance_does_not_lead_the_next_generation(talk: GroupTalk) -> None:
    long = {"session_timeout_ms": 10 * REBALANCE_MS}
    a = asked(talk, joining("a", **long)).member_id
    waiting = talk.send(joining("b", **long))
    talk.advance(REBALANCE_MS)
    reply = taken(talk, waiting)
    assert reply.leader == reply.member_id != a
    assert {each.instance_id for each in reply.members} == {"a", "b"}


def test_when_no_static_member_rejoins_their_sessions_decide(talk: GroupTalk) -> None:
    _, _, generation = stable_pair(talk)
    short = joining("c", rebalance_timeout_ms=0)
    talk.send(short)
    talk.ask(LeaveGroup((LeavingMember("", "c"),)))
    assert talk.group.state.phase is GroupPhase.PREPARING_REBALANCE
    talk.advance(SESSION_MS)
    assert talk.group.state.phase is GroupPhase.EMPTY
    assert talk.group.state.generation == generation + 1
    assert len(talk.timers) == 0


def test_unknown_instances_are_told_so(talk: GroupTalk) -> None:
    a, _, generation = stable_pair(talk)
    unknown = ErrorCode.UNKNOWN_MEMBER_ID
    assert asked(talk, joining("zzz", a)).error is unknown
    assert talk.ask(Heartbeat(a, generation, "zzz")).error is unknown
    assert talk.group.state.check_commit(a, "zzz", generation) is unknown


def test_an_administrator_removes_an_instance_by_its_name(talk: GroupTalk) -> None:
    a, _, generation = stable_pair(talk)
    reply = talk.ask(LeaveGroup((LeavingMember("", "b"), LeavingMember("", "zzz"))))
    assert isinstance(reply, LeaveReply)
    assert [error for _, error in reply.members] == [ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID]
    assert talk.ask(Heartbeat(a, generation, "a")).error is ErrorCode.REBALANCE_IN_PROGRESS
    assert set(talk.group.state.static_ids) == {"a"}


def test_an_id_given_to_a_dynamic_member_is_no_static_members(talk: GroupTalk) -> None:
    waiting = asked(talk, joining(None))
    assert waiting.error is ErrorCode.MEMBER_ID_REQUIRED
    assert asked(talk, joining("a", waiting.member_id)).error is ErrorCode.UNKNOWN_MEMBER_ID
    assert talk.group.state.pending == {waiting.member_id}

"""Conversations with a classic group: what each request gets back, and what time does."""

from typing import Any

import pytest

from cluster.error_codes import ErrorCode
from cluster.group.draft import NEW_MEMBER_TIMEOUT_MS
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
from cluster.group.state import GroupPhase, GroupSettings, select_protocol
from cluster.testing import GroupTalk

SESSION_MS, REBALANCE_MS = 10_000, 60_000
RANGE = (("range", b"range-metadata"),)


def joining(member_id: str = "", **changes: Any) -> JoinGroup:
    fields: dict[str, Any] = {
        "protocol_type": "consumer",
        "protocols": RANGE,
        "session_timeout_ms": SESSION_MS,
        "rebalance_timeout_ms": REBALANCE_MS,
        "client_id": "app",
        "client_host": "/127.0.0.1",
    }
    return JoinGroup(member_id, **(fields | changes))


def join_new(talk: GroupTalk, **changes: Any) -> tuple[str, int]:
    """A dynamic member's two round trips; returns its id and the token of the second."""
    first = talk.ask(joining(**changes))
    assert isinstance(first, JoinReply)
    assert first.error is ErrorCode.MEMBER_ID_REQUIRED
    return first.member_id, talk.send(joining(first.member_id, **changes))


def joined(talk: GroupTalk, token: int) -> JoinReply:
    reply = talk.take(token)
    assert isinstance(reply, JoinReply)
    assert reply.error is ErrorCode.NONE
    return reply


def sync(talk: GroupTalk, member_id: str, generation: int, **changes: Any) -> SyncReply:
    reply = talk.ask(SyncGroup(member_id, generation, **changes))
    assert isinstance(reply, SyncReply)
    return reply


def beat(talk: GroupTalk, member_id: str, generation: int, instance_id: str | None = None) -> ErrorCode:
    reply = talk.ask(Heartbeat(member_id, generation, instance_id))
    assert not isinstance(reply, JoinReply)
    return reply.error


def pair(talk: GroupTalk, **changes: Any) -> tuple[str, str, int]:
    """A stable group of a leader and a follower, each with an assignment; returns their ids and the generation."""
    leader, token = join_new(talk, **changes)
    joined(talk, token)
    follower, token_two = join_new(talk, **changes)
    token_one = talk.send(joining(leader, **changes))
    generation = joined(talk, token_one).generation
    joined(talk, token_two)
    parked = talk.send(SyncGroup(follower, generation))
    assert talk.take(parked) is None
    assert sync(talk, leader, generation, assignments={leader: b"L", follower: b"F"}).assignment == b"L"
    reply = talk.take(parked)
    assert isinstance(reply, SyncReply)
    assert reply.assignment == b"F"
    assert talk.group.state.phase is GroupPhase.STABLE
    return leader, follower, generation


@pytest.fixture
def talk() -> GroupTalk:
    return GroupTalk()


# --- joining ---------------------------------------------------------------------------------------------------------


def test_a_new_member_is_sent_back_with_an_id_and_then_leads(talk: GroupTalk) -> None:
    member_id, token = join_new(talk)
    reply = joined(talk, token)
    assert member_id.startswith("app-")
    assert (reply.member_id, reply.leader, reply.generation) == (member_id, member_id, 1)
    assert (reply.protocol_type, reply.protocol) == ("consumer", "range")
    assert [(each.member_id, each.metadata) for each in reply.members] == [(member_id, b"range-metadata")]
    assert talk.group.state.phase is GroupPhase.COMPLETING_REBALANCE


def test_older_clients_join_in_one_round_trip(talk: GroupTalk) -> None:
    token = talk.send(joining(requires_member_id=False))
    assert joined(talk, token).member_id.startswith("app-")


def test_everybody_waits_for_everybody_and_only_the_leader_sees_the_roster(talk: GroupTalk) -> None:
    leader, token = join_new(talk)
    joined(talk, token)
    assert sync(talk, leader, 1, assignments={leader: b"all"}).assignment == b"all"
    follower, token_two = join_new(talk)
    assert talk.take(token_two) is None
    assert beat(talk, leader, 1) is ErrorCode.REBALANCE_IN_PROGRESS
    token_one = talk.send(joining(leader))
    one, two = joined(talk, token_one), joined(talk, token_two)
    assert one.generation == two.generation == 2
    assert {each.member_id for each in one.members} == {leader, follower}
    assert two.members == ()
    assert two.leader == leader


def test_an_unknown_member_id_is_refused(talk: GroupTalk) -> None:
    assert talk.ask(joining("made-up")).error is ErrorCode.UNKNOWN_MEMBER_ID
    pair(talk)
    assert talk.ask(joining("made-up")).error is ErrorCode.UNKNOWN_MEMBER_ID
    assert beat(talk, "made-up", 2) is ErrorCode.UNKNOWN_MEMBER_ID
    assert sync(talk, "made-up", 2).error is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_rejected_join_leaves_no_trace(talk: GroupTalk) -> None:
    before = talk.group.state
    talk.ask(joining("made-up"))
    talk.ask(joining(protocol_type=""))
    assert talk.group.state == before
    assert len(talk.timers) == 0


@pytest.mark.parametrize(
    ("timeout_ms", "error"),
    [
        (5_999, ErrorCode.INVALID_SESSION_TIMEOUT),
        (6_000, ErrorCode.MEMBER_ID_REQUIRED),
        (1_800_000, ErrorCode.MEMBER_ID_REQUIRED),
        (1_800_001, ErrorCode.INVALID_SESSION_TIMEOUT),
        (-1, ErrorCode.INVALID_SESSION_TIMEOUT),
    ],
)
def test_session_timeouts_have_bounds(talk: GroupTalk, timeout_ms: int, error: ErrorCode) -> None:
    assert talk.ask(joining(session_timeout_ms=timeout_ms)).error is error


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol_type": "connect"},
        {"protocols": (("sticky", b""),)},
        {"protocols": ()},
        {"protocol_type": ""},
    ],
)
def test_a_member_must_share_type_and_protocol_with_the_others(talk: GroupTalk, changes: dict[str, Any]) -> None:
    leader, follower, generation = pair(talk)
    assert talk.ask(joining(**changes)).error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert talk.ask(joining(follower, **changes)).error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert beat(talk, leader, generation) is ErrorCode.NONE


def test_an_empty_group_may_change_its_type(talk: GroupTalk) -> None:
    member_id, token = join_new(talk)
    joined(talk, token)
    talk.ask(LeaveGroup((LeavingMember(member_id),)))
    _, token = join_new(talk, protocol_type="connect")
    assert joined(talk, token).protocol_type == "connect"


def test_the_protocol_most_members_prefer_among_the_common_ones_is_taken(talk: GroupTalk) -> None:
    def known(*names: str) -> dict[str, Any]:
        return {"protocols": tuple((name, name.encode()) for name in names)}

    first, token = join_new(talk, **known("a", "b", "c"))
    assert joined(talk, token).protocol == "a"
    _, token_two = join_new(talk, **known("b", "c", "x"))
    _, token_three = join_new(talk, **known("y", "c", "b"))
    reply = joined(talk, talk.send(joining(first, **known("a", "c", "b"))))
    assert reply.protocol == "c"  # votes: c (first of it and a is unknown to others), b, c
    assert {each.metadata for each in reply.members} == {b"c"}
    assert joined(talk, token_two).protocol == joined(talk, token_three).protocol == "c"


def test_repeated_protocol_names_count_once(talk: GroupTalk) -> None:
    twice = (("range", b"1"), ("range", b"2"), ("rr", b"3"))
    first, token = join_new(talk, protocols=twice)
    joined(talk, token)
    join_new(talk, protocols=(("rr", b"4"),))
    reply = joined(talk, talk.send(joining(first, protocols=twice)))
    assert reply.protocol == "rr"
    assert select_protocol({}) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"protocols": (("range", bytes(1 << 20)),)},
        {"rebalance_timeout_ms": -1},
        {"instance_id": ""},
        {"instance_id": "i" * 250},
    ],
)
def test_oversized_and_senseless_joins_are_refused(talk: GroupTalk, changes: dict[str, Any]) -> None:
    assert talk.ask(joining(**changes)).error is ErrorCode.INVALID_REQUEST
    assert talk.group.state.is_forgettable


def test_a_long_client_id_is_cut_in_the_member_id(talk: GroupTalk) -> None:
    reply = talk.ask(joining(client_id="x" * 30_000))
    assert isinstance(reply, JoinReply)
    assert len(reply.member_id) < 300


def test_a_member_that_asks_again_gets_one_answer_per_request(talk: GroupTalk) -> None:
    leader, follower, _ = pair(talk)
    first = talk.send(joining(leader))
    again = talk.send(joining(leader))
    assert talk.take(first).error is ErrorCode.REBALANCE_IN_PROGRESS  # type: ignore[union-attr]  # it must be there
    joined(talk, talk.send(joining(follower)))
    assert joined(talk, again).generation == 3


def test_a_follower_that_joins_unchanged_is_told_the_present_generation(talk: GroupTalk) -> None:
    leader, follower, generation = pair(talk)
    reply = joined(talk, talk.send(joining(follower)))
    assert (reply.generation, reply.leader, reply.members) == (generation, leader, ())
    assert sync(talk, follower, generation).assignment == b"F"


def test_a_leader_that_joins_again_or_changed_metadata_begins_a_rebalance(talk: GroupTalk) -> None:
    leader, follower, generation = pair(talk)
    assert talk.take(talk.send(joining(leader))) is None
    assert beat(talk, follower, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    joined(talk, talk.send(joining(follower)))
    assert talk.group.state.generation == generation + 1
    sync(talk, leader, generation + 1)
    talk.send(joining(follower, protocols=(("range", b"changed"),)))
    assert talk.group.state.phase is GroupPhase.PREPARING_REBALANCE


def test_joining_again_before_the_sync_repeats_the_answer_unless_metadata_changed(talk: GroupTalk) -> None:
    leader, token = join_new(talk)
    first = joined(talk, token)
    assert joined(talk, talk.send(joining(leader))) == first
    changed = joined(talk, talk.send(joining(leader, protocols=(("range", b"new"),))))
    assert changed.generation == 2
    assert changed.members[0].metadata == b"new"


# --- the initial delay and the bounds of a rebalance -----------------------------------------------------------------


def test_an_empty_group_waits_for_more_members_while_they_come() -> None:
    talk = GroupTalk(GroupSettings(initial_rebalance_delay_ms=3_000))
    tokens = [join_new(talk)[1]]
    for _ in range(4):
        talk.advance(2_000)
        tokens.append(join_new(talk)[1])
    assert all(talk.take(token) is None for token in tokens)
    talk.advance(6_000)
    assert {joined(talk, token).generation for token in tokens} == {1}


def test_the_initial_delay_ends_with_the_rebalance_timeout() -> None:
    talk = GroupTalk(GroupSettings(initial_rebalance_delay_ms=3_000))
    _, first = join_new(talk, rebalance_timeout_ms=10_000)
    for _ in range(9):
        talk.advance(1_000)
        join_new(talk, rebalance_timeout_ms=10_000)
    assert talk.take(first) is None
    talk.advance(1_000)
    assert joined(talk, first).generation == 1


def test_a_lone_member_waits_the_delay_once() -> None:
    talk = GroupTalk(GroupSettings(initial_rebalance_delay_ms=3_000))
    _, token = join_new(talk)
    talk.advance(2_999)
    assert talk.take(token) is None
    talk.advance(1)
    joined(talk, token)


def test_whoever_does_not_rejoin_in_time_is_out(talk: GroupTalk) -> None:
    leader, follower, generation = pair(talk)
    token = talk.send(joining(follower, protocols=(("range", b"changed"),)))
    for _ in range(REBALANCE_MS // 5_000):
        assert talk.take(token) is None
        assert beat(talk, leader, generation) is ErrorCode.REBALANCE_IN_PROGRESS  # alive, but does not rejoin
        talk.advance(5_000)
    reply = joined(talk, token)
    assert (reply.leader, reply.generation) == (follower, generation + 1)
    assert [each.member_id for each in reply.members] == [follower]
    assert beat(talk, leader, generation) is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_member_sent_back_for_an_id_is_waited_for(talk: GroupTalk) -> None:
    leader, follower, _ = pair(talk)
    reply = talk.ask(joining())
    assert isinstance(reply, JoinReply)
    tokens = [talk.send(joining(each)) for each in (leader, follower)]
    assert [talk.take(token) for token in tokens] == [None, None]
    late = talk.send(joining(reply.member_id))
    assert {joined(talk, token).generation for token in (*tokens, late)} == {3}


def test_a_member_that_never_comes_back_with_its_id_is_forgotten(talk: GroupTalk) -> None:
    talk.ask(joining())
    assert talk.group.state.pending
    talk.advance(SESSION_MS)
    assert talk.group.state.is_forgettable
    leader, follower, _ = pair(talk)
    talk.ask(joining())
    tokens = [talk.send(joining(each)) for each in (leader, follower)]
    talk.advance(SESSION_MS)
    assert {joined(talk, token).generation for token in tokens} == {3}


def test_a_new_member_whose_join_stays_parked_too_long_is_dropped() -> None:
    talk = GroupTalk(GroupSettings(initial_rebalance_delay_ms=0))
    leader, token = join_new(talk, rebalance_timeout_ms=3_600_000)
    joined(talk, token)
    sync(talk, leader, 1)
    newcomer, parked = join_new(talk)
    for _ in range(NEW_MEMBER_TIMEOUT_MS // 5_000):
        assert talk.take(parked) is None
        beat(talk, leader, 1)
        talk.advance(5_000)
    reply = talk.take(parked)
    assert isinstance(reply, JoinReply)
    assert (reply.error, reply.member_id) == (ErrorCode.UNKNOWN_MEMBER_ID, "")
    assert newcomer not in talk.group.state.members


# --- syncing ---------------------------------------------------------------------------------------------------------


def test_each_member_gets_what_the_leader_gave_it_and_strangers_nothing(talk: GroupTalk) -> None:
    leader, token = join_new(talk)
    joined(talk, token)
    follower, token_two = join_new(talk)
    joined(talk, talk.send(joining(leader)))
    joined(talk, token_two)
    parked = talk.send(SyncGroup(follower, 2))
    assert sync(talk, leader, 2, assignments={leader: b"L", "stranger": b"S"}).assignment == b"L"
    reply = talk.take(parked)
    assert isinstance(reply, SyncReply)
    assert (reply.error, reply.assignment, reply.protocol) == (ErrorCode.NONE, b"", "range")
    assert set(talk.group.state.members) == {leader, follower}


def test_sync_checks_generation_and_protocol(talk: GroupTalk) -> None:
    leader, token = join_new(talk)
    joined(talk, token)
    assert sync(talk, leader, 0).error is ErrorCode.ILLEGAL_GENERATION
    assert sync(talk, leader, 2).error is ErrorCode.ILLEGAL_GENERATION
    assert sync(talk, leader, 1, protocol="sticky").error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert sync(talk, leader, 1, protocol_type="connect").error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert sync(talk, leader, 1, protocol="range", protocol_type="consumer").error is ErrorCode.NONE


def test_assignments_have_a_bound() -> None:
    talk = GroupTalk(GroupSettings(initial_rebalance_delay_ms=0, assignment_bytes_max=100))
    leader, token = join_new(talk)
    joined(talk, token)
    reply = sync(talk, leader, 1, assignments={leader: bytes(60), "padding": bytes(60)})
    assert reply.error is ErrorCode.INVALID_REQUEST
    assert not talk.saved
    assert sync(talk, leader, 1, assignments={leader: bytes(100)}).error is ErrorCode.NONE


def test_a_followers_assignments_are_ignored(talk: GroupTalk) -> None:
    leader, token = join_new(talk)
    joined(talk, token)
    follower, _ = join_new(talk)
    joined(talk, talk.send(joining(leader)))
    parked = talk.send(SyncGroup(follower, 2, assignments={follower: b"everything"}))
    assert talk.take(parked) is None
    sync(talk, leader, 2, assignments={leader: b"L", follower: b"F"})
    assert talk.take(parked).assignment == b"F"  # type: ignore[union-attr]  # a SyncReply


def test_a_sync_asked_twice_gets_two_answers(talk: GroupTalk) -> None:
    leader, token = join_new(talk)
    joined(talk, token)
    follower, _ = join_new(talk)
    joined(talk, talk.send(joining(leader)))
    first, second = talk.send(SyncGroup(follower, 2)), talk.send(SyncGroup(follower, 2))
    assert talk.take(first).error is ErrorCode.REBALANCE_IN_PROGRESS  # type: ignore[union-attr]  # it must be there
    sync(talk, leader, 2, assignments={follower: b"F"})
    assert talk.take(second).assignment == b"F"  # type: ignore[union-attr]  # a SyncReply


def test_a_rebalance_sends_parked_syncs_back_to_join(talk: GroupTalk) -> None:
    leader, token = join_new(talk)
    joined(talk, token)
    follower, _ = join_new(talk)
    joined(talk, talk.send(joining(leader)))
    parked = talk.send(SyncGroup(follower, 2))
    join_new(talk)
    reply = talk.take(parked)
    assert isinstance(reply, SyncReply)
    assert reply.error is ErrorCode.REBALANCE_IN_PROGRESS
    assert sync(talk, leader, 2).error is ErrorCode.REBALANCE_IN_PROGRESS


def test_a_leader_that_never_syncs_is_dropped_and_another_leads(talk: GroupTalk) -> None:
    leader, token = join_new(talk)
    joined(talk, token)
    follower, _ = join_new(talk)
    joined(talk, talk.send(joining(leader)))
    parked = talk.send(SyncGroup(follower, 2))
    for _ in range(REBALANCE_MS // 5_000):
        assert beat(talk, leader, 2) is ErrorCode.NONE
        talk.advance(5_000)
    assert talk.take(parked).error is ErrorCode.REBALANCE_IN_PROGRESS  # type: ignore[union-attr]  # it must be there
    assert leader not in talk.group.state.members
    assert joined(talk, talk.send(joining(follower))).leader == follower


# --- sessions --------------------------------------------------------------------------------------------------------


def test_heartbeats_keep_a_member_and_silence_removes_it(talk: GroupTalk) -> None:
    leader, follower, generation = pair(talk)
    for _ in range(10):
        talk.advance(SESSION_MS - 1)
        assert beat(talk, leader, generation) is ErrorCode.NONE
        assert beat(talk, follower, generation) is ErrorCode.NONE
    talk.advance(SESSION_MS - 1)
    assert beat(talk, follower, generation) is ErrorCode.NONE
    talk.advance(1)
    assert beat(talk, leader, generation) is ErrorCode.UNKNOWN_MEMBER_ID
    assert beat(talk, follower, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    assert joined(talk, talk.send(joining(follower))).leader == follower


def test_heartbeats_check_the_generation(talk: GroupTalk) -> None:
    leader, _, generation = pair(talk)
    for wrong in (generation - 1, generation + 1, -1):
        assert beat(talk, leader, wrong) is ErrorCode.ILLEGAL_GENERATION


def test_whoever_waits_for_an_answer_is_alive(talk: GroupTalk) -> None:
    leader, follower, generation = pair(talk)
    parked = talk.send(joining(leader))
    for _ in range(5):
        talk.advance(SESSION_MS - 1)
        beat(talk, follower, generation)
    joined(talk, talk.send(joining(follower)))
    assert joined(talk, parked).generation == generation + 1


def test_when_all_are_gone_the_group_is_empty_and_saved(talk: GroupTalk) -> None:
    _, _, generation = pair(talk)
    talk.advance(10 * REBALANCE_MS)
    state = talk.group.state
    assert (state.phase, state.members, state.leader, state.protocol) == (GroupPhase.EMPTY, {}, None, None)
    assert state.generation == generation + 1  # the second one's silence ends the rebalance the first one's began
    assert len(talk.timers) == 0
    talk.restart()
    assert (talk.group.state.phase, talk.group.state.generation) == (GroupPhase.EMPTY, state.generation)


# --- leaving ---------------------------------------------------------------------------------------------------------


def test_leaving_starts_a_rebalance_at_once(talk: GroupTalk) -> None:
    leader, follower, generation = pair(talk)
    reply = talk.ask(LeaveGroup((LeavingMember(leader),)))
    assert reply == LeaveReply(ErrorCode.NONE, ((LeavingMember(leader), ErrorCode.NONE),))
    assert beat(talk, follower, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    again = joined(talk, talk.send(joining(follower)))
    assert (again.leader, len(again.members)) == (follower, 1)


def test_several_leave_at_once_each_with_its_own_answer(talk: GroupTalk) -> None:
    leader, follower, _ = pair(talk)
    waiting = talk.ask(joining())
    assert isinstance(waiting, JoinReply)
    asked = tuple(map(LeavingMember, (leader, "stranger", follower, leader, waiting.member_id)))
    reply = talk.ask(LeaveGroup(asked))
    assert isinstance(reply, LeaveReply)
    assert [error for _, error in reply.members] == [
        ErrorCode.NONE,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.NONE,
        ErrorCode.UNKNOWN_MEMBER_ID,
        ErrorCode.NONE,
    ]
    assert talk.group.state.phase is GroupPhase.EMPTY
    assert not talk.group.state.pending


def test_a_parked_join_of_a_leaver_is_answered(talk: GroupTalk) -> None:
    leader, follower, _ = pair(talk)
    parked = talk.send(joining(leader))
    talk.ask(LeaveGroup((LeavingMember(leader),)))
    assert talk.take(parked).error is ErrorCode.UNKNOWN_MEMBER_ID  # type: ignore[union-attr]  # it must be there
    joined(talk, talk.send(joining(follower)))


def test_the_last_one_missing_completes_the_rebalance_by_leaving(talk: GroupTalk) -> None:
    leader, follower, _ = pair(talk)
    parked = talk.send(joining(leader))
    talk.ask(LeaveGroup((LeavingMember(follower),)))
    assert len(joined(talk, parked).members) == 1


def test_leaving_a_group_of_nobody(talk: GroupTalk) -> None:
    reply = talk.ask(LeaveGroup((LeavingMember("x"), LeavingMember("", "i"), LeavingMember(""))))
    assert isinstance(reply, LeaveReply)
    assert {error for _, error in reply.members} == {ErrorCode.UNKNOWN_MEMBER_ID}
    assert talk.group.state.is_forgettable


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_a_full_group_takes_nobody_else() -> None:
    talk = GroupTalk(GroupSettings(initial_rebalance_delay_ms=0, members_max=2))
    leader, _, generation = pair(talk)
    reply = talk.ask(joining())
    assert isinstance(reply, JoinReply)
    assert (reply.error, reply.member_id) == (ErrorCode.GROUP_MAX_SIZE_REACHED, "")
    assert beat(talk, leader, generation) is ErrorCode.NONE


def test_in_a_rebalance_the_first_to_come_are_in() -> None:
    talk = GroupTalk(GroupSettings(initial_rebalance_delay_ms=0, members_max=2))
    waiting = talk.ask(joining(session_timeout_ms=3 * REBALANCE_MS))
    assert isinstance(waiting, JoinReply)
    leader, follower, _ = pair_with_pending(talk)
    tokens = [talk.send(joining(leader, protocols=(("range", b"new"),)))]
    tokens.append(talk.send(joining(waiting.member_id)))
    late = talk.ask(joining(follower))
    assert isinstance(late, JoinReply)
    assert (late.error, late.member_id) == (ErrorCode.GROUP_MAX_SIZE_REACHED, "")
    assert {len(joined(talk, token).members) for token in tokens} == {2, 0}


def pair_with_pending(talk: GroupTalk) -> tuple[str, str, int]:
    """As `pair`, while a third member is waited for: the rebalances run into their timeouts."""
    leader, token = join_new(talk)
    follower, token_two = join_new(talk)
    talk.advance(REBALANCE_MS)
    generation = joined(talk, token).generation
    joined(talk, token_two)
    sync(talk, leader, generation)
    sync(talk, follower, generation)
    return leader, follower, generation


def test_ids_given_out_have_a_bound() -> None:
    talk = GroupTalk(GroupSettings(pending_members_max=3))
    errors = [talk.ask(joining()).error for _ in range(5)]
    assert errors == [ErrorCode.MEMBER_ID_REQUIRED] * 3 + [ErrorCode.GROUP_MAX_SIZE_REACHED] * 2
    talk.advance(SESSION_MS)
    assert talk.ask(joining()).error is ErrorCode.MEMBER_ID_REQUIRED


def test_a_group_saved_above_a_lowered_bound_rebalances(talk: GroupTalk) -> None:
    leader, follower, generation = pair(talk)
    talk.settings = GroupSettings(initial_rebalance_delay_ms=0, members_max=1)
    talk.restart()
    assert beat(talk, leader, generation) is ErrorCode.REBALANCE_IN_PROGRESS
    parked = talk.send(joining(follower))
    assert talk.ask(joining(leader)).error is ErrorCode.GROUP_MAX_SIZE_REACHED
    assert len(joined(talk, parked).members) == 1


# --- restart ---------------------------------------------------------------------------------------------------------


def test_after_a_restart_members_go_on_as_if_nothing_had_happened(talk: GroupTalk) -> None:
    leader, follower, generation = pair(talk)
    before = talk.group.state
    talk.restart()
    assert talk.group.state == before
    talk.advance(SESSION_MS - 1)
    for member_id, assignment in ((leader, b"L"), (follower, b"F")):
        assert beat(talk, member_id, generation) is ErrorCode.NONE
        assert sync(talk, member_id, generation).assignment == assignment
    talk.advance(SESSION_MS)
    assert talk.group.state.members == {}


def test_a_rebalance_under_way_is_forgotten_by_a_restart_and_begun_anew(talk: GroupTalk) -> None:
    leader, follower, generation = pair(talk)
    talk.send(joining(leader))
    joined(talk, talk.send(joining(follower)))
    assert talk.group.state.generation == generation + 1
    talk.restart()
    assert beat(talk, leader, generation + 1) is ErrorCode.ILLEGAL_GENERATION
    token = talk.send(joining(leader))
    joined(talk, talk.send(joining(follower)))
    assert joined(talk, token).generation == generation + 1


def test_only_whole_generations_are_saved(talk: GroupTalk) -> None:
    _, token = join_new(talk)
    joined(talk, token)
    assert talk.saved == []
    pair_talk = GroupTalk()
    pair(pair_talk)
    assert len(pair_talk.saved) == 1

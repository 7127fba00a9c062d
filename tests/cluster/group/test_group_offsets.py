import pytest

from cluster.error_codes import RETRIABLE, ErrorCode
from cluster.group.events import CommittedOffset
from cluster.group.offsets import CommittedOffsets, admit, subscribed_topics
from cluster.group.state import GroupPhase, GroupState, Member
from cluster.group.stored import decode_group, encode_group
from logstore.errors import DamagedSegment

DAY_MS = 86_400_000


def member(metadata: bytes = b"", member_id: str = "m", instance_id: str | None = None) -> Member:
    return Member(member_id, instance_id, "app", "/host", 60_000, 10_000, (("range", metadata),), b"mine")


def consumers(*metadata: bytes) -> GroupState:
    members = {f"m{index}": member(each, f"m{index}") for index, each in enumerate(metadata)}
    return GroupState("g", GroupPhase.STABLE, 1, "consumer", "range", "m0", members)


def subscription(*topics: str) -> bytes:
    names = b"".join(len(topic.encode()).to_bytes(2, "big") + topic.encode() for topic in topics)
    return b"\x00\x01" + len(topics).to_bytes(4, "big") + names + b"\xff\xff\xff\xff" + b"\x00\x00\x00\x00"


def test_offsets_are_fetched_by_partition_or_all() -> None:
    offsets = CommittedOffsets()
    offsets.apply({1: CommittedOffset(10), 2: CommittedOffset(20, 3, "note", 5)})
    offsets.apply({1: CommittedOffset(11)})
    assert offsets.fetch([2, 3]) == {2: CommittedOffset(20, 3, "note", 5)}
    everything = offsets.fetch()
    assert everything == {1: CommittedOffset(11), 2: CommittedOffset(20, 3, "note", 5)}
    offsets.remove([1, 99])
    assert len(offsets) == 1
    assert len(everything) == 2


def test_a_commit_is_refused_partition_by_partition() -> None:
    taken, refused = admit(
        {
            1: CommittedOffset(1, metadata="ü" * 4),
            2: CommittedOffset(2, metadata="ü" * 5),
            3: CommittedOffset(-1),
            4: CommittedOffset(0),
        },
        metadata_bytes_max=8,
    )
    assert set(taken) == {1, 4}
    assert refused == {2: ErrorCode.OFFSET_METADATA_TOO_LARGE, 3: ErrorCode.INVALID_COMMIT_OFFSET_SIZE}


def test_offsets_of_a_group_with_members_never_expire() -> None:
    offsets = CommittedOffsets({1: CommittedOffset(1, commit_timestamp_ms=0)})
    assert offsets.expired(consumers(b""), 0, DAY_MS, 100 * DAY_MS) == []
    waiting = GroupState("g", pending=frozenset({"coming"}))
    assert offsets.expired(waiting, 0, DAY_MS, 100 * DAY_MS) == []


def test_offsets_of_a_left_group_live_on_from_when_it_became_empty_or_was_committed_to() -> None:
    offsets = CommittedOffsets(
        {1: CommittedOffset(1, commit_timestamp_ms=0), 2: CommittedOffset(1, commit_timestamp_ms=7 * DAY_MS)}
    )
    left = GroupState("g", generation=5, protocol_type="consumer")
    empty_since_ms = 3 * DAY_MS
    assert offsets.expired(left, empty_since_ms, DAY_MS, 4 * DAY_MS - 1) == []
    assert offsets.expired(left, empty_since_ms, DAY_MS, 4 * DAY_MS) == [1]
    assert offsets.expired(left, empty_since_ms, DAY_MS, 8 * DAY_MS) == [1, 2]


def test_offsets_without_a_group_expire_by_their_commit_alone() -> None:
    offsets = CommittedOffsets({1: CommittedOffset(1, commit_timestamp_ms=0)})
    assert offsets.expired(GroupState("g"), 99 * DAY_MS, DAY_MS, DAY_MS - 1) == []
    assert offsets.expired(GroupState("g"), 99 * DAY_MS, DAY_MS, DAY_MS) == [1]


def test_subscriptions_are_read_off_consumer_metadata() -> None:
    state = consumers(subscription("a", "ü"), subscription("b"), subscription())
    assert subscribed_topics(state) == {"a", "ü", "b"}
    assert subscribed_topics(GroupState("g")) == frozenset()


WHOLE = subscription("topic", "other")


@pytest.mark.parametrize(
    "metadata",
    [
        b"",
        b"\x00",
        b"\x00\x01\x00\x00\x00\x02\x00\x01",
        b"\x00\x01\x7f\xff\xff\xff",
        *(WHOLE[:cut] for cut in range(16)),
    ],
)
def test_metadata_that_cannot_be_read_counts_as_subscribed_to_anything(metadata: bytes) -> None:
    assert subscribed_topics(consumers(subscription("a"), metadata)) is None


def test_only_the_consumer_protocol_is_understood() -> None:
    state = GroupState("g", GroupPhase.STABLE, 1, "connect", "v1", "m", {"m": member()})
    assert subscribed_topics(state) is None


def test_a_group_is_saved_and_read_back_whole() -> None:
    members = {"m": member(b"\x00\xff"), "s": member(b"", "s", "instance")}
    state = GroupState("g", GroupPhase.STABLE, 7, "consumer", "range", "s", members, {"instance": "s"})
    assert decode_group("g", encode_group(state)) == state
    empty = GroupState("g", GroupPhase.EMPTY, 8, "consumer")
    assert decode_group("g", encode_group(empty)) == empty


def test_a_damaged_body_is_refused() -> None:
    good = encode_group(consumers(b"metadata"))
    for bad in (b"", b"\xc1", b"\x90", good[:-1], good + b"\x00", good.replace(b"m0", b"mX", 1)):
        with pytest.raises(DamagedSegment, match="group g"):
            decode_group("g", bad)
    newer = bytes([good[0], 2]) + good[2:]
    with pytest.raises(DamagedSegment, match="format version 2"):
        decode_group("g", newer)


def test_error_codes_are_the_protocols() -> None:
    assert [code.value for code in sorted(ErrorCode)] == list(range(-1, max(ErrorCode) + 1))
    assert ErrorCode.NOT_COORDINATOR.retriable
    assert ErrorCode.UNKNOWN_MEMBER_ID not in RETRIABLE
    assert not ErrorCode.NONE

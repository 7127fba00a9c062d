"""What a group is asked and what it answers: plain values, the words of the Kafka protocol. Pure.

A request that cannot be answered yet is parked under its token, a number the runtime gives; its reply is then an effect
of a later decision. Source: JoinGroup v0-9, SyncGroup v0-5, Heartbeat v0-4, LeaveGroup v0-5, OffsetCommit v2-9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from msgspec import Struct, field

from cluster.error_codes import ErrorCode
from cluster.group.state import GroupState, JoinedMember

NO_GENERATION: Final = -1
NO_TOKEN: Final = 0


class JoinGroup(Struct, frozen=True):
    """`protocols` in the member's order of preference: (name, metadata). `member_id` is "" on the first try."""

    member_id: str
    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    session_timeout_ms: int
    rebalance_timeout_ms: int
    """In v0, which has none, the session timeout."""
    instance_id: str | None = None
    client_id: str = ""
    client_host: str = ""
    requires_member_id: bool = True
    """v4 and newer: a new dynamic member is sent back with an id first (KIP-394)."""
    can_skip_assignment: bool = True
    """v9 and newer: a returning static leader may be told that it leads but need not assign (KIP-814)."""


class SyncGroup(Struct, frozen=True):
    """`assignments` by member id; empty from followers. The protocol's type and name are checked if given (v5)."""

    member_id: str
    generation: int
    instance_id: str | None = None
    protocol_type: str | None = None
    protocol: str | None = None
    assignments: Mapping[str, bytes] = field(default_factory=dict)


class Heartbeat(Struct, frozen=True):
    member_id: str
    generation: int
    instance_id: str | None = None


class LeavingMember(Struct, frozen=True):
    """An administrator may name a static member by its instance id alone, with member id ""."""

    member_id: str
    instance_id: str | None = None


class LeaveGroup(Struct, frozen=True):
    members: tuple[LeavingMember, ...]


class CommittedOffset(Struct, frozen=True):
    """`commit_timestamp_ms` is wall time; the runtime stamps it."""

    offset: int
    leader_epoch: int = -1
    metadata: str = ""
    commit_timestamp_ms: int = -1


class OffsetCommit(Struct, frozen=True):
    """Offsets by internal partition id. Without membership: generation -1 and member id ""."""

    offsets: Mapping[int, CommittedOffset]
    member_id: str = ""
    generation: int = NO_GENERATION
    instance_id: str | None = None


class DeleteGroup(Struct, frozen=True):
    """The group must be empty."""


class DeleteOffsets(Struct, frozen=True):
    """By internal partition id, with the topic's name: a topic that members subscribe to keeps its offsets."""

    partitions: Mapping[int, str]


class FetchOffsets(Struct, frozen=True):
    """By internal partition id, None for all. In its turn like the rest: it sees what was committed before it."""

    partition_ids: Sequence[int] | None = None


class SessionTimer(Struct, frozen=True):
    """A member has to be heard of until then."""

    member_id: str


class PendingTimer(Struct, frozen=True):
    """A member that was sent back with an id has to return until then."""

    member_id: str


class JoinTimer(Struct, frozen=True):
    """Members have to rejoin until then; numbered by the generation that ends."""

    generation: int


class SyncTimer(Struct, frozen=True):
    """Members have to ask for their assignment until then."""

    generation: int


TimerKey: TypeAlias = SessionTimer | PendingTimer | JoinTimer | SyncTimer


class TimerFired(Struct, frozen=True):
    """Whoever delivers it makes sure that the key was not armed anew meanwhile."""

    key: TimerKey


class Loaded(Struct, frozen=True):
    """The group was restored from its row: members are given a whole session to be heard of."""


MembershipEvent: TypeAlias = JoinGroup | SyncGroup | Heartbeat | LeaveGroup | TimerFired | Loaded
Request: TypeAlias = (
    JoinGroup | SyncGroup | Heartbeat | LeaveGroup | OffsetCommit | FetchOffsets | DeleteGroup | DeleteOffsets
)


class JoinReply(Struct, frozen=True):
    """`members` is filled for the leader only."""

    error: ErrorCode
    member_id: str = ""
    generation: int = NO_GENERATION
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str = ""
    skip_assignment: bool = False
    members: tuple[JoinedMember, ...] = ()


class SyncReply(Struct, frozen=True):
    error: ErrorCode
    assignment: bytes = b""
    protocol_type: str | None = None
    protocol: str | None = None


class HeartbeatReply(Struct, frozen=True):
    error: ErrorCode


class LeaveReply(Struct, frozen=True):
    """`members` mirrors the request, each with its own code; v0-2 answer with the first of them."""

    error: ErrorCode
    members: tuple[tuple[LeavingMember, ErrorCode], ...] = ()


class CommitReply(Struct, frozen=True):
    """`partitions` holds the refused ones only; `error`, if any, is everybody's."""

    error: ErrorCode
    partitions: Mapping[int, ErrorCode] = field(default_factory=dict)


class OffsetsReply(Struct, frozen=True):
    """A partition without an offset is left out."""

    error: ErrorCode
    offsets: Mapping[int, CommittedOffset] = field(default_factory=dict)


class DeleteGroupReply(Struct, frozen=True):
    error: ErrorCode


class DeleteOffsetsReply(Struct, frozen=True):
    """`partitions` holds the refused ones only; `error`, if any, is everybody's."""

    error: ErrorCode
    partitions: Mapping[int, ErrorCode] = field(default_factory=dict)


Reply: TypeAlias = (
    JoinReply
    | SyncReply
    | HeartbeatReply
    | LeaveReply
    | CommitReply
    | OffsetsReply
    | DeleteGroupReply
    | DeleteOffsetsReply
)

_REFUSALS: Final[Mapping[type[Request], type[Reply]]] = {
    JoinGroup: JoinReply,
    SyncGroup: SyncReply,
    Heartbeat: HeartbeatReply,
    LeaveGroup: LeaveReply,
    OffsetCommit: CommitReply,
    FetchOffsets: OffsetsReply,
    DeleteGroup: DeleteGroupReply,
    DeleteOffsets: DeleteOffsetsReply,
}


def refuse(request: Request, error: ErrorCode) -> Reply:
    """The reply that says nothing but `error`."""
    if isinstance(request, JoinGroup):
        return JoinReply(error, request.member_id)
    return _REFUSALS[type(request)](error)


class ArmTimer(Struct, frozen=True):
    """Replaces whatever deadline the key had. Monotonic milliseconds."""

    key: TimerKey
    deadline_ms: int


class CancelTimer(Struct, frozen=True):
    key: TimerKey


class Decision(Struct, frozen=True):
    """What an event leads to. Order of carrying it out: save, apply, timers, replies.

    `state` is what the group becomes, None if it stays as it is. With `save`, that state must be durable before it is
    applied; if it cannot be saved, the decision is dropped whole.
    """

    replies: tuple[tuple[int, Reply], ...] = ()
    timers: tuple[ArmTimer | CancelTimer, ...] = ()
    state: GroupState | None = None
    save: bool = False

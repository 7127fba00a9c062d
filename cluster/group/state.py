"""The classic consumer group as an immutable value, and what can be read off it. Pure.

    EMPTY -> PREPARING_REBALANCE -> COMPLETING_REBALANCE -> STABLE
      ^            |    ^                |                   |
      +------------+    +----------------+-------------------+

EMPTY: no members, perhaps offsets. PREPARING_REBALANCE: members (re)join. COMPLETING_REBALANCE: a generation has begun,
its leader's assignments are awaited. STABLE: everybody has an assignment. DEAD is only ever shown for a group that does
not exist. Source: Kafka's classic group protocol, KIP-345 (static members), KIP-394 (member id required).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct, field

from cluster.error_codes import ErrorCode


class GroupPhase(StrEnum):
    """The names Kafka shows in DescribeGroups and ListGroups."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


class GroupSettings(Struct, frozen=True):
    """Bounds and defaults of a node's groups. Times in milliseconds, sizes in bytes."""

    session_timeout_min_ms: int = 6_000
    session_timeout_max_ms: int = 1_800_000
    initial_rebalance_delay_ms: int = 3_000
    members_max: int = 2**31 - 1
    pending_members_max: int = 10_000
    """Ids given to members that have not come back yet: each costs memory for a session timeout."""
    join_bytes_max: int = 1 << 20
    """All names and metadata of one member."""
    assignment_bytes_max: int = 64 << 20
    """All assignments of one generation."""
    offset_metadata_bytes_max: int = 4096
    offsets_retention_ms: int = 7 * 24 * 3_600_000
    offsets_retention_check_interval_ms: int = 600_000


class JoinedMember(NamedTuple):
    """What the leader learns of a member: metadata is that of the generation's protocol."""

    member_id: str
    instance_id: str | None
    metadata: bytes


class Member(Struct, frozen=True):
    """The upper fields are saved with the group, the lower ones live as long as the process."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    assignment: bytes = b""

    join_token: int | None = None
    """A parked JoinGroup: the member has rejoined and waits for the others."""
    sync_token: int | None = None
    """A parked SyncGroup: the member waits for the leader's assignments."""
    is_new: bool = False
    """Has never completed a join, so it cannot heartbeat yet."""
    synced: bool = True
    """Has asked for its assignment in this generation."""

    def metadata(self, protocol: str | None) -> bytes:
        return next((metadata for name, metadata in self.protocols if name == protocol), b"")


class InitialDelay(NamedTuple):
    """An empty group's first rebalance waits for more members: once more if some came, while time remains."""

    remaining_ms: int
    member_added: bool


class GroupState(Struct, frozen=True):
    """Never changed in place; the dictionaries are not either."""

    group_id: str
    phase: GroupPhase = GroupPhase.EMPTY
    generation: int = 0
    protocol_type: str | None = None
    protocol: str | None = None
    leader: str | None = None
    members: Mapping[str, Member] = field(default_factory=dict)
    """By member id, oldest first."""
    static_ids: Mapping[str, str] = field(default_factory=dict)
    """Member id by instance id."""
    pending: frozenset[str] = frozenset()
    """Member ids handed out, not yet come back with."""
    initial: InitialDelay | None = None

    @property
    def is_forgettable(self) -> bool:
        """Nothing would be lost by dropping it: never had a generation, has no members, awaits none."""
        return not self.generation and not self.members and not self.pending and self.phase is GroupPhase.EMPTY

    def static_member(self, instance_id: str | None) -> Member | None:
        return self.members.get(self.static_ids.get(instance_id, "")) if instance_id is not None else None

    def check_member(self, member_id: str, instance_id: str | None) -> ErrorCode:
        """NONE, UNKNOWN_MEMBER_ID, or FENCED_INSTANCE_ID when a newer member carries the instance id."""
        if instance_id is not None:
            static = self.static_member(instance_id)
            if static is None:
                return ErrorCode.UNKNOWN_MEMBER_ID
            if static.member_id != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self.members else ErrorCode.UNKNOWN_MEMBER_ID

    def check_commit(self, member_id: str, instance_id: str | None, generation: int) -> ErrorCode:
        """May these offsets be committed? Without membership only while the group has no members."""
        if generation < 0 and self.phase is GroupPhase.EMPTY:
            return ErrorCode.NONE
        if generation < 0 and not member_id and instance_id is None:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if self.is_forgettable:
            return ErrorCode.ILLEGAL_GENERATION
        error = self.check_member(member_id, instance_id)
        if error:
            return error
        if generation != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        # Its member has seen the new generation, but not what it owns in it.
        in_between = self.phase is GroupPhase.COMPLETING_REBALANCE
        return ErrorCode.REBALANCE_IN_PROGRESS if in_between else ErrorCode.NONE


def common_protocols(members: Mapping[str, Member]) -> set[str]:
    """The protocol names every member knows."""
    known = Counter(name for member in members.values() for name in {name for name, _ in member.protocols})
    return {name for name, count in known.items() if count == len(members)}


def supports(state: GroupState, protocol_type: str, protocols: tuple[tuple[str, bytes], ...]) -> bool:
    """May a member with these protocols join? With members there, it must share a protocol with all of them."""
    if not protocol_type or not protocols:
        return False
    if not state.members:
        return True
    common = common_protocols(state.members)
    return protocol_type == state.protocol_type and any(name in common for name, _ in protocols)


def select_protocol(members: Mapping[str, Member]) -> str | None:
    """Each member votes for the first of its protocols that all know; the oldest vote breaks a tie."""
    common = common_protocols(members)
    votes = Counter(
        next(name for name, _ in member.protocols if name in common) for member in members.values() if common
    )
    return votes.most_common(1)[0][0] if votes else None

"""What ListGroups and DescribeGroups show of a group. Pure."""

from __future__ import annotations

from typing import NamedTuple

from cluster.error_codes import ErrorCode
from cluster.group.state import GroupPhase, GroupState


class GroupOverview(NamedTuple):
    """One line of ListGroups. `protocol_type` is "" for a group that only keeps offsets."""

    group_id: str
    protocol_type: str
    phase: GroupPhase
    kind: str


class MemberDescription(NamedTuple):
    """`metadata` and `assignment` are empty unless the group is stable."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    metadata: bytes
    assignment: bytes


class GroupDescription(NamedTuple):
    error: ErrorCode
    group_id: str
    phase: GroupPhase
    protocol_type: str = ""
    protocol: str = ""
    generation: int = 0
    members: tuple[MemberDescription, ...] = ()


def describe(state: GroupState) -> GroupDescription:
    is_stable = state.phase is GroupPhase.STABLE
    return GroupDescription(
        ErrorCode.NONE,
        state.group_id,
        state.phase,
        state.protocol_type or "",
        (state.protocol or "") if is_stable else "",
        state.generation,
        tuple(
            MemberDescription(
                member.member_id,
                member.instance_id,
                member.client_id,
                member.client_host,
                member.metadata(state.protocol) if is_stable else b"",
                member.assignment if is_stable else b"",
            )
            for member in state.members.values()
        ),
    )

"""The body of a group's row: MessagePack of the array below. Pure.

    [format version = 1, generation, protocol type, protocol, leader, [member, ...]]
    member = [member id, instance id, client id, client host, rebalance timeout ms, session timeout ms,
              [[protocol, metadata], ...], assignment]

A group is saved when a generation completes, when a static member is replaced and when the last member is gone, so a
row is either EMPTY (no members) or STABLE. Reading takes version 1; a change of the layout gets a new number and keeps
reading the last one.
"""

from __future__ import annotations

import msgspec

from cluster.group.state import GroupPhase, GroupState, Member
from logstore.errors import DamagedSegment

FORMAT_VERSION = 1


class _StoredMember(msgspec.Struct, array_like=True, frozen=True):
    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    protocols: tuple[tuple[str, bytes], ...]
    assignment: bytes


class _StoredGroup(msgspec.Struct, array_like=True, frozen=True):
    format_version: int
    generation: int
    protocol_type: str | None
    protocol: str | None
    leader: str | None
    members: tuple[_StoredMember, ...]


def encode_group(state: GroupState) -> bytes:
    members = tuple(
        _StoredMember(
            member.member_id,
            member.instance_id,
            member.client_id,
            member.client_host,
            member.rebalance_timeout_ms,
            member.session_timeout_ms,
            member.protocols,
            member.assignment,
        )
        for member in state.members.values()
    )
    stored = _StoredGroup(FORMAT_VERSION, state.generation, state.protocol_type, state.protocol, state.leader, members)
    return msgspec.msgpack.encode(stored)


def decode_group(group_id: str, body: bytes) -> GroupState:
    """Raises `DamagedSegment` when the body is not what `encode_group` writes."""
    try:
        stored = msgspec.msgpack.decode(body, type=_StoredGroup)
    except msgspec.DecodeError as error:
        raise _damaged(group_id, str(error)) from error
    members = {each.member_id: _member(each) for each in stored.members}
    if stored.format_version != FORMAT_VERSION:
        raise _damaged(group_id, f"format version {stored.format_version}, known is {FORMAT_VERSION}")
    if members and (stored.leader not in members or stored.protocol is None or stored.protocol_type is None):
        raise _damaged(group_id, "members without a leader or protocol")
    return GroupState(
        group_id,
        GroupPhase.STABLE if members else GroupPhase.EMPTY,
        stored.generation,
        stored.protocol_type,
        stored.protocol,
        stored.leader,
        members,
        {member.instance_id: member.member_id for member in members.values() if member.instance_id is not None},
    )


def _member(stored: _StoredMember) -> Member:
    return Member(
        stored.member_id,
        stored.instance_id,
        stored.client_id,
        stored.client_host,
        stored.rebalance_timeout_ms,
        stored.session_timeout_ms,
        stored.protocols,
        stored.assignment,
    )


def _damaged(group_id: str, what: str) -> DamagedSegment:
    return DamagedSegment(
        f"the saved state of group {group_id} is damaged: {what}",
        path="metadata",
        position=0,
        hint="delete the group; its members join again, its offsets are kept apart",
    )

"""JoinGroup (key 11), versions 0 to 9: become a member of a classic group, or stay one through a rebalance.

The reply may take as long as the rebalance. Version 0 has no rebalance timeout, the session's serves. From version 4 a
new member is first sent back with an id (KIP-394), 5 brings static members (KIP-345), 9 spares a returning static
leader the assignment (KIP-814).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.messages.join_group import JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember
from cluster.group.events import JoinGroup

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 11
VERSIONS = (0, 9)


async def handle(context: Context, request: JoinGroupRequest) -> JoinGroupResponse:
    version = context.version
    event = JoinGroup(
        member_id=request.member_id,
        protocol_type=request.protocol_type,
        protocols=tuple((each.name, each.metadata) for each in request.protocols),
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=request.rebalance_timeout_ms if version >= 1 else request.session_timeout_ms,
        instance_id=request.group_instance_id,
        client_id=context.client_id,
        client_host=f"/{context.session.peer_host}",
        requires_member_id=version >= 4,
        can_skip_assignment=version >= 9,
    )
    done = await context.node.groups.submit(request.group_id, event)
    # Before version 7 (KIP-599) no protocol was the empty text.
    protocol = done.protocol if done.protocol is not None or version >= 7 else ""
    return JoinGroupResponse(
        error_code=done.error,
        generation_id=done.generation,
        protocol_type=done.protocol_type,
        protocol_name=protocol,
        leader=done.leader,
        skip_assignment=done.skip_assignment,
        member_id=done.member_id,
        members=[JoinGroupResponseMember(each.member_id, each.instance_id, each.metadata) for each in done.members],
    )

"""SyncGroup (key 14), versions 0 to 5: the leader brings the assignments, every member gets its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.messages.sync_group import SyncGroupRequest, SyncGroupResponse
from cluster.group.events import SyncGroup

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 14
VERSIONS = (0, 5)


async def handle(context: Context, request: SyncGroupRequest) -> SyncGroupResponse:
    event = SyncGroup(
        member_id=request.member_id,
        generation=request.generation_id,
        instance_id=request.group_instance_id,
        protocol_type=request.protocol_type,
        protocol=request.protocol_name,
        assignments={each.member_id: each.assignment for each in request.assignments},
    )
    done = await context.node.groups.submit(request.group_id, event)
    return SyncGroupResponse(
        error_code=done.error,
        protocol_type=done.protocol_type,
        protocol_name=done.protocol,
        assignment=done.assignment,
    )

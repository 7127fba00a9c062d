"""Heartbeat (key 12), versions 0 to 4: a member is alive; the reply tells it when to rejoin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.messages.heartbeat import HeartbeatRequest, HeartbeatResponse
from cluster.group.events import Heartbeat

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 12
VERSIONS = (0, 4)


async def handle(context: Context, request: HeartbeatRequest) -> HeartbeatResponse:
    event = Heartbeat(request.member_id, request.generation_id, request.group_instance_id)
    done = await context.node.groups.submit(request.group_id, event)
    return HeartbeatResponse(error_code=done.error)

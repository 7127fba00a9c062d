"""LeaveGroup (key 13), versions 0 to 5: members leave without waiting for their session to end.

Version 3 takes several members at once, by member id or by instance id (KIP-345); before it there is one, whose error
is the reply's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.messages.leave_group import LeaveGroupRequest, LeaveGroupResponse, MemberResponse
from cluster.group.events import LeaveGroup, LeavingMember

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 13
VERSIONS = (0, 5)
_SEVERAL_SINCE = 3


async def handle(context: Context, request: LeaveGroupRequest) -> LeaveGroupResponse:
    if context.version >= _SEVERAL_SINCE:
        members = tuple(LeavingMember(each.member_id, each.group_instance_id) for each in request.members)
    else:
        members = (LeavingMember(request.member_id),)
    done = await context.node.groups.submit(request.group_id, LeaveGroup(members))
    if context.version < _SEVERAL_SINCE:
        return LeaveGroupResponse(error_code=done.error or next((code for _, code in done.members), 0))
    return LeaveGroupResponse(
        error_code=done.error,
        members=[MemberResponse(each.member_id, each.instance_id, code) for each, code in done.members],
    )

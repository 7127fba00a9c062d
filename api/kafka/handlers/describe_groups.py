"""DescribeGroups (key 15), versions 0 to 6: state and members of classic groups.

A group that does not exist is described as Dead; from version 6 on with GROUP_ID_NOT_FOUND (KIP-1043).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.handlers.once import once
from api.kafka.messages.describe_groups import (
    DescribedGroup,
    DescribedGroupMember,
    DescribeGroupsRequest,
    DescribeGroupsResponse,
)
from cluster.error_codes import ErrorCode
from cluster.group.state import GroupPhase

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 15
VERSIONS = (0, 6)
_NOT_FOUND_SINCE = 6


def handle(context: Context, request: DescribeGroupsRequest) -> DescribeGroupsResponse:
    return DescribeGroupsResponse(groups=[_describe(context, group_id) for group_id in once(request.groups, str)])


def _describe(context: Context, group_id: str) -> DescribedGroup:
    group = context.node.groups.describe_group(group_id)
    error, message = group.error, None
    if not error and group.phase is GroupPhase.DEAD and context.version >= _NOT_FOUND_SINCE:
        error, message = ErrorCode.GROUP_ID_NOT_FOUND, f"group {group_id} is not here"
    return DescribedGroup(
        error_code=error,
        error_message=message,
        group_id=group_id,
        group_state=group.phase,
        protocol_type=group.protocol_type,
        protocol_data=group.protocol,
        members=[
            DescribedGroupMember(
                member_id=each.member_id,
                group_instance_id=each.instance_id,
                client_id=each.client_id,
                client_host=each.client_host,
                member_metadata=each.metadata,
                member_assignment=each.assignment,
            )
            for each in group.members
        ],
    )

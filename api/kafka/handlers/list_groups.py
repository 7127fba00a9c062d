"""ListGroups (key 16), versions 0 to 5: groups, filtered by state (version 4, KIP-518) and type (5, KIP-848)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.messages.list_groups import ListedGroup, ListGroupsRequest, ListGroupsResponse
from cluster.error_codes import ErrorCode

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 16
VERSIONS = (0, 5)


def handle(context: Context, request: ListGroupsRequest) -> ListGroupsResponse:
    states = {each.lower() for each in request.states_filter}
    types = {each.lower() for each in request.types_filter}
    return ListGroupsResponse(
        error_code=ErrorCode.NONE,
        groups=[
            ListedGroup(each.group_id, each.protocol_type, each.phase, each.kind)
            for each in context.node.groups.list_groups()
            if (not states or each.phase.lower() in states) and (not types or each.kind in types)
        ],
    )

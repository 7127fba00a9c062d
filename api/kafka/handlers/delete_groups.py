"""DeleteGroups (key 42), versions 0 to 2: forget empty groups with their offsets, each on its own (KIP-229)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.messages.delete_groups import DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse
from cluster.group.events import DeleteGroup

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 42
VERSIONS = (0, 2)


async def handle(context: Context, request: DeleteGroupsRequest) -> DeleteGroupsResponse:
    asked = [(group_id, context.node.groups.submit(group_id, DeleteGroup())) for group_id in request.groups_names]
    return DeleteGroupsResponse(
        results=[DeletableGroupResult(group_id, (await pending).error) for group_id, pending in asked]
    )

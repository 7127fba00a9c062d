"""FindCoordinator (key 10), versions 0 to 6: which node coordinates a group.

Version 4 asks for several keys at once (KIP-699). Key type 0 is a group; transactional ids (1) and share groups (2) are
not coordinated here and are refused, so that a client fails at once instead of retrying for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.messages.find_coordinator import Coordinator, FindCoordinatorRequest, FindCoordinatorResponse
from cluster.error_codes import ErrorCode
from cluster.metadata.store import SlotKind
from cluster.node import Node

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 10
VERSIONS = (0, 6)
_GROUP = 0


def handle(context: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse:
    if context.version >= 4:
        return FindCoordinatorResponse(
            coordinators=[_look_up(context.node, request.key_type, key) for key in request.coordinator_keys]
        )
    found = _look_up(context.node, request.key_type, request.key)
    return FindCoordinatorResponse(
        error_code=found.error_code,
        error_message=found.error_message,
        node_id=found.node_id,
        host=found.host,
        port=found.port,
    )


def _look_up(node: Node, key_type: int, key: str) -> Coordinator:
    if key_type != _GROUP:
        return Coordinator(
            key, -1, "", -1, ErrorCode.INVALID_REQUEST, "this broker coordinates consumer groups only (key type 0)"
        )
    if not key:
        return Coordinator(key, -1, "", -1, ErrorCode.INVALID_GROUP_ID, "the group id is empty")
    broker = node.image.brokers[node.router.coordinator(SlotKind.GROUP, key)]
    return Coordinator(key, broker.node_id, broker.host, broker.port, ErrorCode.NONE, None)

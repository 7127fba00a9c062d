"""DeleteTopics (key 20), versions 1 to 6: by name, from version 6 also by id (KIP-516), each on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.messages.delete_topics import (
    DeletableTopicResult,
    DeleteTopicsRequest,
    DeleteTopicsResponse,
    DeleteTopicState,
)
from api.kafka.schema import ZERO_UUID
from cluster.error_codes import ErrorCode
from cluster.node import Node
from logstore.errors import LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 20
VERSIONS = (1, 6)
_DISABLED_SINCE = 3  # the first version with a code of its own for it


async def handle(context: Context, request: DeleteTopicsRequest) -> DeleteTopicsResponse:
    asked = request.topics or [DeleteTopicState(name) for name in request.topic_names]
    if not context.node.config.delete_topic_enable:
        code = ErrorCode.TOPIC_DELETION_DISABLED if context.version >= _DISABLED_SINCE else ErrorCode.INVALID_REQUEST
        message = "delete.topic.enable=true allows it"
        return DeleteTopicsResponse(
            responses=[DeletableTopicResult(each.name, each.topic_id, code, message) for each in asked]
        )
    return DeleteTopicsResponse(responses=[await _delete(context.node, each) for each in asked])


async def _delete(node: Node, asked: DeleteTopicState) -> DeletableTopicResult:
    try:
        topic = node.topic_by_id(asked.topic_id) if asked.name is None else node.topic(asked.name)
        await node.delete_topic(topic)
    except LogstoreError as error:
        topic_id = asked.topic_id if asked.name is None else ZERO_UUID
        return DeletableTopicResult(asked.name, topic_id, wire(error).code, str(error))
    return DeletableTopicResult(topic.name, topic.topic_id, ErrorCode.NONE, None)

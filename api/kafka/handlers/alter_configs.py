"""AlterConfigs (key 33), versions 0 to 2: replace all options of a topic at once.

What the request does not name returns to its default: that is this API's rule, and why clients prefer
IncrementalAlterConfigs. Broker options are read at start and cannot be altered by request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.handlers.topic_configs import TOPIC
from api.kafka.messages.alter_configs import (
    AlterConfigsRequest,
    AlterConfigsResource,
    AlterConfigsResourceResponse,
    AlterConfigsResponse,
)
from cluster.error_codes import ErrorCode
from cluster.node import Node
from logstore.errors import InvalidConfig, InvalidRequest, LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 33
VERSIONS = (0, 2)


async def handle(context: Context, request: AlterConfigsRequest) -> AlterConfigsResponse:
    return AlterConfigsResponse(
        responses=[await _alter(context.node, asked, request.validate_only) for asked in request.resources]
    )


async def _alter(node: Node, asked: AlterConfigsResource, validate_only: bool) -> AlterConfigsResourceResponse:
    try:
        if asked.resource_type != TOPIC:
            raise InvalidRequest("only the options of topics (2) can be altered", hint="set the broker's at its start")
        topic = node.topic(asked.resource_name)
        values = {}
        for each in asked.configs:
            if each.value is None:
                raise InvalidConfig(f"{each.name} has no value", hint="leave the option out to get its default")
            values[each.name] = each.value
        removed = [name for name in topic.config if name not in values]
        await node.alter_topic_config(topic, values, removed, validate_only=validate_only)
    except LogstoreError as error:
        return AlterConfigsResourceResponse(wire(error).code, str(error), asked.resource_type, asked.resource_name)
    return AlterConfigsResourceResponse(ErrorCode.NONE, None, asked.resource_type, asked.resource_name)

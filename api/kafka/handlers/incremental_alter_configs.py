"""IncrementalAlterConfigs (key 44), versions 0 to 1: set, delete, append to, subtract from topic options (KIP-339).

Append and subtract work on list options (`cleanup.policy`). An option named twice is refused. Broker options are read
at start and cannot be altered by request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.handlers.topic_configs import TOPIC
from api.kafka.messages.incremental_alter_configs import (
    AlterConfigsResource,
    AlterConfigsResourceResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from cluster.error_codes import ErrorCode
from cluster.image import TopicImage
from cluster.node import Node
from logstore.config import OPTIONS, format_option, parse_topic_config, unknown_option
from logstore.errors import InvalidConfig, InvalidRequest, LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 44
VERSIONS = (0, 1)
_SET, _DELETE, _APPEND, _SUBTRACT = range(4)
_LISTS = ("cleanup.policy",)


async def handle(context: Context, request: IncrementalAlterConfigsRequest) -> IncrementalAlterConfigsResponse:
    return IncrementalAlterConfigsResponse(
        responses=[await _alter(context.node, asked, request.validate_only) for asked in request.resources]
    )


async def _alter(node: Node, asked: AlterConfigsResource, validate_only: bool) -> AlterConfigsResourceResponse:
    try:
        if asked.resource_type != TOPIC:
            raise InvalidRequest("only the options of topics (2) can be altered", hint="set the broker's at its start")
        topic = node.topic(asked.resource_name)
        values, removed = _changes(node, topic, asked)
        await node.alter_topic_config(topic, values, removed, validate_only=validate_only)
    except LogstoreError as error:
        return AlterConfigsResourceResponse(wire(error).code, str(error), asked.resource_type, asked.resource_name)
    return AlterConfigsResourceResponse(ErrorCode.NONE, None, asked.resource_type, asked.resource_name)


def _changes(node: Node, topic: TopicImage, asked: AlterConfigsResource) -> tuple[dict[str, str], list[str]]:
    values: dict[str, str] = {}
    removed: list[str] = []
    for each in asked.configs:
        if each.name in values or each.name in removed:
            raise InvalidRequest(f"{each.name} is named twice")
        if each.config_operation == _DELETE:
            if each.name not in OPTIONS:
                raise unknown_option(each.name, OPTIONS)
            removed.append(each.name)
        elif each.value is None:
            raise InvalidConfig(f"{each.name} has no value", hint="operation 1 (delete) returns to the default")
        elif each.config_operation == _SET:
            values[each.name] = each.value
        elif each.config_operation in (_APPEND, _SUBTRACT):
            values[each.name] = _edit_list(node, topic, each.name, each.value, each.config_operation == _APPEND)
        else:
            raise InvalidRequest(f"operation {each.config_operation} of {each.name} is not known")
    return values, removed


def _edit_list(node: Node, topic: TopicImage, name: str, value: str, append: bool) -> str:
    if name not in _LISTS:
        raise InvalidConfig(f"{name} is not a list", hint="use operation 0 (set)")
    present = format_option(parse_topic_config(topic.config, node.topic_defaults), name).split(",")
    named = [word.strip() for word in value.split(",")]
    kept = [word for word in present if word not in named]
    return ",".join([*kept, *named] if append else kept)

"""CreatePartitions (key 37), versions 0 to 3: grow topics to `count` partitions; assignments must name this node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.messages.create_partitions import (
    CreatePartitionsRequest,
    CreatePartitionsResponse,
    CreatePartitionsTopic,
    CreatePartitionsTopicResult,
)
from cluster.error_codes import ErrorCode
from cluster.node import Node
from logstore.errors import LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 37
VERSIONS = (0, 3)


async def handle(context: Context, request: CreatePartitionsRequest) -> CreatePartitionsResponse:
    return CreatePartitionsResponse(
        results=[await _grow(context.node, asked, request.validate_only) for asked in request.topics]
    )


async def _grow(node: Node, asked: CreatePartitionsTopic, validate_only: bool) -> CreatePartitionsTopicResult:
    try:
        topic = node.topic(asked.name)
        if asked.assignments is not None:
            added = asked.count - len(topic.partition_ids)
            if [each.broker_ids for each in asked.assignments] != [[node.node_id]] * added:
                message = f"assign each of the {added} new partitions to [{node.node_id}]"
                return CreatePartitionsTopicResult(asked.name, ErrorCode.INVALID_REPLICA_ASSIGNMENT, message)
        await node.add_partitions(topic, asked.count, validate_only=validate_only)
    except LogstoreError as error:
        return CreatePartitionsTopicResult(asked.name, wire(error).code, str(error))
    return CreatePartitionsTopicResult(asked.name, ErrorCode.NONE, None)

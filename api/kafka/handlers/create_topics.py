"""CreateTopics (key 19), versions 2 to 7: make topics, each on its own.

Partition count and replication factor -1 mean the broker's defaults (version 4, KIP-464). One node keeps one copy: a
replication factor above 1 is refused. A manual assignment must name this node for partitions 0, 1, … once each. A topic
named twice in one request is refused both times. Version 5 answers with the configuration (KIP-525), 7 with the id.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.handlers.topic_configs import describe_topic
from api.kafka.messages.create_topics import (
    CreatableTopic,
    CreatableTopicConfigs,
    CreatableTopicResult,
    CreateTopicsRequest,
    CreateTopicsResponse,
)
from cluster.error_codes import ErrorCode
from cluster.node import Node
from logstore.errors import InvalidConfig, InvalidRequest, LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 19
VERSIONS = (2, 7)
_TOGETHER = 16


async def handle(context: Context, request: CreateTopicsRequest) -> CreateTopicsResponse:
    named = Counter(topic.name for topic in request.topics)
    # Together, so that they share fsyncs; in bunches, so that a request of thousands leaves room for others.
    results: list[CreatableTopicResult] = []
    for start in range(0, len(request.topics), _TOGETHER):
        bunch = request.topics[start : start + _TOGETHER]
        results += await asyncio.gather(*(_create_once(context.node, each, named, request) for each in bunch))
    return CreateTopicsResponse(topics=results)


async def _create_once(
    node: Node, asked: CreatableTopic, named: Counter[str], request: CreateTopicsRequest
) -> CreatableTopicResult:
    if named[asked.name] > 1:
        return _refused(asked.name, ErrorCode.INVALID_REQUEST, "the request names this topic twice")
    return await _create(node, asked, request.validate_only)


async def _create(node: Node, asked: CreatableTopic, validate_only: bool) -> CreatableTopicResult:
    try:
        config = {}
        for each in asked.configs:
            if each.value is None:
                raise InvalidConfig(f"{each.name} has no value", hint="leave the option out to get its default")
            config[each.name] = each.value
        topic = await node.create_topic(asked.name, _partition_count(node, asked), config, validate_only=validate_only)
    except _Refused as error:
        return _refused(asked.name, error.code, str(error))
    except LogstoreError as error:
        return _refused(asked.name, wire(error).code, str(error))
    return CreatableTopicResult(
        name=topic.name,
        topic_id=topic.topic_id,
        error_code=ErrorCode.NONE,
        error_message=None,
        num_partitions=len(topic.partition_ids),
        replication_factor=1,
        configs=[
            CreatableTopicConfigs(each.name, each.value, False, each.source, False)
            for each in describe_topic(node, topic)
        ],
    )


class _Refused(InvalidRequest):
    """Refused for a reason that only this API has a code for."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def _partition_count(node: Node, asked: CreatableTopic) -> int:
    if not asked.assignments:
        if asked.replication_factor not in (-1, 1):
            raise _Refused(
                ErrorCode.INVALID_REPLICATION_FACTOR, f"replication factor {asked.replication_factor}: one node has 1"
            )
        return asked.num_partitions
    if asked.num_partitions != -1 or asked.replication_factor != -1:
        raise InvalidRequest("both an assignment and a partition count or replication factor were given")
    if sorted(each.partition_index for each in asked.assignments) != list(range(len(asked.assignments))):
        raise _Refused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, "the assigned partitions are not 0, 1, 2, …")
    if any(each.broker_ids != [node.node_id] for each in asked.assignments):
        raise _Refused(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"partitions can only be assigned to [{node.node_id}]")
    return len(asked.assignments)


def _refused(name: str, code: ErrorCode, message: str) -> CreatableTopicResult:
    return CreatableTopicResult(name=name, error_code=code, error_message=message, configs=None)

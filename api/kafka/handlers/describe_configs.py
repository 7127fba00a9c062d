"""DescribeConfigs (key 32), versions 1 to 4: options of topics and of this broker with source, type, synonyms and help.

`configuration_keys` null or empty means all. Resource types served: topic (2) and broker (4; this node's id, or empty
for the cluster-wide defaults, of which there are none).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.handlers.once import once
from api.kafka.handlers.topic_configs import BROKER, TOPIC, Described, describe_broker, describe_topic
from api.kafka.messages.describe_configs import (
    DescribeConfigsRequest,
    DescribeConfigsResource,
    DescribeConfigsResourceResult,
    DescribeConfigsResponse,
    DescribeConfigsResult,
    DescribeConfigsSynonym,
)
from cluster.error_codes import ErrorCode
from cluster.node import Node
from logstore.errors import InvalidRequest, LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 32
VERSIONS = (1, 4)


def handle(context: Context, request: DescribeConfigsRequest) -> DescribeConfigsResponse:
    wanted = once(request.resources, lambda each: (each.resource_type, each.resource_name))
    return DescribeConfigsResponse(results=[_describe(context.node, asked, request) for asked in wanted])


def _describe(node: Node, asked: DescribeConfigsResource, request: DescribeConfigsRequest) -> DescribeConfigsResult:
    try:
        described = _options(node, asked)
        wanted = set(asked.configuration_keys or ())
        configs = [
            _encode(each, asked.resource_type == BROKER, request.include_synonyms, request.include_documentation)
            for each in described
            if not wanted or each.name in wanted
        ]
    except LogstoreError as error:
        return DescribeConfigsResult(wire(error).code, str(error), asked.resource_type, asked.resource_name)
    return DescribeConfigsResult(ErrorCode.NONE, None, asked.resource_type, asked.resource_name, configs)


def _options(node: Node, asked: DescribeConfigsResource) -> Iterator[Described]:
    if asked.resource_type == TOPIC:
        return describe_topic(node, node.topic(asked.resource_name))
    if asked.resource_type == BROKER:
        if not asked.resource_name:
            return iter(())
        if asked.resource_name != str(node.node_id):
            raise InvalidRequest(f"broker {asked.resource_name} is not this one", hint=f"ask for {node.node_id}")
        return describe_broker(node)
    raise InvalidRequest(f"resource type {asked.resource_type} has no configuration here", hint="2 topic, 4 broker")


def _encode(each: Described, read_only: bool, with_synonyms: bool, with_help: bool) -> DescribeConfigsResourceResult:
    return DescribeConfigsResourceResult(
        name=each.name,
        value=each.value,
        read_only=read_only,
        config_source=each.source,
        is_sensitive=False,
        synonyms=[DescribeConfigsSynonym(*synonym) for synonym in each.synonyms] if with_synonyms else [],
        config_type=each.kind,
        documentation=each.help if with_help else None,
    )

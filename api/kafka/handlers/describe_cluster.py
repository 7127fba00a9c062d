"""DescribeCluster (key 60), versions 0 to 2: the brokers (KIP-700); controllers have no endpoint here (KIP-919)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.kafka.messages.describe_cluster import (
    DescribeClusterBroker,
    DescribeClusterRequest,
    DescribeClusterResponse,
)
from cluster.error_codes import ErrorCode

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 60
VERSIONS = (0, 2)
_BROKERS = 1


def handle(context: Context, request: DescribeClusterRequest) -> DescribeClusterResponse:
    node = context.node
    if context.version >= 1 and request.endpoint_type != _BROKERS:
        return DescribeClusterResponse(
            error_code=ErrorCode.MISMATCHED_ENDPOINT_TYPE, error_message="this is a broker's listener"
        )
    return DescribeClusterResponse(
        error_code=ErrorCode.NONE,
        error_message=None,
        endpoint_type=_BROKERS,
        cluster_id=node.image.cluster_id,
        controller_id=node.node_id,
        brokers=[DescribeClusterBroker(each.node_id, each.host, each.port, each.rack) for each in node.brokers],
    )

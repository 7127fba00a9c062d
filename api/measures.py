"""What `/metrics` tells of the Kafka door and of consumer groups; the HTTP door adds its own and the partitions'.

Group series carry the Kafka lag exporter's names, so that its dashboards work, and are capped like the partitions'.
"""

from __future__ import annotations

from collections.abc import Iterator

from api.http.metrics import Measure, Sample, counter, gauge
from api.kafka.server import KafkaServer
from cluster.node import Node
from logstore.errors import LogstoreError

_GROUP_LABELS = ("consumergroup", "topic", "partition")
_SERIES_MAX = 10_000


def collect(node: Node, kafka: KafkaServer) -> Iterator[Measure]:
    """Everything of one scrape; for the loop's thread."""
    yield from _kafka_door(kafka)
    yield from _consumer_groups(node)


def _kafka_door(server: KafkaServer) -> Iterator[Measure]:
    yield counter("logstore_kafka_requests", "Requests of Kafka clients.", server.requests_total)
    yield counter("logstore_kafka_received_bytes", "Bytes from Kafka clients.", server.bytes_in_total)
    yield counter("logstore_kafka_sent_bytes", "Bytes to Kafka clients.", server.bytes_out_total)
    yield gauge("logstore_kafka_connections", "Connections open.", server.connections_open)
    yield counter("logstore_kafka_connections_accepted", "Connections since the start.", server.connections_total)
    yield counter("logstore_kafka_connections_refused", "Above max.connections.", server.connections_refused)
    yield counter("logstore_kafka_frames_refused", "Connections ended for what they sent.", server.frames_refused)


def _consumer_groups(node: Node) -> Iterator[Measure]:
    committed: list[Sample] = []
    lag: list[Sample] = []
    members: list[Sample] = []
    unlisted = 0
    for overview in node.groups.list_groups():
        group_id = overview.group_id
        if len(members) < _SERIES_MAX:
            members.append(((group_id,), len(node.groups.describe_group(group_id).members)))
        else:
            unlisted += 1
        for partition_id, offset in node.groups.offsets(group_id).items():
            place = node.image.partition(partition_id)
            if place is None or len(committed) >= _SERIES_MAX:
                unlisted += 1
                continue
            labels = (group_id, place[0].name, str(place[1]))
            committed.append((labels, offset.offset))
            try:
                lag.append((labels, max(0, node.head(partition_id).high_watermark - offset.offset)))
            except LogstoreError:  # being deleted or damaged: the others still count
                unlisted += 1
    yield Measure("kafka_consumergroup_members", "gauge", "Members of a group.", members, _GROUP_LABELS[:1])
    yield Measure(
        "kafka_consumergroup_current_offset", "gauge", "Committed offset of a group.", committed, _GROUP_LABELS
    )
    yield Measure("kafka_consumergroup_lag", "gauge", "Records a group has yet to read.", lag, _GROUP_LABELS)
    yield gauge("logstore_group_series_unlisted", "Group series left out of this answer.", unlisted)

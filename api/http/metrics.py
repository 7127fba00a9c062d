"""GET /metrics: numbers collected on the loop, rendered as Prometheus text in a thread.

Own names begin with `logstore_`; a few of the Kafka lag exporter's (`kafka_topic_partition_…`) let its dashboards work.
Series per partition are capped, and `logstore_partitions_unlisted` says how many were left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from api.http.door import Door
from api.http.lifecycle import Phase
from logstore.errors import LogstoreError

Sample = tuple[tuple[str, ...], float]


class Measure(NamedTuple):
    """One metric with its samples: (values of `labels`, number) each. A counter's name has no `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: Sequence[Sample]
    labels: Sequence[str] = ()


MeasureSource = Callable[[], Iterable[Measure]]
"""Called on the loop's thread at each scrape; must only read plain numbers."""


def gauge(name: str, help_text: str, value: float) -> Measure:
    return Measure(name, "gauge", help_text, [((), value)])


def counter(name: str, help_text: str, value: float) -> Measure:
    return Measure(name, "counter", help_text, [((), value)])


def collect(door: Door, sources: Iterable[MeasureSource]) -> list[Measure]:
    """Everything of one scrape; call it on the loop's thread."""
    measures = [*_door_measures(door), *_log_measures(door)]
    for source in sources:
        measures += source()
    return measures


def render(measures: Iterable[Measure], accept: str) -> tuple[bytes, str]:
    """The text and its content type: OpenMetrics when `accept` asks for it. For any thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(measures))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Collected(Collector):
    def __init__(self, measures: Iterable[Measure]) -> None:
        self._measures = measures

    def collect(self) -> Iterator[Metric]:
        for name, kind, help_text, samples, labels in self._measures:
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            metric = family(name, help_text, labels=labels)
            for values, number in samples:
                metric.add_metric(values, number)
            yield metric


def _door_measures(door: Door) -> Iterator[Measure]:
    counters, lifecycle = door.counters, door.lifecycle
    yield gauge("logstore_ready", "1 when the server takes requests.", float(lifecycle.phase is Phase.READY))
    yield Measure(
        "logstore_http_requests",
        "counter",
        "Answers of the HTTP door.",
        [((route, str(status)), count) for (route, status), count in counters.requests.items()],
        ("route", "status"),
    )
    yield counter("logstore_http_records_produced", "Records appended over HTTP.", counters.records_produced)
    yield counter("logstore_http_records_read", "Records answered over HTTP.", counters.records_read)
    yield counter("logstore_http_produce_bytes", "Bytes of produce bodies.", counters.body_bytes_received)
    yield gauge("logstore_http_tails", "Live tails open.", counters.tails_open)
    yield gauge("logstore_http_clients_waiting", "Long polls and live tails.", lifecycle.clients_waiting)


def _log_measures(door: Door) -> Iterator[Measure]:
    node = door.node
    topics: Mapping[str, object] = node.image.topics
    newest: list[Sample] = []
    oldest: list[Sample] = []
    size_bytes: list[Sample] = []
    unlisted = 0
    for topic in node.image.topics.values():
        for index, partition_id in enumerate(topic.partition_ids):
            if len(newest) >= door.limits.partition_series_max:
                unlisted += 1
                continue
            try:
                head = node.head(partition_id)
            except LogstoreError:  # being deleted, closed or damaged: the others still count
                unlisted += 1
                continue
            labels = (topic.name, str(index))
            newest.append((labels, head.high_watermark))
            oldest.append((labels, head.log_start_offset))
            size_bytes.append((labels, head.size_bytes))
    place = ("topic", "partition")
    counts = [((topic.name,), float(len(topic.partition_ids))) for topic in node.image.topics.values()]
    yield gauge("kafka_brokers", "Brokers of the cluster.", len(node.brokers))
    yield gauge("logstore_topics", "Topics.", len(topics))
    yield gauge("logstore_partitions", "Partitions.", sum(number for _, number in counts))
    yield gauge("logstore_partitions_unlisted", "Partitions left out of the series per partition.", unlisted)
    per_topic = counts[: door.limits.partition_series_max]
    yield Measure("kafka_topic_partitions", "gauge", "Partitions of a topic.", per_topic, ("topic",))
    yield Measure("kafka_topic_partition_current_offset", "gauge", "Offset the next record gets.", newest, place)
    yield Measure("kafka_topic_partition_oldest_offset", "gauge", "Offset of the first record kept.", oldest, place)
    yield Measure("logstore_partition_size_bytes", "gauge", "Bytes of a partition's segments.", size_bytes, place)

"""The broker's options: Kafka's names, units, defaults and bounds in one table, and what `serve` hands to the broker.

`BrokerConfig` is read by every layer above the log (typed, units last). The keys marked as defaults of topics become a
`TopicConfig` in `BrokerConfig.topic_defaults`. Keys that Kafka has and that mean nothing on this node are known here
too, so that a `server.properties` made for Kafka can be read. Source of names and defaults: Apache Kafka's broker
configuration page (4.x); where ours differ, or a key is ours alone, its help says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from logstore.config import (
    INT32_MAX,
    OPTIONS,
    FlushPolicy,
    Table,
    TopicConfig,
    format_value,
    option,
    parse_options,
    table_of,
)
from logstore.errors import InvalidConfig
from logstore.types import TimestampType

_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS


def _topic(topic: str, name: str, *, note: str = "", **more: Any) -> Any:
    """A field that is the default of topic option `topic`: type, bounds and default come from the topic's table."""
    known = OPTIONS[topic][1]
    bounds = {"default": known.default, "low": known.low, "high": known.high} | more
    help_text = f"Default of `{topic}`" + (f"; {note}." if note else ".")
    return option(name=name, help=help_text, choices=known.choices, topic=topic, **bounds)


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """The options of one broker. Immutable. Of several keys for one topic option, the first that is set wins."""

    node_id: int = option(
        1, "node.id", "Number of this node in Metadata; Kafka's older name: `broker.id`.", low=0, high=INT32_MAX
    )

    # --- topics
    auto_create_topics_enable: bool = option(
        True, "auto.create.topics.enable", "Whether producing to, or asking for, an unknown topic creates it."
    )
    delete_topic_enable: bool = option(True, "delete.topic.enable", "Whether topics may be deleted.")
    num_partitions: int = option(
        1, "num.partitions", "Partitions of a topic created without a number.", low=1, high=INT32_MAX
    )
    default_replication_factor: int = option(
        1, "default.replication.factor", "Copies of each partition; one node keeps one.", low=1, high=1
    )
    max_partitions_per_topic: int = option(
        10_000, "max.partitions.per.topic", "Largest partition count a topic may have. Ours.", low=1, high=10_000
    )

    # --- connections and requests
    socket_request_max_bytes: int = option(
        100 << 20, "socket.request.max.bytes", "Largest request taken.", low=1024, high=INT32_MAX
    )
    max_connections: int = option(
        10_000,
        "max.connections",
        "Connections held at once; one more is closed at once. Each costs a file handle; Kafka has no bound.",
        low=1,
        high=INT32_MAX,
    )
    connections_max_idle_ms: int = option(
        10 * _MINUTE_MS, "connections.max.idle.ms", "A connection idle for so long is closed; -1 never.", low=-1
    )
    fetch_max_bytes: int = option(
        55 << 20,
        "fetch.max.bytes",
        "Largest answer to a fetch, whatever the client asks for.",
        low=1024,
        high=INT32_MAX,
    )

    # --- groups
    group_min_session_timeout_ms: int = option(
        6000, "group.min.session.timeout.ms", "Shortest session timeout a member may ask for.", low=1, high=INT32_MAX
    )
    group_max_session_timeout_ms: int = option(
        30 * _MINUTE_MS,
        "group.max.session.timeout.ms",
        "Longest session timeout a member may ask for.",
        low=1,
        high=INT32_MAX,
    )
    group_initial_rebalance_delay_ms: int = option(
        100,
        "group.initial.rebalance.delay.ms",
        "How long an empty group waits for more members before its first rebalance. Kafka waits 3000 ms; one node's "
        "clients start within a moment of each other, and one that comes later costs one more rebalance.",
        low=0,
        high=INT32_MAX,
    )
    group_max_size: int = option(INT32_MAX, "group.max.size", "Members a group may have.", low=1, high=INT32_MAX)
    offsets_retention_minutes: int = option(
        7 * 24 * 60,
        "offsets.retention.minutes",
        "How long the offsets of an empty group, or of a topic it left, are kept.",
        low=1,
        high=INT32_MAX,
    )
    offsets_retention_check_interval_ms: int = option(
        10 * _MINUTE_MS, "offsets.retention.check.interval.ms", "How often old offsets are looked for.", low=1
    )
    offset_metadata_max_bytes: int = option(
        4096, "offset.metadata.max.bytes", "Longest text a client may keep beside an offset.", low=0, high=INT32_MAX
    )

    # --- background work
    log_retention_check_interval_ms: int = option(
        5 * _MINUTE_MS, "log.retention.check.interval.ms", "How often old segments are looked for.", low=1
    )
    log_cleaner_backoff_ms: int = option(
        15_000, "log.cleaner.backoff.ms", "How long compaction sleeps when no topic needs it.", low=1
    )
    producer_id_expiration_ms: int = option(
        _DAY_MS,
        "producer.id.expiration.ms",
        "An idempotent producer silent for so long is forgotten.",
        low=1,
        high=INT32_MAX,
    )

    # --- defaults of topics
    log_cleanup_policy: str = _topic("cleanup.policy", "log.cleanup.policy")
    compression_type: str = _topic("compression.type", "compression.type")
    log_cleaner_delete_retention_ms: int = _topic("delete.retention.ms", "log.cleaner.delete.retention.ms")
    log_segment_delete_delay_ms: int = _topic("file.delete.delay.ms", "log.segment.delete.delay.ms")
    log_flush_interval_messages: int = _topic("flush.messages", "log.flush.interval.messages")
    log_flush_interval_ms: int = _topic("flush.ms", "log.flush.interval.ms")
    log_flush_policy: FlushPolicy = _topic(  # noqa: RUF009 - the default is immutable
        "flush.policy", "log.flush.policy", note="ours"
    )
    log_index_interval_bytes: int = _topic("index.interval.bytes", "log.index.interval.bytes")
    log_cleaner_max_compaction_lag_ms: int = _topic("max.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms")
    message_max_bytes: int = _topic("max.message.bytes", "message.max.bytes")
    log_message_timestamp_after_max_ms: int = _topic(
        "message.timestamp.after.max.ms", "log.message.timestamp.after.max.ms"
    )
    log_message_timestamp_before_max_ms: int = _topic(
        "message.timestamp.before.max.ms", "log.message.timestamp.before.max.ms"
    )
    log_message_timestamp_type: TimestampType = _topic(  # noqa: RUF009 - the default is immutable
        "message.timestamp.type", "log.message.timestamp.type"
    )
    log_cleaner_min_cleanable_ratio: float = _topic("min.cleanable.dirty.ratio", "log.cleaner.min.cleanable.ratio")
    log_cleaner_min_compaction_lag_ms: int = _topic("min.compaction.lag.ms", "log.cleaner.min.compaction.lag.ms")
    min_insync_replicas: int = _topic("min.insync.replicas", "min.insync.replicas")
    log_retention_bytes: int = _topic("retention.bytes", "log.retention.bytes")
    log_retention_ms: int | None = _topic("retention.ms", "log.retention.ms", default=None)
    log_retention_minutes: int | None = _topic(
        "retention.ms", "log.retention.minutes", default=None, high=INT32_MAX, scale=_MINUTE_MS, note="in minutes"
    )
    log_retention_hours: int = _topic(
        "retention.ms", "log.retention.hours", default=168, high=INT32_MAX, scale=_HOUR_MS, note="in hours"
    )
    log_segment_bytes: int = _topic("segment.bytes", "log.segment.bytes")
    log_index_size_max_bytes: int = _topic("segment.index.bytes", "log.index.size.max.bytes")
    log_roll_jitter_ms: int | None = _topic("segment.jitter.ms", "log.roll.jitter.ms", default=None)
    log_roll_jitter_hours: int = _topic(
        "segment.jitter.ms", "log.roll.jitter.hours", high=INT32_MAX, scale=_HOUR_MS, note="in hours"
    )
    log_roll_ms: int | None = _topic("segment.ms", "log.roll.ms", default=None)
    log_roll_hours: int = _topic(
        "segment.ms", "log.roll.hours", default=168, high=INT32_MAX, scale=_HOUR_MS, note="in hours"
    )

    def __post_init__(self) -> None:
        """Raises `InvalidConfig` when two options contradict each other."""
        if self.group_min_session_timeout_ms > self.group_max_session_timeout_ms:
            raise InvalidConfig(
                f"group.min.session.timeout.ms={self.group_min_session_timeout_ms} is above "
                f"group.max.session.timeout.ms={self.group_max_session_timeout_ms}",
                hint="raise the one or lower the other",
            )
        if self.num_partitions > self.max_partitions_per_topic:
            raise InvalidConfig(
                f"num.partitions={self.num_partitions} is above "
                f"max.partitions.per.topic={self.max_partitions_per_topic}",
                hint="raise the one or lower the other",
            )

    def topic_defaults(self) -> TopicConfig:
        """What a topic has of every option it does not set itself."""
        changes: dict[str, Any] = {}
        for attribute, known in BROKER_OPTIONS.values():
            value = getattr(self, attribute)
            if known.topic and value is not None:
                scaled = value * known.scale if known.scale > 1 and value > 0 else value
                changes.setdefault(OPTIONS[known.topic][0], scaled)
        return replace(TopicConfig(), **changes)


BROKER_OPTIONS: Final[Table] = table_of(BrokerConfig)

ALIASES: Final[Mapping[str, str]] = {"broker.id": "node.id", "log.flush.scheduler.interval.ms": "log.flush.interval.ms"}
"""Another name Kafka knows for an option -> the option's name in `BROKER_OPTIONS`."""


class BrokerOption(NamedTuple):
    """One option as DescribeConfigs shows it; an unset value is None."""

    name: str
    value: str | None
    is_default: bool
    help: str


def describe(config: BrokerConfig) -> Iterator[BrokerOption]:
    """Every option of the table with its value in `config`, in the order of the table."""
    for name, (attribute, known) in BROKER_OPTIONS.items():
        value = getattr(config, attribute)
        shown = None if value is None else format_value(known, value)
        yield BrokerOption(name, shown, value == known.default, known.help)


def parse_broker_config(values: Mapping[str, str], base: BrokerConfig | None = None) -> BrokerConfig:
    """`base` (or the defaults) with `values` applied. Raises `InvalidConfig`: unknown name, or value off bounds."""
    return parse_options({ALIASES.get(k, k): v for k, v in values.items()}, base or BrokerConfig(), BROKER_OPTIONS)


_SECURITY_BEGINNINGS: Final = ("ssl.", "sasl.", "authorizer.", "delegation.token.", "super.users", "security.providers")
"""Kafka's keys for encryption, authentication, authorisation: ignoring one would open what its writer meant to shut."""

_UNUSED: Final = """
    alter.config.policy. alter.log.dirs. auto.include. auto.leader. background.threads broker.heartbeat.
    broker.id.generation.enable broker.rack broker.session. client.metrics. client.quota. compression.gzip.level
    compression.lz4.level compression.zstd.level config.providers confluent. connection.failed. controlled.shutdown.
    controller. create.topic.policy. delete.records.purgatory. early.start. eligible.leader. fetch.purgatory.
    follower. group.consumer. group.coordinator. group.share. group.streams. initial.broker.registration.
    inter.broker. internal. kafka.metrics. leader.imbalance. listener.name. listener.security.protocol.map
    log.cleaner.dedupe.buffer.size log.cleaner.enable log.cleaner.io. log.cleaner.threads log.deletion.
    log.dir.failure.timeout.ms log.flush.offset. log.flush.start. log.initial.task.delay.ms log.local.retention.
    log.message.downconversion.enable log.message.format.version log.message.timestamp.difference.max.ms
    log.preallocate max.connection.creation.rate max.connections.per. max.incremental.fetch. max.request.partition.
    metadata. metric.reporters metrics. node.close. num.io.threads num.network.threads
    num.recovery.threads.per.data.dir num.replica. offsets.commit. offsets.load. offsets.topic. password.encoder.
    process.roles producer.id.expiration.check. producer.purgatory. queued.max. quota. remote. replica.
    request.timeout.ms reserved.broker. sasl.mechanism.controller. sasl.mechanism.inter.broker.
    security.inter.broker. server.max. share. socket.connection. socket.listen. socket.receive.buffer.bytes
    socket.send.buffer.bytes streams. telemetry. transaction. transactional. unclean.leader. unstable. zookeeper.
""".split()  # noqa: SIM905 - a block of words reads better than ninety quoted ones
"""Keys that Kafka, or a distribution of it, reads and this node has no use for: whole, or the beginning up to a dot."""

_UNUSED_BEGINNINGS: Final = tuple(key for key in _UNUSED if key.endswith("."))


def is_unused(key: str) -> bool:
    """Whether `key` is one of Kafka's that means nothing on this node."""
    return key not in BROKER_OPTIONS and (key in _UNUSED or key.startswith(_UNUSED_BEGINNINGS))


def is_security(key: str) -> bool:
    """Whether Kafka would encrypt, authenticate or authorise because of `key`."""
    return key.startswith(_SECURITY_BEGINNINGS) and not is_unused(key)


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What `logstore serve` was told, checked.

    Addresses are (host, port); port 0 is any free one. `http` None: no HTTP. `advertise` None: the address listened on.
    """

    data_dir: Path
    kafka: tuple[str, int]
    http: tuple[str, int] | None
    advertise: tuple[str, int] | None
    broker: BrokerConfig

"""Options as tables: Kafka's names, types, units, defaults and bounds; the table of a topic's options.

A frozen dataclass whose fields are made by `option` is a table. `parse_options` turns the `name=value` strings that
every door hands in into an instance and refuses an unknown name with the nearest known one; `format_value` goes back.
`TopicConfig` is what the log reads (typed, units last); the broker's table is `cluster.config.BrokerConfig`. Source of
names and defaults: Apache Kafka's topic configuration page; `flush.policy` is ours.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final, TypeAlias, TypeVar

from logstore.errors import InvalidConfig
from logstore.types import TimestampType

INT32_MAX: Final = 2**31 - 1
INT64_MAX: Final = 2**63 - 1
_DAY_MS: Final = 24 * 60 * 60 * 1000


class FlushPolicy(StrEnum):
    """When appended bytes are fsynced: before an `acks=all` reply, every `flush.ms`, or when the system likes."""

    ACKS = "acks"
    INTERVAL = "interval"
    OS = "os"


@dataclass(frozen=True, slots=True)
class Option:
    """What a table knows of one option: Kafka's name, a line of help, bounds, accepted words, type and default.

    `topic` names the topic option that this broker option is the default of, in units of `scale` of that option's.
    """

    name: str
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    kind: type = int
    default: object = None
    topic: str = ""
    scale: int = 1


Table: TypeAlias = Mapping[str, tuple[str, Option]]
"""Kafka's name of each option -> (attribute of the dataclass, what the table knows), in the order of the fields."""

C = TypeVar("C")


def option(default: Any, name: str, help: str, **more: Any) -> Any:  # noqa: A002 - the option's help text
    """A dataclass field that is an option. `default=None` means a whole number that may be unset."""
    kind = int if default is None else type(default)
    return field(default=default, metadata={"option": Option(name, help, kind=kind, default=default, **more)})


def table_of(cls: Any) -> Table:
    """The table of a dataclass whose fields were made by `option`."""
    return {f.metadata["option"].name: (f.name, f.metadata["option"]) for f in fields(cls) if "option" in f.metadata}


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """The options of one topic. Immutable: altering makes a new one."""

    cleanup_policy: str = option(
        "delete", "cleanup.policy", "What happens to old records.", choices=("delete", "compact", "compact,delete")
    )
    compression_type: str = option(
        "producer",
        "compression.type",
        "Codec of stored batches; `producer` keeps what came.",
        choices=("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"),
    )
    delete_retention_ms: int = option(
        _DAY_MS, "delete.retention.ms", "How long tombstones of a compacted topic stay readable.", low=0
    )
    file_delete_delay_ms: int = option(
        60_000, "file.delete.delay.ms", "How long a segment's files stay after they left the log.", low=0
    )
    flush_messages: int = option(
        INT64_MAX, "flush.messages", "Force an fsync after so many records; the default never does.", low=1
    )
    flush_ms: int = option(INT64_MAX, "flush.ms", "Force an fsync after so long; the default never does.", low=0)
    flush_policy: FlushPolicy = option(
        FlushPolicy.ACKS,
        "flush.policy",
        "`acks`: fsync before an acks=all reply; `interval`: every flush.ms; `os`: never forced.",
        choices=tuple(FlushPolicy),
    )
    index_interval_bytes: int = option(
        4096, "index.interval.bytes", "Bytes of log between two index entries.", low=0, high=INT32_MAX
    )
    max_compaction_lag_ms: int = option(
        INT64_MAX, "max.compaction.lag.ms", "A record is compacted at the latest after so long.", low=1
    )
    max_message_bytes: int = option(
        1_048_588, "max.message.bytes", "Largest record batch taken, in bytes.", low=0, high=INT32_MAX
    )
    message_timestamp_after_max_ms: int = option(
        3_600_000,
        "message.timestamp.after.max.ms",
        "How far a record's timestamp may lie in the future.",
        low=0,
    )
    message_timestamp_before_max_ms: int = option(
        INT64_MAX, "message.timestamp.before.max.ms", "How far a record's timestamp may lie in the past.", low=0
    )
    message_timestamp_type: TimestampType = option(
        TimestampType.CREATE_TIME,
        "message.timestamp.type",
        "Whose clock stamps records.",
        choices=("CreateTime", "LogAppendTime"),
    )
    min_cleanable_dirty_ratio: float = option(
        0.5, "min.cleanable.dirty.ratio", "Share of uncompacted bytes that starts a compaction.", low=0, high=1
    )
    min_compaction_lag_ms: int = option(
        0, "min.compaction.lag.ms", "A record stays uncompacted for at least so long.", low=0
    )
    min_insync_replicas: int = option(
        1, "min.insync.replicas", "Replicas that must hold a record before acks=all; one node has one.", low=1
    )
    retention_bytes: int = option(-1, "retention.bytes", "Largest size of a partition; -1 is no bound.", low=-1)
    retention_ms: int = option(7 * _DAY_MS, "retention.ms", "How long records stay; -1 is for ever.", low=-1)
    segment_bytes: int = option(
        1 << 30, "segment.bytes", "Size at which a new segment is begun.", low=1024, high=INT32_MAX
    )
    segment_index_bytes: int = option(
        10 << 20, "segment.index.bytes", "Largest size of a segment's offset index.", low=16, high=INT32_MAX
    )
    segment_jitter_ms: int = option(0, "segment.jitter.ms", "Largest random part taken off segment.ms.", low=0)
    segment_ms: int = option(7 * _DAY_MS, "segment.ms", "Age at which a new segment is begun.", low=1)


OPTIONS: Final[Table] = table_of(TopicConfig)

_TIMESTAMP_TYPE_WORDS: Final = {"CreateTime": TimestampType.CREATE_TIME, "LogAppendTime": TimestampType.LOG_APPEND_TIME}
_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": _DAY_MS}
_UNITS_BYTES: Final = {
    "b": 1, "kb": 1000, "mb": 10**6, "gb": 10**9, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
}  # fmt: skip
_QUANTITY: Final = re.compile(r"(-?\d+)\s*([a-zA-Z]*)")


def parse_quantity(name: str, text: str) -> int:
    """A whole number, bare or with the unit its option's name ends in: `7d` for `….ms`, `64MiB` for `….bytes`.

    Raises `InvalidConfig` naming the option, the value and an accepted example.
    """
    units: Mapping[str, int] = {}
    example = "3"
    if name.endswith(".ms"):
        units, example = _UNITS_MS, "7d"
    elif name.endswith(".bytes"):
        units, example = _UNITS_BYTES, "64MiB"
    match = _QUANTITY.fullmatch(text.strip())
    unit = match[2].lower() if match else ""
    if match is None or (unit and unit not in units):
        raise InvalidConfig(f"{name}={text} is not a whole number", hint=f"write for example {name}={example}")
    return int(match[1]) * (units[unit] if unit else 1)


def parse_options(values: Mapping[str, str], base: C, table: Table) -> C:
    """`base`, an instance of the dataclass `table` was made of, with `values` applied.

    Raises `InvalidConfig`: an unknown name, or a value off its type or bounds.
    """
    changes: dict[str, Any] = {}
    for name, text in values.items():
        if name not in table:
            raise unknown_option(name, table)
        attribute, known = table[name]
        changes[attribute] = parse_value(known, text)
    return replace(base, **changes) if changes else base  # type: ignore[type-var]  # C is a dataclass: it has a table


def parse_topic_config(values: Mapping[str, str], base: TopicConfig | None = None) -> TopicConfig:
    """`base` (or the defaults) with `values` applied. Raises `InvalidConfig`: unknown name, or value off bounds."""
    return parse_options(values, base or TopicConfig(), OPTIONS)


def unknown_option(name: str, known: Iterable[str]) -> InvalidConfig:
    near = nearest(name, known)
    hint = f"did you mean {near}?" if near else "see docs/configuration.md for the known names"
    return InvalidConfig(f"unknown option {name}", hint=hint)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`; None when nothing is close."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return near[0] if near else None


def format_option(config: TopicConfig, name: str) -> str:
    """The value of topic option `name` as Kafka writes it."""
    attribute, known = OPTIONS[name]
    return format_value(known, getattr(config, attribute))


def format_value(known: Option, value: object) -> str:
    """A value as Kafka writes it: `true`, `CreateTime`, whole numbers in the base unit; unset is the empty text."""
    if isinstance(value, TimestampType):
        return known.choices[value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def parse_value(known: Option, text: str) -> Any:
    """One value of its option's type and within its bounds. Raises `InvalidConfig` with an accepted example."""
    if known.choices:
        word = ",".join(sorted(part.strip() for part in text.split(",")))
        if word not in known.choices:
            raise InvalidConfig(f"{known.name}={text} is not known", hint="choose " + " or ".join(known.choices))
        return _TIMESTAMP_TYPE_WORDS[word] if known.kind is TimestampType else known.kind(word)
    if known.kind is bool:
        if text.strip().lower() not in ("true", "false"):
            raise InvalidConfig(f"{known.name}={text} is not a truth value", hint="choose true or false")
        return text.strip().lower() == "true"
    if known.kind is str:
        return text
    if known.kind is float:
        try:
            number: float = float(text)
        except ValueError:
            raise InvalidConfig(f"{known.name}={text} is not a number", hint="write for example 0.5") from None
    else:
        number = parse_quantity(known.name, text)
    high = INT64_MAX if known.high is None else known.high
    if (known.low is not None and number < known.low) or number > high or number != number:
        raise InvalidConfig(f"{known.name}={text} is out of bounds", hint=f"between {known.low} and {high}")
    return number

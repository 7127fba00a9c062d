"""Topic options: Kafka's names, types, units, defaults and bounds, in one table.

`TopicConfig` is what the log reads (typed, units last); `parse_topic_config` turns the `name=value` strings that every
door hands in into one, and refuses an unknown name with the nearest known one. Source of names and defaults: Apache
Kafka's topic configuration page; `flush.policy` is ours (docs/design/durability.md).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

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
    """What the table knows of one option beyond its default: Kafka's name, a line of help, bounds, accepted words."""

    name: str
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


def _option(default: Any, name: str, help: str, **more: Any) -> Any:  # noqa: A002 - the option's help text
    return field(default=default, metadata={"option": Option(name, help, **more)})


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """The options of one topic. Immutable: altering makes a new one."""

    cleanup_policy: str = _option(
        "delete", "cleanup.policy", "What happens to old records.", choices=("delete", "compact", "compact,delete")
    )
    compression_type: str = _option(
        "producer",
        "compression.type",
        "Codec of stored batches; `producer` keeps what came.",
        choices=("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"),
    )
    delete_retention_ms: int = _option(
        _DAY_MS, "delete.retention.ms", "How long tombstones of a compacted topic stay readable.", low=0
    )
    file_delete_delay_ms: int = _option(
        60_000, "file.delete.delay.ms", "How long a segment's files stay after they left the log.", low=0
    )
    flush_messages: int = _option(
        INT64_MAX, "flush.messages", "Force an fsync after so many records; the default never does.", low=1
    )
    flush_ms: int = _option(INT64_MAX, "flush.ms", "Force an fsync after so long; the default never does.", low=0)
    flush_policy: FlushPolicy = _option(
        FlushPolicy.ACKS,
        "flush.policy",
        "`acks`: fsync before an acks=all reply; `interval`: every flush.ms; `os`: never forced.",
        choices=tuple(FlushPolicy),
    )
    index_interval_bytes: int = _option(
        4096, "index.interval.bytes", "Bytes of log between two index entries.", low=0, high=INT32_MAX
    )
    max_compaction_lag_ms: int = _option(
        INT64_MAX, "max.compaction.lag.ms", "A record is compacted at the latest after so long.", low=1
    )
    max_message_bytes: int = _option(
        1_048_588, "max.message.bytes", "Largest record batch taken, in bytes.", low=0, high=INT32_MAX
    )
    message_timestamp_after_max_ms: int = _option(
        3_600_000,
        "message.timestamp.after.max.ms",
        "How far a record's timestamp may lie in the future.",
        low=0,
    )
    message_timestamp_before_max_ms: int = _option(
        INT64_MAX, "message.timestamp.before.max.ms", "How far a record's timestamp may lie in the past.", low=0
    )
    message_timestamp_type: TimestampType = _option(
        TimestampType.CREATE_TIME,
        "message.timestamp.type",
        "Whose clock stamps records.",
        choices=("CreateTime", "LogAppendTime"),
    )
    min_cleanable_dirty_ratio: float = _option(
        0.5, "min.cleanable.dirty.ratio", "Share of uncompacted bytes that starts a compaction.", low=0, high=1
    )
    min_compaction_lag_ms: int = _option(
        0, "min.compaction.lag.ms", "A record stays uncompacted for at least so long.", low=0
    )
    min_insync_replicas: int = _option(
        1, "min.insync.replicas", "Replicas that must hold a record before acks=all; one node has one.", low=1
    )
    retention_bytes: int = _option(-1, "retention.bytes", "Largest size of a partition; -1 is no bound.", low=-1)
    retention_ms: int = _option(7 * _DAY_MS, "retention.ms", "How long records stay; -1 is for ever.", low=-1)
    segment_bytes: int = _option(
        1 << 30, "segment.bytes", "Size at which a new segment is begun.", low=1024, high=INT32_MAX
    )
    segment_index_bytes: int = _option(
        10 << 20, "segment.index.bytes", "Largest size of a segment's offset index.", low=16, high=INT32_MAX
    )
    segment_jitter_ms: int = _option(0, "segment.jitter.ms", "Largest random part taken off segment.ms.", low=0)
    segment_ms: int = _option(7 * _DAY_MS, "segment.ms", "Age at which a new segment is begun.", low=1)


OPTIONS: Final[Mapping[str, tuple[str, Option]]] = {
    f.metadata["option"].name: (f.name, f.metadata["option"]) for f in fields(TopicConfig)
}
"""Kafka's name of each option -> (attribute of `TopicConfig`, what the table knows)."""

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
    units = _UNITS_MS if name.endswith(".ms") else _UNITS_BYTES if name.endswith(".bytes") else {}
    match = _QUANTITY.fullmatch(text.strip())
    unit = match[2].lower() if match else ""
    if match is None or (unit and unit not in units):
        example = {".ms": "7d", "ytes": "64MiB"}.get(name[-3:] if units is _UNITS_MS else name[-4:], "3")
        raise InvalidConfig(f"{name}={text} is not a whole number", hint=f"write for example {name}={example}")
    return int(match[1]) * (units[unit] if unit else 1)


def parse_topic_config(values: Mapping[str, str], base: TopicConfig | None = None) -> TopicConfig:
    """`base` (or the defaults) with `values` applied. Raises `InvalidConfig`: unknown name, or value off bounds."""
    base = base or TopicConfig()
    changes: dict[str, Any] = {}
    for name, text in values.items():
        if name not in OPTIONS:
            raise unknown_option(name, OPTIONS)
        attribute, option = OPTIONS[name]
        changes[attribute] = _parse(option, text, type(getattr(base, attribute)))
    return TopicConfig(**{f.name: changes.get(f.name, getattr(base, f.name)) for f in fields(TopicConfig)})


def unknown_option(name: str, known: Mapping[str, object]) -> InvalidConfig:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "see docs/configuration.md for the known names"
    return InvalidConfig(f"unknown option {name}", hint=hint)


def format_option(config: TopicConfig, name: str) -> str:
    """The value of option `name` as Kafka writes it."""
    value = getattr(config, OPTIONS[name][0])
    if isinstance(value, TimestampType):
        return OPTIONS[name][1].choices[value]
    return str(value)


def _parse(option: Option, text: str, kind: type) -> Any:
    if option.choices:
        word = ",".join(sorted(part.strip() for part in text.split(",")))
        if word not in option.choices:
            raise InvalidConfig(f"{option.name}={text} is not known", hint="choose " + " or ".join(option.choices))
        return _TIMESTAMP_TYPE_WORDS[word] if kind is TimestampType else kind(word)
    if kind is float:
        try:
            number: float = float(text)
        except ValueError:
            raise InvalidConfig(f"{option.name}={text} is not a number", hint="write for example 0.5") from None
    else:
        number = parse_quantity(option.name, text)
    high = INT64_MAX if option.high is None else option.high
    if (option.low is not None and number < option.low) or number > high or number != number:
        raise InvalidConfig(f"{option.name}={text} is out of bounds", hint=f"between {option.low} and {high}")
    return number

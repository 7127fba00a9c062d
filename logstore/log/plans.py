"""When to begin a new segment and which old ones to drop. Pure: facts and options in, decisions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import Final, NamedTuple

from logstore.config import TopicConfig
from logstore.segment.offset_index import ENTRY_BYTES as OFFSET_ENTRY_BYTES
from logstore.segment.time_index import ENTRY_BYTES as TIME_ENTRY_BYTES
from logstore.types import Offset, TimestampMs

RELATIVE_OFFSET_MAX: Final = 2**31 - 1
NEVER_MS: Final[TimestampMs] = 2**63 - 1


class RollLimits(NamedTuple):
    """What the active segment may still hold; the first batch beyond one of these begins a new segment."""

    size_bytes: int
    last_offset: Offset
    index_entries: int
    timestamp_ms: TimestampMs  # of the batch
    clock_ms: TimestampMs  # of this node


def roll_limits(
    config: TopicConfig,
    *,
    base_offset: Offset,
    first_timestamp_ms: TimestampMs,
    opened_ms: TimestampMs,
    jitter_ms: int = 0,
) -> RollLimits:
    """The limits of a segment, by size, offsets, index and age. Source: Kafka's LogSegment.shouldRoll.

    Age is the new batch's timestamp minus that of the segment's first batch, so that replayed history rolls as it did
    live. Without a first timestamp (-1) it is this node's clock since the segment was opened. A clock stepped back
    makes the age negative, which rolls nothing. Both indexes stay within `segment.index.bytes`, and one time entry is
    kept for sealing.
    """
    index_bytes = config.segment_index_bytes
    age_ms_max = max(config.segment_ms - jitter_ms, 0)
    has_timestamp = first_timestamp_ms >= 0
    return RollLimits(
        config.segment_bytes,
        base_offset + RELATIVE_OFFSET_MAX,
        max(1, min(index_bytes // OFFSET_ENTRY_BYTES, index_bytes // TIME_ENTRY_BYTES - 1)),
        first_timestamp_ms + age_ms_max if has_timestamp else NEVER_MS,
        NEVER_MS if has_timestamp else opened_ms + age_ms_max,
    )


def should_roll(
    limits: RollLimits,
    held_bytes: int,
    index_entries: int,
    size_bytes: int,
    last_offset: Offset,
    max_timestamp_ms: TimestampMs,
    now_ms: TimestampMs,
) -> bool:
    """Whether a batch of `size_bytes` that ends at `last_offset` goes to a new segment.

    `held_bytes` and `index_entries`: what the active segment has or is about to get. An empty segment takes any batch
    whose offset it can index: one above `segment.bytes` gets a segment of its own.
    """
    size_bytes_max, last_offset_max, index_entries_max, timestamp_ms_max, clock_ms_max = limits
    if last_offset > last_offset_max:
        return True
    return held_bytes > 0 and (
        held_bytes + size_bytes > size_bytes_max
        or max_timestamp_ms > timestamp_ms_max
        or now_ms > clock_ms_max
        or index_entries >= index_entries_max
    )


def should_roll_idle(
    config: TopicConfig, *, size_bytes: int, opened_ms: TimestampMs, jitter_ms: int, now_ms: TimestampMs
) -> bool:
    """Whether a segment nobody appends to is old enough to be sealed, by this node's clock alone."""
    return size_bytes > 0 and now_ms - opened_ms > config.segment_ms - jitter_ms


class SegmentFacts(NamedTuple):
    """One segment as retention sees it."""

    next_offset: Offset  # exclusive
    size_bytes: int


def count_to_drop(
    segments: Sequence[SegmentFacts],
    max_timestamp_ms_of: Callable[[int], TimestampMs],
    config: TopicConfig,
    *,
    log_start_offset: Offset,
    now_ms: TimestampMs,
) -> int:
    """How many of the oldest segments leave the log.

    Args: `segments`, all of them, oldest first, the active one last. `max_timestamp_ms_of` a segment by index (its
        file's modification time if no record has one), asked only as far as needed: it may read an index.
    Three reasons, each a prefix: all records lie below the log start offset; or, unless the topic is only compacted,
    the largest timestamp is older than `retention.ms`, or without the segment `retention.bytes` are still held.
    The result may count the active segment, which the caller then seals first. Source: Kafka's
    UnifiedLog.deleteOldSegments.
    """
    below_start = _prefix(segment.next_offset <= log_start_offset for segment in segments[:-1])
    if "delete" not in config.cleanup_policy:
        return below_start
    too_old = too_many = 0
    if config.retention_ms >= 0:
        oldest_ms = now_ms - config.retention_ms
        too_old = _prefix(s.size_bytes > 0 and max_timestamp_ms_of(i) < oldest_ms for i, s in enumerate(segments))
    if config.retention_bytes >= 0:
        surplus = sum(segment.size_bytes for segment in segments) - config.retention_bytes
        for segment in segments[:-1]:
            surplus -= segment.size_bytes
            if surplus < 0:
                break
            too_many += 1
    return max(below_start, too_old, too_many)


def _prefix(flags: Iterable[bool]) -> int:
    """How many flags are true before the first that is not."""
    return sum(1 for _ in takewhile(bool, flags))

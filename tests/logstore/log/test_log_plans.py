"""When to roll and what to drop, case by case."""

from __future__ import annotations

import pytest

from logstore.config import parse_topic_config
from logstore.log.plans import NEVER_MS, SegmentFacts, count_to_drop, roll_limits, should_roll, should_roll_idle

NOW_MS = 1_700_000_000_000
LIMITS = roll_limits(
    parse_topic_config({"segment.bytes": "1024", "segment.ms": "1000", "segment.index.bytes": "120"}),
    base_offset=100,
    first_timestamp_ms=NOW_MS,
    opened_ms=NOW_MS,
)


@pytest.mark.parametrize(
    ("held", "entries", "size", "last_offset", "timestamp_ms", "rolls"),
    [
        (0, 0, 5000, 100, NOW_MS, False),  # an empty segment takes any batch
        (1000, 0, 24, 100, NOW_MS, False),
        (1000, 0, 25, 100, NOW_MS, True),
        (1000, 8, 1, 100, NOW_MS, False),
        (1000, 9, 1, 100, NOW_MS, True),  # 120 bytes: ten time entries, one kept for sealing
        (1000, 0, 1, 100, NOW_MS + 1000, False),
        (1000, 0, 1, 100, NOW_MS + 1001, True),
        (1000, 0, 1, 100, NOW_MS - 10**9, False),  # the producer's clock stepped back
        (1000, 0, 1, 100 + 2**31 - 1, NOW_MS, False),
        (1000, 0, 1, 100 + 2**31, NOW_MS, True),
        (0, 0, 1, 100 + 2**31, NOW_MS, True),  # even an empty one: no index entry could hold it
    ],
)
def test_a_batch_begins_a_new_segment(
    held: int, entries: int, size: int, last_offset: int, timestamp_ms: int, rolls: bool
) -> None:
    assert should_roll(LIMITS, held, entries, size, last_offset, timestamp_ms, NOW_MS + 10**9) is rolls


def test_without_timestamps_the_nodes_clock_counts() -> None:
    limits = roll_limits(
        parse_topic_config({"segment.ms": "1000"}),
        base_offset=0,
        first_timestamp_ms=-1,
        opened_ms=NOW_MS,
        jitter_ms=100,
    )
    assert limits.timestamp_ms == NEVER_MS
    assert not should_roll(limits, 10, 0, 10, 5, NEVER_MS, NOW_MS + 900)
    assert should_roll(limits, 10, 0, 10, 5, -1, NOW_MS + 901)
    assert not should_roll(limits, 10, 0, 10, 5, -1, NOW_MS - 10**9)


def test_idle_segments_roll_unless_empty() -> None:
    config = parse_topic_config({"segment.ms": "1000"})
    for size_bytes, age_ms, rolls in ((10, 1000, False), (10, 1001, True), (0, 10**9, False), (10, -(10**9), False)):
        now_ms = NOW_MS + age_ms
        assert should_roll_idle(config, size_bytes=size_bytes, opened_ms=NOW_MS, jitter_ms=0, now_ms=now_ms) is rolls


FIVE = [SegmentFacts(next_offset=10 * n, size_bytes=100 if n < 5 else 50) for n in range(1, 6)]


@pytest.mark.parametrize(
    ("options", "log_start_offset", "ages_ms", "dropped"),
    [
        ({"retention.ms": "-1"}, 0, [9, 9, 9, 9, 9], 0),
        ({"retention.ms": "5"}, 0, [9, 9, 5, 9, 9], 2),  # a prefix only: a young segment shields those behind it
        ({"retention.ms": "5"}, 0, [9, 9, 9, 9, 9], 5),  # the active one too
        ({"retention.ms": "-1", "retention.bytes": "450"}, 0, [0] * 5, 0),
        ({"retention.ms": "-1", "retention.bytes": "351"}, 0, [0] * 5, 0),
        ({"retention.ms": "-1", "retention.bytes": "350"}, 0, [0] * 5, 1),
        ({"retention.ms": "-1", "retention.bytes": "0"}, 0, [0] * 5, 4),
        ({"retention.ms": "-1"}, 29, [0] * 5, 2),
        ({"retention.ms": "-1"}, 50, [0] * 5, 4),
        ({"cleanup.policy": "compact", "retention.ms": "5", "retention.bytes": "0"}, 10, [9] * 5, 1),
        ({"cleanup.policy": "compact,delete", "retention.ms": "5"}, 0, [9, 0, 0, 0, 0], 1),
    ],
)
def test_what_retention_drops(options: dict[str, str], log_start_offset: int, ages_ms: list[int], dropped: int) -> None:
    count = count_to_drop(
        FIVE,
        lambda index: NOW_MS - ages_ms[index],
        parse_topic_config(options),
        log_start_offset=log_start_offset,
        now_ms=NOW_MS,
    )
    assert count == dropped


def test_timestamps_are_asked_only_as_far_as_needed() -> None:
    asked: list[int] = []

    def young(index: int) -> int:
        asked.append(index)
        return NOW_MS

    assert count_to_drop(FIVE, young, parse_topic_config({}), log_start_offset=0, now_ms=NOW_MS) == 0
    assert asked == [0]


def test_an_empty_active_segment_is_not_dropped_by_age() -> None:
    segments = [*FIVE, SegmentFacts(50, 0)]
    config = parse_topic_config({"retention.ms": "5"})
    assert count_to_drop(segments, lambda _: 0, config, log_start_offset=0, now_ms=NOW_MS) == 5

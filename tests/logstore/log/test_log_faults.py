"""A disk that is full, that will not sync, that will not make files: what stays, what is refused, what comes back."""

from __future__ import annotations

from typing import Any

import pytest

from logstore.errors import DurabilityUnknown, NotWritten

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize("room_bytes", [0, 1, 60, 150, 70_000])
def test_a_full_disk_takes_nothing_of_the_write(harness: Any, encode: Any, room_bytes: int) -> None:
    log = harness.open()
    harness.append(b"kept")
    size = log.size_bytes
    harness.files.room_bytes = room_bytes
    for _ in range(3):
        log.append(encode(b"x" * 50_000), now_ms=NOW_MS)
    with pytest.raises(NotWritten):
        log.write()
    assert (log.log_end_offset, log.high_watermark, log.size_bytes) == (1, 1, size)
    assert (harness.directory / f"{0:020d}.log").stat().st_size == size
    harness.files.room_bytes = None
    assert harness.append(b"next").base_offset == 1
    assert harness.values() == [b"kept", b"next"]


def test_if_the_torn_tail_stays_the_log_is_read_only(harness: Any, encode: Any) -> None:
    log = harness.open()
    harness.append(b"kept")
    harness.files.room_bytes, harness.files.fails_truncate = 30, True
    log.append(encode(b"lost"), now_ms=NOW_MS)
    with pytest.raises(NotWritten):
        log.write()
    harness.files.room_bytes, harness.files.fails_truncate = None, False
    with pytest.raises(DurabilityUnknown):
        log.append(encode(b"more"), now_ms=NOW_MS)
    assert harness.values() == [b"kept"]
    assert not log.close()
    assert harness.open().high_watermark == 1
    assert harness.append(b"again").base_offset == 1


def test_a_roll_that_fails_refuses_its_append_and_keeps_what_was_staged(harness: Any, encode: Any) -> None:
    harness.config = {"segment.bytes": "1024"}
    log = harness.open()
    staged = log.append(encode(b"x" * 900), now_ms=NOW_MS)
    harness.files.fails_create = True
    with pytest.raises(NotWritten):
        log.append(encode(b"y" * 900, producer_id=7, producer_epoch=0, base_sequence=0), now_ms=NOW_MS)
    assert staged.last_offset < log.high_watermark == log.log_end_offset == 1
    assert harness.names(".log") == [f"{0:020d}.log"]
    assert not harness.names(".snapshot")
    harness.files.fails_create = False
    result = harness.append(b"y" * 900, producer_id=7, producer_epoch=0, base_sequence=0)
    assert (result.base_offset, result.duplicate) == (1, False)
    assert harness.names(".log") == [f"{0:020d}.log", f"{1:020d}.log"]


def test_a_write_that_fails_at_a_roll_fails_what_was_staged(harness: Any, encode: Any) -> None:
    harness.config = {"segment.bytes": "1024"}
    log = harness.open()
    staged = log.append(encode(b"x" * 900), now_ms=NOW_MS)
    harness.files.room_bytes = 10
    with pytest.raises(NotWritten):
        log.append(encode(b"y" * 900), now_ms=NOW_MS)
    log.write()
    assert staged.last_offset >= log.high_watermark == log.log_end_offset == 0


def test_after_a_failed_sync_the_log_is_read_only_until_reopened(harness: Any, encode: Any) -> None:
    log = harness.open()
    harness.append(b"synced")
    log.flush()
    harness.append(b"written")
    harness.files.fails_sync = True
    with pytest.raises(DurabilityUnknown):
        log.flush()
    harness.files.fails_sync = False
    assert log.durable_offset == 1
    with pytest.raises(DurabilityUnknown, match="read-only"):
        log.append(encode(b"more"), now_ms=NOW_MS)
    with pytest.raises(DurabilityUnknown):
        log.flush()
    assert harness.values() == [b"synced", b"written"]
    assert not log.close()
    assert harness.open(recovery_point=1).durable_offset == 2


def test_batches_staged_before_a_failed_sync_are_not_written_after_it(harness: Any, encode: Any) -> None:
    log = harness.open()
    harness.append(b"a")
    ticket = log.begin_flush()
    log.append(encode(b"b"), now_ms=NOW_MS)
    harness.files.fails_sync = True
    ticket.sync()
    with pytest.raises(DurabilityUnknown):
        log.finish_flush(ticket)
    with pytest.raises(DurabilityUnknown):
        log.write()
    assert log.log_end_offset == log.high_watermark == 1


def test_a_flush_covers_rolled_segments_and_the_directory(harness: Any) -> None:
    harness.config = {"segment.bytes": "1024"}
    log = harness.open()
    harness.files.synced.clear()
    for _ in range(3):
        harness.append(b"x" * 900)
    first = log.begin_flush()
    harness.append(b"x" * 900)
    second = log.begin_flush()
    second.sync()
    assert sorted(set(harness.files.synced)) == [str(harness.directory / f"{n:020d}.log") for n in range(4)]
    assert log.finish_flush(second) == 4
    first.sync()
    assert log.finish_flush(first) == 4
    assert log.begin_flush() is None


def test_flush_due_follows_the_options(harness: Any) -> None:
    harness.config = {"flush.messages": "3", "flush.ms": "1000"}
    log = harness.open()
    assert not log.flush_due(NOW_MS + 10_000)
    harness.append(b"a", b"b")
    assert not log.flush_due(NOW_MS + 999)
    assert log.flush_due(NOW_MS + 1000)
    harness.append(b"c")
    assert log.flush_due(NOW_MS)
    log.flush()
    assert not log.flush_due(NOW_MS + 10_000)

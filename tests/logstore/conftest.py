"""What the storage tests share: a log in a temporary directory, batches of known content, files that fail on demand."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from logstore.config import parse_topic_config
from logstore.errors import DurabilityUnknown, NotWritten
from logstore.files import OsFiles
from logstore.log.partition_log import PartitionLog
from logstore.record.records import encode_batch
from logstore.types import Buffer, Position, TopicPartition

NOW_MS = 1_700_000_000_000


class FaultyFiles(OsFiles):
    """The real disk, until told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.room_bytes: int | None = None  # left on the disk; None: no bound
        self.fails_sync = False
        self.fails_truncate = False
        self.fails_create = False
        self.synced: list[str] = []

    def open(self, path: str, *, create: bool = False) -> int:
        if create and self.fails_create:
            raise NotWritten(f"cannot write {path}: made to fail")
        return super().open(path, create=create)

    def pwritev(self, handle: int, views: Sequence[Buffer], position: Position, size_bytes: int) -> None:
        if self.room_bytes is not None:
            data = b"".join(views)
            fits = data[: self.room_bytes]
            self.room_bytes -= len(fits)
            super().pwritev(handle, [fits], position, len(fits))
            if len(fits) < len(data):
                raise NotWritten("cannot write: no space left", hint=str(errno.ENOSPC))
            return
        super().pwritev(handle, views, position, size_bytes)

    def truncate(self, handle: int, size_bytes: int) -> None:
        if self.fails_truncate:
            raise NotWritten("cannot truncate: made to fail")
        super().truncate(handle, size_bytes)

    def fdatasync(self, handle: int) -> None:
        if self.fails_sync:
            raise DurabilityUnknown("cannot sync: made to fail")
        self.synced.append(self._paths[handle])
        super().fdatasync(handle)


class ManualClock:
    """A clock that stands still until moved."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.wall_ms = now_ms
        self.steady_ms = 0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic_ms(self) -> int:
        return self.steady_ms

    def advance(self, ms: int) -> None:
        self.wall_ms += ms
        self.steady_ms += ms


class LogHarness:
    """One partition's directory; opens, crashes and reopens the log in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = FaultyFiles()
        self.config: dict[str, str] = {}
        self.log: Any = None  # a PartitionLog once `open` was called

    def open(self, *, clean: bool = False, now_ms: int = NOW_MS, **more: Any) -> PartitionLog:
        config = parse_topic_config(self.config)
        self.log = PartitionLog.open(
            self.files, str(self.directory), TopicPartition("t", 0), config, clean=clean, now_ms=now_ms, **more
        )
        return self.log

    def append(self, *values: bytes, now_ms: int = NOW_MS, timestamp_ms: int | None = None, **more: Any) -> Any:
        """Append and write one batch."""
        stamp_ms = now_ms if timestamp_ms is None else timestamp_ms
        batch = encode_batch([(stamp_ms, None, value, ()) for value in values], **more)
        result = self.log.append(memoryview(batch), now_ms=now_ms)
        self.log.write()
        return result

    def crash(self) -> None:
        """What is written stays, nothing else is saved."""
        self.log.close(clean=False)

    def values(self) -> list[bytes]:
        return [record.value for record in self.log.records(self.log.log_start_offset)]

    def names(self, suffix: str) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir() if path.name.endswith(suffix))


@pytest.fixture
def harness(tmp_path: Path) -> LogHarness:
    return LogHarness(tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def encode() -> Callable[..., memoryview]:
    """`encode(*values, timestamp_ms=…, **options of encode_batch)`: one batch."""

    def build(*values: bytes, timestamp_ms: int = NOW_MS, **more: Any) -> memoryview:
        return memoryview(encode_batch([(timestamp_ms, None, value, ()) for value in values], **more))

    return build

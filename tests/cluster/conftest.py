"""A node on a directory of its own, with virtual time and metadata in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cluster.logs import LocalLogStore
from cluster.testing import VirtualTime
from logstore.clock import SeededChance
from logstore.errors import NotWritten
from logstore.files import OsFiles
from logstore.log.group_commit import GroupCommit
from logstore.store import Store
from logstore.types import Buffer, Position


class FullDisk(OsFiles):
    """The real disk, until `full`: then no byte of a segment can be written."""

    full = False

    def pwritev(self, handle: int, views: Sequence[Buffer], position: Position, size_bytes: int) -> None:
        if self.full:
            raise NotWritten("no space left")
        super().pwritev(handle, views, position, size_bytes)


class LogsBench:
    """`LocalLogStore` over a real directory; the fsync thread's results are taken in by `settle`."""

    def __init__(self, path: Path) -> None:
        self.time = VirtualTime()
        self.files = FullDisk()
        self.store = Store.open(path, files=self.files, clock=self.time, chance=SeededChance(1))
        self.group_commit = GroupCommit(lambda: None)
        self.logs = LocalLogStore(self.store, self.group_commit, self.time, self.time)

    def settle(self) -> None:
        self.group_commit.drain()

    def close(self) -> None:
        self.logs.close()
        self.group_commit.close()
        self.store.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LogsBench]:
    bench = LogsBench(tmp_path / "data")
    yield bench
    bench.close()

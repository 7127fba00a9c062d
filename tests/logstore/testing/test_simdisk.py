"""The simulated disk: each thing the fault model allows does happen, and nothing that was synced is ever lost."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from logstore.clock import SeededChance
from logstore.errors import DirectoryLocked, DurabilityUnknown, NotWritten
from logstore.testing.simdisk import SECTOR_BYTES, PowerLost, SimDisk

PATH = "/d/file"
TRIES = 300


def made(seed: int = 0) -> SimDisk:
    """A disk with the directory /d, whose name is durable."""
    disk = SimDisk(SeededChance(seed))
    disk.mkdir("/d")
    disk.fsync_dir("/")
    return disk


def durable_file(seed: int = 0, data: bytes = b"") -> tuple[SimDisk, int]:
    disk = made(seed)
    handle = disk.open(PATH, create=True)
    disk.pwritev(handle, [data], 0, len(data))
    disk.fdatasync(handle)
    disk.fsync_dir("/d")
    return disk, handle


def write(disk: SimDisk, handle: int, data: bytes, position: int) -> None:
    disk.pwritev(handle, [data], position, len(data))


def outcomes(history: Callable[[int], SimDisk]) -> set[bytes | None]:
    """What the file may be after a crash at the end of `history`; None: it is gone."""
    found: set[bytes | None] = set()
    for seed in range(TRIES):
        disk = history(seed)
        disk.crash()
        found.add(disk.read_file(PATH) if disk.exists(PATH) else None)
    return found


def test_unsynced_writes_are_kept_lost_and_reordered() -> None:
    def history(seed: int) -> SimDisk:
        disk, handle = durable_file(seed)
        write(disk, handle, b"a" * SECTOR_BYTES, 0)
        write(disk, handle, b"b" * SECTOR_BYTES, SECTOR_BYTES)
        return disk

    a, b, zeros = b"a" * SECTOR_BYTES, b"b" * SECTOR_BYTES, bytes(SECTOR_BYTES)
    assert outcomes(history) >= {b"", a, a + b, zeros + b}


def test_the_size_is_kept_without_the_bytes_and_the_bytes_without_the_size() -> None:
    def history(seed: int) -> SimDisk:
        disk, handle = durable_file(seed, b"x" * 10)
        write(disk, handle, b"a" * 600, 10)
        return disk

    found = outcomes(history)
    assert b"x" * 10 + bytes(600) in found
    assert b"x" * 10 in found
    assert all(data is not None and data.startswith(b"x" * 10) for data in found)


def test_a_write_is_torn_between_sectors_and_at_any_byte() -> None:
    def history(seed: int) -> SimDisk:
        disk, handle = durable_file(seed)
        write(disk, handle, b"a" * (3 * SECTOR_BYTES), 0)
        return disk

    found = outcomes(history)
    assert any(data and data.count(b"a") % SECTOR_BYTES for data in found), "cut within a sector"
    middle = slice(SECTOR_BYTES, 2 * SECTOR_BYTES)
    assert any(data and data[middle] == bytes(SECTOR_BYTES) and data[-1:] == b"a" for data in found), "a hole"


def test_an_overwritten_sector_has_any_of_its_contents() -> None:
    def history(seed: int) -> SimDisk:
        disk, handle = durable_file(seed, b"1" * 8)
        write(disk, handle, b"2" * 8, 0)
        write(disk, handle, b"3" * 8, 0)
        return disk

    assert outcomes(history) >= {b"1" * 8, b"2" * 8, b"3" * 8}


def test_a_truncation_is_kept_or_lost() -> None:
    def history(seed: int) -> SimDisk:
        disk, handle = durable_file(seed, b"0123456789")
        disk.truncate(handle, 4)
        return disk

    assert outcomes(history) == {b"0123456789", b"0123", b"0123" + bytes(6)}


def test_a_synced_file_with_a_synced_name_is_never_lost() -> None:
    chance = random.Random(1)
    for seed in range(TRIES):
        disk, handle = durable_file(seed)
        size = 0
        for _ in range(chance.randint(1, 6)):
            write(disk, handle, chance.randbytes(chance.randint(1, 2000)), chance.randint(0, size))
            size = disk.size(PATH)
            if chance.random() < 0.3:
                size = chance.randint(0, size)
                disk.truncate(handle, size)
        disk.fdatasync(handle)
        synced = disk.read_file(PATH)
        for _ in range(3):  # what it found, it keeps
            disk.crash()
            assert disk.read_file(PATH) == synced


def test_bytes_synced_outlive_later_writes_beside_them() -> None:
    for seed in range(TRIES):
        disk, handle = durable_file(seed, b"k" * 700)
        write(disk, handle, b"n" * 900, 700)
        disk.crash()
        assert disk.read_file(PATH)[:700] == b"k" * 700


def test_a_name_is_lost_although_the_content_was_synced() -> None:
    def history(seed: int) -> SimDisk:
        disk = made(seed)
        handle = disk.open(PATH, create=True)
        write(disk, handle, b"data", 0)
        disk.fdatasync(handle)
        return disk

    assert outcomes(history) == {b"data", None}


def test_a_removal_and_a_rename_are_kept_or_undone() -> None:
    def removed(seed: int) -> SimDisk:
        disk, _ = durable_file(seed, b"data")
        disk.remove(PATH)
        return disk

    def renamed(seed: int) -> SimDisk:
        disk, _ = durable_file(seed, b"data")
        disk.rename(PATH, "/d/other")
        return disk

    assert outcomes(removed) == {b"data", None}
    assert outcomes(renamed) == {b"data", None}
    for seed in range(TRIES):
        disk = renamed(seed)
        disk.crash()
        assert disk.exists(PATH) != disk.exists("/d/other"), "a rename is one"


def test_names_are_reordered_but_not_those_of_one_name() -> None:
    seen: set[tuple[bool, bool]] = set()
    for seed in range(TRIES):
        disk = made(seed)
        for path in ("/d/a", "/d/b"):
            disk.close(disk.open(path, create=True))
        disk.remove("/d/a")
        disk.crash()
        seen.add((disk.exists("/d/a"), disk.exists("/d/b")))
    assert seen == {(False, False), (True, False), (False, True), (True, True)}


def test_synced_names_are_never_lost() -> None:
    for seed in range(TRIES):
        disk, _ = durable_file(seed, b"data")
        disk.rename(PATH, "/d/other")
        disk.fsync_dir("/d")
        disk.crash()
        assert disk.listdir("/d") == ["other"]


def test_a_directory_that_is_lost_takes_what_is_in_it() -> None:
    seen = set()
    for seed in range(TRIES):
        disk = SimDisk(SeededChance(seed))
        disk.mkdir("/d")
        handle = disk.open(PATH, create=True)
        disk.fdatasync(handle)
        disk.fsync_dir("/d")
        disk.crash()
        seen.add(disk.exists(PATH))
        assert disk.exists("/d") == disk.exists(PATH)
    assert seen == {True, False}


def test_a_file_written_whole_with_sync_is_old_or_new_until_it_returns_and_new_then() -> None:
    found: set[bytes] = set()
    for seed in range(TRIES):
        disk, _ = durable_file(seed, b"old")
        disk.lose_power_after(seed % 6)
        finished = False
        try:
            disk.write_file(PATH, b"new")
            finished = True
        except (PowerLost, DurabilityUnknown):
            pass
        disk.crash()
        found.add(disk.read_file(PATH))
        assert not finished or disk.read_file(PATH) == b"new"
    assert found == {b"old", b"new"}


def test_a_file_written_whole_without_sync_may_be_empty_or_torn() -> None:
    def history(seed: int) -> SimDisk:
        disk, _ = durable_file(seed, b"old")
        disk.write_file(PATH, b"newer", sync=False)
        return disk

    found = outcomes(history)
    assert found >= {b"old", b"newer", b""}
    assert any(data and data != b"newer" and b"newer".startswith(data) for data in found)


def test_after_a_failed_sync_a_later_success_proves_nothing_but_a_new_write_does() -> None:
    lost = 0
    for seed in range(TRIES):
        disk, handle = durable_file(seed, b"old")
        write(disk, handle, b"new", 0)
        disk.fail("fdatasync")
        with pytest.raises(DurabilityUnknown):
            disk.fdatasync(handle)
        disk.fdatasync(handle)
        assert disk.read_file(PATH) == b"new", "the page is still there"
        if seed % 2:
            write(disk, handle, b"new", 0)
            disk.fdatasync(handle)
        disk.crash()
        lost += disk.read_file(PATH) == b"old"
        assert seed % 2 == 0 or disk.read_file(PATH) == b"new"
    assert 0 < lost < TRIES // 2


def test_a_kill_keeps_everything_and_syncs_nothing() -> None:
    def history(seed: int) -> SimDisk:
        disk, handle = durable_file(seed, b"old")
        write(disk, handle, b"new", 0)
        disk.kill()
        assert disk.read_file(PATH) == b"new"
        with pytest.raises(NotWritten):
            write(disk, handle, b"x", 0)
        return disk

    found = outcomes(history)
    assert found >= {b"old", b"new"}
    assert all(data and len(data) == 3 for data in found)


def test_a_full_disk_takes_what_fits() -> None:
    disk, handle = durable_file()
    disk.room_bytes = 5
    with pytest.raises(NotWritten, match="No space"):
        disk.pwritev(handle, [b"0123", b"4567"], 0, 8)
    assert disk.read_file(PATH) == b"01234"
    with pytest.raises(NotWritten):
        disk.write_file("/d/small", b"x")
    assert disk.listdir("/d") == ["file"]
    disk.heal()
    disk.write_file("/d/small", b"x")


@pytest.mark.parametrize("operation", ["open", "write", "truncate", "rename", "mkdir", "fdatasync", "fsync_dir"])
def test_what_is_asked_to_fail_fails_once(operation: str) -> None:
    disk, handle = durable_file(0, b"data")
    calls: dict[str, Callable[[], object]] = {
        "open": lambda: disk.open("/d/new", create=True),
        "write": lambda: write(disk, handle, b"x", 0),
        "truncate": lambda: disk.truncate(handle, 1),
        "rename": lambda: disk.rename(PATH, "/d/other"),
        "mkdir": lambda: disk.mkdir("/d/e"),
        "fdatasync": lambda: disk.fdatasync(handle),
        "fsync_dir": lambda: disk.fsync_dir("/d"),
    }
    disk.fail(operation)  # type: ignore[arg-type]  # one of its words
    with pytest.raises(DurabilityUnknown if "sync" in operation else NotWritten):
        calls[operation]()
    calls[operation]()


def test_power_is_lost_amid_a_call_and_stays_lost_until_the_crash() -> None:
    disk, handle = durable_file(0, b"data")
    disk.lose_power_after(1)
    write(disk, handle, b"more", 4)
    with pytest.raises(PowerLost):
        write(disk, handle, b"x", 8)
    with pytest.raises(PowerLost):
        disk.pread(handle, 1, 0)
    with pytest.raises(DurabilityUnknown):
        disk.fdatasync(handle)
    disk.crash()
    assert disk.read_file(PATH).startswith(b"data")


def test_handles_locks_and_maps() -> None:
    disk, handle = durable_file(0, b"data")
    view = disk.map(handle)
    write(disk, handle, b"more", 4)
    assert bytes(view) == b"data"
    assert disk.pread(handle, 100, 2) == b"tamore"
    reader = disk.open(PATH)
    with pytest.raises(NotWritten):
        write(disk, reader, b"x", 0)
    disk.remove(PATH)
    assert disk.pread(reader, 4, 0) == b"data", "an open file outlives its name"
    with pytest.raises(FileNotFoundError):
        disk.open(PATH)
    lock = disk.lock("/d/.lock")
    with pytest.raises(DirectoryLocked):
        disk.lock("/d/.lock")
    disk.kill()
    again = disk.lock("/d/.lock")
    lock.release()  # of the process that is gone
    with pytest.raises(DirectoryLocked):
        disk.lock("/d/.lock")
    again.release()
    disk.lock("/d/.lock")


def test_trees_are_removed_and_directories_made_with_their_parents() -> None:
    disk = made()
    disk.mkdir("/d/e/f")
    disk.write_file("/d/e/f/file", b"x")
    assert (disk.is_dir("/d/e/f"), disk.listdir("/d"), disk.size("/d/e/f/file")) == (True, ["e"], 1)
    disk.remove_tree("/d/e")
    assert not disk.exists("/d/e")
    disk.remove("/d/nothing")
    disk.remove_tree("/d/nothing")

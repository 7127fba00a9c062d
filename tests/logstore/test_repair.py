"""Repair: whatever is damaged, every batch that is not stays readable, nothing is deleted, and the store opens."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from logstore.checkpoints import RECOVERY_POINT_FILE, decode_checkpoint
from logstore.clock import SystemClock
from logstore.errors import DamagedSegment, DirectoryLocked, NotWritten
from logstore.files import OsFiles
from logstore.record.batch import HEADER_BYTES, check, read_header
from logstore.record.records import decode_batch, encode_batch
from logstore.repair import carry_out, examine, lock_data_directories
from logstore.segment.inspect import iter_batches
from logstore.segment.repair_plan import RepairPlan
from logstore.segment.verify import next_base_offsets, verify_segment
from logstore.store import Store
from logstore.testing import batches
from logstore.types import Record, TopicPartition

BASE = 1000
FILES = OsFiles()
SUFFIXES = (".log", ".index", ".timeindex")


@pytest.fixture
def made() -> list[bytearray]:
    return list(batches.log(3, 12, base_offset=BASE))


@pytest.fixture
def log(tmp_path: Path, made: list[bytearray]) -> Path:
    path = tmp_path / f"{BASE:020}.log"
    path.write_bytes(b"".join(made))
    repair(path)  # makes the indexes
    return path


def repair(log: Path) -> tuple[RepairPlan, list[str]]:
    _, plan = examine(log, FILES, next_base_offset=next_base_offsets([log])[log])
    return plan, carry_out(plan, FILES)


def records(made: list[bytearray]) -> list[Record]:
    return [record for one in made for record in decode_batch(one)]


def records_of(log: Path) -> list[Record]:
    data = log.read_bytes()
    return [
        record
        for position, header in iter_batches(log)
        for record in decode_batch(data[position : position + header.size_bytes], header)
    ]


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# Damage around batch 5 of 12: (data, start and end of that batch) -> data, and the numbers of the batches lost.
Harm = Callable[[bytearray, int, int], bytes]


def _flip(at: int, mask: int = 1) -> Harm:
    def harm(data: bytearray, start: int, end: int) -> bytes:
        data[start + at] ^= mask
        return bytes(data)

    return harm


HARMS: dict[str, tuple[Harm, list[int]]] = {
    "flipped record byte": (_flip(HEADER_BYTES + 3), [5]),
    "flipped CRC": (_flip(18), [5]),
    "flipped base offset, far ahead": (_flip(3), [5]),
    "flipped base offset, ahead": (_flip(5), [5]),
    "flipped base offset, back": (_flip(6, 4), [5]),
    "flipped magic": (_flip(16), [5]),
    "flipped magic, as format v0": (_flip(16, 2), [5]),
    "length beyond the file": (_flip(8, 0x40), [5]),
    "length negative": (_flip(8, 0x80), [5]),
    "length a little wrong": (_flip(11), [5]),
    "zeros instead of the batch": (lambda data, start, end: data[:start] + bytes(end - start) + data[end:], [5]),
    "noise instead of the batch": (
        lambda data, start, end: data[:start] + random.Random(1).randbytes(end - start) + data[end:],
        [5],
    ),
    "hole over two batches": (lambda data, start, end: data[: end - 9] + bytes(30) + data[end + 21 :], [5, 6]),
    "bytes missing": (lambda data, start, end: data[: start + 40] + data[start + 50 :], [5]),
    "bytes put between": (lambda data, start, end: data[:start] + b"hello" + data[start:], []),
    "the start of the file lost": (lambda data, start, end: b"\xff" * start + data[start:], [0, 1, 2, 3, 4]),
    "torn within a header": (lambda data, start, end: data[: start + 30], list(range(5, 12))),
    "torn within the records": (lambda data, start, end: data[: end - 1], list(range(5, 12))),
    "a tail of noise": (lambda data, start, end: data + b"\x07" * 1000, []),
    "a tail of zeros in the last batch": (lambda data, start, end: data[:-20] + bytes(20), [11]),
    "a tail of zeros, then a byte": (lambda data, start, end: data + bytes(5000) + b"\1", []),
    "nothing whole": (lambda data, start, end: b"\xff" * len(data), list(range(12))),
}


@pytest.mark.parametrize("name", HARMS)
def test_every_batch_that_is_not_damaged_stays(log: Path, made: list[bytearray], name: str):
    harm, lost = HARMS[name]
    start = sum(map(len, made[:5]))
    damaged = harm(bytearray(log.read_bytes()), start, start + len(made[5]))
    log.write_bytes(damaged)
    before = content(log.parent)
    assert not verify_segment(log).ok

    _, plan = examine(log, FILES)
    assert content(log.parent) == before, "examining changes nothing"
    assert not plan.is_empty
    kept = carry_out(plan, FILES)

    assert verify_segment(log, deep=True).ok
    assert not verify_segment(log).notes
    assert records_of(log) == records([one for number, one in enumerate(made) if number not in lost])
    assert sorted(content(log.parent)) == sorted([*before, *(os.path.basename(name) for name in kept)])
    for suffix in SUFFIXES:
        assert Path(f"{log.with_suffix(suffix)}.damaged-1").read_bytes() == before[log.with_suffix(suffix).name]
    if lost and plan.losses[-1].next_offset is not None:
        headers = [read_header(made[number]) for number in lost]
        assert [loss.from_offset for loss in plan.losses] == [headers[0].base_offset]
        assert [loss.next_offset for loss in plan.losses] == [headers[-1].last_offset + 1]
    assert sum(loss.end - loss.position for loss in plan.losses) == len(damaged) - log.stat().st_size
    assert repair(log) == (examine(log, FILES)[1], [])
    assert examine(log, FILES)[1].is_empty


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_is_always_repaired_and_costs_only_what_it_touched(log: Path, made: list[bytearray], seed: int):
    print(f"seed {seed}")
    chance = random.Random(seed)
    whole = log.read_bytes()
    everything = records(made)
    ends = [sum(map(len, made[: number + 1])) for number in range(len(made))]
    for _ in range(15):
        data = bytearray(whole)
        first = chance.randrange(len(data))
        size_bytes = chance.choice((1, 1, 4, 64, 900))
        data[first : first + size_bytes] = chance.choice((bytes, chance.randbytes))(size_bytes)
        log.write_bytes(data[: len(whole)])
        repair(log)
        report = verify_segment(log, deep=True)
        assert report.ok, report.damages
        untouched = [
            one
            for number, one in enumerate(made)
            if not (first < ends[number] and ends[number] - len(one) < first + size_bytes)
        ]
        found = records_of(log)
        assert [record for record in records(untouched) if record not in found] == []
        assert [record for record in found if record not in everything] == []


def test_an_undecodable_batch_under_a_right_crc_is_taken_out(log: Path, made: list[bytearray]):
    from crc32c import crc32c

    start = sum(map(len, made[:5]))
    bad = bytearray(encode_batch([(0, b"k", b"v", ())] * 3))
    bad[:8] = made[5][:8]
    bad[HEADER_BYTES] = 0x7F
    bad[17:21] = crc32c(bad[21:]).to_bytes(4, "big")
    check(memoryview(bad))
    log.write_bytes(log.read_bytes()[:start] + bad + b"".join(made[6:]))
    repair(log)
    assert verify_segment(log, deep=True).ok
    assert records_of(log) == records(made[:5] + made[6:])


def test_a_batch_left_whole_between_two_damaged_ones_stays(log: Path, made: list[bytearray]):
    data = bytearray(log.read_bytes())
    for number in (4, 6):
        start = sum(map(len, made[:number]))
        data[start + 8 : start + 12] = b"\x7f\xff\xff\xff"
    log.write_bytes(data)
    plan, _ = repair(log)
    assert len(plan.losses) == 2
    assert records_of(log) == records([*made[:4], made[5], *made[7:]])


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: None,
        lambda data: data[:-3],
        lambda data: b"\xff" * len(data),
        lambda data: data[12:24] + data[:12] + data[24:],
        lambda data: data + b"\1" * 24,
    ],
    ids=["missing", "cut", "noise", "unordered", "too long"],
)
@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_an_index_is_made_anew_and_the_log_not_touched(log: Path, suffix: str, harm: Callable[[bytes], bytes | None]):
    index = log.with_suffix(suffix)
    whole, identity = content(log.parent), log.stat().st_ino
    good = index.read_bytes()
    assert len(good) >= 24
    bad = harm(good)
    if bad is None:
        index.unlink()
    else:
        index.write_bytes(bad)
    plan, kept = repair(log)
    assert (plan.losses, plan.indexes) == ((), (suffix,))
    assert {name: data for name, data in content(log.parent).items() if name in whole} == whole
    assert log.stat().st_ino == identity
    assert [Path(name).read_bytes() for name in kept] == ([] if bad is None else [bad])


def test_zeros_are_cut_from_a_sealed_segment_only(log: Path):
    whole = log.read_bytes()
    log.write_bytes(whole + bytes(4096))
    assert examine(log, FILES)[1].is_empty
    (log.parent / f"{5000:020}.log").write_bytes(b"")
    plan, _ = repair(log)
    (loss,) = plan.losses
    assert (loss.position, loss.end, loss.records_max) == (len(whole), len(whole) + 4096, 0)
    assert log.read_bytes() == whole


def test_every_repair_keeps_its_own_original(log: Path):
    for number in (1, 2):
        data = bytearray(log.read_bytes())
        data[70] ^= 1
        log.write_bytes(data)
        _, kept = repair(log)
        assert kept[0] == f"{log}.damaged-{number}"
        assert Path(kept[0]).read_bytes() == data


def test_old_formats_are_refused_and_left_alone(tmp_path: Path):
    import struct
    import zlib

    body = struct.pack(">bbqii", 1, 0, 0, -1, -1)
    log = tmp_path / f"{0:020}.log"
    log.write_bytes((struct.pack(">qiI", 0, 22, zlib.crc32(body)) + body) * 3 + b"\xff" * 9)
    before = content(tmp_path)
    plan, kept = repair(log)
    assert "v0 or v1" in plan.refused
    assert kept == []
    assert content(tmp_path) == before


def test_a_full_disk_leaves_the_segment_as_it_was(log: Path):
    class FullDisk(OsFiles):
        room_bytes = 0

        def pwritev(self, handle, views, position, size_bytes):
            self.room_bytes -= size_bytes
            if self.room_bytes < 0:
                raise NotWritten("full") from OSError(errno.ENOSPC, "full")
            super().pwritev(handle, views, position, size_bytes)

    data = bytearray(log.read_bytes())
    data[70] ^= 1
    log.write_bytes(data)
    for room_bytes in (0, len(data) - 1, len(data) + 10):
        files = FullDisk()
        files.room_bytes = room_bytes
        _, plan = examine(log, files)
        with pytest.raises(NotWritten):
            carry_out(plan, files)
        assert log.read_bytes() == data
    repair(log)
    assert verify_segment(log, deep=True).ok


def test_killed_between_any_two_steps_it_is_finished_by_the_next_repair(log: Path, made: list[bytearray]):
    class Killed(Exception):
        pass

    class Dying(OsFiles):
        steps_left = 0

        def _step(self) -> None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise Killed

        def pwritev(self, *args):
            self._step()
            super().pwritev(*args)

        def rename(self, *args):
            self._step()
            super().rename(*args)

        def write_file(self, *args, **more):
            self._step()
            super().write_file(*args, **more)

    data = bytearray(log.read_bytes())
    data[sum(map(len, made[:5])) + 70] ^= 1
    indexes = {suffix: log.with_suffix(suffix).read_bytes() for suffix in SUFFIXES[1:]}
    wanted = records(made[:5] + made[6:])
    for steps in range(20):
        for path in log.parent.iterdir():
            path.unlink()
        log.write_bytes(data)
        for suffix, index in indexes.items():
            log.with_suffix(suffix).write_bytes(index)
        dying = Dying()
        dying.steps_left = steps
        try:
            carry_out(examine(log, dying)[1], dying)
            break
        except Killed:
            pass
        assert log.read_bytes() == data or verify_segment(log, deep=True).ok
        repair(log)
        assert verify_segment(log, deep=True).ok
        assert records_of(log) == wanted
        assert data in [path.read_bytes() for path in log.parent.glob("*.log.damaged-*")]
    assert steps > 5


# --- in a data directory ---------------------------------------------------------------------------------------------


def fill(root: Path) -> Path:
    """Topic `t` with several segments, the process gone without closing; returns the directory of its partition."""
    with Store.open(root) as store:
        store.create_topic("t", 1, {"segment.bytes": "4096"})
        log = store.log("t", 0)
        for number in range(40):
            value = b"%d" % number
            log.append(memoryview(encode_batch([(number + 1, value, b"v" * 500, ())])), now_ms=1)
            log.write()
        log.flush()
    return root / "t-0"


def keys(root: Path) -> list[int]:
    with Store.open(root) as store:
        return [int(record.key or b"") for record in store.log("t", 0).records(0)]


@pytest.mark.parametrize("was_clean", [True, False])
@pytest.mark.parametrize("which", [0, 2, -1])
def test_the_store_reads_on_after_a_repair(tmp_path: Path, which: int, was_clean: bool):
    directory = fill(tmp_path)
    if not was_clean:
        (tmp_path / ".kafka_cleanshutdown").unlink()
    logs = sorted(directory.glob("*.log"))
    assert len(logs) > 4
    log = logs[which]
    data = bytearray(log.read_bytes())
    (_, first), (middle, damaged), *_, (last, _) = iter_batches(log)
    data[middle + 70] ^= 1
    log.write_bytes(data[: last + 30])
    lost = {damaged.base_offset, list(range(40))[logs_end(logs, which) - 1]}
    point = decode_checkpoint((tmp_path / RECOVERY_POINT_FILE).read_bytes())[TopicPartition("t", 0)]
    assert point == 40
    if not was_clean and which == -1:  # of the others, nothing below the recovery point is looked at
        with Store.open(tmp_path) as store, pytest.raises(DamagedSegment):
            store.log("t", 0)
        (tmp_path / ".kafka_cleanshutdown").unlink(missing_ok=True)
    for one in logs:
        repair(one)
    assert keys(tmp_path) == [number for number in range(40) if number not in lost]
    with Store.open(tmp_path) as store:
        log_after = store.log("t", 0)
        end = log_after.log_end_offset
        assert end == (39 if which == -1 else 40)
        log_after.append(memoryview(encode_batch([(99, b"99", b"v", ())])), now_ms=1)
        log_after.write()
        assert next(iter(log_after.records(end))).key == b"99"
    assert first.base_offset not in lost


def logs_end(logs: list[Path], which: int) -> int:
    following = next_base_offsets(logs)[logs[which]]
    return 40 if following is None else following


def test_a_log_that_lost_its_end_without_a_trace_can_be_opened_again(tmp_path: Path):
    """Cut at a batch boundary below the recovery point: every batch is sound, yet the store refuses it."""
    directory = fill(tmp_path)
    (tmp_path / ".kafka_cleanshutdown").unlink()
    log = max(directory.glob("*.log"))
    *_, (last, _) = iter_batches(log)
    os.truncate(log, last)
    for suffix in (".index", ".timeindex"):
        log.with_suffix(suffix).unlink()
    with Store.open(tmp_path) as store, pytest.raises(DamagedSegment):
        store.log("t", 0)
    plan, _ = repair(log)
    assert (plan.losses, plan.recovery_point) == ((), 39)
    assert keys(tmp_path) == list(range(39))


def test_the_lock_of_a_running_server_is_respected(tmp_path: Path):
    directory = fill(tmp_path)
    logs = sorted(directory.glob("*.log"))
    program = f"import sys, time; from logstore.store import Store; Store.open({str(tmp_path)!r}); print(1, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", program + "; sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        with pytest.raises(DirectoryLocked) as caught:
            lock_data_directories(logs[:1], FILES)
        assert caught.value.pid == server.pid
        server.send_signal(signal.SIGKILL)
    with lock_data_directories(logs, FILES), pytest.raises(DirectoryLocked):
        Store.open(tmp_path, clock=SystemClock())
    Store.open(tmp_path).close()


def test_a_copy_outside_a_data_directory_needs_no_lock(tmp_path: Path, made: list[bytearray]):
    (tmp_path / "copies").mkdir()
    log = tmp_path / "copies" / f"{BASE:020}.log"
    log.write_bytes(b"".join(made))
    (tmp_path / ".lock").write_text("someone else's")
    with lock_data_directories([log], FILES):
        pass
    assert (tmp_path / ".lock").read_text() == "someone else's"

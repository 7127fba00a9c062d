"""Segments as other programs leave them: whole, cut, preallocated, flipped, and being written while they are read."""

from __future__ import annotations

import random
import struct
import time
import zlib
from pathlib import Path

import pytest
from crc32c import crc32c

from logstore.errors import DamagedSegment, InvalidRequest
from logstore.record import batch
from logstore.record.batch import check, read_header
from logstore.record.records import encode_batch
from logstore.segment import offset_index, time_index
from logstore.segment.inspect import SegmentScan, Tail, base_offset_of, iter_batches
from logstore.segment.verify import VerifyReport, next_base_offsets, verify_segment
from logstore.testing import batches

BASE = 1000


def write_segment(directory: Path, made: list[bytearray], base_offset: int = BASE) -> Path:
    """The three files Kafka would write, with an index entry for every second batch."""
    log = directory / f"{base_offset:020}.log"
    log.write_bytes(b"".join(made))
    offsets, times = b"", b""
    position, max_timestamp_ms, holder, last_ms = 0, -1, 0, -1
    for number, one in enumerate(made):
        header = read_header(one)
        if header.max_timestamp_ms > max_timestamp_ms:
            max_timestamp_ms, holder = header.max_timestamp_ms, header.last_offset
        if number % 2 or number == len(made) - 1:
            if number % 2:
                offsets += offset_index.ENTRY.pack(header.last_offset - base_offset, position)
            if max_timestamp_ms > last_ms:
                times += time_index.ENTRY.pack(max_timestamp_ms, holder - base_offset)
                last_ms = max_timestamp_ms
        position += len(one)
    log.with_suffix(".index").write_bytes(offsets)
    log.with_suffix(".timeindex").write_bytes(times)
    return log


@pytest.fixture
def made() -> list[bytearray]:
    return list(batches.log(1, 9, base_offset=BASE))


@pytest.fixture
def log(tmp_path: Path, made: list[bytearray]) -> Path:
    return write_segment(tmp_path, made)


def whats(report: VerifyReport) -> str:
    return "\n".join(map(str, report.damages))


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_segment_is_ok(log: Path, made: list[bytearray], deep: bool):
    report = verify_segment(log, deep=deep)
    headers = [check(memoryview(one)) for one in made]
    assert report.ok, whats(report)
    assert (report.batches, report.size_bytes, report.tail) == (9, log.stat().st_size, Tail.CLEAN)
    assert report.records == sum(header.record_count for header in headers)
    assert report.next_offset == headers[-1].last_offset + 1
    assert report.max_timestamp_ms == max(header.max_timestamp_ms for header in headers)
    assert not report.notes
    assert [header for _, header in iter_batches(log)] == headers


def test_an_empty_file_is_ok(tmp_path: Path):
    report = verify_segment(write_segment(tmp_path, []))
    assert report.ok
    assert (report.batches, report.next_offset, report.tail) == (0, BASE, Tail.CLEAN)


def test_missing_indexes_are_noted_not_damage(log: Path):
    log.with_suffix(".index").unlink()
    log.with_suffix(".timeindex").unlink()
    report = verify_segment(log)
    assert report.ok
    assert [note.split(":")[0] for note in report.notes] == [f"{BASE:020}.index", f"{BASE:020}.timeindex"]


@pytest.mark.parametrize("zeros", [1, 11, 61, 300_000])
def test_space_allocated_ahead_is_no_damage(log: Path, zeros: int):
    size_bytes = log.stat().st_size
    for suffix, count in ((".log", zeros), (".index", 800), (".timeindex", 1200)):
        with log.with_suffix(suffix).open("ab") as file:
            file.write(bytes(count))
    report = verify_segment(log)
    assert report.ok, whats(report)
    assert (report.tail, report.tail_bytes, report.batches) == (Tail.ZEROS, zeros, 9)
    assert report.size_bytes == size_bytes + zeros
    assert len(list(iter_batches(log))) == 9


def test_every_cut_of_the_last_batch_is_a_torn_tail(log: Path, made: list[bytearray]):
    whole = log.read_bytes()
    start = len(whole) - len(made[-1])
    log.with_suffix(".timeindex").unlink()
    zeros = len(made[-1]) - len(
        bytes(made[-1]).lstrip(b"\0")
    )  # of the base offset: cut there, it is as if allocated ahead
    for end in [*range(start, start + 70), len(whole) - 1]:
        log.write_bytes(whole[:end])
        report = verify_segment(log)
        left = end - start
        assert report.tail is (Tail.CLEAN if left == 0 else Tail.ZEROS if left <= zeros else Tail.TORN)
        assert report.tail_bytes == left
        if report.tail is Tail.TORN:
            assert report.damages[0].position == start
        assert report.batches == 8
        assert len(list(iter_batches(log))) == 8


def test_a_flipped_byte_is_found_with_its_batch_and_the_rest_is_read(log: Path, made: list[bytearray]):
    data = bytearray(log.read_bytes())
    position = sum(map(len, made[:4]))
    data[position + 70] ^= 1
    log.write_bytes(data)
    report = verify_segment(log)
    (damage,) = report.damages
    assert (damage.path, damage.position) == (str(log), position)
    assert "CRC32C" in damage.what
    header = read_header(made[4])
    assert f"offsets {header.base_offset}..{header.last_offset}" in damage.hint
    assert report.batches == 8
    assert report.next_offset == read_header(made[-1]).last_offset + 1
    with pytest.raises(DamagedSegment) as caught:
        list(iter_batches(log))
    assert (caught.value.path, caught.value.position) == (str(log), position)


def test_every_byte_of_a_batch_flipped_is_reported_but_for_the_leader_epoch(tmp_path: Path):
    made = [
        encode_batch([(5, b"k", b"v", ())]),
        encode_batch([(6, b"k", b"w" * 9, ())]),
        encode_batch([(7, b"k", b"x", ())]),
    ]
    for number, one in enumerate(made):
        one[7] = number
    log = write_segment(tmp_path, made, 0)
    whole = log.read_bytes()
    start = len(made[0])
    for at in range(start, start + len(made[1])):
        for mask in (0x01, 0x80, 0xFF):
            data = bytearray(whole)
            data[at] ^= mask
            log.write_bytes(data)
            report = verify_segment(log, deep=True)
            assert report.ok == (12 <= at - start < 16), (at - start, mask)


@pytest.mark.parametrize("length", [0, -1, 48, 49, 100, 5000, 2**30])
def test_behind_a_length_that_leads_nowhere_the_next_batch_is_found(log: Path, made: list[bytearray], length: int):
    position = sum(map(len, made[:3]))
    data = bytearray(log.read_bytes())
    data[position + 8 : position + 12] = length.to_bytes(4, "big", signed=True)
    log.write_bytes(data)
    report = verify_segment(log)
    (damage,) = report.damages
    assert damage.position == position
    assert f"the next one begins {len(made[3])} bytes on, at byte {position + len(made[3])}" in damage.what
    assert (report.tail, report.batches) == (Tail.CLEAN, 8)
    assert [(extent.position, extent.end, extent.batches) for extent in report.extents] == [
        (0, position, 3),
        (position + len(made[3]), len(data), 5),
    ]
    assert report.next_offset == read_header(made[-1]).last_offset + 1
    with pytest.raises(DamagedSegment):
        list(iter_batches(log))


def test_a_length_that_leads_nowhere_with_nothing_behind_ends_the_reading(log: Path, made: list[bytearray]):
    position = sum(map(len, made[:8]))
    for length in (0, -1, 48, 100):
        data = bytearray(log.read_bytes())
        data[position + 8 : position + 12] = length.to_bytes(4, "big", signed=True)
        log.write_bytes(data)
        report = verify_segment(log)
        assert (report.tail, report.tail_bytes, report.batches) == (Tail.UNREADABLE, len(made[8]), 8)
        assert report.damages[0].position == position
        with pytest.raises(DamagedSegment):
            list(iter_batches(log))


@pytest.mark.parametrize(
    "garbage", [b"\0" * 300_000, b"\x02" * 70_000, b"\0\0\0\0\0\0\7\0\0\0\0\x49\0\0\0\0\x02" * 5000]
)
def test_bytes_between_batches_are_passed_over(log: Path, made: list[bytearray], garbage: bytes):
    before = b"".join(made[:4])
    log.write_bytes(before + garbage + b"".join(made[4:]))
    report = verify_segment(log)
    assert (report.batches, report.tail) == (9, Tail.CLEAN)
    assert [extent.position for extent in report.extents] == [0, len(before) + len(garbage)]
    assert report.damages[0].position == len(before)


def test_two_damaged_batches_in_a_row_are_both_named(log: Path, made: list[bytearray]):
    data = bytearray(log.read_bytes())
    starts = [sum(map(len, made[:number])) for number in (2, 3)]
    for start in starts:
        data[start + 65] ^= 4
    log.write_bytes(data)
    report = verify_segment(log)
    assert [damage.position for damage in report.damages] == starts
    assert report.batches == 7


def test_an_older_batch_inside_damage_is_not_taken_for_the_next(log: Path, made: list[bytearray]):
    """A stale block of the disk: whole batches, but their offsets have been seen."""
    before = b"".join(made[:5])
    log.write_bytes(before + b"\xff" * 9 + made[1] + made[2] + b"".join(made[5:]))
    report = verify_segment(log)
    assert [extent.base_offset for extent in report.extents] == [BASE, read_header(made[5]).base_offset]


def test_the_search_for_batches_in_hostile_bytes_ends(tmp_path: Path):
    """Headers that all look right and claim the rest of the file: each would cost a CRC over it."""
    size_bytes = 1 << 20
    header = read_header(encode_batch([(0, None, None, ())]))
    data = bytearray(b"\xff" * 61)
    while len(data) < size_bytes:
        data += batch.HEADER.pack(*header._replace(length=size_bytes - len(data) - 12 - 61, base_offset=len(data)))
    log = tmp_path / f"{0:020}.log"
    log.write_bytes(data)
    began = time.process_time()
    report = verify_segment(log)
    assert report.tail is Tail.UNREADABLE
    assert time.process_time() - began < 5


def test_a_base_offset_that_jumps_ahead_costs_its_own_batch_only(log: Path, made: list[bytearray]):
    position = sum(map(len, made[:4]))
    data = bytearray(log.read_bytes())
    data[position + 5] ^= 1  # 65536 offsets ahead; no CRC covers it
    log.write_bytes(data)
    report = verify_segment(log)
    assert report.damages[0].position == position
    assert f"but {read_header(made[5]).base_offset} follows" in report.damages[0].what
    assert report.batches == 8
    assert report.next_offset == read_header(made[-1]).last_offset + 1


def test_zeros_at_the_end_of_a_sealed_segment_are_damage(log: Path):
    size_bytes = log.stat().st_size
    with log.open("ab") as file:
        file.write(bytes(100))
    end = verify_segment(log).next_offset
    (damage,) = verify_segment(log, next_base_offset=end).damages
    assert (damage.position, damage.what[:9]) == (size_bytes, "100 zeros")


def test_offsets_of_the_next_segment_are_out_of_place(log: Path, made: list[bytearray]):
    end = verify_segment(log).next_offset
    assert verify_segment(log, next_base_offset=end).ok
    report = verify_segment(log, next_base_offset=end - 1)
    assert f"offset {end - 1} where at most {end - 2} can be" in report.damages[0].what
    assert report.batches == 8


def test_the_segment_that_follows_is_found_in_the_directory(tmp_path: Path):
    logs = [write_segment(tmp_path, [], base_offset) for base_offset in (7, 100, 20)]
    (tmp_path / f"{50:020}.log.damaged-1").write_bytes(b"")
    assert next_base_offsets(logs[:2]) == {logs[0]: 20, logs[1]: None}


def test_data_behind_zeros_is_not_taken_for_allocated_space(log: Path):
    with log.open("ab") as file:
        file.write(bytes(400_000) + b"x")
    report = verify_segment(log)
    assert report.tail is Tail.UNREADABLE
    assert not report.ok


def test_offsets_must_ascend_from_the_base_in_the_name(tmp_path: Path):
    made = list(batches.log(2, 3, base_offset=10))
    report = verify_segment(write_segment(tmp_path, [made[0], made[2], made[1]], 10))
    assert report.damages[0].position == len(made[0])
    assert report.batches == 2
    twice = verify_segment(write_segment(tmp_path, [made[0], made[1], made[1], made[2]], 10))
    assert "38..73 where 74 or later is wanted" in twice.damages[0].what
    assert twice.damages[0].position == len(made[0]) + len(made[1])
    assert twice.batches == 3
    renamed = tmp_path / f"{11:020}.log"
    (tmp_path / f"{10:020}.log").rename(renamed)
    assert "11 or later" in verify_segment(renamed).damages[0].what
    far = write_segment(tmp_path, list(batches.log(2, 1, base_offset=2**31 + 10, codec=0)), 10)
    assert "can be" in verify_segment(far).damages[0].what


def test_deep_finds_what_a_right_crc_hides(tmp_path: Path):
    good = encode_batch([(0, b"k", b"v", ())], codec=1)
    hidden = bytearray(good)
    hidden[62] ^= 0xFF
    hidden[17:21] = crc32c(hidden[21:]).to_bytes(4, "big")
    log = write_segment(tmp_path, [hidden], 0)
    assert verify_segment(log).ok
    assert "gzip" in verify_segment(log, deep=True).damages[0].what


def test_the_offset_index_is_checked_against_the_log(log: Path):
    index = log.with_suffix(".index")
    good = index.read_bytes()
    count = len(good) // 8

    def with_entry(number: int, delta: int, shift: int) -> bytes:
        relative, position = offset_index.ENTRY.unpack_from(good, number * 8)
        entry = offset_index.ENTRY.pack(relative + delta, position + shift)
        return good[: number * 8] + entry + good[number * 8 + 8 :]

    for content, wanted in (
        (with_entry(1, -1, 0), "ends at"),
        (with_entry(1, 0, 1), "where no batch begins"),
        (with_entry(count - 1, 0, 1 << 20), "the log ends at"),
        (good[8:16] + good[:8] + good[16:], "does not ascend"),
        (good[:8] + good[:8] + good[8:], "does not ascend"),
        (bytes(8) + good[:8] + bytes(8) + good[8:], "does not ascend"),
        (good + b"\1", "is cut"),
    ):
        index.write_bytes(content)
        report = verify_segment(log)
        assert wanted in report.damages[0].what, content.hex()
        assert report.damages[0].path == str(index)
        assert report.damages[0].position % 8 == 0
        assert "delete the file" in report.damages[0].hint


def test_the_time_index_is_checked_against_the_log(log: Path):
    index = log.with_suffix(".timeindex")
    good = index.read_bytes()
    assert len(good) >= 24
    timestamp_ms, relative = time_index.ENTRY.unpack_from(good, 12)
    pack = time_index.ENTRY.pack
    for content, wanted in (
        (good[:12] + pack(timestamp_ms + 1, relative) + good[24:], "the batch with offset"),
        (good[12:24] + good[:12] + good[24:], "does not ascend"),
        (good + pack(2**50, 2**31), "the log ends at"),
        (good[:-5] if good[-1] else good[:-6], "is cut"),
    ):
        index.write_bytes(content)
        report = verify_segment(log)
        assert wanted in report.damages[0].what, content.hex()
        assert report.damages[0].path == str(index)


def test_a_time_index_that_forgets_an_earlier_maximum_is_found(tmp_path: Path):
    made = [encode_batch([(time_ms, b"k", b"v", ())]) for time_ms in (900, 500)]
    made[1][7] = 1
    log = write_segment(tmp_path, made, 0)
    log.with_suffix(".timeindex").write_bytes(time_index.ENTRY.pack(500, 1))
    assert "an earlier batch has 900" in verify_segment(log).damages[0].what


def test_damages_are_counted_all_and_kept_in_part(tmp_path: Path):
    made = [encode_batch([(0, b"k", b"v", ())]) for _ in range(150)]
    report = verify_segment(write_segment(tmp_path, made, 0))  # every batch says offset 0
    assert report.damage_count >= 149
    assert len(report.damages) == 100


def test_old_formats_are_named(tmp_path: Path):
    body = struct.pack(">bbqii", 1, 0, 0, -1, -1)
    message = struct.pack(">qiI", 0, 22, zlib.crc32(body)) + body
    log = tmp_path / f"{0:020}.log"
    log.write_bytes(message * 3)
    report = verify_segment(log)
    assert (report.damage_count, report.old_batches) == (3, 3)
    assert "v1" in report.damages[0].what


def test_a_damaged_magic_is_not_taken_for_an_old_format(log: Path, made: list[bytearray]):
    for magic in (0, 1, 3):
        data = bytearray(log.read_bytes())
        data[len(made[0]) + batch.MAGIC_POSITION] = magic
        log.write_bytes(data)
        report = verify_segment(log)
        assert (report.batches, report.old_batches, report.damage_count) == (8, 0, 1)


@pytest.mark.parametrize("name", ["x.log", "123.log", f"{'a' * 20}.log", f"{'²' * 20}.log"])
def test_a_name_without_20_digits_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InvalidRequest):
        base_offset_of(tmp_path / name)


def test_a_missing_log_is_an_oserror(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        verify_segment(tmp_path / f"{0:020}.log")


def test_a_batch_above_the_window_is_read_and_its_damage_found(tmp_path: Path):
    big = encode_batch([(0, None, b"x" * (17 << 20), ())])
    log = write_segment(tmp_path, [big], 0)
    assert verify_segment(log, deep=True).ok
    with log.open("r+b") as file:
        file.seek(9 << 20)
        file.write(b"y")
    assert "CRC32C" in verify_segment(log).damages[0].what


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_and_random_damage_never_end_in_another_error(tmp_path: Path, seed: int):
    print(f"seed {seed}")
    chance = random.Random(seed)
    log = write_segment(tmp_path, list(batches.log(seed, 5, base_offset=0)), 0)
    files = [log, log.with_suffix(".index"), log.with_suffix(".timeindex")]
    whole = [file.read_bytes() for file in files]
    for _ in range(80):
        for file, content in zip(files, whole, strict=True):
            data = bytearray(content)
            for _ in range(chance.randrange(4)):
                if data:
                    data[chance.randrange(len(data))] = chance.randrange(256)
            file.write_bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.3 else data)
        verify_segment(log, deep=True)
    log.write_bytes(chance.randbytes(5000))
    assert not verify_segment(log).ok


@pytest.mark.parametrize("allocated", [0, 50_000])
@pytest.mark.parametrize("written", [1, 7, 8, 20, 61, 100, -1])
def test_a_batch_that_is_being_written_is_no_damage(log: Path, made: list[bytearray], written: int, allocated: int):
    """At first only part of the last batch is there; the pause lets its writer finish."""
    whole = log.read_bytes()
    start = len(whole) - len(made[-1])
    part = whole[:start] + made[-1][:written]
    log.write_bytes(part + bytes(max(allocated - len(part), 0)))
    log.with_suffix(".timeindex").unlink()
    pauses = []

    def finish() -> None:
        pauses.append(1)
        log.write_bytes(whole + bytes(max(allocated - len(whole), 0)))

    report = verify_segment(log, pause=finish)
    assert report.ok, whats(report)
    assert report.batches == (9 if pauses else 8)
    assert bool(pauses) == (written != 1)


def test_a_log_that_is_trimmed_meanwhile_is_read_to_its_new_end(log: Path):
    whole = log.read_bytes()
    log.write_bytes(whole + bytes(1 << 20))
    scan = SegmentScan(log)
    found = []
    for one in scan:
        if not found:
            log.write_bytes(whole)
        found.append(one)
    assert len(found) == 9
    assert not any(one.problem for one in found)
    assert scan.tail in (Tail.CLEAN, Tail.ZEROS)


def test_a_log_that_loses_batches_meanwhile_ends_in_a_torn_tail(log: Path, made: list[bytearray]):
    whole = log.read_bytes()
    big = encode_batch([(0, None, b"x" * 600_000, ())])
    log.write_bytes(whole + big)
    scan = SegmentScan(log)
    for one in scan:
        if one.position == 0:
            log.write_bytes(whole + big[:300_000])
    assert scan.tail is Tail.TORN
    assert scan.position == len(whole)

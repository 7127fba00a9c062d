"""Opening a partition: both decision tables, torn tails at every byte, damage that is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from logstore.errors import DamagedSegment
from logstore.log.recovery_plan import Check, Damage, Repair, plan_check, plan_repair

BOTH = (False, True)


def test_every_case_of_the_first_table() -> None:
    cases = {
        key: plan_check(clean_stop=key[0], is_last=key[1], ends_below_recovery_point=key[2])
        for key in itertools.product(BOTH, BOTH, BOTH)
    }
    assert cases == {
        (True, False, False): Check.TRUST,
        (True, False, True): Check.TRUST,
        (True, True, False): Check.TAIL,
        (True, True, True): Check.TAIL,
        (False, False, True): Check.DROP_INDEXES,
        (False, False, False): Check.SCAN,
        (False, True, False): Check.SCAN,
        (False, True, True): Check.SCAN,
    }


def test_every_case_of_the_second_table() -> None:
    cases = {
        key: plan_repair(key[0], before_recovery_point=key[1], has_later=key[2])
        for key in itertools.product(Damage, BOTH, BOTH)
    }
    expected = {(Damage.NONE, before, later): Repair.KEEP for before in BOTH for later in BOTH}
    expected |= {(Damage.SHORT, before, later): Repair.REFUSE for before in BOTH for later in BOTH}
    for damage, later in itertools.product((Damage.TORN, Damage.BROKEN), BOTH):
        expected[damage, True, later] = Repair.REFUSE
    expected[Damage.TORN, False, False] = Repair.TRUNCATE
    expected[Damage.TORN, False, True] = Repair.TRUNCATE_SET_LATER_ASIDE
    expected[Damage.BROKEN, False, False] = Repair.SAVE_AND_TRUNCATE
    expected[Damage.BROKEN, False, True] = Repair.SAVE_AND_TRUNCATE_SET_LATER_ASIDE
    assert cases == expected


def test_a_tail_torn_at_every_byte_is_cut(harness: Any) -> None:
    harness.open()
    harness.append(b"kept", b"too")
    path = harness.directory / f"{0:020d}.log"
    whole = path.stat().st_size
    harness.append(b"torn away")
    harness.crash()
    data = path.read_bytes()
    for cut in range(whole, len(data)):
        path.write_bytes(data[:cut])
        log = harness.open(recovery_point=2)
        assert harness.values() == [b"kept", b"too"]
        assert (log.high_watermark, log.durable_offset, path.stat().st_size) == (2, 2, whole)
        steps = log.recovery_report.steps
        assert [(step.repair, step.position, step.size_bytes) for step in steps] == (
            [(Repair.TRUNCATE, whole, cut - whole)] if cut > whole else []
        )
        harness.crash()
    path.write_bytes(data)
    assert harness.open().high_watermark == 3


def test_a_last_batch_with_any_byte_changed_is_cut(harness: Any) -> None:
    harness.open()
    harness.append(b"kept")
    path = harness.directory / f"{0:020d}.log"
    whole = path.stat().st_size
    harness.append(b"hurt")
    harness.crash()
    data = path.read_bytes()
    unchecked = {whole + n for n in (5, 6, 7)} | set(range(whole + 12, whole + 16))
    # outside the CRC: the leader epoch, and a base offset that is only too large by less than 2^31, which is a gap
    for position in set(range(whole, len(data))) - unchecked:
        bad = bytearray(data)
        bad[position] ^= 0x80
        path.write_bytes(bad)
        harness.open()
        assert harness.values() == [b"kept"]
        harness.crash()


def test_zeros_behind_the_end_are_cut(harness: Any) -> None:
    harness.open()
    harness.append(b"kept")
    harness.crash()
    path = harness.directory / f"{0:020d}.log"
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(bytes(1 << 20))
    log = harness.open()
    assert log.recovery_report.steps[0].repair is Repair.TRUNCATE
    assert path.stat().st_size == whole


def test_whole_batches_behind_a_hole_are_saved(harness: Any) -> None:
    log = harness.open()
    harness.append(b"kept")
    hole = log.size_bytes
    harness.append(b"hurt")
    harness.append(b"whole")
    harness.crash()
    path = harness.directory / f"{0:020d}.log"
    data = bytearray(path.read_bytes())
    data[hole + 70] ^= 1
    path.write_bytes(data)
    log = harness.open()
    assert harness.values() == [b"kept"]
    assert log.recovery_report.steps[0].repair is Repair.SAVE_AND_TRUNCATE
    assert (harness.directory / f"{0:020d}.log.{hole}.aside").read_bytes() == data[hole:]
    assert harness.append(b"next").base_offset == 1


def test_segments_behind_a_damaged_one_are_set_aside(harness: Any) -> None:
    harness.config = {"segment.bytes": "1024"}
    log = harness.open()
    for number in range(6):
        harness.append(b"%d" % number * 600)
    harness.crash()
    path = harness.directory / f"{2:020d}.log"
    path.write_bytes(path.read_bytes()[:-1])
    log = harness.open()
    assert (log.high_watermark, len(harness.values())) == (2, 2)
    assert harness.names(".log") == [f"{n:020d}.log" for n in range(3)]
    assert harness.names(".aside") == [f"{n:020d}.log.aside" for n in range(3, 6)]
    assert harness.append(b"next").base_offset == 2


@pytest.mark.parametrize("hurt", ["byte", "cut at a batch", "cut in a batch", "emptied"])
def test_damage_before_the_recovery_point_is_refused_and_nothing_is_touched(harness: Any, hurt: str) -> None:
    log = harness.open()
    harness.append(b"a")
    size = log.size_bytes
    harness.append(b"b")
    harness.crash()
    path = harness.directory / f"{0:020d}.log"
    data = bytearray(path.read_bytes())
    if hurt == "byte":
        data[size + 65] ^= 1
    else:
        del data[{"cut at a batch": size, "cut in a batch": size + 5, "emptied": 0}[hurt] :]
    path.write_bytes(data)
    with pytest.raises(DamagedSegment) as caught:
        harness.open(recovery_point=2)
    assert caught.value.path == str(path)
    assert caught.value.position == (0 if hurt == "emptied" else size)
    assert path.read_bytes() == data
    assert harness.open(recovery_point=1 if hurt != "emptied" else 0).high_watermark < 2


def test_overlapping_offsets_are_damage(harness: Any) -> None:
    harness.open()
    harness.append(b"a", b"b")
    harness.crash()
    path = harness.directory / f"{0:020d}.log"
    data = path.read_bytes()
    path.write_bytes(data + data)
    assert harness.open().high_watermark == 2
    assert path.read_bytes() == data


def test_a_clean_stop_is_trusted_and_reads_no_batch(harness: Any) -> None:
    harness.config = {"segment.bytes": "1024", "index.interval.bytes": "100"}
    log = harness.open()
    for _ in range(10):
        harness.append(b"x" * 300)
    assert log.close()
    log = harness.open(clean=True)
    assert log.recovery_report.is_trivial
    assert (log.high_watermark, log.durable_offset) == (10, 10)
    assert len(harness.values()) == 10
    harness.append(b"x" * 300)
    assert len(harness.values()) == 11


@pytest.mark.parametrize("suffix", [".index", ".timeindex", ".snapshot"])
@pytest.mark.parametrize("harm", ["missing", "short", "garbage"])
def test_derived_files_are_rebuilt(harness: Any, suffix: str, harm: str) -> None:
    harness.config = {"segment.bytes": "1024", "index.interval.bytes": "100"}
    log = harness.open()
    for number in range(12):
        harness.append(b"x" * 300, timestamp_ms=1000 + number, producer_id=7, producer_epoch=0, base_sequence=number)
    log.close()
    good = {name: (harness.directory / name).read_bytes() for name in harness.names("index")}
    for name in harness.names(suffix):
        path = harness.directory / name
        if harm == "missing":
            path.unlink()
        else:
            path.write_bytes({"short": path.read_bytes()[:-1], "garbage": b"\xff" * 24}[harm])
    log = harness.open(clean=True)
    assert [log.offset_for_time(1000 + n) for n in range(12)] == [(1000 + n, n) for n in range(12)]
    assert len(harness.values()) == 12
    assert harness.append(b"x" * 300, producer_id=7, producer_epoch=0, base_sequence=11).duplicate
    log.close()
    assert {name: (harness.directory / name).read_bytes() for name in harness.names("index")} == good


def test_after_an_unclean_stop_the_indexes_of_trusted_segments_are_rebuilt(harness: Any) -> None:
    harness.config = {"segment.bytes": "1024", "index.interval.bytes": "100"}
    log = harness.open()
    for number in range(12):
        harness.append(b"x" * 300, timestamp_ms=1000 + number)
    log.close(clean=False)
    for name in harness.names("index"):
        (harness.directory / name).write_bytes(b"")  # what a power cut may leave of an unsynced file
    log = harness.open(recovery_point=12)
    assert [log.offset_for_time(1000 + n) for n in range(12)] == [(1000 + n, n) for n in range(12)]
    assert log.recovery_report.scanned_bytes < log.size_bytes  # only the last segment was scanned


def test_recovery_makes_what_it_keeps_durable(harness: Any) -> None:
    harness.open()
    harness.append(b"a")
    harness.crash()
    harness.files.synced.clear()
    log = harness.open()
    assert log.durable_offset == 1
    assert str(harness.directory / f"{0:020d}.log") in harness.files.synced


def test_a_log_start_above_the_end_begins_there(harness: Any) -> None:
    harness.open()
    harness.append(b"a")
    harness.crash()
    log = harness.open(log_start_offset=10)
    assert (log.log_start_offset, log.high_watermark) == (10, 10)
    assert harness.append(b"b").base_offset == 10
    assert harness.names(".log") == [f"{10:020d}.log"]


def test_unknown_files_are_left_alone_and_deleted_ones_removed(harness: Any) -> None:
    for name in ("notes.txt", "123.log", f"{0:020d}.log.deleted", f"{5:020d}.txnindex", "leader-epoch-checkpoint"):
        (harness.directory / name).write_bytes(b"x")
    harness.open()
    assert harness.names("notes.txt")
    assert harness.names("123.log")
    assert harness.names(".txnindex")
    assert harness.names("leader-epoch-checkpoint")
    assert not harness.names(".deleted")


def test_a_compacted_log_with_gaps_between_segments(harness: Any) -> None:
    harness.config = {"segment.bytes": "1024"}
    log = harness.open()
    for number in range(6):
        harness.append(b"%d" % number * 600)
    log.close()
    for name in (f"{2:020d}.log", f"{2:020d}.index", f"{2:020d}.timeindex"):
        (harness.directory / name).unlink()
    log = harness.open(clean=True)
    assert [value[:1] for value in harness.values()] == [b"0", b"1", b"3", b"4", b"5"]
    assert log.read(2, 10).slices[0].size_bytes > 600


def test_deleted_records_are_not_missed_and_what_follows_lost_ones_is_set_aside(harness: Any) -> None:
    """A dropped segment came back, the one that the log begins with did not: names are synced in no order."""
    harness.config = {"segment.bytes": "1024"}
    log = harness.open()
    for _ in range(6):
        harness.append(b"x" * 900)
    harness.crash()
    for number in range(1, 5):
        (harness.directory / f"{number:020d}.log").unlink()
    log = harness.open(recovery_point=2, log_start_offset=4)
    assert (log.log_start_offset, log.high_watermark) == (4, 4)
    assert harness.names(".log") == [f"{4:020d}.log"]
    assert harness.names(".aside") == [f"{0:020d}.log.aside", f"{5:020d}.log.aside"]


def test_a_gap_between_segments_is_damage_unless_the_topic_is_compacted(harness: Any) -> None:
    harness.config = {"segment.bytes": "1024"}
    harness.open()
    for number in range(4):
        harness.append(b"%d" % number * 900)
    harness.crash()
    for number in (1, 2):
        (harness.directory / f"{number:020d}.log").unlink()
    with pytest.raises(DamagedSegment, match="the next begins at 3"):
        harness.open(recovery_point=2)
    harness.config["cleanup.policy"] = "compact"
    harness.open()
    assert [value[:1] for value in harness.values()] == [b"0", b"3"]
    harness.crash()
    harness.config["cleanup.policy"] = "delete"
    harness.open()
    assert [value[:1] for value in harness.values()] == [b"0"]

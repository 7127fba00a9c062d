"""Carries out what `segment/repair_plan` says, on files that no server has open.

Nothing is deleted. Every file that is replaced is kept beside as `<name>.damaged-<n>`, the `.log` as a whole copy. The
order of the steps makes a crash between any two of them harmless, and repairing again finishes the work:

    1 the whole .log is copied beside            5 the recovery point is lowered
    2 its indexes are renamed                    6 the new .log takes the name of the old one
    3 a new .log is written beside               7 the indexes are written from it
    4 all of that is synced
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Final

from logstore.checkpoints import RECOVERY_POINT_FILE, decode_checkpoint, encode_checkpoint
from logstore.config import TopicConfig
from logstore.files import Files
from logstore.names import parse_partition_dir
from logstore.segment.inspect import INDEX_SUFFIX, TIME_INDEX_SUFFIX, Pause, iter_batches
from logstore.segment.repair_plan import RepairPlan, plan_repair
from logstore.segment.verify import VerifyReport, verify_segment
from logstore.segment.writer import IndexBuilder
from logstore.store import LOCK_FILE
from logstore.types import Offset, Position, TopicPartition

KEPT_SUFFIX: Final = ".damaged-"

_COPY_BYTES: Final = 64 << 10


def lock_data_directories(logs: Iterable[Path], files: Files) -> ExitStack:
    """Own every data directory that holds one of `logs` until the result is closed, as a server would.

    A copy that lies outside a data directory needs no lock. Raises `DirectoryLocked` with the owner's pid.
    """
    directories = {found[0] for log in logs if (found := _data_directory(log)) is not None}
    held = ExitStack()
    try:
        for directory in sorted(directories):
            if files.exists(f"{directory}/{LOCK_FILE}"):
                held.callback(files.lock(f"{directory}/{LOCK_FILE}").release)
    except BaseException:
        held.close()
        raise
    return held


def examine(
    log: Path, files: Files, *, next_base_offset: Offset | None = None, pause: Pause | None = None
) -> tuple[VerifyReport, RepairPlan]:
    """What is wrong with a segment, its records included, and what to do about it. Nothing is changed.

    Raises as `verify_segment`, whose arguments these are.
    """
    point = _recovery_point(log, files) if next_base_offset is None else None  # read first: a server moves it on
    report = verify_segment(log, deep=True, next_base_offset=next_base_offset, pause=pause)
    return report, plan_repair(report, point)


def carry_out(plan: RepairPlan, files: Files) -> list[str]:
    """Do what the plan says; the caller holds the lock and has let nobody at the file since it was examined.

    Returns: the paths under which the replaced files are kept.
    Raises: NotWritten, DurabilityUnknown, DamagedSegment (a file cannot be read), OSError. The segment is then as it
        was, but for an index that may be missing and is rebuilt when the log is opened.
    """
    kept: list[str] = []
    log = Path(plan.path)
    made = f"{log}.repaired.tmp"
    if plan.losses:
        kept.append(_free_name(log, files))
        _copy(plan.path, [(0, plan.size_bytes)], kept[0] + ".tmp", files)
        files.rename(kept[0] + ".tmp", kept[0])
        _copy(plan.path, [(extent.position, extent.end) for extent in plan.keep], made, files)
    for suffix in plan.indexes:
        index = log.with_suffix(suffix)
        if files.exists(str(index)):
            kept.append(_free_name(index, files))
            files.rename(str(index), kept[-1])
    files.fsync_dir(str(log.parent))
    if plan.recovery_point is not None:
        _set_recovery_point(log, plan.recovery_point, files)
    if plan.losses:
        files.rename(made, plan.path)
        files.fsync_dir(str(log.parent))
    if plan.indexes:
        _build_indexes(plan, files)
    return kept


def _build_indexes(plan: RepairPlan, files: Files) -> None:
    log = Path(plan.path)
    builder = IndexBuilder.empty(plan.base_offset, TopicConfig().index_interval_bytes)
    for position, header in iter_batches(log):
        builder.add(position, header.last_offset, header.max_timestamp_ms)
    builder.finish()
    if INDEX_SUFFIX in plan.indexes:
        files.write_file(str(log.with_suffix(INDEX_SUFFIX)), builder.offsets.buffer)
    if TIME_INDEX_SUFFIX in plan.indexes:
        files.write_file(str(log.with_suffix(TIME_INDEX_SUFFIX)), builder.times.buffer)


def _copy(source: str, ranges: Iterable[tuple[Position, Position]], target: str, files: Files) -> None:
    """The bytes of `ranges`, one after the other, as the new file `target`, synced."""
    files.remove(target)
    handle_in, handle_out = files.open(source), files.open(target, create=True)
    try:
        written = 0
        for position, end in ranges:
            while position < end:
                data = files.pread(handle_in, min(_COPY_BYTES, end - position), position)
                if not data:
                    raise OSError(f"{source} was cut at byte {position} meanwhile")
                files.pwritev(handle_out, [data], written, len(data))
                position, written = position + len(data), written + len(data)
        files.fdatasync(handle_out)
    finally:
        files.close(handle_in)
        files.close(handle_out)


def _free_name(path: Path, files: Files) -> str:
    return next(name for n in count(1) if not files.exists(name := f"{path}{KEPT_SUFFIX}{n}"))


# --- the data directory around a segment -----------------------------------------------------------------------------


def _data_directory(log: Path) -> tuple[Path, TopicPartition] | None:
    """The directory that holds the partition's, and the partition; None when the segment's is not named like one."""
    directory = log.resolve().parent
    partition = parse_partition_dir(directory.name)
    return None if partition is None else (directory.parent, partition)


def _recovery_point(log: Path, files: Files) -> Offset | None:
    found = _data_directory(log)
    if found is None or not files.exists(f"{found[0]}/{RECOVERY_POINT_FILE}"):
        return None
    return decode_checkpoint(files.read_file(f"{found[0]}/{RECOVERY_POINT_FILE}")).get(found[1])


def _set_recovery_point(log: Path, offset: Offset, files: Files) -> None:
    found = _data_directory(log)
    if found is not None:
        path = f"{found[0]}/{RECOVERY_POINT_FILE}"
        points = decode_checkpoint(files.read_file(path))
        files.write_file(path, encode_checkpoint(points | {found[1]: offset}))

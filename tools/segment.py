"""`logstore segment list|dump|verify|repair`: looks at segment files offline, ours or Kafka's, and repairs them.

Only `repair` writes, and takes the lock of the data directory first. The others, and `repair --dry-run`, may look at
the files of a running server. Data goes to stdout, messages to stderr. Exit codes: 0 done, 1 damage found (by `repair`:
not repaired) or a file unreadable, 2 wrong usage.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tools.output import Format, FormatOption, print_json_line

if TYPE_CHECKING:
    from logstore.record.batch import BatchHeader
    from logstore.segment.inspect import FoundBatch
    from logstore.segment.repair_plan import Loss, RepairPlan
    from logstore.segment.verify import VerifyReport
    from logstore.types import Record

app = typer.Typer(
    rich_markup_mode=None, add_completion=False, help="Look at segment files offline, ours or Kafka's, and repair them."
)

_TEXT_MAX: Final = 64
_PAUSE_SECONDS: Final = 0.02
_DUMPED: Final = (".log", ".index", ".timeindex")


@app.command("list")
def list_segments(
    path: Annotated[Path, typer.Argument(help="A segment, a partition's directory or a data directory.")],
    output: FormatOption = Format.TEXT,
) -> None:
    """Print the segments under PATH: offsets and sizes of their files."""
    logs = _find_logs([path])
    if output is Format.TEXT:
        print(f"{'partition':32} {'base offset':>20} {'log bytes':>12} {'index':>9} {'timeindex':>9} {'txnindex':>8}")
    for log in logs:
        sizes = {suffix: _size(log.with_suffix(suffix)) for suffix in (".log", ".index", ".timeindex", ".txnindex")}
        if output is Format.JSON:
            print_json_line(
                path=str(log),
                partition=log.absolute().parent.name,
                base_offset=int(log.stem),
                **{f"{suffix[1:]}_bytes": size for suffix, size in sizes.items()},
            )
        else:
            cells = ["-" if size is None else str(size) for size in sizes.values()]
            partition = log.absolute().parent.name
            print(f"{partition:32} {int(log.stem):>20} {cells[0]:>12} {cells[1]:>9} {cells[2]:>9} {cells[3]:>8}")


@app.command()
def dump(
    files: Annotated[list[Path], typer.Argument(help="Files ending in .log, .index or .timeindex.")],
    records: Annotated[bool, typer.Option("--records", help="Print the records of each batch, too.")] = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Print what is in FILES, batch by batch."""
    for file in files:
        if file.suffix not in _DUMPED:
            raise _usage(f"{file} is none of {', '.join(_DUMPED)}")
        if not file.exists():
            raise _usage(f"{file} does not exist")
    failed = False
    for file in files:
        if output is Format.TEXT and len(files) > 1:
            print(f"# {file}")
        try:
            failed |= _dump_log(file, records, output) if file.suffix == ".log" else _dump_index(file, output)
        except BrokenPipeError:
            raise
        except OSError as error:
            failed = _complain(f"{file}: {error.strerror}")
    raise typer.Exit(int(failed))


@app.command()
def verify(
    paths: Annotated[list[Path], typer.Argument(help="Segments, directories of partitions or data directories.")],
    deep: Annotated[bool, typer.Option("--deep", help="Decompress and decode every record.")] = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Check CRCs, lengths, offsets and indexes of every segment under PATHS; exit 1 when anything is damaged."""
    from logstore.errors import InvalidRequest
    from logstore.segment.verify import next_base_offsets, verify_segment

    failed = False
    logs = _find_logs(paths)
    following = next_base_offsets(logs)
    for log in logs:
        try:
            report = verify_segment(log, deep=deep, next_base_offset=following[log], pause=_pause)
        except InvalidRequest as error:
            raise _usage(str(error)) from None
        except OSError as error:
            failed = _complain(f"{log}: {error.strerror}")
            continue
        failed |= not report.ok
        if output is Format.JSON:
            _print_report_json(report)
        else:
            _print_report(report)
    raise typer.Exit(int(failed))


@app.command()
def repair(
    paths: Annotated[list[Path], typer.Argument(help="Segments, directories of partitions or data directories.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done; exit 1 on damage.")] = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Take damaged bytes out of the segments under PATHS and rebuild their indexes, with the server stopped.

    Every sound batch stays, before the damage and behind it, at its offset. Nothing is deleted: each file that is
    replaced is kept beside as NAME.damaged-N. Needs free space for two copies of a damaged segment.
    """
    from logstore.errors import LogstoreError
    from logstore.files import OsFiles
    from logstore.repair import carry_out, examine, lock_data_directories
    from logstore.segment.verify import next_base_offsets

    files, logs, failed = OsFiles(), _find_logs(paths), False
    following = next_base_offsets(logs)
    with ExitStack() if dry_run else lock_data_directories(logs, files):
        for log in logs:
            kept: list[str] = []
            try:
                report, plan = examine(log, files, next_base_offset=following[log], pause=_pause)
                if not (dry_run or plan.refused):
                    kept = carry_out(plan, files)
            except LogstoreError as error:
                failed = _complain(f"{log}: {error}")
                continue
            except OSError as error:
                failed = _complain(f"{log}: {error.strerror or error}")
                continue
            failed |= bool(plan.refused) or (dry_run and not (report.ok and plan.recovery_point is None))
            if output is Format.JSON:
                _print_repair_json(report, plan, kept, dry_run)
            else:
                _print_repair(report, plan, kept, dry_run)
    raise typer.Exit(int(failed))


# --- verify ----------------------------------------------------------------------------------------------------------


def _print_report(report: VerifyReport) -> None:
    verdict = "ok" if report.ok else "DAMAGED"
    tail = "" if report.tail == "clean" else f", tail {report.tail} {report.tail_bytes} bytes"
    print(
        f"{verdict:8}{report.path}  {_offsets(report)}"
        f"  {report.batches} batches, {report.records} records, {report.size_bytes} bytes{tail}"
    )
    for damage in report.damages:
        print(f"        {damage}")
    if report.damage_count > len(report.damages):
        print(f"        and {report.damage_count - len(report.damages)} more")
    for note in report.notes:
        print(f"        note: {note}")


def _offsets(report: VerifyReport) -> str:
    if report.next_offset == report.base_offset:
        return f"next offset {report.next_offset}"
    return f"offsets {report.base_offset}..{report.next_offset - 1}"


def _print_report_json(report: VerifyReport) -> None:
    print_json_line(
        path=report.path,
        ok=report.ok,
        base_offset=report.base_offset,
        next_offset=report.next_offset,
        size_bytes=report.size_bytes,
        batches=report.batches,
        records=report.records,
        max_timestamp_ms=report.max_timestamp_ms,
        tail=report.tail.value,
        tail_bytes=report.tail_bytes,
        damage_count=report.damage_count,
        damages=[damage._asdict() for damage in report.damages],
        notes=report.notes,
    )


# --- repair ----------------------------------------------------------------------------------------------------------


def _print_repair(report: VerifyReport, plan: RepairPlan, kept: list[str], dry_run: bool) -> None:
    verdict = _verdict(plan, dry_run)
    stays = f"{report.batches} batches, {report.records} records"
    print(f"{verdict:13}{plan.path}  {plan.refused or stays + (' stay' if plan.losses else '')}")
    for loss in plan.losses:
        end = "the end" if loss.end == plan.size_bytes else f"byte {loss.end}"
        print(f"{'':13}bytes taken out: {loss.position} to {end}, {loss.end - loss.position} bytes; {_lost(loss)}")
        print(f"{'':13}    {loss.why}")
    if plan.recovery_point is not None:
        print(f"{'':13}recovery point of the partition lowered to {plan.recovery_point}, where its log ends")
    if plan.indexes:
        print(f"{'':13}made anew: {', '.join(Path(plan.path).with_suffix(suffix).name for suffix in plan.indexes)}")
    for name in kept:
        print(f"{'':13}kept: {name}")


def _verdict(plan: RepairPlan, dry_run: bool) -> str:
    if plan.refused:
        return "refused"
    if plan.is_empty:
        return "ok"
    return "would repair" if dry_run else "repaired"


def _lost(loss: Loss) -> str:
    if loss.records_max is None or loss.next_offset is None:
        return f"offsets {loss.from_offset} and later are lost"
    if not loss.records_max:
        return "no offset is lost"
    return f"offsets {loss.from_offset}..{loss.next_offset - 1} are lost, {loss.records_max} records at most"


def _print_repair_json(report: VerifyReport, plan: RepairPlan, kept: list[str], dry_run: bool) -> None:
    print_json_line(
        path=plan.path,
        verdict=_verdict(plan, dry_run),
        refused=plan.refused,
        batches=report.batches,
        records=report.records,
        losses=[{**loss._asdict(), "records_max": loss.records_max} for loss in plan.losses],
        indexes=list(plan.indexes),
        recovery_point=plan.recovery_point,
        kept=kept,
    )


# --- dump ------------------------------------------------------------------------------------------------------------


def _dump_log(path: Path, with_records: bool, output: Format) -> bool:
    """True when something was damaged."""
    from logstore.segment.inspect import SegmentScan

    if output is Format.TEXT:
        print(
            f"{'position':>10} {'offsets':>23} {'records':>7} {'codec':>6} {'max timestamp':>24} {'producer':>14} "
            f"{'seq':>6} {'crc':>4} {'flags':>10} {'bytes':>9}"
        )
    scan = SegmentScan(path, _pause)
    damaged = False
    for batch in scan:
        if output is Format.JSON:
            _print_batch_json(path, batch)
        else:
            _print_batch(batch)
        if batch.problem:
            damaged = _complain(f"{path} byte {batch.position}: {batch.problem}")
        elif with_records and batch.header is not None:
            damaged |= _dump_records(path, batch, batch.header, output)
    if scan.tail in ("torn", "unreadable"):
        left = scan.size_bytes - scan.position
        damaged = _complain(f"{path} byte {scan.position}: tail is {scan.tail}, {left} bytes")
    return damaged


def _print_batch(batch: FoundBatch) -> None:
    header = batch.header
    if header is None:
        print(f"{batch.position:>10} {'-':>23}   {batch.problem}")
        return
    offsets = f"{header.base_offset}..{header.last_offset}"
    producer = f"{header.producer_id}/{header.producer_epoch}" if header.producer_id >= 0 else "-"
    sequence = str(header.base_sequence) if header.base_sequence >= 0 else "-"
    print(
        f"{batch.position:>10} {offsets:>23} {header.record_count:>7} {_codec_name(header):>6} "
        f"{_time(header.max_timestamp_ms):>24} {producer:>14} {sequence:>6} {'BAD' if batch.problem else 'ok':>4} "
        f"{_flags(header):>10} {batch.size_bytes:>9}"
    )


def _print_batch_json(path: Path, batch: FoundBatch) -> None:
    fields: dict[str, Any] = {"path": str(path), "position": batch.position, "size_bytes": batch.size_bytes}
    if batch.header is not None:
        header = batch.header
        fields |= header._asdict()
        fields |= {"last_offset": header.last_offset, "codec": _codec_name(header), "flags": _flags(header).split()}
    print_json_line(**fields, ok=not batch.problem, problem=batch.problem)


def _dump_records(path: Path, batch: FoundBatch, header: BatchHeader, output: Format) -> bool:
    from logstore.errors import LogstoreError
    from logstore.record.control import parse_marker
    from logstore.record.records import iter_records

    try:
        for record in iter_records(batch.data, header):
            marker = parse_marker(record.key, record.value) if header.is_control else None
            if output is Format.JSON:
                more = {"marker": marker.type.name.lower()} if marker else {}
                print_json_line(**_record_json(record), **more)
            else:
                what = (
                    f"{marker.type.name.lower()} marker, coordinator epoch {marker.coordinator_epoch}" if marker else ""
                )
                print(f"{'|':>10} {record.offset:>23} {_time(record.timestamp_ms):>24}  {what or _record_text(record)}")
    except LogstoreError as error:
        return _complain(f"{path} byte {batch.position}: {error}")
    return False


def _record_text(record: Record) -> str:
    headers = "".join(f" {_printable(name.encode('utf-8', 'replace'))}:{_printable(v)}" for name, v in record.headers)
    return f"key={_printable(record.key)} value={_printable(record.value)}{headers}"


def _record_json(record: Record) -> dict[str, Any]:
    return {
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        **_bytes_json("key", record.key),
        **_bytes_json("value", record.value),
        "headers": [{"name": name, **_bytes_json("value", value)} for name, value in record.headers],
    }


def _bytes_json(name: str, data: bytes | None) -> dict[str, str | None]:
    """`name` when the bytes are text, else `name_hex`."""
    try:
        return {name: None if data is None else data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_hex": "" if data is None else data.hex()}


def _dump_index(path: Path, output: Format) -> bool:
    from logstore.errors import InvalidRequest
    from logstore.segment import offset_index, time_index
    from logstore.segment.inspect import base_offset_of

    try:
        base_offset = base_offset_of(path)
    except InvalidRequest as error:
        raise _usage(str(error)) from None
    data = path.read_bytes()
    entry = offset_index.ENTRY if path.suffix == ".index" else time_index.ENTRY
    used = data.rstrip(b"\0")
    count = min(-(-len(used) // entry.size), len(data) // entry.size)
    for number, (first, second) in enumerate(entry.iter_unpack(data[: count * entry.size])):
        if path.suffix == ".index":
            fields = {"offset": base_offset + first, "position": second}
        else:
            fields = {"timestamp_ms": first, "offset": base_offset + second}
        if output is Format.JSON:
            print_json_line(path=str(path), entry=number, **fields)
        else:
            print(f"{number:>8}  " + "  ".join(f"{name} {value}" for name, value in fields.items()))
    if len(used) > count * entry.size:
        return _complain(f"{path} byte {count * entry.size}: the last entry is cut")
    return False


# --- the rest --------------------------------------------------------------------------------------------------------


def _find_logs(paths: list[Path]) -> list[Path]:
    """The `.log` files of `paths`, directories searched to any depth. A path that is missing or has none is refused."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            logs = sorted(log for log in path.rglob("*.log") if len(log.stem) == 20 and log.stem.isdecimal())
            if not logs:
                raise _usage(f"{path} holds no segment")
            found += logs
        elif not path.exists():
            raise _usage(f"{path} does not exist")
        elif path.suffix != ".log" or len(path.stem) != 20 or not path.stem.isdecimal():
            raise _usage(f"{path} is no segment: its name must be 20 digits and .log")
        else:
            found.append(path)
    return found


def _codec_name(header: BatchHeader) -> str:
    from logstore.record.compression import CODEC_NAMES, Codec

    return CODEC_NAMES[Codec(header.codec)] if header.codec in list(Codec) else f"?{header.codec}"


def _flags(header: BatchHeader) -> str:
    words = [
        "tx" if header.is_transactional else "",
        "ctl" if header.is_control else "",
        "lat" if header.is_log_append_time else "",
    ]
    return " ".join(filter(None, words))


def _time(timestamp_ms: int) -> str:
    from datetime import UTC, datetime

    if timestamp_ms < 0:
        return "-"
    try:
        text = datetime.fromtimestamp(timestamp_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)
    return f"{text}.{timestamp_ms % 1000:03}Z"


def _printable(data: bytes | None) -> str:
    """Text as it is, other bytes as hex, at most `_TEXT_MAX` of either."""
    if data is None:
        return "null"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and (text or not data):
        return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}… ({len(data)} bytes)"
    shown = data[: _TEXT_MAX // 2].hex()
    return f"0x{shown}" if len(data) <= _TEXT_MAX // 2 else f"0x{shown}… ({len(data)} bytes)"


def _pause() -> None:
    """A running server finishes the write it is at."""
    Event().wait(_PAUSE_SECONDS)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _complain(message: str) -> bool:
    print(message, file=sys.stderr)
    return True


def _usage(message: str) -> typer.BadParameter:
    return typer.BadParameter(message)

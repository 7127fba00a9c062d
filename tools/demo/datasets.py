"""Three real event streams, or small made-up ones with the same features, as records to push through any client.

    topic      source                                   key              what is special
    hdfs       logs/HDFS_2k.log                         block id         text lines, timestamps out of order
    market     events/market-frames.jsonl.gz            EXCHANGE:SYMBOL  keys that are null, one value of 709 kB
    advisories changes/rustsec-advisories.jsonl.gz      path             deletes: a null value is a tombstone

Values are the bytes of the source, never reformatted. Every record bears its number in the header `n`, so that a lost,
doubled or misplaced one is found by name.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from logstore.types import Header, TimestampMs

PARTITIONS: Final = 4
NUMBER_HEADER: Final = "n"
LARGE_VALUE_BYTES: Final = 700_000

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
REAL_DATA: Final = _ROOT.parent / "shared" / "data"
SMALL_DATA: Final = _ROOT / "tests" / "data" / "small"

_BLOCK: Final = re.compile(rb"blk_-?\d+")
_FRAME: Final = b',"frame":'
_VALUE: Final = b',"value":'


class Sent(NamedTuple):
    """One record as it is handed to a client."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: TimestampMs
    headers: tuple[Header, ...]

    @property
    def size_bytes(self) -> int:
        return len(self.key or b"") + len(self.value or b"")


class Dataset(NamedTuple):
    """A topic to make and the records to write to it, in order."""

    topic: str
    partitions: int
    records: Sequence[Sent]

    @property
    def size_bytes(self) -> int:
        return sum(record.size_bytes for record in self.records)


def load(data: Path | None = None) -> list[Dataset]:
    """The three streams from directory `data`; None: the real ones when they are there, else the small ones.

    Raises `FileNotFoundError` naming the file that is missing.
    """
    root = data or (REAL_DATA if REAL_DATA.is_dir() else SMALL_DATA)
    return [dataset(name, root) for name in SOURCES]


def dataset(name: str, root: Path) -> Dataset:
    """One of `SOURCES` from directory `root`."""
    path, parse = SOURCES[name]
    records = [
        Sent(key, value, timestamp_ms, (*headers, (NUMBER_HEADER, str(number).encode())))
        for number, (key, value, timestamp_ms, headers) in enumerate(parse(_lines(root / path)))
    ]
    if root == SMALL_DATA and name == "market":
        records.append(_large(records))
    return Dataset(name, PARTITIONS, records)


def _lines(path: Path) -> Iterator[bytes]:
    """Lines without their ends; a `.gz` may also lie there unpacked."""
    if not path.exists() and path.suffix == ".gz":
        path = path.with_suffix("")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for line in file:
            yield line.rstrip(b"\r\n")


def _hdfs(lines: Iterator[bytes]) -> Iterator[Sent]:
    for line in lines:
        day, clock, process, level, _ = line.split(b" ", 4)
        moment = datetime.strptime(f"{day.decode()} {clock.decode()}", "%y%m%d %H%M%S").replace(tzinfo=UTC)
        block = _BLOCK.search(line)
        headers = (("level", level), ("pid", process))
        yield Sent(block[0] if block else None, line, int(moment.timestamp()) * 1000, headers)


def _market(lines: Iterator[bytes]) -> Iterator[Sent]:
    for line in lines:
        head, value = _split(line, _FRAME)
        fields = json.loads(head)
        key = fields["key"]
        headers = (("exchange", fields["exchange"].encode()),)
        yield Sent(None if key is None else key.encode(), value, int(fields["recv_ts"] * 1000), headers)


def _advisories(lines: Iterator[bytes]) -> Iterator[Sent]:
    for line in lines:
        head, value = _split(line, _VALUE)
        fields = json.loads(head)
        moment = datetime.fromisoformat(fields["committed_at"])
        headers = (("op", fields["op"].encode()), ("commit", fields["commit"].encode()), ("empty", b""))
        tombstone = value == b"null"
        yield Sent(fields["key"].encode(), None if tombstone else value, int(moment.timestamp()) * 1000, headers)


def _split(line: bytes, mark: bytes) -> tuple[bytes, bytes]:
    """`{a,"mark":value}` -> `{a}` and the value's exact bytes; the value is the last field of the object."""
    head, found, rest = line.partition(mark)
    if not found or not rest.endswith(b"}"):
        raise ValueError(f"no {mark.decode()} in the line {line[:80]!r}")
    return head + b"}", rest[:-1]


def _large(records: Sequence[Sent]) -> Sent:
    """A value near the usual limit of a message; made here, to keep it out of the repository."""
    value = b'{"book":"' + b"0123456789abcdef" * (LARGE_VALUE_BYTES // 16) + b'"}'
    number = (NUMBER_HEADER, str(len(records)).encode())
    return Sent(b"SMALL:LARGE", value, records[-1].timestamp_ms, (("exchange", b"SMALL"), number))


SOURCES: Final[dict[str, tuple[str, Callable[[Iterator[bytes]], Iterator[Sent]]]]] = {
    "hdfs": ("logs/HDFS_2k.log", _hdfs),
    "market": ("events/market-frames.jsonl.gz", _market),
    "advisories": ("changes/rustsec-advisories.jsonl.gz", _advisories),
}

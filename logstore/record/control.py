"""Control records: the markers that end a transaction in a partition. Pure.

    key    version i16 (0) · type i16 (0 abort, 1 commit)
    value  version i16 (0) · coordinator epoch i32

A marker is the only record of a batch with the control and transactional bits and the producer's id and epoch; it takes
an offset, but no consumer sees it. Other control types (KRaft's leader change and snapshot records) are none of ours.
A later version may append fields: they are not read. Source: Kafka protocol guide, "Control Batch"; KIP-98.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from logstore.errors import CorruptBatch, InvalidRecord
from logstore.record.batch import BatchHeader
from logstore.record.records import decode_batch, encode_batch
from logstore.types import NO_SEQUENCE, Buffer, TimestampMs

_KEY: Final = struct.Struct(">hh")
_VALUE: Final = struct.Struct(">hi")
assert (_KEY.size, _VALUE.size) == (4, 6)
_VERSION: Final = 0
_BODY_BYTES_MAX: Final = 1 << 20


class MarkerType(IntEnum):
    """How the transaction ended."""

    ABORT = 0
    COMMIT = 1


class EndMarker(NamedTuple):
    """One end of a transaction. `coordinator_epoch` fences markers of a coordinator that was replaced."""

    type: MarkerType
    coordinator_epoch: int


def build_key(marker_type: MarkerType) -> bytes:
    return _KEY.pack(_VERSION, marker_type)


def build_value(coordinator_epoch: int) -> bytes:
    return _VALUE.pack(_VERSION, coordinator_epoch)


def parse_key(key: Buffer | None) -> int:
    """The control type of a control record's key, known or not. Raises `CorruptBatch` (short, negative version)."""
    if key is None or len(key) < _KEY.size:
        raise CorruptBatch(f"a control record's key has {0 if key is None else len(key)} of {_KEY.size} bytes")
    version, control_type = _KEY.unpack_from(key)
    if version < 0:
        raise CorruptBatch(f"a control record's key has version {version}")
    return int(control_type)


def parse_marker(key: Buffer | None, value: Buffer | None) -> EndMarker | None:
    """The marker in a control record, None when it is of another type. Raises `CorruptBatch`."""
    control_type = parse_key(key)
    if control_type not in (MarkerType.ABORT, MarkerType.COMMIT):
        return None
    if value is None or len(value) < _VALUE.size:
        raise CorruptBatch(f"a marker's value has {0 if value is None else len(value)} of {_VALUE.size} bytes")
    version, coordinator_epoch = _VALUE.unpack_from(value)
    if version < 0:
        raise CorruptBatch(f"a marker's value has version {version}")
    return EndMarker(MarkerType(control_type), coordinator_epoch)


def encode_marker_batch(
    marker: EndMarker, *, producer_id: int, producer_epoch: int, timestamp_ms: TimestampMs
) -> bytearray:
    """The batch that ends this producer's transaction. Raises `InvalidRecord` for a field off its bounds."""
    try:
        key, value = build_key(marker.type), build_value(marker.coordinator_epoch)
    except struct.error:
        raise InvalidRecord(f"coordinator epoch {marker.coordinator_epoch} does not fit 32 bits") from None
    return encode_batch(
        [(timestamp_ms, key, value, ())],
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=NO_SEQUENCE,
        transactional=True,
        control=True,
    )


def decode_marker_batch(batch: Buffer, header: BatchHeader | None = None) -> EndMarker | None:
    """The marker of a control batch, None when it holds another control record or none. Raises `CorruptBatch`."""
    records = decode_batch(batch, header, bytes_max=_BODY_BYTES_MAX)
    return parse_marker(records[0].key, records[0].value) if records else None

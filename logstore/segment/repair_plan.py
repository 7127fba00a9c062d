"""What to do about one segment, from what `verify_segment` found. Pure.

    found                                             done to the .log                     done to the indexes
    nothing wrong                                     nothing                              nothing
    only indexes missing or damaged                   nothing                              those made anew
    a tail that is torn or unreadable                 cut at its first byte                both made anew
    zeros behind a segment that another follows       cut at their first byte              both made anew
    damage with sound batches behind it               made anew of the sound batches       both made anew
    messages of the formats v0, v1                    refused: they are whole, we cannot read them

Offsets stay what they are: what is left out leaves a gap, as compaction does. A log that ends before the recovery point
of its partition (everything below was synced, says its checkpoint) would be refused when it is opened, so that point is
lowered to its end.
"""

from __future__ import annotations

from typing import NamedTuple

from logstore.segment.inspect import INDEX_SUFFIX, TIME_INDEX_SUFFIX, Tail
from logstore.segment.verify import Extent, VerifyReport
from logstore.types import Offset, Position


class Loss(NamedTuple):
    """Bytes `position..end` (exclusive) that do not stay, and the offsets nothing holds any more.

    `next_offset` (exclusive) is None where nobody can say how many records there were.
    """

    position: Position
    end: Position
    from_offset: Offset
    next_offset: Offset | None
    why: str

    @property
    def records_max(self) -> int | None:
        return None if self.next_offset is None else self.next_offset - self.from_offset


class RepairPlan(NamedTuple):
    """`keep` and `losses` together are the whole file, but for zeros allocated ahead."""

    path: str
    base_offset: Offset
    size_bytes: int
    keep: tuple[Extent, ...] = ()
    losses: tuple[Loss, ...] = ()
    indexes: tuple[str, ...] = ()
    """Suffixes of the index files to make anew."""
    recovery_point: Offset | None = None
    """What the partition's recovery point is lowered to."""
    refused: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.losses or self.indexes or self.recovery_point is not None or self.refused)


def plan_repair(report: VerifyReport, recovery_point: Offset | None = None) -> RepairPlan:
    """`recovery_point` of the partition if the segment is its last one, None if not or if none is known."""
    plan = RepairPlan(report.path, report.base_offset, report.size_bytes)
    if report.old_batches:
        what = f"{report.old_batches} messages of record format v0 or v1 are in it: let a Kafka before 4.0 convert it"
        return plan._replace(refused=what)
    losses = _losses(report)
    return plan._replace(
        keep=tuple(report.extents),
        losses=losses,
        indexes=(INDEX_SUFFIX, TIME_INDEX_SUFFIX) if losses else tuple(report.indexes_to_build),
        recovery_point=None if recovery_point is None or recovery_point <= report.next_offset else report.next_offset,
    )


def _losses(report: VerifyReport) -> tuple[Loss, ...]:
    losses: list[Loss] = []
    position, offset = 0, report.base_offset
    for extent in report.extents:
        if extent.position > position:
            losses.append(_loss(report, position, extent.position, offset, extent.base_offset))
        position, offset = extent.end, extent.next_offset
    zeros_bytes = report.tail_bytes if report.tail is Tail.ZEROS else 0
    end = report.size_bytes - zeros_bytes
    if end > position:
        losses.append(_loss(report, position, end, offset, report.next_base_offset))
    if zeros_bytes and report.next_base_offset is not None:
        losses.append(_loss(report, end, report.size_bytes, offset, offset))
    return tuple(losses)


def _loss(
    report: VerifyReport, position: Position, end: Position, from_offset: Offset, next_offset: Offset | None
) -> Loss:
    whats = [one.what for one in report.damages if one.path == report.path and position <= one.position < end]
    why = whats[0] if whats else "damaged"
    return Loss(position, end, from_offset, next_offset, why if len(whats) < 2 else f"{why}; {len(whats) - 1} more")

"""What to look at when a partition is opened, and what to do about what was found. Pure: two tables.

Before a stop a log promised two things: everything below the recovery point was fsynced, and after a clean stop every
file is what it should be. Only what neither promise covers is looked at byte by byte.

Which check:

    clean stop   last segment   ends at or below recovery point   check
    yes          no             any                               TRUST
    yes          yes            any                               TAIL
    no           no             yes                               DROP_INDEXES
    no           no             no                                SCAN
    no           yes            any                               SCAN

What a scan leads to:

    damage                        before recovery point   later segments   repair
    NONE                          any                     any              KEEP
    SHORT: ends too early         any                     any              REFUSE
    TORN: nothing whole after it  no                      no               TRUNCATE
    TORN                          no                      yes              TRUNCATE_SET_LATER_ASIDE
    BROKEN: whole batches after   no                      no               SAVE_AND_TRUNCATE
    BROKEN                        no                      yes              SAVE_AND_TRUNCATE_SET_LATER_ASIDE
    TORN or BROKEN                yes                     any              REFUSE

Unsynced writes may reach the disk in any order, so whole batches behind a hole are no proof of a promise broken; they
are kept in a file of their own all the same. Damage before the recovery point is a promise broken: nothing is touched.
"""

from __future__ import annotations

from enum import Enum


class Check(Enum):
    """How closely one segment is looked at."""

    TRUST = "nothing is read"
    TAIL = "hop over the headers behind the last index entry; SCAN if they do not add up"
    DROP_INDEXES = "the log is trusted, its indexes are rebuilt when first needed"
    SCAN = "check every batch with its CRC, rebuild the indexes"


class Damage(Enum):
    """What follows the last whole batch of a segment."""

    NONE = "the end of the file"
    SHORT = "the end of the log, before the recovery point"
    TORN = "bytes that hold no whole batch"
    BROKEN = "bytes with whole batches among them"


class Repair(Enum):
    """What is done to a scanned segment."""

    KEEP = "kept"
    TRUNCATE = "cut after the last whole batch"
    TRUNCATE_SET_LATER_ASIDE = "cut after the last whole batch, later segments renamed"
    SAVE_AND_TRUNCATE = "cut after the last whole batch, the rest saved in a file"
    SAVE_AND_TRUNCATE_SET_LATER_ASIDE = "cut after the last whole batch, the rest saved, later segments renamed"
    REFUSE = "left as it is, the partition stays closed"

    @property
    def saves(self) -> bool:
        return self in (Repair.SAVE_AND_TRUNCATE, Repair.SAVE_AND_TRUNCATE_SET_LATER_ASIDE)

    @property
    def sets_later_aside(self) -> bool:
        return self in (Repair.TRUNCATE_SET_LATER_ASIDE, Repair.SAVE_AND_TRUNCATE_SET_LATER_ASIDE)


def plan_check(*, clean_stop: bool, is_last: bool, ends_below_recovery_point: bool) -> Check:
    """The first table. `ends_below_recovery_point`: every record of the segment is below the recovery point."""
    match clean_stop, is_last, ends_below_recovery_point:
        case True, False, _:
            return Check.TRUST
        case True, True, _:
            return Check.TAIL
        case False, False, True:
            return Check.DROP_INDEXES
        case _:
            return Check.SCAN


def plan_repair(damage: Damage, *, before_recovery_point: bool, has_later: bool) -> Repair:
    """The second table. `before_recovery_point`: the first damaged byte belongs to a record that was fsynced."""
    match damage, before_recovery_point, has_later:
        case Damage.NONE, _, _:
            return Repair.KEEP
        case Damage.SHORT, _, _:
            return Repair.REFUSE
        case _, True, _:
            return Repair.REFUSE
        case Damage.TORN, _, False:
            return Repair.TRUNCATE
        case Damage.TORN, _, True:
            return Repair.TRUNCATE_SET_LATER_ASIDE
        case _, _, False:
            return Repair.SAVE_AND_TRUNCATE
        case _:
            return Repair.SAVE_AND_TRUNCATE_SET_LATER_ASIDE

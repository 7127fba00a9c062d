"""What can go wrong, in classes chosen by what the caller does next.

The message says what was wrong and with what; `hint` says what to do. `retriable` answers one question: may the same
call, unchanged, succeed later? The wire codes and HTTP statuses live in one table in `api/errors.py`.
"""

from __future__ import annotations

from typing import ClassVar


class LogstoreError(Exception):
    """Base of every error this project raises on purpose."""

    retriable: ClassVar[bool] = False
    hint: str

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


# --- the caller asked for something wrong: change the call ---------------------------------------------------------


class InvalidRequest(LogstoreError):
    """The request contradicts itself or the protocol."""


class InvalidTopicName(LogstoreError):
    """A topic name outside Kafka's rule: 1 to 249 of `[a-zA-Z0-9._-]`, not `.` or `..`."""


class InvalidPartitions(LogstoreError):
    """A partition count outside 1..bound, or fewer than there are."""


class InvalidConfig(LogstoreError):
    """An unknown option, or a value outside its type or bounds."""


class TopicExists(LogstoreError):
    """A topic of that name is there already."""


class UnknownTopicOrPartition(LogstoreError):
    """No such topic, topic id or partition here."""

    retriable = True


class UnknownTopicId(UnknownTopicOrPartition):
    """No topic has this id; another one may have its name by now."""


class OffsetOutOfRange(LogstoreError):
    """A read below the log start offset or above the high watermark."""

    def __init__(self, message: str, *, log_start_offset: int, log_end_offset: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log_start_offset = log_start_offset
        self.log_end_offset = log_end_offset


# --- the batch cannot be taken -------------------------------------------------------------------------------------


class CorruptBatch(LogstoreError):
    """A batch whose bytes contradict themselves: wrong CRC32C, length, counts, or a body that does not decode."""


class UnsupportedFormat(LogstoreError):
    """A batch of another format than RecordBatch v2, or with a codec this node does not know."""


class RecordTooLarge(LogstoreError):
    """A batch above the topic's `max.message.bytes`."""


class InvalidRecord(LogstoreError):
    """A well-formed batch that the topic's rules refuse."""


class InvalidTimestamp(LogstoreError):
    """A record timestamp outside what the topic accepts."""


class OutOfOrderSequence(LogstoreError):
    """An idempotent producer's sequence number leaves a gap: an earlier batch is missing."""


class InvalidProducerEpoch(LogstoreError):
    """A newer instance of this producer has been seen: this one is fenced."""


class UnknownProducer(LogstoreError):
    """The producer id is not one this node handed out or still remembers."""


class InvalidTransactionState(LogstoreError):
    """A transactional batch outside a transaction."""


# --- storage cannot do its work -------------------------------------------------------------------------------------


class NotWritten(LogstoreError):
    """Refused before anything became readable (disk full, read-only file system): free space, then retry."""

    retriable = True


class DurabilityUnknown(LogstoreError):
    """fsync failed: no acknowledgement, no retry in place; the partition is read-only until recovery decides."""


class DamagedSegment(LogstoreError):
    """Bytes on disk that are not what was written, with the file and the position of the first damage."""

    def __init__(self, message: str, *, path: str, position: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path
        self.position = position


class DirectoryLocked(LogstoreError):
    """Another process owns this data directory."""

    def __init__(self, message: str, *, pid: int | None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.pid = pid


class NotOwner(LogstoreError):
    """A fence was passed by a newer owner: this writer must stop, another one has taken over."""


class Closed(LogstoreError):
    """The store, log or server is shutting down."""

    retriable = True

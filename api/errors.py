"""One table: each error class of the house -> Kafka's code, the HTTP status, and the REST proxy's code for it.

A test walks every class of `logstore.errors`: one without a row fails it. REST codes: Confluent REST proxy v2.
"""

from __future__ import annotations

from typing import NamedTuple

from cluster.error_codes import ErrorCode
from logstore import errors
from logstore.errors import LogstoreError


class Wire(NamedTuple):
    """How an error class leaves the house."""

    code: ErrorCode
    http_status: int
    rest_code: int


WIRE: dict[type[LogstoreError], Wire] = {
    LogstoreError: Wire(ErrorCode.UNKNOWN_SERVER_ERROR, 500, 50002),
    errors.InvalidRequest: Wire(ErrorCode.INVALID_REQUEST, 400, 40002),
    errors.InvalidTopicName: Wire(ErrorCode.INVALID_TOPIC_EXCEPTION, 422, 40002),
    errors.InvalidPartitions: Wire(ErrorCode.INVALID_PARTITIONS, 422, 40002),
    errors.InvalidConfig: Wire(ErrorCode.INVALID_CONFIG, 422, 40002),
    errors.TopicExists: Wire(ErrorCode.TOPIC_ALREADY_EXISTS, 409, 40002),
    errors.UnknownTopicOrPartition: Wire(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, 404, 40401),
    errors.UnknownTopicId: Wire(ErrorCode.UNKNOWN_TOPIC_ID, 404, 40401),
    errors.OffsetOutOfRange: Wire(ErrorCode.OFFSET_OUT_OF_RANGE, 416, 41601),
    errors.CorruptBatch: Wire(ErrorCode.CORRUPT_MESSAGE, 422, 42206),
    errors.UnsupportedFormat: Wire(ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT, 415, 41501),
    errors.RecordTooLarge: Wire(ErrorCode.MESSAGE_TOO_LARGE, 413, 41301),
    errors.InvalidRecord: Wire(ErrorCode.INVALID_RECORD, 422, 42206),
    errors.InvalidTimestamp: Wire(ErrorCode.INVALID_TIMESTAMP, 422, 42206),
    errors.OutOfOrderSequence: Wire(ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, 409, 40903),
    errors.InvalidProducerEpoch: Wire(ErrorCode.INVALID_PRODUCER_EPOCH, 409, 40903),
    errors.UnknownProducer: Wire(ErrorCode.UNKNOWN_PRODUCER_ID, 409, 40903),
    errors.InvalidTransactionState: Wire(ErrorCode.INVALID_TXN_STATE, 409, 40903),
    errors.NotWritten: Wire(ErrorCode.KAFKA_STORAGE_ERROR, 507, 50003),
    errors.DurabilityUnknown: Wire(ErrorCode.KAFKA_STORAGE_ERROR, 500, 50002),
    errors.DamagedSegment: Wire(ErrorCode.KAFKA_STORAGE_ERROR, 500, 50002),
    errors.DirectoryLocked: Wire(ErrorCode.KAFKA_STORAGE_ERROR, 500, 50002),
    errors.NotOwner: Wire(ErrorCode.NOT_LEADER_OR_FOLLOWER, 503, 50003),
    errors.Closed: Wire(ErrorCode.BROKER_NOT_AVAILABLE, 503, 50302),
}


def wire(error: LogstoreError) -> Wire:
    """The row of the error's class, or of the nearest base that has one."""
    return next(WIRE[cls] for cls in type(error).__mro__ if cls in WIRE)

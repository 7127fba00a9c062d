"""What an HTTP client is told when it is refused: a status and the REST proxy's `{"error_code", "message"}`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from api.errors import wire
from logstore.errors import LogstoreError

BAD_REQUEST: Final = 40002
PARTITION_NOT_FOUND: Final = 40402
FORMAT_MISMATCH: Final = 40601
JSON_CONVERSION: Final = 42203
PAYLOAD: Final = 42206
OFFSET_OUT_OF_RANGE: Final = 41601
SERVER_ERROR: Final = 50002


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every refusal."""

    error_code: int
    message: str


class Problem(Exception):
    """A refusal on its way to the client."""

    def __init__(
        self, status: int, error_code: int, message: str, *, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.message = message
        self.headers = tuple(headers)

    @property
    def body(self) -> bytes:
        return msgspec.json.encode(ErrorBody(self.error_code, self.message))


def problem_of(error: LogstoreError) -> Problem:
    """The refusal that `api.errors.WIRE` names for `error`; one worth retrying says when."""
    row = wire(error)
    headers = [(b"retry-after", b"1")] if row.http_status in (503, 507) else []
    return Problem(row.http_status, row.rest_code, str(error), headers=headers)


def no_partition(topic: str, index: object, count: int) -> Problem:
    return Problem(404, PARTITION_NOT_FOUND, f"topic {topic} has partitions 0..{count - 1}, not {index}")

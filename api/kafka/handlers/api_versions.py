"""ApiVersions (key 18), versions 0 to 4: which APIs and versions this node serves.

The advertised list is the list of handlers. Produce is advertised from 0 although 0 to 2 are refused: librdkafka takes
a higher minimum for a broker without produce (KAFKA-18659, KIP-896). An unknown version is answered in the form of
version 0 with UNSUPPORTED_VERSION and the range of ApiVersions itself, so that the client can ask again (KIP-511).
Version 3 names the client's software, which later shows in logs.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.kafka.codec import response_header, write_response
from api.kafka.connection import Slot
from api.kafka.handlers import SERVED
from api.kafka.messages.api_versions import ApiVersion, ApiVersionsRequest, ApiVersionsResponse
from cluster.error_codes import ErrorCode

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 18
VERSIONS = (0, 4)
_PRODUCE_KEY = 0


def handle(context: Context, request: ApiVersionsRequest) -> ApiVersionsResponse:
    if context.version >= 3:
        context.session.client_software_name = request.client_software_name[:64]
        context.session.client_software_version = request.client_software_version[:64]
    return ApiVersionsResponse(error_code=ErrorCode.NONE, api_keys=served())


def serve_unknown_version(context: Context, frame: memoryview, slot: Slot) -> None:
    """Answer an ApiVersions request that is too new to be read."""
    response = ApiVersionsResponse(
        error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=[each for each in served() if each.api_key == API_KEY]
    )
    slot.fill((response_header(API_KEY, 0, context.header.correlation_id), write_response(API_KEY, 0, response)))


@cache
def served() -> list[ApiVersion]:
    """Every served API with its advertised versions."""
    return [ApiVersion(each.api_key, 0 if each.api_key == _PRODUCE_KEY else each.low, each.high) for each in SERVED]

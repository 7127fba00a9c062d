"""InitProducerId (key 22), versions 0 to 5: an identity for an idempotent producer (KIP-98, KIP-360).

Without a transactional id: a producer id nobody had before, epoch 0; a producer that gives the identity it had (version
3) gets a new one, too, since ids are plenty and the old one's sequences then cannot be confused. Transactional ids are
refused: this broker does not coordinate transactions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.errors import wire
from api.kafka.messages.init_producer_id import InitProducerIdRequest, InitProducerIdResponse
from cluster.error_codes import ErrorCode
from logstore.errors import LogstoreError

if TYPE_CHECKING:
    from api.kafka.dispatch import Context

API_KEY = 22
VERSIONS = (0, 5)


async def handle(context: Context, request: InitProducerIdRequest) -> InitProducerIdResponse:
    if request.transactional_id is not None:
        return _refused(ErrorCode.INVALID_REQUEST)
    try:
        producer = await context.node.new_producer()
    except LogstoreError as error:
        return _refused(wire(error).code)
    return InitProducerIdResponse(
        error_code=ErrorCode.NONE, producer_id=producer.producer_id, producer_epoch=producer.producer_epoch
    )


def _refused(code: ErrorCode) -> InitProducerIdResponse:
    return InitProducerIdResponse(error_code=code, producer_id=-1, producer_epoch=-1)

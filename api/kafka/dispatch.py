"""One request: header -> handler -> reply slot. The list of what this node serves, and nothing about any API.

A handler module opens with the versions it serves. `handle` gets the decoded request and returns the response or a
coroutine for one; Produce and Fetch take the raw frame instead (`serve`) and fill their slot themselves.
Errors: a request that does not decode, or of an API or version not served, ends its connection, as in Kafka; only
ApiVersions of an unknown version is answered (KIP-511). An unexpected exception ends the connection that caused it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Protocol, cast

import msgspec

from api.kafka.codec import RequestHeader, read_request, read_request_header, response_header, write_response
from api.kafka.connection import Session, Slot
from api.kafka.errors import UnsupportedRequest
from api.kafka.handlers import SERVED, Served, api_versions
from cluster.node import Node

log = logging.getLogger(__name__)


class Context(NamedTuple):
    """What a handler knows of its request besides the body."""

    node: Node
    session: Session
    header: RequestHeader

    @property
    def version(self) -> int:
        return self.header.api_version

    @property
    def client_id(self) -> str:
        return self.header.client_id or ""


class Handler(Protocol):
    """A module of `handlers`: decoded request in, response out."""

    API_KEY: int
    VERSIONS: tuple[int, int]
    handle: Callable[[Context, Any], Any]


Serve = Callable[[Context, memoryview, Slot], None]


class Dispatcher:
    """Hands each frame to the handler of its API key."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[int, tuple[int, int, Serve]] = {}
        for served in SERVED:
            self._handlers[served.api_key] = (served.low, served.high, self._loading(served))

    def __call__(self, session: Session, frame: memoryview) -> None:
        """Serve one request; its reply is filled now or later. Raises `FrameError` to end the connection."""
        shortcut = session.shortcut
        if shortcut is not None and shortcut(frame):
            return
        header = read_request_header(frame)
        low, high, serve = self._handlers.get(header.api_key, (0, -1, _unsupported))
        if not low <= header.api_version <= high:
            serve = api_versions.serve_unknown_version if header.api_key == api_versions.API_KEY else _unsupported
        serve(Context(self._node, session, header), frame, session.open_slot())

    def _loading(self, served: Served) -> Serve:
        """What stands in for a handler until its first request."""

        def serve(context: Context, frame: memoryview, slot: Slot) -> None:
            module = served.load()
            loaded: Serve = getattr(module, "serve", None) or self._serving(cast(Handler, module))
            self._handlers[served.api_key] = (served.low, served.high, loaded)
            loaded(context, frame, slot)

        return serve

    def _serving(self, module: Handler) -> Serve:
        handle = module.handle

        def serve(context: Context, frame: memoryview, slot: Slot) -> None:
            header = context.header
            outcome = handle(context, read_request(header.api_key, header.api_version, frame, header.body_position))
            if isinstance(outcome, msgspec.Struct):
                reply(slot, header, outcome)
            else:
                self._run(outcome, context, slot)

        return serve

    def _run(self, work: Coroutine[Any, Any, msgspec.Struct], context: Context, slot: Slot) -> None:
        async def answer() -> None:
            try:
                reply(slot, context.header, await work)
            except Exception:
                log.exception("%s:%d: request failed", context.session.peer_host, context.session.peer_port)
                slot.skip()
                context.session.finish()

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def reply(slot: Slot, header: RequestHeader, response: msgspec.Struct) -> None:
    """Encode `response` in the version of its request and fill the slot."""
    slot.fill(
        (
            response_header(header.api_key, header.api_version, header.correlation_id),
            write_response(header.api_key, header.api_version, response),
        )
    )


def _unsupported(context: Context, frame: memoryview, slot: Slot) -> None:
    header = context.header
    raise UnsupportedRequest(
        f"API key {header.api_key} version {header.api_version} is not served here",
        hint="clients learn the served versions by ApiVersions",
    )

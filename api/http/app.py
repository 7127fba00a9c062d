"""The HTTP door as one ASGI application: a thin shim that takes the hot routes, and FastAPI for everything else.

The shim looks at method and path only. The hot routes are also FastAPI's (`rest`), so the OpenAPI document and 405
answers are the same; the shim saves routing, dependency and response objects per request, and can answer while FastAPI
is still being imported. Other requests wait for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.asgi import ClientGone, partition_number, respond
from api.http.door import Door, HttpLimits
from api.http.errors import SERVER_ERROR, Problem, problem_of
from api.http.lifecycle import Lifecycle
from api.http.produce import produce
from api.http.read import read
from api.http.routes import PRODUCE_PARTITION_ROUTE, PRODUCE_ROUTE, READ_ROUTE
from cluster.node import Node
from logstore.clock import Clock
from logstore.errors import LogstoreError

if TYPE_CHECKING:
    from api.http.metrics import MeasureSource

log = logging.getLogger(__name__)

Answer = Callable[[Scope, Receive, Send], Awaitable[None]]


def create_app(
    node: Node,
    *,
    clock: Clock,
    lifecycle: Lifecycle,
    stats: Sequence[MeasureSource] = (),
    limits: HttpLimits | None = None,
    executor: Executor | None = None,
) -> HttpApp:
    """The application for an ASGI server. Takes tens of milliseconds; any thread may call it.

    Args: `lifecycle`, set to ready and draining by whoever runs the server; `stats`, more numbers for `/metrics`;
        `executor`, the threads for large bodies (default: the loop's own).
    """
    app = HttpApp(Door(node, clock=clock, lifecycle=lifecycle, limits=limits, executor=executor), stats)
    _ = app.rest
    return app


class HttpApp:
    """What the ASGI server calls."""

    def __init__(self, door: Door, stats: Sequence[MeasureSource] = ()) -> None:
        self.door = door
        self._stats = stats
        self._rest: asyncio.Future[ASGIApp] | None = None

    async def rest(self) -> ASGIApp:
        """The FastAPI application, made by the first call, in a thread."""
        if self._rest is None:
            self._rest = asyncio.ensure_future(self.door.beside(self._build_rest))
        return await asyncio.shield(self._rest)

    def _build_rest(self) -> ASGIApp:
        from api.http.rest import build

        return build(self, self._stats)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hot = self._hot(scope["method"], scope["path"])
            if hot is not None:
                await hot(scope, receive, send)
            else:
                await self._counted_rest(scope, receive, send)
        else:
            await (await self.rest())(scope, receive, send)

    def _hot(self, method: str, path: str) -> Answer | None:
        if not path.startswith("/topics/"):
            return None
        parts = path.split("/")
        match method, len(parts):
            case ("POST", 3) if parts[2]:
                return self.produce(parts[2], None)
            case ("POST", 5) if parts[3] == "partitions" and parts[2] and parts[4]:
                return self.produce(parts[2], parts[4])
            case ("GET", 6) if parts[3] == "partitions" and parts[5] == "records" and parts[2] and parts[4]:
                return self.read(parts[2], parts[4])
        return None

    def produce(self, topic: str, partition: str | None) -> Answer:
        door = self.door

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            index = None if partition is None else partition_number(partition)
            await produce(door, scope, receive, send, topic, index)

        return self._guarded(PRODUCE_ROUTE if partition is None else PRODUCE_PARTITION_ROUTE, answer)

    def read(self, topic: str, partition: str) -> Answer:
        door = self.door

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await read(door, scope, receive, send, topic, partition_number(partition))

        return self._guarded(READ_ROUTE, answer)

    def _guarded(self, route: str, answer: Answer) -> Answer:
        """`answer`, counted, its errors told to the client. They are raised before anything was sent."""
        requests = self.door.counters.requests

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await answer(scope, receive, send)
                requests[route, 200] += 1
                return
            except ClientGone:
                return
            except Problem as error:
                problem = error
            except LogstoreError as error:
                problem = problem_of(error)
            except Exception:
                log.exception("%s failed", route)
                problem = Problem(500, SERVER_ERROR, "this is a fault of the server; its log says more")
            requests[route, problem.status] += 1
            await respond(send, problem.status, problem.body, headers=problem.headers)

        return guarded

    async def _counted_rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await (await self.rest())(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "(none)")
            self.door.counters.requests[route, status] += 1

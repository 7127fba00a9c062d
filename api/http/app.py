"""The HTTP door as one ASGI application: a thin shim that takes the hot routes, and FastAPI for everything else.

The shim looks at method and path only. The hot routes are also FastAPI's, so the OpenAPI document, 405 answers and an
application mounted without the shim are the same; the shim saves routing, dependency and response objects per request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from api.http import hot_docs, operation, rest_v2, rest_v3
from api.http.asgi import ClientGone, respond
from api.http.door import Door, HttpLimits
from api.http.errors import BAD_REQUEST, SERVER_ERROR, Problem, problem_of
from api.http.lifecycle import Lifecycle
from api.http.metrics import MeasureSource
from api.http.models import Error
from api.http.produce import produce
from api.http.read import read
from api.http.rest_v2 import partition_number
from api.http.tail import Tail
from cluster.node import Node
from logstore.clock import Clock
from logstore.errors import LogstoreError

log = logging.getLogger(__name__)

PRODUCE_ROUTE = "/topics/{topic}"
PRODUCE_PARTITION_ROUTE = "/topics/{topic}/partitions/{partition}"
READ_ROUTE = "/topics/{topic}/partitions/{partition}/records"
TAIL_ROUTE = "/v1/topics/{topic}/tail"

_DESCRIPTION = "Topics, records and the live tail of a logstore broker over HTTP. Errors are {error_code, message}."

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
    return HttpApp(Door(node, clock=clock, lifecycle=lifecycle, limits=limits, executor=executor), stats)


class HttpApp:
    """What the ASGI server calls."""

    def __init__(self, door: Door, stats: Sequence[MeasureSource] = ()) -> None:
        self.door = door
        self.rest = _rest(self, stats)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            hot = self._hot(scope["method"], scope["path"])
            if hot is not None:
                await hot(scope, receive, send)
            else:
                await self._counted_rest(scope, receive, send)
        else:
            await self.rest(scope, receive, send)

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
            await self.rest(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "(none)")
            self.door.counters.requests[route, status] += 1


class _Handed(Response):
    """A response made by one of the hot routes."""

    def __init__(self, answer: Answer) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send)


def _rest(app: HttpApp, stats: Sequence[MeasureSource]) -> FastAPI:
    door = app.door
    rest = FastAPI(
        title="logstore",
        version=operation.package_version(),
        description=_DESCRIPTION,
        openapi_url=None,  # served by `operation`: making it takes too long for the loop
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            Problem: _on_problem,
            LogstoreError: _on_error,
            RequestValidationError: _on_invalid,
            HTTPException: _on_http,
        },
        responses={400: {"model": Error, "description": "A malformed request (40002)"}},
    )

    @rest.post(PRODUCE_ROUTE, tags=["records"], openapi_extra=hot_docs.PRODUCE, responses=hot_docs.PRODUCE_ANSWERS)
    async def produce_to_topic(topic: str) -> Response:
        """Append records; keys choose partitions as Kafka's clients do."""
        return _Handed(app.produce(topic, None))

    @rest.post(
        PRODUCE_PARTITION_ROUTE, tags=["records"], openapi_extra=hot_docs.PRODUCE, responses=hot_docs.PRODUCE_ANSWERS
    )
    async def produce_to_partition(topic: str, partition: str) -> Response:
        """Append records to one partition."""
        return _Handed(app.produce(topic, partition))

    @rest.get(READ_ROUTE, tags=["records"], openapi_extra=hot_docs.READ, responses=hot_docs.READ_ANSWERS)
    async def read_records(topic: str, partition: str) -> Response:
        """Read records from an offset on, waiting for the first."""
        return _Handed(app.read(topic, partition))

    @rest.get(TAIL_ROUTE, tags=["records"], openapi_extra=hot_docs.TAIL, responses=hot_docs.TAIL_ANSWERS)
    async def tail(request: Request, topic: str) -> Response:
        """Records as server-sent events, from now on or from an offset."""
        return Tail(door, request.scope, topic)

    rest.include_router(rest_v2.router(door))
    rest.include_router(rest_v3.router(door))
    made = rest.openapi
    rest.openapi = lambda: _true_openapi(made())  # type: ignore[method-assign]  # FastAPI's documented way to change it
    rest.include_router(operation.router(door, stats, rest.openapi))
    return rest


def _true_openapi(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document without the 422 answer that this application never gives, and without its schemas."""
    for item in document["paths"].values():
        for op in item.values():
            content = op["responses"].get("422", {}).get("content", {}).get("application/json", {})
            if content.get("schema", {}).get("$ref", "").endswith("/HTTPValidationError"):
                del op["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document


def _refuse(problem: Problem) -> Response:
    headers = {str(name, "latin-1"): str(value, "latin-1") for name, value in problem.headers}
    return Response(problem.body, problem.status, headers, "application/json")


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _refuse(error)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, LogstoreError)
    return _refuse(problem_of(error))


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
    return _refuse(Problem(400, BAD_REQUEST, told))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail} (see /docs)"
    headers = [(name.encode(), value.encode()) for name, value in (error.headers or {}).items()]
    return _refuse(Problem(error.status_code, error.status_code, message, headers=headers))

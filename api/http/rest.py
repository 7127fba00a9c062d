"""All of the HTTP door that is not hot, on FastAPI; the hot routes, too, for the OpenAPI document and 405 answers.

Importing FastAPI and making the application takes longer than the whole rest of the start, so `app` does both in a
thread once the doors are open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from api.http import hot_docs, operation, rest_v2, rest_v3
from api.http.errors import BAD_REQUEST, Problem, problem_of
from api.http.metrics import MeasureSource
from api.http.models import Error
from api.http.routes import PRODUCE_PARTITION_ROUTE, PRODUCE_ROUTE, READ_ROUTE, TAIL_ROUTE
from api.http.tail import Tail
from logstore.errors import LogstoreError

if TYPE_CHECKING:
    from api.http.app import Answer, HttpApp

_DESCRIPTION = "Topics, records and the live tail of a logstore broker over HTTP. Errors are {error_code, message}."


class _Handed(Response):
    """A response made by one of the hot routes."""

    def __init__(self, answer: Answer) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(scope, receive, send)


def build(app: HttpApp, stats: Sequence[MeasureSource]) -> FastAPI:
    """For any thread: nothing of it touches the loop."""
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

"""The routes that run a server: health, metrics, the page of documentation, and the way in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from api.http import metrics
from api.http.docs_page import docs_page
from api.http.door import Door
from api.http.lifecycle import Phase
from api.http.models import Health, Index, Schema

LINKS = {
    "topics": "/topics",
    "clusters": "/v3/clusters",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "metrics": "/metrics",
    "health": "/healthz?verbose",
}


def package_version() -> str:
    try:
        return version("logstore-engine")
    except PackageNotFoundError:
        return "0"


def router(door: Door, sources: Sequence[metrics.MeasureSource], openapi: Callable[[], Schema]) -> APIRouter:
    routes = APIRouter(tags=["operation"])

    def phase_status() -> int:
        return 200 if door.lifecycle.phase is Phase.READY else 503

    @routes.get("/", responses={200: {"model": Index}})
    async def index(request: Request) -> Response:
        """Where everything is; a page for browsers, JSON for programs."""
        if "text/html" in request.headers.get("accept", ""):
            items = "".join(f'<li><a href="{escape(link)}">{escape(name)}</a>' for name, link in LINKS.items())
            return HTMLResponse(f"<!doctype html><title>logstore</title><h1>logstore</h1><ul>{items}</ul>")
        body = Index(name="logstore", version=package_version(), links=LINKS)
        return Response(body.model_dump_json(), media_type="application/json")

    @routes.get("/livez", response_class=PlainTextResponse)
    async def livez() -> str:
        """200 while the process answers at all."""
        return "ok\n"

    @routes.get("/readyz", response_class=PlainTextResponse, responses={503: {"description": "Starting or draining"}})
    async def readyz() -> Response:
        """200 once requests are taken; 503 while starting and draining."""
        return PlainTextResponse(f"{door.lifecycle.phase}\n", phase_status())

    @routes.get("/healthz", responses={503: {"model": Health, "description": "Starting or draining"}})
    async def healthz(response: Response, verbose: str | None = None) -> Health:
        """The same as JSON; `?verbose` lists what was looked at."""
        response.status_code = phase_status()
        ok = response.status_code == 200
        checks = None if verbose is None or verbose.lower() in ("0", "false") else _checks(door)
        return Health(status="ok" if ok else "unavailable", phase=door.lifecycle.phase, checks=checks)

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def scrape(request: Request) -> Response:
        """Prometheus text, or OpenMetrics when asked for."""
        measures = metrics.collect(door, sources)
        accept = request.headers.get("accept", "")
        series = sum(len(measure.samples) for measure in measures)
        text, content_type = await door.work(series * 1000, lambda: metrics.render(measures, accept))
        return Response(text, headers={"content-type": content_type})

    @routes.get("/openapi.json", include_in_schema=False)
    async def document() -> JSONResponse:
        return JSONResponse(await door.beside(openapi))

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(await door.beside(openapi)))

    return routes


def _checks(door: Door) -> dict[str, str]:
    image = door.node.image
    return {
        "phase": door.lifecycle.phase,
        "metadata": f"version {image.version}",
        "topics": str(len(image.topics)),
        "brokers": str(len(image.brokers)),
        "clients_waiting": str(door.lifecycle.clients_waiting),
    }

"""The HTTP interface: routes, error bodies, counters. It does not know Ray: `ScoringService` does the scoring."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import resources
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from starlette.exceptions import HTTPException

from emoray.errors import EmorayError
from emoray_serving.config import LimitsConfig
from emoray_serving.http.errors import SEE_LOG, ApiError, from_emoray
from emoray_serving.http.examples import ERROR_EXAMPLES, REPLY_EXAMPLE, REQUEST_BODY
from emoray_serving.http.request import ParsedRequest, bad_parameter, read_request
from emoray_serving.http.schemas import ErrorReply, ModelStatus, ScoreParameters, ScoreReply
from emoray_serving.timing import since_ms

logger = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ScoringService(Protocol):
    """What the routes need from the application."""

    async def score(self, request: ParsedRequest, request_id: str) -> ScoreReply:
        """Score one clip; raises EmorayError."""
        ...

    async def status(self) -> ModelStatus:
        """The version that this process knows to be served."""
        ...


class Counters:
    """Prometheus metrics of one gateway replica.

    They count this replica's requests only: with several replicas, each scrape reaches one of them. For sums over
    replicas, scrape Ray's metrics port, where Serve exports its request counters, or scrape each replica.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("emoray_requests", "Score requests by outcome code", ["code"], registry=self.registry)
        self.semantics = Counter(
            "emoray_semantics", "Replies by semantic level used", ["level"], registry=self.registry
        )
        self.audio_s = Counter("emoray_audio_seconds", "Audio scored, seconds", registry=self.registry)
        self.latency_s = Histogram(
            "emoray_request_seconds",
            "Time of a score request by part",
            ["part"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def record(self, reply: ScoreReply) -> None:
        """Count one scored clip."""
        self.requests.labels("ok").inc()
        self.semantics.labels(reply.semantics.used).inc()
        self.audio_s.inc((reply.audio_end_ms - reply.audio_start_ms) / 1000)
        for part, milliseconds in reply.timing_ms.items():
            self.latency_s.labels(part).observe(milliseconds / 1000)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


def create_app(service: ScoringService, limits: LimitsConfig, lifespan: Lifespan | None = None) -> FastAPI:
    """The FastAPI application."""
    app = FastAPI(
        title="emoray",
        version="1",
        lifespan=lifespan,
        summary="Valence, arousal and dominance of speech, with intervals and reasons.",
        description="Post audio to /v1/score. Every error has the form {error: {code, message, remedy}, request_id}.",
    )
    counters = Counters()
    _handle_errors(app, counters)

    @app.post(
        "/v1/score",
        response_model=ScoreReply,
        responses={200: {"content": {"application/json": {"example": REPLY_EXAMPLE}}}, **ERROR_EXAMPLES},
        openapi_extra={"requestBody": REQUEST_BODY},
        summary="Score one clip",
    )
    async def score(request: Request, query: Annotated[ScoreParameters, Query()]) -> Response:
        started = time.perf_counter()
        clip = await read_request(request, query, limits)
        read_ms = since_ms(started)
        reply = await service.score(clip, request_id_of(request))
        timing_ms = {"read": read_ms, **reply.timing_ms, "total": since_ms(started)}
        reply = reply.model_copy(update={"timing_ms": timing_ms})
        counters.record(reply)
        # The reply was validated when it was built; FastAPI would validate and encode it a second time.
        return Response(reply.model_dump_json(), media_type="application/json")

    @app.get("/v1/model", summary="The version that is served")
    async def model() -> ModelStatus:
        return await service.status()

    @app.get("/livez", summary="The process answers")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="A model version is loaded", responses={503: {"model": ErrorReply}})
    async def readyz() -> dict[str, str]:
        status = await service.status()
        if status.version is None:
            raise no_champion(status)
        return {"status": "ready", "version": status.version}

    @app.get("/metrics", summary="This replica's counters", response_class=Response)
    async def metrics() -> Response:
        return Response(counters.render(), media_type=CONTENT_TYPE_LATEST)

    static = resources.files("emoray_serving") / "static"
    page, script = ((static / name).read_text(encoding="utf-8") for name in ("index.html", "page.js"))

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/page.js", include_in_schema=False)
    async def page_script() -> Response:
        return Response(script, media_type="text/javascript")

    return app


def request_id_of(request: Request) -> str:
    """The caller's X-Request-Id (Serve's proxy sets one if the caller did not)."""
    if not hasattr(request.state, "request_id"):
        request.state.request_id = request.headers.get("x-request-id", "")[:128] or uuid.uuid4().hex
    return str(request.state.request_id)


def no_champion(status: ModelStatus) -> ApiError:
    """The error while no version is loaded."""
    failure = status.failure
    if failure is not None and failure.version is None:
        return ApiError(
            "no_champion", failure.message, remedy="Restore the tracking store; the service keeps trying to reach it"
        )
    if failure is not None:
        return ApiError(
            "no_champion",
            f"version {failure.version} of {status.name!r} does not load: {failure.message}",
            remedy=f"Fix it, or promote a version that loads; the service watches the alias {status.alias!r}",
        )
    return ApiError(
        "no_champion",
        f"no version of {status.name!r} has the alias {status.alias!r} yet",
        remedy="Train and promote one (emoray train, emoray promote); the service loads it without a restart",
    )


def _handle_errors(app: FastAPI, counters: Counters) -> None:
    def answer(request: Request, error: ApiError) -> JSONResponse:
        if request.url.path.endswith("/v1/score"):
            counters.requests.labels(error.kind).inc()
        return JSONResponse(error.reply(request_id_of(request)).model_dump(), status_code=error.status)

    async def on_emoray(request: Request, error: Any) -> JSONResponse:
        mapped = from_emoray(error)
        if mapped.kind == "internal_error":
            logger.error("request %s failed", request_id_of(request), exc_info=error)
        return answer(request, mapped)

    async def on_parameters(request: Request, error: Any) -> JSONResponse:
        return answer(request, bad_parameter(error.errors()))

    async def on_http(request: Request, error: Any) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_parameter")
        what = f"{request.method} {request.url.path}: {error.detail}"
        return answer(request, ApiError(code, what, remedy="GET /docs lists the routes"))

    async def on_anything(request: Request, error: Exception) -> JSONResponse:
        logger.error("request %s failed", request_id_of(request), exc_info=error)
        return answer(request, ApiError("internal_error", f"unexpected {type(error).__name__}", remedy=SEE_LOG))

    app.add_exception_handler(EmorayError, on_emoray)
    app.add_exception_handler(RequestValidationError, on_parameters)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_anything)

"""An id, a log line and counters for every request; answers for errors that nobody caught."""

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars
from uuid_utils.compat import uuid7

from app.http.content_policy import content_policy
from app.http.errors import as_problem, respond
from app.inference.embedder import RequestCancelled
from app.logs import logger

log = logger("handful.http")


class HttpMetrics:
    """What `/metrics` tells about requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "handful_http_requests",
            "Requests by route and status",
            ["method", "route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "handful_http_seconds",
            "Time to answer, by route",
            ["method", "route"],
            buckets=(0.005, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=registry,
        )


class RequestLog:
    """Gives a request an id, logs it, counts it, and answers for errors nobody caught."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = str(uuid7())
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
                headers.setdefault("Content-Security-Policy", content_policy(scope["path"]))
            await send(message)

        with bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except (ClientDisconnect, RequestCancelled):
                status = status or 499  # nobody is left to answer
            except Exception as error:
                problem = as_problem(error)
                if problem.status >= 500:
                    log.exception("failed", exc_info=error)
                if not status:
                    problem.members.setdefault("request_id", request_id)
                    await respond(problem)(scope, receive, send_with_id)
            finally:
                self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"].isalpha() else "unknown"
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.seconds.labels(method, route).observe(seconds)
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"],
            status=int(status),
            ms=round(seconds * 1000, 1),
        )

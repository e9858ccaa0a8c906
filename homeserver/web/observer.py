"""How requests went, as numbers and log lines. Routes are named as they were declared: an address names users."""

from __future__ import annotations

import structlog

from homeserver.runtime.telemetry import Telemetry
from homeserver.web.connections import Connections

_log = structlog.get_logger("homeserver.web")


class TelemetryObserver:
    """The observer of a running server."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._requests = telemetry.counter(
            "domicile_http_requests", "Requests that were answered.", ["method", "route", "status"]
        )
        self._seconds = telemetry.histogram(
            "domicile_http_request_seconds", "From a request to its answer; long polls wait.", ["method", "route"]
        )
        self._faults = telemetry.counter("domicile_http_faults", "Requests that a fault of ours ended.", ["route"])

    def watch(self, connections: Connections) -> None:
        """Show how many connections are open, and how many requests are being answered."""
        self._telemetry.gauge("domicile_http_connections", "Open connections.", lambda: float(len(connections)))
        self._telemetry.gauge(
            "domicile_http_requests_in_progress",
            "Requests that are being answered.",
            lambda: float(connections.answering),
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has its answer."""
        self._requests.inc(method, route, str(status))
        self._seconds.observe(seconds, method, route)

    def failed(self, method: str, route: str, error: BaseException) -> None:
        """A fault of ours, which the log tells and the answer did not."""
        self._faults.inc(route)
        _log.error("request failed", method=method, route=route, exc_info=error)

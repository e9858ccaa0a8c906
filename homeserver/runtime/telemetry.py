"""What the operator sees of the running server: log lines and numbers.

The invariant: neither tells who said what. Every line, of whatever library, passes `redact`, which
lets no access token, network address, e-mail address, phone number or content of events through.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sys
import traceback
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TextIO, TypeVar

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from structlog.typing import EventDict, Processor

N = TypeVar("N", "Counter", "Histogram")

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of what `Telemetry.render` returns."""

REDACTED: Final = "[redacted]"
PATIENCE: Final = 3.0
"""Seconds that `Telemetry.answer` waits for databases."""
LONGEST: Final = 2000
"""Characters of a text in a log line; a traceback may be longer."""

_SECRET_NAMES: Final = frozenset(
    {
        "access_token",
        "address",
        "addresses",
        "auth",
        "authorization",
        "avatar_url",
        "body",
        "ciphertext",
        "client_ip",
        "content",
        "cookie",
        "cookies",
        "displayname",
        "email",
        "forwarded",
        "formatted_body",
        "ip",
        "ip_address",
        "msisdn",
        "params",
        "passphrase",
        "password",
        "phone",
        "phone_number",
        "private_key",
        "recovery_key",
        "refresh_token",
        "remote_addr",
        "secret",
        "session_key",
        "shared_secret",
        "token",
        "topic",
        "unsigned",
        "user_agent",
    }
)
"""Names of fields, in small letters, whose value is never shown."""

_SECRET_ENDINGS: Final = ("_token", "_password", "_secret", "_key_backup", "_content", "_body", "_ip")

_OCTET = r"(?:25[0-5]|2[0-4]\d|[01]?\d?\d)"
_FOUR = rf"{_OCTET}(?:\.{_OCTET}){{3}}(?!\d)"
_GROUP = r"[0-9A-Fa-f]{1,4}"
_SECRET_TEXT: Final = re.compile(
    rf"""
      (?<=Bearer\ )\S+                                            # the header Authorization
    | (?<=access_token=)[^&\s"']+                                 # the old place of a token, in the query
    | \b(?:domr?|syt|syr|mct)_[\w-]{{16,}}                        # tokens of ours, and of other servers
    | (?<!\d){_FOUR}                                              # IPv4
    | (?<![0-9A-Fa-f:])(?:{_GROUP}:){{3,7}}(?:{_FOUR}|{_GROUP}(?!\w))                  # IPv6 in full
    | (?<![0-9A-Fa-f:])(?:{_GROUP}(?::{_GROUP})*)?::(?:(?:{_GROUP}:)*(?:{_FOUR}|{_GROUP}))?(?!\w)  # … and abridged
    | \b[\w.+-]+@[\w-]+\.[\w.-]+                                  # an e-mail address; a Matrix id has its @ in front
    | (?<![\w+])\+\d[\d\ ()-]{{6,}}\d                             # a phone number
    """,
    re.VERBOSE,
)
_MARKS: Final = re.compile(r"\w@|:[0-9A-Fa-f]{0,4}:|\+\d|\d\.\d|token=|Bearer|dom_|domr_|sy[tr]_|mct_")
"""A text without any of these holds nothing that `_SECRET_TEXT` finds."""


class Public(str):
    """A text that may be logged as it is, because it is the server's own: the address that it listens on."""

    __slots__ = ()


def redact(value: Any, name: str = "") -> Any:
    """A copy of a value for the log, without what no log may hold; ``name`` is the field that it stands in."""
    if isinstance(value, Public):
        return str(value)
    small = name.lower()
    if small in _SECRET_NAMES or small.endswith(_SECRET_ENDINGS):
        return value if value is None or isinstance(value, bool) else REDACTED
    if isinstance(value, str):
        text = _SECRET_TEXT.sub(REDACTED, value) if _MARKS.search(value) else value  # first: half of one is none
        return text if len(text) <= LONGEST or name == "exception" else text[:LONGEST] + "…"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, Mapping):
        return {redact(str(key)): redact(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(inner) for inner in value]
    return redact(str(value))


_OURS: Final = frozenset({"timestamp", "level", "logger"})


def _redact_line(_: Any, __: str, event: EventDict) -> EventDict:
    return {
        name: value if name in _OURS else redact(value, name)
        for name, value in event.items()
        if not name.startswith("_")  # what ProcessorFormatter hides there
    }


_SPEAKERS: Final = ("homeserver", "federation", "config", "sqlite3", "psycopg", "OpenSSL", "twisted")
"""Packages whose exceptions do not quote what they were given."""


def _says(fault: BaseException) -> str:
    """An exception without what it may quote: ``KeyError`` and its like show the value that they met."""
    kind = type(fault)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(fault, OSError):
        file = f": {fault.filename}" if isinstance(fault.filename, str) else ""
        return f"{name}: {fault.strerror or fault.errno}{file}"
    if kind.__module__.partition(".")[0] in _SPEAKERS and (text := str(fault)):
        return f"{name}: {text}"
    return name


def _traced(exc_info: Any) -> str:
    """A stack trace: lines of the program, and what `_says` says of the exception and of those that led to it."""
    parts: list[str] = []
    fault: BaseException | None = exc_info[1]
    met: set[int] = set()
    while fault is not None and id(fault) not in met:
        met.add(id(fault))
        trace = "".join(traceback.format_tb(fault.__traceback__))
        within = "".join(f"\nwithin it {_says(inner)}" for inner in getattr(fault, "exceptions", ()))
        parts.append(f"Traceback (most recent call last):\n{trace}{_says(fault)}{within}")
        fault = fault.__cause__ or (None if fault.__suppress_context__ else fault.__context__)
    return "\n\nwhich came from\n\n".join(parts)


class _Line:
    """Where structlog puts a finished line."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name = name
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write it."""
        self._stream.write(line + "\n")
        self._stream.flush()

    debug = info = warning = error = critical = fatal = exception = log = msg


def _add_name(logger: Any, _: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    event["logger"] = record.name if record is not None else getattr(logger, "name", "")
    return event


def set_up_logging(level: str = "info", form: str = "text", stream: TextIO | None = None) -> None:
    """Send every log line, structlog's and the standard library's, to ``stream`` (default: standard error).

    ``level`` is debug, info, warning or error; ``form`` is ``text`` for people or ``json``, one object a line.
    """
    out = stream if stream is not None else sys.stderr
    number = getattr(logging, level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_traced),
        _redact_line,
    ]
    last: Processor = (
        structlog.processors.JSONRenderer(sort_keys=False)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )

    structlog.configure(
        processors=[*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *names: _Line(names[0] if names else "", out),
        cache_logger_on_first_use=False,
    )
    foreign = logging.StreamHandler(out)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder()], processors=[*shared, last], use_get_message=True
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [foreign]
    root.setLevel(max(number, logging.INFO))  # the libraries' debug lines show their arguments


class Counter:
    """A number that only grows, one for each combination of labels."""

    __slots__ = ("_values", "help", "labels", "name")

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self.name, self.help, self.labels = name, text, tuple(labels)
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add ``by`` to the number with these values of the labels, in their order."""
        values = self._values
        values[labels] = values.get(labels, 0) + by

    def value(self, *labels: str) -> float:
        """The number now."""
        return self._values.get(labels, 0)

    def values(self) -> Mapping[tuple[str, ...], float]:
        """All numbers by the values of their labels."""
        return dict(self._values)

    def families(self) -> Iterable[Metric]:
        """For Prometheus."""
        family = CounterMetricFamily(self.name, self.help, labels=self.labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds for durations, in seconds."""


class Histogram:
    """How values are spread, for each combination of labels."""

    __slots__ = ("_counts", "_sums", "bounds", "help", "labels", "name")

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name, self.help, self.labels, self.bounds = name, text, tuple(labels), tuple(map(float, bounds))
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Add a value under these values of the labels, in their order."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self.bounds) + 1)
            self._sums[labels] = 0.0
        counts[bisect_left(self.bounds, value)] += 1
        self._sums[labels] += value

    def count(self, *labels: str) -> int:
        """How many values there were."""
        return sum(self._counts.get(labels, ()))

    def families(self) -> Iterable[Metric]:
        """For Prometheus, whose buckets are cumulative."""
        family = HistogramMetricFamily(self.name, self.help, labels=self.labels)
        for labels, counts in self._counts.items():
            below, buckets = 0, []
            for bound, count in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
                below += count
                buckets.append((bound, float(below)))
            family.add_metric(labels, buckets, self._sums[labels])
        yield family


class Gauge:
    """A number that is looked up when somebody asks; ``grows`` if it never falls."""

    __slots__ = ("_read", "grows", "help", "labels", "name")

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[tuple[str, ...], float]],
        grows: bool = False,
    ) -> None:
        self.name, self.help, self.labels, self._read, self.grows = name, text, tuple(labels), read, grows

    def families(self) -> Iterable[Metric]:
        """For Prometheus."""
        kind = CounterMetricFamily if self.grows else GaugeMetricFamily
        family: CounterMetricFamily | GaugeMetricFamily = kind(self.name, self.help, labels=self.labels)
        for labels, value in self._read().items():
            family.add_metric(labels, value)
        yield family


class Telemetry:
    """The numbers of one server. Names begin with ``domicile_``; labels never name a user, a room or an address."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._known: dict[str, Counter | Histogram | Gauge] = {}
        self._registry.register(_Source(self._known))
        self._refreshing: list[Callable[[], Awaitable[object]]] = []

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        """The counter of this name, made at first use; ``_total`` is added to the name."""
        return self._add(name, lambda: Counter(name, text, labels), Counter)

    def histogram(
        self, name: str, text: str, labels: Sequence[str] = (), bounds: Sequence[float] = BUCKETS
    ) -> Histogram:
        """The histogram of this name, made at first use; ``bounds`` grow and are inclusive."""
        return self._add(name, lambda: Histogram(name, text, labels, bounds), Histogram)

    def gauge(
        self,
        name: str,
        text: str,
        read: Callable[[], float] | Callable[[], Mapping[tuple[str, ...], float]],
        labels: Sequence[str] = (),
        *,
        grows: bool = False,
    ) -> None:
        """Show what ``read()`` returns when asked: a number, or one for each tuple of values of the labels.

        What ``grows`` never falls: it is shown as a counter, with ``_total`` added to the name.
        """

        def look() -> Mapping[tuple[str, ...], float]:
            found = read()
            return found if isinstance(found, Mapping) else {(): found}

        self._known[name] = Gauge(name, text, labels, look, grows)

    def before_answers(self, refresh: Callable[[], Awaitable[object]]) -> None:
        """Await ``refresh()`` before each `answer`: it looks up what a gauge cannot know by itself."""
        self._refreshing.append(refresh)

    async def answer(self) -> bytes:
        """Like `render`, once the numbers that must be asked for have been, or `PATIENCE` has passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                for fault in await asyncio.gather(*(each() for each in self._refreshing), return_exceptions=True):
                    if isinstance(fault, Exception):
                        structlog.get_logger("telemetry").warning("a number could not be had", reason=str(fault))
        return self.render()

    def render(self) -> bytes:
        """All numbers in Prometheus's text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def _add(self, name: str, make: Callable[[], N], kind: type[N]) -> N:
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = make()
        if not isinstance(known, kind):
            raise TypeError(f"{name} is a {type(known).__name__} already")
        return known


class _Source(Collector):
    """Hands the numbers to Prometheus's library."""

    def __init__(self, known: Mapping[str, Counter | Histogram | Gauge]) -> None:
        self._known = known

    def collect(self) -> Iterable[Metric]:
        """Every number."""
        for metric in list(self._known.values()):
            yield from metric.families()

"""What other libraries would print goes into the log, so that every line passes `telemetry.redact`.

That is Twisted's own log, Python's warnings, and exceptions that nobody caught.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from types import TracebackType
from typing import Any

import structlog

log = structlog.get_logger("uncaught")
twisted = structlog.get_logger("twisted")


def capture() -> None:
    """Send them there, from now on. `telemetry.set_up_logging` has been called; the reactor may exist already."""
    from twisted.logger import globalLogBeginner

    observer: Any = _said_by_twisted  # typed as something that declares to be an observer
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=False)
    logging.captureWarnings(True)  # after Twisted, which would take them too
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def _said_by_twisted(event: dict[str, Any]) -> None:
    """What is no fault and no warning is left out: that its loop begins and ends."""
    from twisted.logger import LogLevel, formatEvent

    failure = event.get("log_failure") or event.get("failure")  # the second by its older interface
    if failure:
        trace = failure.getTracebackObject()
        twisted.error(str(event.get("why") or "fault"), exc_info=(failure.type, failure.value, trace))
    elif event.get("log_level", LogLevel.info) >= LogLevel.warn:
        twisted.warning(formatEvent(event))


def capture_in(loop: asyncio.AbstractEventLoop) -> None:
    """The same for what the event loop says, which would show the arguments of the functions that failed."""
    loop.set_exception_handler(_uncaught_in_loop)


def _uncaught_in_loop(_: asyncio.AbstractEventLoop, said: dict[str, Any]) -> None:
    task = said.get("task") or said.get("future")
    work = task.get_coro() if isinstance(task, asyncio.Task) else task
    name = getattr(work, "__qualname__", type(work).__name__)
    message = said["message"].partition("(")[0].partition("<")[0].rstrip()  # up to where arguments are shown
    log.error(message, task=name, exc_info=said.get("exception"))


def _uncaught(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    log.critical("nobody caught this", exc_info=(kind, fault, trace))


def _uncaught_in_thread(fault: threading.ExceptHookArgs) -> None:
    if fault.exc_value is not None:
        log.critical("nobody caught this in a thread", exc_info=(fault.exc_type, fault.exc_value, fault.exc_traceback))


def _unraisable(fault: Any) -> None:
    log.error("nobody could catch this", where=repr(fault.object), exc_info=fault.exc_value)

"""What other libraries would print goes into the log, so that every line passes `telemetry.redact`.

That is Twisted's own log, Python's warnings, and exceptions that nobody caught.
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any

import structlog

log = structlog.get_logger("uncaught")


def capture() -> None:
    """Send them there, from now on. `telemetry.set_up_logging` has been called; the reactor may exist already."""
    from twisted.logger import STDLibLogObserver, globalLogBeginner

    logging.captureWarnings(True)
    observer: Any = STDLibLogObserver()  # its class says by decoration only what it is
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False, discardBuffer=False)
    logging.getLogger("twisted").setLevel(logging.WARNING)  # below: that its loop begins and ends
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def _uncaught(kind: type[BaseException], fault: BaseException, trace: TracebackType | None) -> None:
    log.critical("nobody caught this", exc_info=(kind, fault, trace))


def _uncaught_in_thread(fault: threading.ExceptHookArgs) -> None:
    if fault.exc_value is not None:
        log.critical("nobody caught this in a thread", exc_info=(fault.exc_type, fault.exc_value, fault.exc_traceback))


def _unraisable(fault: Any) -> None:
    log.error("nobody could catch this", where=repr(fault.object), exc_info=fault.exc_value)

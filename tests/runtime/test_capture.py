"""Nothing but the log speaks: what libraries, warnings and the interpreter would print is a line of it."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import asyncio, gc, logging, sys, threading, warnings
from homeserver.runtime.capture import capture, capture_in
from homeserver.runtime.telemetry import set_up_logging

set_up_logging("debug", "json")
capture()

from twisted.python import log as old
from twisted.logger import Logger

warnings.warn("this is old", DeprecationWarning)
warnings.warn("this too")
old.err(ValueError("SECRET"), "deep in Twisted")
Logger().error("said by Twisted")
thread = threading.Thread(target=lambda: {}["SECRET"])
thread.start()
thread.join()

class Bad:
    def __del__(self):
        int("SECRET")

Bad()

async def fail(secret):
    raise KeyError(secret)

def fail_soon(secret):
    raise KeyError(secret)

async def work():
    capture_in(asyncio.get_running_loop())
    asyncio.get_running_loop().call_soon(fail_soon, "SECRET")
    task = asyncio.ensure_future(fail("SECRET"))
    await asyncio.sleep(0.01)
    del task
    gc.collect()

asyncio.run(work())
raise LookupError("SECRET")
"""


def test_everything_that_would_be_printed_is_logged() -> None:
    done = subprocess.run([sys.executable, "-W", "default", "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]  # each is JSON, or this raises
    assert "SECRET" not in done.stderr.replace('\\"SECRET\\"', "")  # the program's own text, in a trace
    told = [f"{line['logger']}: {line['event']} {line.get('exception', '')}" for line in lines]
    for logger, part in (
        ("py.warnings", "this is old"),
        ("py.warnings", "this too"),
        ("twisted", "ValueError"),
        ("twisted", "said by Twisted"),
        ("uncaught", "in a thread"),
        ("uncaught", "nobody could catch"),
        ("uncaught", "Exception in callback"),
        ("uncaught", "Task exception was never retrieved"),
        ("uncaught", "LookupError"),
    ):
        assert any(line.startswith(f"{logger}: ") and part in line for line in told), (logger, part, told)

"""One JSON object a line: {id, verb, arguments} in, {id, result} or {id, error} out, for the matrix-nio client program.

Standard output carries answers only. Runs by itself, without the rest of the tests.
"""

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
Verb = Callable[..., Awaitable[Any]]


class RefusedError(Exception):
    """The server answered with an error: its status, errcode and body."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {body.get('errcode')}: {body.get('error')}")
        self.status = status
        self.body = dict(body)


def _described(error: BaseException) -> dict[str, Any]:
    refused = error if isinstance(error, RefusedError) else None
    return {
        "message": f"{type(error).__name__}: {error}",
        "status": refused.status if refused else None,
        "errcode": refused.body.get("errcode") if refused else None,
        "body": refused.body if refused else None,
    }


async def _answer(verbs: Mapping[str, Verb], call: Mapping[str, Any]) -> None:
    try:
        verb = verbs[call["verb"]]
        known = inspect.signature(verb).parameters
        result = await verb(**{name: value for name, value in call["arguments"].items() if name in known})
        line = {"id": call["id"], "result": result}
    except Exception as error:  # whatever it is, the other side is told
        traceback.print_exc()
        line = {"id": call["id"], "error": _described(error)}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def serve(verbs: Mapping[str, Verb]) -> None:
    """Answer calls until standard input ends; calls run side by side."""
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(verbs, json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


class Watch:
    """Waits for something to become true that only arriving events can make true."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def poke(self) -> None:
        """Something happened: everybody who waits looks again."""
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, look: Callable[[], Awaitable[T | None]], timeout: float, seen: Callable[[], Any]) -> T:  # noqa: ASYNC109
        """Return the first value of `look` that is not None; TimeoutError says what was `seen` instead."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    news = self._news
                    if (value := await look()) is not None:
                        return value
                    await news.wait()
        except TimeoutError as error:
            raise TimeoutError(f"nothing after {timeout} s; seen: {json.dumps(seen())}") from error

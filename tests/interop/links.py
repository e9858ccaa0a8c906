"""A wire to a server on this machine that a test which is not asynchronous can cut and mend."""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from tests.proxy import Proxy

SECONDS = 30.0


class Link:
    """Forwards ``port`` of 127.0.0.1, which is known from the beginning, to ``target``. Open until it is cut."""

    def __init__(self, target: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"link to {target}", daemon=True)
        self._thread.start()
        self._proxy = Proxy("127.0.0.1", target)
        self.mend()

    @property
    def port(self) -> int:
        """Where others connect."""
        return self._proxy.port

    def cut(self) -> None:
        """Refuse connections, and cut those that are open."""
        self._do(self._proxy.close())

    def mend(self) -> None:
        """Accept connections."""
        self._do(self._proxy.open())

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

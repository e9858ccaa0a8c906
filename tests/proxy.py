"""A wire between a client and a server on this machine that a test can cut, or let go silent."""

from __future__ import annotations

import asyncio
import contextlib


class Proxy:
    """Forwards 127.0.0.1:`port` to a server; `port` stays the same over `close` and `open`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests_flow = asyncio.Event()
        self._answers_flow = asyncio.Event()
        self._let_flow()
        self.holds = asyncio.Event()
        """Set once bytes have arrived that are not let through."""
        self.overheard: bytearray | None = None
        """What clients say from now on, if there is one."""
        self.port = 0

    async def open(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections and cut those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._let_flow()

    def silence(self) -> None:
        """Go on accepting connections, but let no more bytes through."""
        self._requests_flow.clear()
        self.silence_answers()

    def silence_answers(self) -> None:
        """Let through what is asked, but no more answers."""
        self._answers_flow.clear()
        self.holds.clear()

    def _let_flow(self) -> None:
        self._requests_flow.set()
        self._answers_flow.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there, back = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._forward(reader, back, self._requests_flow, overhear=True))
                    both.create_task(self._forward(there, writer, self._answers_flow))
            finally:
                back.transport.abort()
        except (asyncio.CancelledError, OSError, ExceptionGroup):
            pass  # the wire was cut, which is what it is for
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()  # from now on the other side can see it

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flow: asyncio.Event,
        *,
        overhear: bool = False,
    ) -> None:
        while chunk := await reader.read(65536):
            if overhear and self.overheard is not None:
                self.overheard += chunk
            if not flow.is_set():
                self.holds.set()
                await flow.wait()
            writer.write(chunk)
            await writer.drain()
        raise ConnectionError("one side has closed")

"""Asks the one HTTP service that the operator named for a purpose, such as sending a text message.

The deny-list of addresses does not hold here: nobody but the operator chooses where this leads. No redirect is
followed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final, cast
from urllib.parse import urlsplit

from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol
from twisted.web.client import Agent, FileBodyProducer, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from homeserver.runtime.certificates import Trust

CONNECT: Final = 10.0
"""Seconds that a connection may take."""


class NotDone(Exception):
    """The service did not say that it did what was asked. For the log; no client is told more than that."""


@implementer(IPolicyForHTTPS)
class _Trusting:
    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    def creatorForNetloc(self, hostname: bytes, port: int) -> IOpenSSLClientConnectionCreator:  # noqa: N802
        """Called by Twisted."""
        expected: Any = self._trust.expecting(hostname.decode("ascii"))
        return cast(IOpenSSLClientConnectionCreator, expected)


class _HangUp(Protocol):
    """Ends the connection instead of reading the body of the answer."""

    def connectionMade(self) -> None:  # noqa: N802
        """Called by Twisted."""
        cast(Any, self.transport).loseConnection()


async def ask(
    trust: Trust, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, seconds: float
) -> None:
    """Ask, and wait for the answer's status, which must be a 2xx; its body is not read. Raises NotDone."""
    from twisted.internet import reactor  # installed by now, and not before

    made: Any = Agent
    agent = made(reactor, contextFactory=_Trusting(trust), connectTimeout=CONNECT)
    fields = Headers({name: [value] for name, value in {"User-Agent": "Domicile", **headers}.items()})
    whole: Any = FileBodyProducer
    producer = None if body is None else whole(BytesIO(body))
    asking: Any = agent.request(method.encode(), url.encode(), fields, producer)
    try:
        async with asyncio.timeout(seconds):
            answer: Any = await asking.asFuture(asyncio.get_running_loop())
    except TimeoutError:
        raise NotDone(f"no answer within {seconds} seconds") from None
    except (ConnectError, ConnectionClosed, DNSLookupError, ResponseFailed, OSError, ValueError) as fault:
        raise NotDone(type(fault).__name__) from None
    answer.deliverBody(_HangUp())
    if not 200 <= answer.code < 300:
        raise NotDone(f"the answer was {answer.code} at {urlsplit(url).hostname}")

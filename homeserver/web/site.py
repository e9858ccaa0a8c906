"""What happens to a request between its route and its answer: authentication, rate limit, endpoint, errors.

Knows no sockets. Whatever an endpoint does, `Site.answer` gives an answer that says nothing about how
the server works inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from homeserver.protocol.errors import (
    Forbidden,
    GuestAccessForbidden,
    InternalError,
    MethodNotAllowed,
    MissingToken,
    Refusal,
    UserSuspended,
)
from homeserver.runtime.doors import Doors
from homeserver.web.incoming import DisconnectedError, Incoming
from homeserver.web.limits import Limit, Limits
from homeserver.web.messages import Request, Response, json_response, refused
from homeserver.web.routes import Auth, Resource, Route, Table

if TYPE_CHECKING:
    from homeserver.context import Caller

S = TypeVar("S")
UNMATCHED = "(unmatched)"
"""What stands for the route in the metrics of a request that found none."""
GONE = 499
"""The status in the metrics of a request whose client went away; it is never sent."""


class Observer(Protocol):
    """Who is told how requests went. ``route`` is the path that was declared, never the one that was asked for."""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has its answer, ``seconds`` after it was read."""
        ...

    def failed(self, method: str, route: str, error: BaseException) -> None:
        """A fault of ours was answered with a 500, or broke an answer off."""
        ...


class Site(Generic[S]):
    """Everything that answers. ``server`` is handed to each endpoint and not looked at.

    ``authenticate(token)`` gives the caller or raises UnknownToken; ``verify(request)`` gives the name of the
    server that signed a request, whose body it reads, or raises a refusal. ``seconds`` is a monotonic clock.
    Raises ValueError when a route needs a check that is not given.

    ``doors``: whoever calls is inside their own door, by user id, while they are answered; it may be closed for a
    moment.

    ``identify(token, request)`` may be given beside ``authenticate``, for a caller who also depends on the request; and
    ``unlimited(request)``, which says of a request without caller that no rate limit holds for it.

    ``notice(caller, request)`` is told of every request with a caller, as soon as it is known who that is.
    """

    def __init__(
        self,
        server: S,
        table: Table[S],
        *,
        authenticate: Callable[[str], Awaitable[Caller]],
        observer: Observer,
        seconds: Callable[[], float],
        verify: Callable[[Request], Awaitable[str]] | None = None,
        identify: Callable[[str, Request], Awaitable[Caller]] | None = None,
        unlimited: Callable[[Request], bool] | None = None,
        notice: Callable[[Caller, Request], object] | None = None,
        doors: Doors | None = None,
        limits: Limits | None = None,
        max_body: int = 4 * 1024 * 1024,
        max_federation_body: int = 16 * 1024 * 1024,
    ) -> None:
        if verify is None and any(route.auth is Auth.SIGNED for route in table.routes):
            raise ValueError("there are routes for signed requests and nothing that verifies them")
        self.server = server
        self.table = table
        self.observer = observer
        self.seconds = seconds
        self._authenticate = authenticate
        self._identify = identify
        self._unlimited = unlimited
        self.notice = notice
        self._doors = Doors() if doors is None else doors
        self._verify = verify
        self._limits = limits
        self._max_body = max_body
        self._max_federation_body = max_federation_body

    def max_body(self, route: Route[S]) -> int:
        """The most bytes that a request to the route may bring."""
        if route.body is not None:
            return route.body
        return self._max_federation_body if route.resource is Resource.FEDERATION else self._max_body

    def unmatched(self, table: Table[S], method: str, path: str, error: Refusal) -> Response:
        """The answer to what has no route in this table: a pre-flight of a browser, or a refusal."""
        if method == "OPTIONS":
            return Response(204)
        response = refused(error)
        if isinstance(error, MethodNotAllowed):
            response.headers = (("Allow", ", ".join(sorted({*table.methods(path), "OPTIONS"}))),)
        return response

    async def answer(self, request: Request, route: Route[S]) -> Response:
        """Answer one request for a route. Raises only CancelledError, when it was asked to."""
        started = self.seconds()
        inside = ExitStack()
        try:
            if route.auth is not Auth.NONE and route.auth is not Auth.SIGNED:
                token = request.token()
                if token is not None:
                    request.caller = await self._enter(token, request, inside)
                    if self.notice is not None:
                        self.notice(request.caller, request)
                elif route.auth is not Auth.OPTIONAL:
                    raise MissingToken("An access token is needed")
                self._admit(request, route)  # before a large body is waited for
                if token is not None:
                    request.incoming.recognised()
            if route.auth is Auth.SIGNED and self._verify is not None:
                request.origin = await self._verify(request)
                request.incoming.recognised()
            self._charge(request, route)
            if not route.stream:
                await request.read()
            result = await route.endpoint(self.server, request)
            response = result if isinstance(result, Response) else json_response(result)
        except Refusal as refusal:
            response = self._refused(request, route, refusal)
            if refusal.status == 500:
                self.observer.failed(request.method, route.path, refusal)
        except DisconnectedError:
            response = Response(GONE)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                self.observer.answered(request.method, route.path, GONE, self.seconds() - started)
                raise
            response = self._refused(request, route, InternalError("Internal server error"))
            self.observer.failed(request.method, route.path, error)
        finally:
            inside.close()
            request.incoming.recognised()  # or its body is of no use any more
        self.observer.answered(request.method, route.path, response.status, self.seconds() - started)
        return response

    async def _enter(self, token: str, request: Request, inside: ExitStack) -> Caller:
        """Who calls, as soon as their door is open; what was found out about them before that is not believed."""
        doors = self._doors
        while True:
            closings = doors.closings
            identify = self._identify
            caller = await (self._authenticate(token) if identify is None else identify(token, request))
            if doors.is_closed(caller.user_id):
                await doors.opened(caller.user_id)
            elif closings == doors.closings:
                inside.enter_context(doors.inside(caller.user_id))
                return caller

    async def call(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        address: str = "",
    ) -> Response:
        """Answer a request that came by no socket."""
        lower = {name.lower().encode("latin-1"): value.encode("latin-1") for name, value in (headers or {}).items()}
        request = Request(method, target, lower, address, Incoming.of(body))
        try:
            route, request.args = self.table.match(method, request.path)
        except Refusal as error:
            return self.unmatched(self.table, method, request.path, error)
        request.template = route.path
        return await self.answer(request, route)

    @staticmethod
    def _admit(request: Request, route: Route[Any]) -> None:
        caller = request.caller_or_none
        if caller is None:
            return
        if caller.guest and route.auth in (Auth.USER, Auth.ADMIN):
            raise GuestAccessForbidden("Guests may not do this")
        if route.auth is Auth.ADMIN and not caller.admin:
            raise Forbidden("Only administrators of this server may do this")
        if caller.suspended and route.unless_suspended:
            raise UserSuspended("You cannot do this while your account is suspended")

    def _refused(self, request: Request, route: Route[S], refusal: Refusal) -> Response:
        return refused(refusal) if route.refuse is None else route.refuse(self.server, request, refusal)

    def _charge(self, request: Request, route: Route[Any]) -> None:
        limits = self._limits
        if limits is None or route.limit is Limit.NONE:
            return
        if route.auth is Auth.SIGNED:
            limits.charge(route.limit, request.origin)
        elif (caller := request.caller_or_none) is not None:
            if caller.limited:
                limits.charge(route.limit, caller.user_id)
        elif self._unlimited is None or not self._unlimited(request):
            limits.charge(route.limit, limits.tag(request.address))

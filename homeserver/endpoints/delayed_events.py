"""Events that are sent later, in both forms in which clients ask for them; and what becomes of them. Not specified yet
(MSC4140).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.endpoints.stickiness import sticky_of
from homeserver.protocol.errors import Forbidden, InvalidParam, NotFound, Unknown, Unrecognized
from homeserver.rooms import delayed
from homeserver.rooms.delayed import ACTIONS
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

UNSTABLE: Final = "/_matrix/client/unstable/org.matrix.msc4140"
DELAY: Final = "org.matrix.msc4140.delay"
"""The parameter by which an event is sent later that is sent as any other."""


def delay_of(server: Server, request: Request) -> int | None:
    """In how many milliseconds a request wants its event sent; None: now. Raises InvalidParam, Unknown."""
    if request.query.get(DELAY) is None:
        return None
    delay = request.query.integer(DELAY, 0, low=1)
    longest = server.settings.delayed_events.max_delay.ms
    if delay > longest:  # COMPAT(matrix-js-sdk, 43): tries a shorter one if told so in these words
        raise Unknown(
            f"The delay is at most {longest} ms",
            **{"org.matrix.msc4140.errcode": "M_MAX_DELAY_EXCEEDED", "org.matrix.msc4140.max_delay": longest},
        )
    return delay


@route(
    "PUT",
    UNSTABLE + "/rooms/{roomId}/delayed_event/{eventType}/{txnId}",
    auth=Auth.GUEST,
    limit=Limit.MESSAGE,
    unless_suspended=True,
)
async def schedule(server: Server, request: Request) -> dict[str, Any]:
    """Have an event sent later: a message, or with ``state_key`` state. Raises Forbidden for too long a delay."""
    body, args = request.json(), request.args
    delay = reading.integer(body, "delay_ms", required=True, low=1)
    content = reading.mapping(body, "content", required=True)
    state_key = reading.text(body, "state_key")
    longest = server.settings.delayed_events.max_delay.ms
    if delay > longest:
        raise Forbidden(f"The delay is at most {longest} ms")
    delay_id = await delayed.schedule(
        server,
        request.caller,
        args["roomId"],
        args["eventType"],
        content,
        delay,
        state_key=state_key,
        txn_id=args["txnId"],
        sticky_ms=sticky_of(request),
    )
    return {"delay_id": delay_id}


@route("GET", UNSTABLE + "/delayed_events", auth=Auth.GUEST)
async def scheduled(server: Server, request: Request) -> dict[str, Any]:
    """The caller's events that wait."""
    return {"delayed_events": await delayed.waiting(request.caller)}


@route("GET", UNSTABLE + "/delayed_events/{delayId}", auth=Auth.GUEST)
async def scheduled_one(server: Server, request: Request) -> dict[str, Any]:
    """One of the caller's events that wait."""
    for each in await delayed.waiting(request.caller):
        if each["delay_id"] == request.args["delayId"]:
            return each
    raise NotFound("No such event of yours waits")


# Whoever was told the id may do these: a service that notices that a client in a call is gone has no token of its user.


@route("POST", UNSTABLE + "/delayed_events/{delayId}/{action}", auth=Auth.NONE)
async def act(server: Server, request: Request) -> dict[str, Any]:
    """Send, cancel or put off a delayed event."""
    if request.args["action"] not in ACTIONS:
        raise Unrecognized("There is no such action")
    await delayed.act(server, request.args["delayId"], request.args["action"])
    return {}


@route("POST", UNSTABLE + "/delayed_events/{delayId}", auth=Auth.NONE)
async def act_as_told(server: Server, request: Request) -> dict[str, Any]:
    """The same, in an older form."""
    action = reading.text(request.json(), "action", required=True)
    if action not in ACTIONS:
        raise InvalidParam(f"'action' must be one of: {', '.join(ACTIONS)}")
    await delayed.act(server, request.args["delayId"], action)
    return {}

"""Registration, by users and by tools. spec: client-server-api/#legacy-account-registration"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from config.placement import Attributes
from homeserver.accounts import (
    callers,
    contacts,
    interactive,
    registration,
    registration_tokens,
    shared_secret,
    validation,
)
from homeserver.accounts.interactive import STAGE_OF, Operation
from homeserver.accounts.letters import Purpose
from homeserver.accounts.registration import NewAccount, Registered
from homeserver.accounts.sessions import DeviceWish
from homeserver.endpoints.login import SERVICE, device_wish
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request


@route(
    "POST",
    "/_matrix/client/v3/register",
    auth=Auth.NONE,
    limit=Limit.REGISTRATION,
    spec="client-server-api/#post_matrixclientv3register",
    also=("r0",),
)
async def register(server: Server, request: Request) -> dict[str, Any]:
    """Make an account. Where the policy lets the user choose, ``org.domicile.node`` names the node; a client that
    leaves it out is asked for a stage of that name, which has a page."""
    if request.query.choice("kind", ("user", "guest"), "user") == "guest":
        name = reading.text(request.json(required=False), "initial_device_display_name")
        return _shown(await registration.register_guest(server, name))
    body = request.json()
    if body.get("type") == SERVICE:
        return await _for_service(server, request, body)
    flows = registration.flows(server)
    username = reading.text(body, "username")
    password = reading.text(body, "password")
    choice = reading.text(body, "org.domicile.node")
    device = None if reading.boolean(body, "inhibit_login") else device_wish(body)
    guest_token = reading.text(body, "guest_access_token")
    guest = None if guest_token is None else await registration.check_upgrade(server, guest_token, username)
    if username is not None and guest is None:
        await registration.check_available(server, username)
    operation = Operation(request.method, request.path, purpose=Purpose.REGISTER)
    asked = flows if guest is not None else partial(registration.offer, server, choice)
    done = await interactive.require(server, operation, asked, body)
    sids = [done[stage] for stage in STAGE_OF.values() if stage in done]
    threepids = {proved.identifier.medium: proved for proved in (validation.proved(server, sid) for sid in sids)}
    wanted = NewAccount(
        localpart=registration.random_localpart() if username is None else username,
        password=password,
        attributes=registration.attributes_of(server, done, choice),
        threepids=tuple(contacts.as_row(server, proved) for proved in threepids.values()),
        device=device,
    )
    registered = (
        await registration.register(server, wanted)
        if guest is None
        else await registration.upgrade(server, guest, wanted)
    )
    for sid in sids:
        validation.use(server, sid)
    return _shown(registered)


async def _for_service(server: Server, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    """Make an account for an application service, which has no password and rests where the service's users do.

    spec: application-service-api/#server-admin-style-permissions
    """
    service = callers.service_of(server, request.token())
    registered = await registration.register(
        server,
        NewAccount(
            localpart=reading.text(body, "username", required=True),
            password=None,
            attributes=Attributes(node=service.node, named_by="service", may_ask=False),
            device=None if reading.boolean(body, "inhibit_login") else device_wish(body),
            service=service,
        ),
    )
    return _shown(registered)


def _shown(registered: Registered) -> dict[str, Any]:
    return {"user_id": registered.user_id} if registered.login is None else registered.login.as_json()


@route(
    "GET",
    "/_matrix/client/v3/register/available",
    auth=Auth.NONE,
    limit=Limit.REGISTRATION,
    spec="client-server-api/#get_matrixclientv3registeravailable",
    also=("r0",),
)
async def available(server: Server, request: Request) -> dict[str, Any]:
    """Whether a username could be had."""
    await registration.check_available(server, request.query.require("username"))
    return {"available": True}


@route(
    "GET",
    "/_matrix/client/v1/register/m.login.registration_token/validity",
    auth=Auth.NONE,
    limit=Limit.REGISTRATION,
    spec="client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity",
)
async def token_validity(server: Server, request: Request) -> dict[str, Any]:
    """Whether a registration token holds."""
    registration.flows(server)  # where nobody may register, no token holds
    return {"valid": await registration_tokens.is_valid(server, request.query.require("token"))}


@route("GET", "/_synapse/admin/v1/register", auth=Auth.NONE, limit=Limit.REQUEST)
async def nonce(server: Server, request: Request) -> dict[str, Any]:
    """A nonce for a registration by shared secret."""
    return {"nonce": shared_secret.new_nonce(server)}


@route("POST", "/_synapse/admin/v1/register", auth=Auth.NONE, limit=Limit.NONE)
async def register_by_secret(server: Server, request: Request) -> dict[str, Any]:
    """Make an account by the shared secret, whatever the mode of registration.

    ``org.domicile.node`` names its node; else the pin rules place it.
    """
    body = request.json()
    user = reading.text(body, "username", required=True)
    password = reading.text(body, "password", required=True)
    admin = reading.boolean(body, "admin")
    shared_secret.check(
        server,
        reading.text(body, "nonce", required=True),
        user,
        password,
        admin=admin,
        user_type=reading.text(body, "user_type"),
        mac=reading.text(body, "mac", required=True),
    )
    device = DeviceWish(
        device_id=reading.text(body, "device_id"), display_name=reading.text(body, "initial_device_display_name")
    )
    registered = await registration.register(
        server,
        NewAccount(
            localpart=user,
            password=password,
            attributes=Attributes(node=reading.text(body, "org.domicile.node"), may_ask=False),
            admin=admin,
            device=None if reading.boolean(body, "inhibit_login") else device,
        ),
    )
    return {**_shown(registered), "home_server": server.name, "org.domicile.node": registered.node}

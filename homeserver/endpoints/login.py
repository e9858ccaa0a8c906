"""Login, refresh, logout. spec: client-server-api/#legacy-login"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.accounts import callers, devices, identifying, interactive, login_tokens, sessions
from homeserver.accounts.interactive import Operation
from homeserver.accounts.sessions import DeviceWish, Login
from homeserver.e2ee import publication
from homeserver.protocol.errors import MissingToken, Unknown
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

SERVICE = "m.login.application_service"
"""The type of the logins and registrations of application services."""

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.web.messages import Request


@route(
    "GET",
    "/_matrix/client/v3/login",
    auth=Auth.NONE,
    spec="client-server-api/#get_matrixclientv3login",
    also=("r0",),
)
async def login_flows(server: Server, request: Request) -> dict[str, Any]:
    """The ways to log in. Where there are providers, clients that know of OAuth are to offer the pages only."""
    flows: list[dict[str, Any]] = [{"type": "m.login.password"}, {"type": "m.login.token", "get_login_token": True}]
    providers = server.settings.identity_providers
    if providers:
        shown = [
            {"id": provider.id, "name": provider.name} | ({"brand": provider.brand} if provider.brand else {})
            for provider in providers
        ]
        aware = {"oauth_aware_preferred": True, "org.matrix.msc3824.delegated_oidc_compatibility": True}
        preferred = aware if server.settings.oauth.enabled else {}
        flows.append({"type": "m.login.sso", "identity_providers": shown, **preferred})
    if server.services:
        flows.append({"type": SERVICE})
    return {"flows": flows}


@route(
    "POST",
    "/_matrix/client/v3/login",
    auth=Auth.NONE,
    limit=Limit.LOGIN,
    spec="client-server-api/#post_matrixclientv3login",
    also=("r0",),
)
async def log_in(server: Server, request: Request) -> dict[str, Any]:
    """Log in, by password or by the token that another client of the user got."""
    body = request.json()
    kind = reading.text(body, "type", required=True)
    wish = device_wish(body)
    if kind == "m.login.token":
        login = await login_tokens.log_in(server, reading.text(body, "token", required=True), wish)
    elif kind == "m.login.password":
        login = await _by_password(server, body, wish)
    elif kind == SERVICE:
        service = callers.service_of(server, request.token())
        login = await sessions.log_in_for_service(server, service, await identifying.named_user(server, body), wish)
    else:
        raise Unknown("This server does not know that type of login")
    return {**login.as_json(), "well_known": {"m.homeserver": {"base_url": server.settings.base_url}}}


async def _by_password(server: Server, body: dict[str, Any], wish: DeviceWish) -> Login:
    password = reading.text(body, "password", required=True)
    user = await identifying.named_user(server, body)
    return await sessions.log_in(server, user, password, wish)


@route(
    "POST",
    "/_matrix/client/v1/login/get_token",
    auth=Auth.USER,
    limit=Limit.LOGIN_TOKEN,
    spec="client-server-api/#post_matrixclientv1loginget_token",
)
async def get_token(server: Server, request: Request) -> dict[str, Any]:
    """A token for one login as the caller, who confirms each."""
    interactive.check_legacy(request.caller)
    operation = Operation(request.method, request.path, request.caller.user_id)
    flows = await interactive.by_owner(request.caller)
    await interactive.require(server, operation, flows, request.json(required=False))
    token, expires_in_ms = login_tokens.make(server, request.caller)
    return {"login_token": token, "expires_in_ms": expires_in_ms}


def device_wish(body: dict[str, Any]) -> DeviceWish:
    """The device that a login or registration asks for."""
    return DeviceWish(
        device_id=reading.text(body, "device_id"),
        display_name=reading.text(body, "initial_device_display_name"),
        refresh=reading.boolean(body, "refresh_token"),
    )


@route(
    "POST",
    "/_matrix/client/v3/refresh",
    auth=Auth.NONE,
    spec="client-server-api/#post_matrixclientv3refresh",
)
async def refresh(server: Server, request: Request) -> dict[str, Any]:
    """Exchange a refresh token."""
    token = reading.text(request.json(), "refresh_token", required=True)
    return (await sessions.refresh(server, token)).as_json()


# A locked account can still be logged out of, which is why these two see to their token themselves.


@route(
    "POST",
    "/_matrix/client/v3/logout",
    auth=Auth.NONE,
    spec="client-server-api/#post_matrixclientv3logout",
    also=("r0",),
)
async def log_out(server: Server, request: Request) -> dict[str, Any]:
    """End this session."""
    caller = await _caller(server, request)
    await devices.log_out(server, caller)
    await publication.told(server, caller.node)
    return {}


@route(
    "POST",
    "/_matrix/client/v3/logout/all",
    auth=Auth.NONE,
    spec="client-server-api/#post_matrixclientv3logoutall",
    also=("r0",),
)
async def log_out_everywhere(server: Server, request: Request) -> dict[str, Any]:
    """End all sessions of the user."""
    caller = await _caller(server, request)
    await devices.log_out_everywhere(server, caller)
    await publication.told(server, caller.node)
    return {}


async def _caller(server: Server, request: Request) -> Caller:
    token = request.token()
    if token is None:
        raise MissingToken("An access token is needed")
    return await callers.authenticate(server, token, even_locked=True)

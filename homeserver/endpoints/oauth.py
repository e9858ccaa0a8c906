"""The OAuth 2.0 API as clients use it: metadata, registration, tokens, revocation. What people use are pages.

spec: client-server-api/#oauth-20-api
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.accounts.oauth import clients, device_codes, grants
from homeserver.e2ee import publication
from homeserver.endpoints import forms
from homeserver.protocol.errors import LimitExceeded, OAuthRefusal, Refusal, Unrecognized
from homeserver.protocol.oauth import (
    AUTHORIZATION_CODE,
    DEVICE_CODE,
    GRANT_TYPES,
    REFRESH_TOKEN,
    RESPONSE_MODES,
    read_scope,
)
from homeserver.web.limits import Limit
from homeserver.web.messages import Response, json_response, refused
from homeserver.web.routes import Auth, Resource, route

if TYPE_CHECKING:
    from collections.abc import Callable

    from homeserver.context import Server
    from homeserver.web.messages import Request
    from homeserver.web.routes import F

AUTHORIZE: Final = "/_domicile/oauth/authorize"
TOKEN: Final = "/_domicile/oauth/token"  # noqa: S105  # an address
REVOKE: Final = "/_domicile/oauth/revoke"
REGISTER: Final = "/_domicile/oauth/clients"
DEVICE: Final = "/_domicile/oauth/device"
LINK: Final = "/_domicile/link"
ACCOUNT: Final = "/_domicile/account"

ACTIONS: Final = (
    "org.matrix.profile",
    "org.matrix.devices_list",
    "org.matrix.device_view",
    "org.matrix.device_delete",
    "org.matrix.account_deactivate",
    "org.matrix.cross_signing_reset",
)
"""spec: client-server-api/#account-management-url-actions"""

FRESH: Final = (("Cache-Control", "public, max-age=600"),)


def refuse(_server: Server, _request: Request, refusal: Refusal) -> Response:
    """A refusal as OAuth clients read it. What is no error of OAuth keeps its errcode besides."""
    if isinstance(refusal, OAuthRefusal):
        return refused(refusal)
    code = "invalid_request" if refusal.status < 429 else "temporarily_unavailable"
    if refusal.status == 500:
        code = "server_error"
    headers = refused(refusal).headers if isinstance(refusal, LimitExceeded) else ()
    body = {**refusal.body(), "error": code, "error_description": refusal.message}
    return json_response(body, refusal.status, headers)


def check_enabled(server: Server) -> None:
    """Raise Unrecognized where nobody signs in by OAuth. spec: client-server-api/#authentication-api-discovery"""
    if not server.settings.oauth.enabled:
        raise Unrecognized("Legacy authentication is in use on this homeserver")


def issuer(server: Server) -> str:
    """What this server is called as an authorization server."""
    return server.settings.base_url + "/"


@route(
    "GET",
    "/_matrix/client/v1/auth_metadata",
    auth=Auth.NONE,
    spec="client-server-api/#get_matrixclientv1auth_metadata",
    also=(
        "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata",  # COMPAT(matrix-rust-sdk, 2024): before v1.15
        "/.well-known/oauth-authorization-server",  # RFC 8414
    ),
)
async def auth_metadata(server: Server, request: Request) -> Response:
    """Where everything is, and what is supported."""
    check_enabled(server)
    base = server.settings.base_url
    creates = {} if server.settings.registration.mode == "closed" else {"prompt_values_supported": ["create"]}
    return json_response(
        {
            "issuer": issuer(server),
            "authorization_endpoint": base + AUTHORIZE,
            "token_endpoint": base + TOKEN,
            "revocation_endpoint": base + REVOKE,
            "registration_endpoint": base + REGISTER,
            "device_authorization_endpoint": base + DEVICE,
            "response_types_supported": ["code"],
            "response_modes_supported": list(RESPONSE_MODES),
            "grant_types_supported": list(GRANT_TYPES),
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "authorization_response_iss_parameter_supported": True,
            **creates,
            "account_management_uri": base + ACCOUNT,
            "account_management_actions_supported": list(ACTIONS),
            "org.matrix.msc4191.account_management_uri": base + ACCOUNT,  # COMPAT(matrix-rust-sdk, 2025): before v1.18
        },
        headers=FRESH,
    )


@route("GET", "/_matrix/client/unstable/org.matrix.msc2965/auth_issuer", auth=Auth.NONE)
async def auth_issuer(server: Server, request: Request) -> dict[str, Any]:
    """COMPAT(matrix-js-sdk, 2024): the issuer alone, as drafts had it."""
    check_enabled(server)
    return {"issuer": issuer(server)}


def _answers(path: str, *, limit: Limit | None = None, spec: str) -> Callable[[F], F]:
    """Declare what OAuth clients ask by POST: `route`, with refusals as they read them."""
    return route("POST", path, auth=Auth.NONE, limit=limit, resource=Resource.CLIENT, refuse=refuse, spec=spec)


def _form(server: Server, request: Request) -> forms.Form:
    """What they send. Raises Unrecognized where nobody signs in by OAuth, InvalidParam."""
    check_enabled(server)
    return forms.in_body(request)


@_answers(REGISTER, limit=Limit.REGISTRATION, spec="client-server-api/#dynamic-client-registration-flow")
async def register_client(server: Server, request: Request) -> Response:
    """Register a client."""
    check_enabled(server)
    try:
        body = request.json()
    except Refusal as refusal:
        raise OAuthRefusal("invalid_client_metadata", refusal.message) from None
    return json_response(await clients.register(server, body), 201)


@_answers(DEVICE, limit=Limit.LOGIN, spec="client-server-api/#device-authorisation-flow")
async def begin_device(server: Server, request: Request) -> dict[str, Any]:
    """Give a device a code that it shows."""
    form = _form(server, request)
    client = await clients.find(server, form.need("client_id"))
    _check_grant(client, DEVICE_CODE)
    begun = device_codes.begin(server, client, read_scope(form.need("scope")))
    link = server.settings.base_url + LINK
    return {
        "device_code": begun.device_code,
        "user_code": begun.user_code,
        "verification_uri": link,
        "verification_uri_complete": f"{link}?user_code={begun.user_code}",
        "expires_in": begun.expires_in,
        "interval": int(device_codes.INTERVAL),
    }


@_answers(TOKEN, spec="client-server-api/#grant-types")
async def token(server: Server, request: Request) -> dict[str, Any]:
    """Give a client tokens, for a code or for a refresh token."""
    form = _form(server, request)
    grant, client_id = form.need("grant_type"), form.need("client_id")
    if grant == AUTHORIZATION_CODE:
        code, redirect_uri, verifier = (form.need(name) for name in ("code", "redirect_uri", "code_verifier"))
        issued = await grants.redeem(server, client_id, code, redirect_uri=redirect_uri, verifier=verifier)
    elif grant == REFRESH_TOKEN:
        issued = await grants.refresh(server, client_id, form.need("refresh_token"))
    elif grant == DEVICE_CODE:
        issued = await device_codes.redeem(server, client_id, form.need("device_code"))
    else:
        raise OAuthRefusal("unsupported_grant_type", "This server does not know that grant")
    return issued.as_json()


def _check_grant(client: clients.Client, grant: str) -> None:
    if grant not in client["grant_types"]:
        raise OAuthRefusal("unauthorized_client", "The client has not registered for that grant")


@_answers(REVOKE, spec="client-server-api/#token-revocation")
async def revoke(server: Server, request: Request) -> dict[str, Any]:
    """Log a client out: its device goes. Whoever has a token may do that, whatever client they say they are."""
    form = _form(server, request)
    revoked = form.need("token")
    if form.get("token_type_hint") not in (None, "access_token", "refresh_token"):
        raise OAuthRefusal("unsupported_token_type", "There are no tokens of that type")
    node = await grants.revoke(server, revoked)
    if node is not None:
        await publication.told(server, node)
    return {}

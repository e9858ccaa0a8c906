"""What this server is and can do. spec: client-server-api/#server-discovery"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.accounts import calls
from homeserver.endpoints.oauth import ACCOUNT, issuer
from homeserver.protocol.errors import NotFound
from homeserver.protocol.versions import STABILITY
from homeserver.rooms import delayed
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

VERSIONS: Final = ("r0.5.0", "r0.6.0", "r0.6.1", *(f"v1.{minor}" for minor in range(1, 20)))
"""The versions of the specification that clients may rely on. COMPAT(Element Android, 1.3): those which use the ``r0``
paths look for the first ones before they let anybody log in. spec: client-server-api/#api-versions"""

FEATURES: Final = (
    "com.beeper.msc4169",
    "org.matrix.msc3391",
    "org.matrix.msc3814",
    "org.matrix.msc4143",
    "org.matrix.msc4155",
    "org.matrix.msc4222",
    "org.matrix.msc4306",
    "org.matrix.msc4308",
    "org.matrix.msc4354",
    "org.matrix.simplified_msc3575",
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "uk.tcpip.msc4133",
    "uk.tcpip.msc4133.stable",
)
"""What is served that is not specified yet, or under a name from before it was: deleting account data, services for
calls of many, signing in by a QR code, choosing who may invite, the state after the timeline in `/sync`, sliding
sync, dehydrated devices, following threads; redacting by ``/send``, rooms in common, and fields of profiles."""

ALWAYS_ENCRYPTED: Final = tuple(
    f"io.element.e2ee_forced.{preset}" for preset in ("private", "trusted_private", "public")
)
"""COMPAT(Element, 1.11): then it says of a new room that it will be encrypted, instead of asking."""


@route(
    "GET",
    "/_matrix/client/versions",
    auth=Auth.NONE,
    spec="client-server-api/#get_matrixclientversions",
)
async def versions(server: Server, request: Request) -> dict[str, Any]:
    """Supported versions of the specification, and what clients look for besides."""
    features = dict.fromkeys(FEATURES, True)
    features["org.matrix.msc4108"] = server.settings.oauth.enabled  # nobody is let in by it otherwise
    features["org.matrix.msc4140"] = delayed.is_on(server)
    if not server.settings.conformance_mode:
        features |= dict.fromkeys(ALWAYS_ENCRYPTED, True)
    return {"versions": list(VERSIONS), "unstable_features": features}


@route(
    "GET",
    "/.well-known/matrix/client",
    auth=Auth.NONE,
    spec="client-server-api/#getwell-knownmatrixclient",
)
async def well_known_client(server: Server, request: Request) -> dict[str, Any]:
    """Where clients find the client-server API, and what they need for calls of many."""
    base = server.settings.base_url
    found: dict[str, Any] = {"m.homeserver": {"base_url": base}}
    if server.settings.oauth.enabled:  # COMPAT(Element, 1.11): looks for them here
        found["org.matrix.msc2965.authentication"] = {"issuer": issuer(server), "account": base + ACCOUNT}
    if services := calls.transports(server):
        found["org.matrix.msc4143.rtc_foci"] = services  # COMPAT(Element Call, 0.9): looks for them here
    return found


@route(
    "GET",
    "/.well-known/matrix/support",
    auth=Auth.NONE,
    spec="client-server-api/#getwell-knownmatrixsupport",
)
async def well_known_support(server: Server, request: Request) -> dict[str, Any]:
    """Whom to write to. Raises NotFound when the operator has named nobody."""
    operator = server.settings.operator
    found: dict[str, Any] = {}
    contacts = [
        _contact(contact, role)
        for contact, role in ((operator.contact, "m.role.admin"), (operator.security_contact, "m.role.security"))
        if contact is not None
    ]
    contacts = [contact for contact in contacts if len(contact) > 1]
    if contacts:
        found["contacts"] = contacts
    if operator.support_page is not None:
        found["support_page"] = operator.support_page
    if not found:
        raise NotFound("The operator of this server has named no contact")
    return found


@route(
    "GET",
    "/.well-known/matrix/policy_server",
    auth=Auth.NONE,
    spec="client-server-api/#getwell-knownmatrixpolicy_server",
)
async def well_known_policy_server(server: Server, request: Request) -> dict[str, Any]:
    """What a room says of this server that wants it as its policy server. Raises NotFound when it is none."""
    key = server.identity.policy_key
    if key is None:
        raise NotFound("This server is no policy server")
    return {"public_keys": {"ed25519": key.verify_key.base64}}


def _contact(contact: str, role: str) -> dict[str, str]:
    if contact.startswith("mailto:"):
        return {"role": role, "email_address": contact.removeprefix("mailto:")}
    if contact.startswith("@"):
        return {"role": role, "matrix_id": contact}
    return {"role": role}


def _later(server: Server) -> dict[str, Any]:
    """What clients want to know before they have an event sent later."""
    if not delayed.is_on(server):
        return {}
    bounds = server.settings.delayed_events
    return {
        "org.matrix.msc4140.delayed_events": {"max_delay_ms": bounds.max_delay.ms, "max_scheduled": bounds.per_user}
    }


@route(
    "GET",
    "/_matrix/client/v3/capabilities",
    auth=Auth.USER,
    limit=Limit.REQUEST,
    spec="client-server-api/#get_matrixclientv3capabilities",
    also=("r0",),
)
async def capabilities(server: Server, request: Request) -> dict[str, Any]:
    """What clients can do here. spec: client-server-api/#capabilities-negotiation"""
    can, cannot = {"enabled": True}, {"enabled": False}
    moderation = {"m.account_moderation": {"suspend": True, "lock": True}} if request.caller.admin else {}
    return {
        "capabilities": {
            **moderation,
            **_later(server),
            "m.change_password": can,
            "m.room_versions": {"default": server.settings.rooms.default_version, "available": dict(STABILITY)},
            "m.profile_fields": can,
            "m.set_displayname": can,
            "m.set_avatar_url": can,
            "m.3pid_changes": can if server.settings.email or server.settings.sms else cannot,
            "m.get_login_token": can,
            "m.forget_forced_upon_leave": cannot,
        }
    }

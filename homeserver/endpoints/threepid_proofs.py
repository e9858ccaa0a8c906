"""Proving to own an e-mail address or a phone number: asking for a code or link, and submitting it.

spec: client-server-api/#adding-account-administrative-contact-information
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from homeserver.accounts import contacts, registration, validation
from homeserver.accounts.letters import Purpose
from homeserver.accounts.validation import Wish
from homeserver.endpoints import browsing
from homeserver.protocol.errors import InvalidParam, NotFound, Refusal
from homeserver.protocol.threepids import EMAIL, MEDIA, MSISDN, email_address, phone_number
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, Resource, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.threepids import Identifier
    from homeserver.web.messages import Request, Response

FORM = "application/x-www-form-urlencoded"
LONGEST_LINK = 2000


async def _email(server: Server, request: Request, purpose: Purpose) -> dict[str, Any]:
    """Send a link; the page behind it needs nothing of the client, so no ``submit_url`` is given."""
    address = email_address(reading.text(request.json(), "email", required=True))
    return {"sid": await _begin(server, request, purpose, address)}


async def _msisdn(server: Server, request: Request, purpose: Purpose) -> dict[str, Any]:
    """Send a code, which the client asks its user for and submits."""
    body = request.json()
    country = reading.text(body, "country", required=True)
    number = phone_number(reading.text(body, "phone_number", required=True), country)
    sid = await _begin(server, request, purpose, number)
    return {"sid": sid, "msisdn": number.address, "submit_url": validation.submit_url(server, MSISDN)}


async def _begin(server: Server, request: Request, purpose: Purpose, identifier: Identifier) -> str:
    body = request.json()
    wish = Wish(
        purpose,
        identifier,
        reading.text(body, "client_secret", required=True),
        reading.integer(body, "send_attempt", required=True, low=0),
        _link(reading.text(body, "next_link")),
    )
    return await contacts.begin(server, wish)


def _link(text: str | None) -> str | None:
    if not text:
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or len(text) > LONGEST_LINK:
        raise InvalidParam("'next_link' must be a web address")
    return text


@route(
    "POST",
    "/_matrix/client/v3/register/email/requestToken",
    auth=Auth.NONE,
    limit=Limit.VERIFICATION,
    spec="client-server-api/#post_matrixclientv3registeremailrequesttoken",
    also=("r0",),
)
async def register_email(server: Server, request: Request) -> dict[str, Any]:
    """For a registration; where nobody may register there is none."""
    registration.flows(server)
    return await _email(server, request, Purpose.REGISTER)


@route(
    "POST",
    "/_matrix/client/v3/register/msisdn/requestToken",
    auth=Auth.NONE,
    limit=Limit.VERIFICATION,
    spec="client-server-api/#post_matrixclientv3registermsisdnrequesttoken",
    also=("r0",),
)
async def register_msisdn(server: Server, request: Request) -> dict[str, Any]:
    """For a registration; where nobody may register there is none."""
    registration.flows(server)
    return await _msisdn(server, request, Purpose.REGISTER)


@route(
    "POST",
    "/_matrix/client/v3/account/password/email/requestToken",
    auth=Auth.NONE,
    limit=Limit.VERIFICATION,
    spec="client-server-api/#post_matrixclientv3accountpasswordemailrequesttoken",
    also=("r0",),
)
async def password_email(server: Server, request: Request) -> dict[str, Any]:
    """For a new password. An address that is nobody's gets a message too, so that the answer tells nothing."""
    return await _email(server, request, Purpose.PASSWORD)


@route(
    "POST",
    "/_matrix/client/v3/account/password/msisdn/requestToken",
    auth=Auth.NONE,
    limit=Limit.VERIFICATION,
    spec="client-server-api/#post_matrixclientv3accountpasswordmsisdnrequesttoken",
    also=("r0",),
)
async def password_msisdn(server: Server, request: Request) -> dict[str, Any]:
    """For a new password. A number that is nobody's gets a message too, so that the answer tells nothing."""
    return await _msisdn(server, request, Purpose.PASSWORD)


@route(
    "POST",
    "/_matrix/client/v3/account/3pid/email/requestToken",
    auth=Auth.OPTIONAL,
    limit=Limit.VERIFICATION,
    spec="client-server-api/#post_matrixclientv3account3pidemailrequesttoken",
    also=("r0",),
)
async def add_email(server: Server, request: Request) -> dict[str, Any]:
    """To add the address to an account."""
    return await _email(server, request, Purpose.ADD)


@route(
    "POST",
    "/_matrix/client/v3/account/3pid/msisdn/requestToken",
    auth=Auth.OPTIONAL,
    limit=Limit.VERIFICATION,
    spec="client-server-api/#post_matrixclientv3account3pidmsisdnrequesttoken",
    also=("r0",),
)
async def add_msisdn(server: Server, request: Request) -> dict[str, Any]:
    """To add the number to an account."""
    return await _msisdn(server, request, Purpose.ADD)


# -- submitting what was sent


def _medium(request: Request) -> str:
    medium = request.args["medium"]
    if medium not in MEDIA:
        raise NotFound("There is no such medium")
    return medium


@route(
    "POST",
    validation.SUBMIT,
    auth=Auth.NONE,
    limit=Limit.LOGIN,
    resource=Resource.CLIENT,
    spec="identity-service-api/#post_matrixidentityv2validateemailsubmittoken",
)
async def submit(server: Server, request: Request) -> Response | dict[str, Any]:
    """Take what was sent, from a client as JSON, or from the page of a link as a form, which is answered by a page."""
    medium = _medium(request)
    if (request.header("content-type") or "").partition(";")[0].strip().lower() != FORM:
        body = request.json()
        sid, secret, token = (reading.text(body, name, required=True) for name in ("sid", "client_secret", "token"))
        validation.submit(server, medium, sid, secret, token)
        return {"success": True}
    fields = parse_qs(request.body.decode(errors="replace"), max_num_fields=10)
    spoken = browsing.language_of(server, request)
    try:
        sid, secret, token = (fields.get(name, [""])[0] for name in ("sid", "client_secret", "token"))
        following = validation.submit(server, medium, sid, secret, token)
    except Refusal as refusal:
        lines = [browsing.said(spoken, refusal)]
        return browsing.message(server, spoken, spoken.text("Not confirmed"), lines, status=refusal.status)
    if following is not None and urlsplit(following).hostname in server.settings.verification.return_to:
        return browsing.message(server, spoken, spoken.text("Confirmed"), [], onward=following)
    lines = [spoken.text("You can close this page and go on where you began.")]
    return browsing.message(server, spoken, spoken.text("Confirmed"), lines)


@route(
    "GET",
    validation.SUBMIT,
    auth=Auth.NONE,
    resource=Resource.CLIENT,
    spec="identity-service-api/#get_matrixidentityv2validateemailsubmittoken",
)
async def page(server: Server, request: Request) -> Response:
    """The page behind a link: a button. Opening it confirms nothing, because programs that guard mail open links."""
    medium = _medium(request)
    fields = {name: request.query.require(name) for name in ("sid", "client_secret", "token")}
    spoken = browsing.language_of(server, request)
    heading = spoken.text("Confirm your e-mail address" if medium == EMAIL else "Confirm your phone number")
    action = validation.SUBMIT.replace("{medium}", medium)
    return browsing.plain(server, spoken, "proof.html", heading=heading, action=action, fields=fields)

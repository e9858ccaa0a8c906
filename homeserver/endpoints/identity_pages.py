"""The pages of the stages in which an e-mail address or a phone number is proved, for clients that cannot do them.

Whoever has the page open is asked for the address, is sent a link or a code, and proves it there: nobody has to be
signed in for that, and what is proved counts for the one operation that the client has begun.

spec: client-server-api/#fallback, client-server-api/#email-based-identity--homeserver
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from homeserver.accounts import contacts, interactive, validation
from homeserver.accounts.interactive import STAGE_OF
from homeserver.accounts.letters import Purpose
from homeserver.accounts.validation import Wish
from homeserver.endpoints import browsing, forms
from homeserver.protocol.errors import NotFound, Refusal
from homeserver.protocol.threepids import EMAIL, MSISDN, email_address, phone_number
from homeserver.web.limits import Limit

if TYPE_CHECKING:
    from homeserver.accounts.interactive import Operation
    from homeserver.context import Server
    from homeserver.endpoints.browsing import Browser
    from homeserver.web.messages import Request, Response

ADDRESS: Final = "/_domicile/authenticate/address"
"""Where the address is given."""
PROVED: Final = "/_domicile/authenticate/proved"
"""Where it is said that it was proved, or the code of a phone number given."""

MEDIUM_OF: Final = {stage: medium for medium, stage in STAGE_OF.items()}

_WHAT: Final = {
    "/account/deactivate": "Close your account for ever.",
    "/account/password": "Set another password.",
    "/account/3pid": "Add an e-mail address or phone number to your account.",
    "/delete_devices": "Sign devices of yours out.",
    "/devices/": "Sign devices of yours out.",
    "/login/get_token": "Let another client sign in as you.",
    "/keys/device_signing/upload": "Reset your cryptographic identity.",
    "/register": "Make an account.",
}
"""What an operation does, by what is in its path."""


def what(operation: Operation) -> str:
    """What an operation does, in words for who is asked to confirm it."""
    return next((words for part, words in _WHAT.items() if part in operation.path), "Change your account.")


def onward(server: Server, stage: str, session: str) -> Response:
    """Send the browser to the page of one of these stages. Raises Forbidden, NotFound."""
    _operation(server, stage, session)
    return browsing.onward(server, f"{ADDRESS}?{urlencode({'stage': stage, 'session': session})}")


def _operation(server: Server, stage: str, session: str) -> tuple[Operation, Purpose]:
    """What is to be authorised, and for what an identifier is proved. Raises Forbidden, NotFound."""
    if stage not in MEDIUM_OF:
        raise NotFound("Your client has to do this step itself.")
    operation = interactive.waiting(server, session, stage)
    if operation.purpose is None:
        raise NotFound("Your client has to do this step itself.")
    return operation, operation.purpose


def _page(
    server: Server,
    browser: Browser,
    asked: tuple[str, str],
    fault: Refusal | None = None,
    *,
    address: str = "",
    sid: str = "",
    secret: str = "",
) -> Response:
    """``asked``: stage and session."""
    stage, session = asked
    operation, purpose = _operation(server, stage, session)
    said = browser.language.text
    lines = [said("A client asks to do this:"), said(what(operation))]
    lines.append(said("Confirm it only if you have begun it yourself; else close this page."))
    return browsing.show(
        server,
        browser,
        "prove.html",
        fault=fault,
        opened_by_client=True,
        heading=said("Confirm that it is you"),
        lines=lines,
        action=PROVED if sid else ADDRESS,
        kept={"stage": stage, "session": session},
        medium=MEDIUM_OF[stage],
        for_registration=purpose is Purpose.REGISTER,
        address=address,
        sid=sid,
        secret=secret,
    )


@browsing.page("GET", ADDRESS, limit=Limit.LOGIN)
async def ask(server: Server, request: Request) -> Response:
    """Ask for an address or number."""
    sent = forms.in_query(request)
    return _page(server, await browsing.browser_of(server, request), (sent.need("stage"), sent.need("session")))


@browsing.page("POST", ADDRESS, limit=Limit.VERIFICATION)
async def given(server: Server, request: Request) -> Response:
    """Have a link or a code sent."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    asked = sent.need("stage"), sent.need("session")
    _, purpose = _operation(server, *asked)
    address, secret = sent.need("address").strip(), secrets.token_hex(16)
    try:
        identifier = email_address(address) if MEDIUM_OF[asked[0]] == EMAIL else phone_number(address)
        sid = await contacts.begin(server, Wish(purpose, identifier, secret, 1))
    except Refusal as fault:
        if fault.status >= 500:
            raise
        return _page(server, browser, asked, fault)
    return _page(server, browser, asked, address=address, sid=sid, secret=secret)


@browsing.page("POST", PROVED, limit=Limit.LOGIN)
async def proved(server: Server, request: Request) -> Response:
    """Complete the stage once the address is proved, and tell the client that opened the page."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    stage, session = asked = sent.need("stage"), sent.need("session")
    _operation(server, *asked)
    sid, secret = sent.need("sid"), sent.need("secret")
    try:
        if MEDIUM_OF[stage] == MSISDN:
            validation.submit(server, MSISDN, sid, secret, sent.need("code"))
        credentials = {"threepid_creds": {"sid": sid, "client_secret": secret}}
        await interactive.attempt(server, session, stage, credentials)
    except Refusal as fault:
        if fault.status >= 500:
            raise
        address = (sent.get("address") or "")[:300]
        return _page(server, browser, asked, fault, address=address, sid=sid[:300], secret=secret[:300])
    return browsing.done(server, browser, browser.language.text("Confirmed"))

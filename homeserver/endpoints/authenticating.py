"""Stages of user-interactive authentication in a browser, for clients that cannot do them: the fallback.

Whoever confirms something for an account is signed in as its owner in that browser, has proved so a moment ago, and is
shown what it is.

spec: client-server-api/#fallback
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from homeserver.accounts import interactive, passwords
from homeserver.accounts.interactive import DUMMY, OAUTH, PASSWORD, REGISTRATION_TOKEN, SSO
from homeserver.endpoints import browsing, forms, identity_pages
from homeserver.endpoints.identity_pages import MEDIUM_OF, what
from homeserver.protocol.errors import Forbidden, LimitExceeded, NotFound, Unauthorized
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.sections.signing_in import IdentityProvider
    from homeserver.accounts.interactive import Operation
    from homeserver.context import Server
    from homeserver.endpoints.browsing import Browser
    from homeserver.protocol.errors import Refusal
    from homeserver.web.messages import Request, Response

PAGE: Final = "/_domicile/authenticate"
OWNERS: Final = (SSO, PASSWORD)
"""Stages by which somebody proves to own the account that an operation is about."""
ASKED: Final = {PASSWORD: "password", REGISTRATION_TOKEN: "token", DUMMY: "nothing", SSO: "nothing"}


@route(
    "GET",
    "/_matrix/client/v3/auth/{authType}/fallback/web",
    auth=Auth.NONE,
    limit=Limit.LOGIN,
    refuse=browsing.refuse,
    also=("r0",),
)
async def fallback(server: Server, request: Request) -> Response:
    """Where a client sends somebody for a stage that it cannot do."""
    stage, session = request.args["authType"], forms.in_query(request).need("session")
    if stage == OAUTH:
        return browsing.see_other(str(interactive.waiting(server, session, stage).params[OAUTH]["url"]))
    if stage in MEDIUM_OF:
        return identity_pages.onward(server, stage, session)
    _operation(server, session, stage)
    return browsing.onward(server, f"{PAGE}?{urlencode({'stage': stage, 'session': session})}")


@browsing.page("GET", PAGE, limit=Limit.LOGIN)
async def ask(server: Server, request: Request) -> Response:
    """Show what is to be confirmed, to who may."""
    asked = forms.in_query(request)
    stage, session = asked.need("stage"), asked.need("session")
    operation = _operation(server, session, stage)
    browser = await browsing.browser_of(server, request)
    if stage in OWNERS and operation.user_id is not None and browser.visitor is None:
        return browsing.to_login(server, browsing.here(request))
    return _page(server, browser, operation, stage, session)


def _operation(server: Server, session: str, stage: str) -> Operation:
    operation = interactive.waiting(server, session, stage)
    if stage not in ASKED or (stage == PASSWORD and operation.user_id is None):
        raise NotFound("Your client has to do this step itself.")
    return operation


def _page(
    server: Server, browser: Browser, operation: Operation, stage: str, session: str, fault: Refusal | None = None
) -> Response:
    said, user_id = browser.language.text, ""
    lines = [said("A client asks to do this:"), said(what(operation))]
    wanted = ASKED[stage]
    providers: Sequence[IdentityProvider] = ()
    if stage in OWNERS and operation.user_id is not None:
        _check_visitor(operation, browser)
        visitor = browsing.need_visitor(browser)
        user_id = visitor.user_id
        lines.append(said("Confirm it only if you have begun it yourself; else close this page."))
        if stage == SSO and not visitor.confirmed:
            wanted, providers = "", server.settings.identity_providers
            lines.append(said("Sign in once more first."))
    return browsing.show(
        server,
        browser,
        "authenticate.html",
        fault=fault,
        opened_by_client=True,
        heading=said("Confirm that it is you"),
        lines=lines,
        user_id=user_id,
        ask=wanted,
        stage=stage,
        session=session,
        providers=providers,
        here=f"{PAGE}?{urlencode({'stage': stage, 'session': session})}",
    )


def _check_visitor(operation: Operation, browser: Browser) -> None:
    if browsing.need_visitor(browser).user_id != operation.user_id:
        raise Forbidden("This browser is signed in as somebody else. Sign out there, and begin again.")


@browsing.page("POST", PAGE, limit=Limit.LOGIN)
async def confirm(server: Server, request: Request) -> Response:
    """Complete the stage, and tell the client that opened the page."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    stage, session = sent.need("stage"), sent.need("session")
    operation = _operation(server, session, stage)
    try:
        if stage in OWNERS and operation.user_id is not None:
            await _confirm_owner(server, browser, operation, stage, session, sent.get("password"))
        else:
            await interactive.attempt(server, session, stage, {"token": sent.get("token") or ""})
    except (LimitExceeded, Unauthorized) as fault:
        return _page(server, browser, operation, stage, session, fault)
    return browsing.done(server, browser, browser.language.text("Confirmed"))


async def _confirm_owner(
    server: Server, browser: Browser, operation: Operation, stage: str, session: str, password: str | None
) -> None:
    """Raises Forbidden, Unauthorized for a wrong password, LimitExceeded."""
    _check_visitor(operation, browser)
    visitor = browsing.need_visitor(browser)
    if stage == PASSWORD:
        if await passwords.verify(server, visitor.user_id, password or "") is None:
            raise Unauthorized("Invalid password")
    elif not visitor.confirmed:
        raise Forbidden("Sign out, sign in again, and then come back within a few minutes.")
    interactive.complete(server, session, stage, visitor.user_id)

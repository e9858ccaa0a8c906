"""Signing in through a provider of identities, and the legacy login through a browser (``m.login.sso``).

Where a client wants a login token to be sent is shown to the user before it is, each time.

spec: client-server-api/#sso-client-loginauthentication
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from homeserver.accounts import login_tokens
from homeserver.accounts.oauth import identities, upstream
from homeserver.endpoints import browsing, forms, oauth
from homeserver.pages import places
from homeserver.protocol.errors import Forbidden, InvalidParam, Refusal
from homeserver.protocol.oauth import is_safe_target, origin_of, shown_host, with_login_token
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.endpoints.browsing import Browser
    from homeserver.web.messages import Request, Response

START: Final = "/_domicile/sso/start"
CONTINUE: Final = "/_domicile/sso/continue"
NAME: Final = "/_domicile/sso/name"


def _target(text: str) -> str:
    """Raises InvalidParam."""
    if not is_safe_target(text):
        raise InvalidParam("redirectUrl is no address that a token can be sent to")
    return text


def _registers(request: Request) -> bool:
    """Whether somebody wants to make an account. Raises InvalidParam."""
    name = "action" if request.query.get("action") is not None else "org.matrix.msc3824.action"  # before v1.18
    return request.query.choice(name, ("login", "register"), "login") == "register"


def _onward(request: Request) -> str:
    """Our page that sends the token to where the client wants it. Raises MissingParam, InvalidParam."""
    return f"{CONTINUE}?{urlencode({'redirectUrl': _target(forms.in_query(request).need('redirectUrl'))})}"


@route(
    "GET",
    "/_matrix/client/v3/login/sso/redirect",
    auth=Auth.NONE,
    limit=Limit.LOGIN,
    refuse=browsing.refuse,
    spec="client-server-api/#get_matrixclientv3loginssoredirect",
    also=("r0",),
)
async def redirect_to_sso(server: Server, request: Request) -> Response:
    """Have somebody sign in to our pages, by whatever way there is."""
    onward = _onward(request)
    page = browsing.SIGN_UP if _registers(request) and server.settings.registration.mode != "closed" else browsing.LOGIN
    return _found(server, f"{page}?next={quote(onward, safe='')}")


@route(
    "GET",
    "/_matrix/client/v3/login/sso/redirect/{idpId}",
    auth=Auth.NONE,
    limit=Limit.LOGIN,
    refuse=browsing.refuse,
    spec="client-server-api/#get_matrixclientv3loginssoredirectidpid",
    also=("r0",),
)
async def redirect_to_provider(server: Server, request: Request) -> Response:
    """Have somebody sign in through one provider."""
    onward = _onward(request)
    _registers(request)
    asked = upstream.provider(server, request.args["idpId"])
    return _found(server, f"{START}?{urlencode({'provider': asked.id, 'next': onward})}")


def _found(server: Server, path: str) -> Response:
    """The specification names the status."""
    response = browsing.onward(server, path)
    response.status = 302
    return response


@browsing.page("GET", START, limit=Limit.LOGIN)
async def start(server: Server, request: Request) -> Response:
    """Send the browser to a provider."""
    asked = forms.in_query(request)
    provider = upstream.provider(server, asked.need("provider"))
    browser = await browsing.browser_of(server, request)
    onward = browsing.local(asked.get("next"), oauth.ACCOUNT)
    return browsing.see_other(
        await upstream.leave(server, provider, browser.mark, onward), *browsing.marks(server, browser)
    )


@browsing.page("GET", upstream.CALLBACK, limit=Limit.LOGIN)
async def callback(server: Server, request: Request) -> Response:
    """Somebody comes back from their provider."""
    told = forms.in_query(request)
    browser = await browsing.browser_of(server, request)
    if browser.is_new:
        raise Forbidden("This sign-in has ended, or was begun in another browser. Begin again.")
    person, onward = await upstream.come_back(
        server,
        browser.mark,
        told.need("state"),
        code=told.get("code"),
        error=told.get("error"),
        issuer=told.get("iss"),
    )
    token = await identities.sign_in(server, person)
    if token is not None:
        return browsing.signed_in(server, token, onward)
    pending = identities.arrive(server, person, browser.mark, onward)
    return _name_page(server, browser, pending, identities.suggestion(server, person))


def _name_page(server: Server, browser: Browser, pending: str, user: str, fault: Refusal | None = None) -> Response:
    person, _ = identities.arrived(server, pending, browser.mark)
    return browsing.show(
        server,
        browser,
        "register.html",
        fault=fault,
        action=NAME,
        pending=pending,
        next="",
        proofs="",
        user=user,
        token="",
        needs_token=False,
        places=places.choices(server.policy.now, browser.language, identities.places(server, person)),
    )


@browsing.page("POST", NAME, limit=Limit.REGISTRATION)
async def choose_name(server: Server, request: Request) -> Response:
    """Make the account of somebody whom a provider has signed in."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    pending, user = sent.need("pending"), (sent.get("user") or "").strip()
    identities.arrived(server, pending, browser.mark)
    try:
        token, onward = await identities.register(server, pending, browser.mark, user, sent.get("node"))
    except Refusal as fault:
        if fault.status >= 500:
            raise
        return _name_page(server, browser, pending, user[:200], fault)
    return browsing.signed_in(server, token, onward)


# -- to the client


@browsing.page("GET", CONTINUE)
async def ask_target(server: Server, request: Request) -> Response:
    """Show where the token would go."""
    target = _target(forms.in_query(request).need("redirectUrl"))
    browser = await browsing.browser_of(server, request)
    if browser.visitor is None:
        return browsing.to_login(server, browsing.here(request))
    return browsing.show(
        server,
        browser,
        "target.html",
        leads_to=[origin_of(target)],
        target=shown_host(target),
        redirect_url=target,
        user_id=browser.visitor.user_id,
        next=browsing.here(request),
    )


@browsing.page("POST", CONTINUE, limit=Limit.LOGIN)
async def go_to_target(server: Server, request: Request) -> Response:
    """Send the browser to its client, with a token for one login."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    visitor = browsing.need_visitor(browser)
    target = _target(sent.need("redirectUrl"))
    token, _ = login_tokens.make(server, visitor.caller)
    return browsing.see_other(with_login_token(target, token))

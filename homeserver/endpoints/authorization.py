"""Pages on which somebody lets a client sign in as them: from the client's link, or by the code that a device shows.

What a client wants is judged anew at each step, from what it asked; nothing is kept of it in between. Nothing is sent
to an address before it is known to be the client's.

spec: client-server-api/#authorisation-code-flow
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from homeserver.accounts.oauth import clients, device_codes, grants
from homeserver.accounts.oauth.grants import Allowed
from homeserver.endpoints import browsing, forms, oauth
from homeserver.endpoints.forms import Form
from homeserver.protocol.errors import InvalidParam, NotFound, OAuthRefusal, Refusal
from homeserver.protocol.oauth import (
    AUTHORIZATION_CODE,
    RESPONSE_MODES,
    in_language,
    is_challenge,
    is_registered,
    origin_of,
    read_scope,
    shown_host,
    with_answer,
)
from homeserver.web.limits import Limit
from homeserver.web.messages import Query, Response

if TYPE_CHECKING:
    from homeserver.accounts.oauth.clients import Client
    from homeserver.context import Server
    from homeserver.endpoints.browsing import Browser
    from homeserver.pages.languages import Language
    from homeserver.protocol.oauth import Scope
    from homeserver.web.messages import Request


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for, of which only client and redirect URI have been judged."""

    client: Client
    redirect_uri: str
    form: Form
    text: str

    @property
    def mode(self) -> str:
        """How the answer is given."""
        mode = self.form.get("response_mode")
        return mode if mode in RESPONSE_MODES else "query"

    def answer(self, server: Server, **parameters: str) -> Response:
        """Send the browser back to the client with an answer."""
        state = self.form.get("state")
        given = parameters | ({} if state is None else {"state": state}) | {"iss": oauth.issuer(server)}
        return browsing.see_other(with_answer(self.redirect_uri, self.mode, given))


async def _asked(server: Server, form: Form, text: str) -> Asked:
    """Raises OAuthRefusal, InvalidParam, MissingParam, when nobody is known to whom an answer could be given."""
    oauth.check_enabled(server)
    client = await clients.find(server, form.need("client_id"))
    redirect_uri = form.need("redirect_uri")
    if not is_registered(redirect_uri, client.get("redirect_uris", ())):
        raise OAuthRefusal("invalid_request", "The client has not registered that redirect URI")
    return Asked(client, redirect_uri, form, text)


def _wanted(asked: Asked) -> Allowed:
    """What would be allowed. Raises OAuthRefusal, InvalidParam, MissingParam: errors that the client is told."""
    form = asked.form
    if form.need("response_type") != "code":
        raise OAuthRefusal("unsupported_response_type", "The only type of response is code")
    if AUTHORIZATION_CODE not in asked.client["grant_types"]:
        raise OAuthRefusal("unauthorized_client", "The client has not registered for that grant")
    if form.get("response_mode") not in (None, *RESPONSE_MODES):
        raise InvalidParam("response_mode must be query or fragment")
    challenge = form.need("code_challenge")
    if form.need("code_challenge_method") != "S256" or not is_challenge(challenge):
        raise InvalidParam("code_challenge must be one of the method S256")
    return Allowed(asked.client, read_scope(form.need("scope")), asked.redirect_uri, challenge)


def _failed(server: Server, asked: Asked, refusal: Refusal) -> Response:
    code = refusal.code if isinstance(refusal, OAuthRefusal) else "invalid_request"
    return asked.answer(server, error=code, error_description=refusal.message)


@browsing.page("GET", oauth.AUTHORIZE, spec="client-server-api/#authorisation-code-flow")
async def authorize(server: Server, request: Request) -> Response:
    """Ask the user whether the client may sign in as them; who is not signed in signs in first, or registers."""
    asked = await _asked(server, forms.in_query(request), request.query_text)
    try:
        wanted = _wanted(asked)
        prompts = (asked.form.get("prompt") or "").split(" ")
    except Refusal as refusal:
        return _failed(server, asked, refusal)
    browser = await browsing.browser_of(server, request)
    if browser.visitor is None:
        page = browsing.SIGN_UP if "create" in prompts else browsing.LOGIN
        hint = asked.form.get("login_hint")
        told = "" if hint is None else f"&login_hint={quote(hint, safe='')}"
        return browsing.onward(server, f"{page}?next={quote(browsing.here(request), safe='')}{told}")
    return await _consent(server, browser, wanted.client, wanted.scope, asked)


async def _consent(
    server: Server, browser: Browser, client: Client, scope: Scope, asked: Asked | None, user_code: str = ""
) -> Response:
    visitor = browsing.need_visitor(browser)
    known = await grants.existing_device(visitor, scope.device_id)
    action = oauth.LINK if asked is None else oauth.AUTHORIZE
    text = user_code if asked is None else asked.text
    return browsing.show(
        server,
        browser,
        "consent.html",
        leads_to=[] if asked is None else [origin_of(asked.redirect_uri)],
        client=_shown(client, browser.language),
        user_id=visitor.user_id,
        target="" if asked is None else shown_host(asked.redirect_uri),
        user_code=user_code,
        replaces=scope.device_id if known else "",
        action=action,
        request=text,
        next=f"{action}?{text}" if asked is not None else f"{action}?user_code={user_code}",
    )


def _shown(client: Client, spoken: Language) -> dict[str, Any]:
    """A client as people are shown it."""
    host = shown_host(client["client_uri"])
    read = {name: in_language(client, name, [spoken.code]) for name in ("client_name", "policy_uri", "tos_uri")}
    return {
        "name": read["client_name"] or host,
        "host": host,
        "policy": read["policy_uri"] or "",
        "terms": read["tos_uri"] or "",
    }


@browsing.page("POST", oauth.AUTHORIZE, spec="client-server-api/#authorisation-code-flow")
async def decide(server: Server, request: Request) -> Response:
    """The user's decision; the browser goes back to the client with a code, or with a no."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    text = sent.need("request")
    asked = await _asked(server, Form(Query(text)), text)
    visitor = browsing.need_visitor(browser)
    try:
        wanted = _wanted(asked)
    except Refusal as refusal:
        return _failed(server, asked, refusal)
    if sent.get("decision") != "allow":
        return asked.answer(server, error="access_denied", error_description="The user did not allow it")
    return asked.answer(server, code=await grants.allow(server, visitor, wanted))


# -- devices that show a code


@browsing.page("GET", oauth.LINK, limit=Limit.LOGIN, spec="client-server-api/#device-authorisation-flow")
async def link(server: Server, request: Request) -> Response:
    """Ask for the code, or, with one, whether the device may sign in."""
    oauth.check_enabled(server)
    browser = await browsing.browser_of(server, request)
    if browser.visitor is None:
        return browsing.to_login(server, browsing.here(request))
    user_code = forms.in_query(request).get("user_code")
    if user_code is None:
        return browsing.show(server, browser, "link.html", user_code="")
    try:
        asking = device_codes.find(server, user_code)
    except NotFound as fault:
        return browsing.show(server, browser, "link.html", fault=fault, user_code=user_code[:20])
    return await _consent(server, browser, asking.client, asking.scope, None, device_codes.shown(user_code))


@browsing.page("POST", oauth.LINK, limit=Limit.LOGIN, spec="client-server-api/#device-authorisation-flow")
async def decide_link(server: Server, request: Request) -> Response:
    """The user's decision, which the device learns when it asks next."""
    oauth.check_enabled(server)
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    visitor = browsing.need_visitor(browser)
    allowed = sent.get("decision") == "allow"
    if allowed:
        await device_codes.allow(server, visitor, sent.need("request"))
    else:
        device_codes.deny(server, sent.need("request"))
    said = browser.language.text
    heading = said("The device is signed in") if allowed else said("The device was not allowed")
    lines = [said("You can close this page and go on at the device.")]
    return browsing.show(server, browser, "message.html", heading=heading, lines=lines, onward="")

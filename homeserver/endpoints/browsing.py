"""What all pages have in common: the browser that asks, the forms it may send, where it is sent on, what it is shown.

A form counts only when it was made for the browser that sends it, and a browser is sent on only to pages of ours, or to
where a client has said that it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from homeserver.accounts.oauth import browsers
from homeserver.pages import languages, rendering
from homeserver.protocol.errors import Forbidden, LimitExceeded, NodeUnavailable
from homeserver.web.messages import Response, refused
from homeserver.web.routes import Auth, Resource, route

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from homeserver.accounts.oauth.browsers import Visitor
    from homeserver.context import Server
    from homeserver.endpoints.forms import Form
    from homeserver.pages.languages import Language
    from homeserver.protocol.errors import Refusal
    from homeserver.web.limits import Limit
    from homeserver.web.messages import Request
    from homeserver.web.routes import F

LOGIN: Final = "/_domicile/login"
LOGOUT: Final = "/_domicile/logout"
SIGN_UP: Final = "/_domicile/register"

_SESSION: Final = "domicile_session"
_MARK: Final = "domicile_mark"
_COOKIE: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")
_OURS: Final = re.compile(r"/_domicile/[a-z/]*(?:\?[\x21-\x7e]*)?")
_LONGEST: Final = 6000


@dataclass(frozen=True, slots=True)
class Browser:
    """The browser that asks, and who is signed in in it. ``is_new``: it has yet to be given its mark."""

    mark: str
    is_new: bool
    visitor: Visitor | None
    language: Language


async def browser_of(server: Server, request: Request, jurisdiction: str | None = None) -> Browser:
    """Who asks. ``jurisdiction``: where the data rests of whom the page is for, if it is not for who is signed in.
    Raises NodeUnavailable."""
    mark = _cookie(server, request, _MARK)
    visitor = await browsers.find(server, _cookie(server, request, _SESSION))
    here = jurisdiction or (None if visitor is None else visitor.node.jurisdiction)
    return Browser(mark or browsers.new_mark(), mark is None, visitor, language_of(server, request, here))


def language_of(server: Server, request: Request, jurisdiction: str | None = None) -> Language:
    """The one that the browser asks for, else one of the jurisdiction where the reader's data rests, or new users'."""
    policy = server.policy.now
    if jurisdiction is None and policy.default.node is not None:
        jurisdiction = policy.jurisdiction_of_node(policy.default.node)
    found = policy.residency.jurisdictions.get(jurisdiction or "")
    return languages.choose(request.header("accept-language"), found.languages if found else ())


def _name(server: Server, name: str) -> str:
    """A cookie that no neighbour and nobody in between can set, where there is TLS."""
    return f"__Host-{name}" if server.settings.base_url.startswith("https:") else name


def _cookie(server: Server, request: Request, name: str) -> str | None:
    wanted = _name(server, name)
    for field in (request.header("cookie") or "").split(";")[:50]:
        key, _, value = field.strip().partition("=")
        if key == wanted and _COOKIE.fullmatch(value):
            return value
    return None


def _set_cookie(server: Server, name: str, value: str, seconds: int | None = None) -> tuple[str, str]:
    secure = "; Secure" if server.settings.base_url.startswith("https:") else ""
    age = "" if seconds is None else f"; Max-Age={seconds}"
    return ("Set-Cookie", f"{_name(server, name)}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{age}")


# -- routes


def page(method: str, path: str, *, limit: Limit | None = None, spec: str = "") -> Callable[[F], F]:
    """Declare a page, or what a form of a page is sent to: `route`, for anybody, and a refusal is a page too."""
    return route(method, path, auth=Auth.NONE, limit=limit, resource=Resource.CLIENT, refuse=refuse, spec=spec)


# -- answers


def show(
    server: Server,
    browser: Browser,
    template: str,
    *,
    status: int = 200,
    fault: Refusal | None = None,
    leads_to: Sequence[str] = (),
    opened_by_client: bool = False,
    **values: Any,
) -> Response:
    """A page. ``fault`` is what went wrong with what was sent; its status is the page's. ``opened_by_client``: see
    `rendering.page`."""
    spoken = browser.language
    return rendering.page(
        spoken,
        template,
        status=status if fault is None else fault.status,
        leads_to=leads_to,
        opened_by_client=opened_by_client,
        headers=marks(server, browser),
        fault="" if fault is None else said(spoken, fault),
        **{**_everywhere(server), "form_token": browsers.form_token(server, browser.mark), **values},
    )


def done(server: Server, browser: Browser, heading: str) -> Response:
    """The page after the last step of what a client has opened a browser for; it tells the client."""
    lines = [browser.language.text("You can close this page and go on where you began.")]
    return show(
        server,
        browser,
        "message.html",
        opened_by_client=True,
        heading=heading,
        lines=lines,
        onward="",
        done=rendering.DONE,
    )


def marks(server: Server, browser: Browser) -> Sequence[tuple[str, str]]:
    """The header by which a browser is given its mark, if it has none."""
    return [_set_cookie(server, _MARK, browser.mark)] if browser.is_new else ()


def _everywhere(server: Server) -> dict[str, Any]:
    return {"server_name": server.name, "base": server.settings.base_url}


def said(spoken: Language, refusal: Refusal) -> str:
    """A refusal as a person reads it."""
    if isinstance(refusal, LimitExceeded):
        return spoken.text("Too many attempts. Wait a little, then try again.")
    if isinstance(refusal, NodeUnavailable):
        return spoken.text("Your data cannot be reached at the moment. Nothing is lost; try again later.")
    if refusal.status == 500:
        return spoken.text("Something went wrong on this server. Try again later.")
    return spoken.text(refusal.message)


def refuse(server: Server, request: Request, refusal: Refusal) -> Response:
    """The page that a refusal stands for."""
    spoken = language_of(server, request)
    headers = refused(refusal).headers if isinstance(refusal, LimitExceeded) else ()
    lines = [said(spoken, refusal)]
    return message(server, spoken, spoken.text("That did not work"), lines, status=refusal.status, headers=headers)


def plain(server: Server, spoken: Language, template: str, **values: Any) -> Response:
    """A page for whatever browser asks: nothing on it is made for one."""
    return rendering.page(spoken, template, **{**_everywhere(server), **values})


def message(
    server: Server,
    spoken: Language,
    heading: str,
    lines: Sequence[str],
    *,
    status: int = 200,
    onward: str = "",
    headers: Sequence[tuple[str, str]] = (),
) -> Response:
    """A page that says something. ``onward`` is an address that was judged, to which the browser goes on by itself."""
    return plain(
        server,
        spoken,
        "message.html",
        status=status,
        headers=headers,
        heading=heading,
        lines=lines,
        onward=onward,
        at_once=True,
    )


def see_other(address: str, *cookies: tuple[str, str]) -> Response:
    """Send the browser on, by GET."""
    return Response(
        303, b"", (("Location", address), ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"), *cookies)
    )


def onward(server: Server, path: str, *cookies: tuple[str, str]) -> Response:
    """Send the browser to a page of ours."""
    return see_other(server.settings.base_url + path, *cookies)


def to_login(server: Server, path: str) -> Response:
    """Have somebody sign in, who then comes back to a page of ours."""
    return onward(server, f"{LOGIN}?next={quote(path, safe='')}")


def signed_in(server: Server, token: str, path: str) -> Response:
    """Send a browser on that is signed in from now on."""
    lifetime = int(server.settings.oauth.browser_lifetime.seconds)
    return onward(server, path, _set_cookie(server, _SESSION, token, lifetime))


def signed_out(server: Server, path: str) -> Response:
    """Send a browser on that is signed out from now on."""
    return onward(server, path, _set_cookie(server, _SESSION, "", 0))


# -- what is sent


def here(request: Request) -> str:
    """The page that was asked for, for a browser that is to come back."""
    return request.path + (f"?{request.query_text}" if request.query_text else "")


def local(text: str | None, otherwise: str) -> str:
    """A page of ours that a browser wants to go on to; whatever else it names is not followed."""
    if text is None or len(text) > _LONGEST or not _OURS.fullmatch(text) or "//" in text.partition("?")[0]:
        return otherwise
    return text


def check_form(server: Server, request: Request, browser: Browser, form: Form) -> None:
    """Raise Forbidden for a form that was not made for the browser that sends it."""
    site = request.header("sec-fetch-site")
    ours = site is None or site in ("same-origin", "none")
    if not ours or browser.is_new or not browsers.is_of(server, browser.mark, form.get("form_token")):
        raise Forbidden("This form is too old, or your browser does not keep cookies. Go back and try again.")


def need_visitor(browser: Browser) -> Visitor:
    """Who is signed in. Raises Forbidden when nobody is (any more)."""
    if browser.visitor is None:
        raise Forbidden("You are signed out. Go back and sign in again.")
    return browser.visitor

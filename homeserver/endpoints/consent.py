"""The page on which somebody agrees that rooms of theirs cross a border, or does not: the ``consent_uri`` of an error.

Opening it agrees to nothing. It needs no login, for the link says who is asked, and changes nothing else of an account.
What is agreed to is what stood on the page: when that has changed meanwhile, it is shown again.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from homeserver.endpoints import browsing, forms
from homeserver.endpoints.crossing import Crossing, crossing
from homeserver.pages import places
from homeserver.protocol.errors import Forbidden, InvalidParam
from homeserver.residency import consent_links, consents
from homeserver.web.limits import Limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.endpoints.browsing import Browser
    from homeserver.pages.languages import Language
    from homeserver.protocol.errors import Refusal
    from homeserver.residency.consent_links import Asked
    from homeserver.residency.consents import Told
    from homeserver.web.messages import Request, Response

HEADING: Final = "Let rooms of yours cross a border?"
LASTING: Final = (
    "The law of that place holds for the copies, and they cannot be called back. You can take your consent back later: "
    "then no other room crosses, but what has left stays where it is, and goes on until you leave those rooms."
)


class _Statement(NamedTuple):
    """What the page says. ``digest`` is that of all its sentences."""

    lines: Sequence[str]
    crossings: Sequence[Crossing]
    closing: Sequence[str]
    digest: bytes


def _statement(server: Server, spoken: Language, asked: Asked, told: Told) -> _Statement:
    said, here = spoken.text, places.label(server.policy.now, spoken, asked.source)
    lines = [
        said("Your data rests in: %(jurisdiction)s.") % {"jurisdiction": here},
        said("What you are about to do lets a room of yours reach people elsewhere. Servers there will hold copies."),
    ]
    crossings = [crossing(server, spoken, target, classes) for target, classes in told.classes.items()]
    closing = [
        said("This holds for every room in which you take part with people there."),
        said("Messages and files stay end-to-end encrypted: neither this server nor those can read them."),
        said("Your password, your sessions, your settings and your key backup never leave."),
        said(LASTING),
    ]
    parts = [said(HEADING), *lines]
    for each in crossings:
        parts += [each.place, *each.carried, *each.seen]
    text = "\n".join([*parts, *closing])
    return _Statement(lines, crossings, closing, sha256(text.encode()).digest())


def _page(
    server: Server, browser: Browser, asked: Asked, token: str, told: Told, fault: Refusal | None = None
) -> Response:
    statement = _statement(server, browser.language, asked, told)
    return browsing.show(
        server,
        browser,
        "crossing.html",
        fault=fault,
        heading=browser.language.text(HEADING),
        user_id=asked.user_id,
        action=consent_links.PAGE,
        token=token,
        shown=statement.digest.hex(),
        lines=statement.lines,
        crossings=statement.crossings,
        closing=statement.closing,
    )


async def _asked(server: Server, request: Request, token: str) -> tuple[Browser, Asked]:
    """Who asks, in the language of their browser or of where their data rests, and what the link is about."""
    asked = await consent_links.read(server, token)
    return await browsing.browser_of(server, request, asked.source), asked


@browsing.page("GET", consent_links.PAGE, limit=Limit.LOGIN)
async def consent_page(server: Server, request: Request) -> Response:
    """Say what would cross the border, and ask."""
    token = forms.in_query(request).need("t")
    browser, asked = await _asked(server, request, token)
    return _page(server, browser, asked, token, consents.told(server, asked))


@browsing.page("POST", consent_links.PAGE, limit=Limit.LOGIN)
async def decide_crossing(server: Server, request: Request) -> Response:
    """The user's decision; after a yes their client can do what it wanted to."""
    sent = forms.in_body(request)
    token = sent.need("t")
    browser, asked = await _asked(server, request, token)
    browsing.check_form(server, request, browser, sent)
    decision, said = sent.need("decision"), browser.language.text
    if decision == "disagree":
        heading, line = (
            said("Nothing crosses"),
            said("Nothing was sent, and nothing has changed. You can close this page."),
        )
        return browsing.show(server, browser, "message.html", heading=heading, lines=[line], onward="")
    if decision != "agree":
        raise InvalidParam("There is no such thing to do")
    told = consents.told(server, asked)
    statement = _statement(server, browser.language, asked, told)
    if sent.get("shown") != statement.digest.hex():
        changed = Forbidden("What is said here has changed meanwhile. Read it again.")
        return _page(server, browser, asked, token, told, changed)
    await consents.give(server, asked, told, statement.digest, browser.language.code)
    lines = [
        said("Go back to your app and do it once more: now it works."),
        said("You can take it back at any time, where your account says where your data is."),
    ]
    return browsing.show(server, browser, "message.html", heading=said("You have agreed"), lines=lines, onward="")

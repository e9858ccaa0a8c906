"""The page on which users see where their data is, and take back what they have agreed to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from config.residency import DataClass
from homeserver.endpoints import browsing, forms
from homeserver.endpoints.crossing import crossing
from homeserver.pages import places
from homeserver.protocol.errors import InvalidParam
from homeserver.residency import consents, exposure, whereabouts
from homeserver.residency.withdrawing import telling

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server
    from homeserver.endpoints.browsing import Browser
    from homeserver.pages.languages import Language
    from homeserver.residency.whereabouts import Stored, Whereabouts
    from homeserver.web.messages import Request, Response

WHERE: Final = "/_domicile/residency"
EXPORT: Final = "/_domicile/residency/export"

KEPT: Final[Mapping[DataClass, str]] = {
    DataClass.ACCOUNT: "account and settings",
    DataClass.SESSIONS: "sessions",
    DataClass.KEY_BACKUP: "key backup, encrypted",
    DataClass.MAILBOX: "messages to your devices",
    DataClass.KEYS: "public encryption keys",
    DataClass.EVENTS: "messages and room events",
    DataClass.MEDIA: "entries of files",
    DataClass.PROFILE: "profile",
    DataClass.RECEIPTS: "read receipts",
    DataClass.PRESENCE: "presence",
    DataClass.NOTIFICATIONS: "notifications",
}
"""What a node holds of a class."""

WHY: Final[Mapping[str, str]] = {
    "phone": "Your phone number decided that.",
    "token": "Your registration token decided that.",
    "phone and token": "Your phone number and your registration token decided that.",
    "choice": "You chose that.",
    "default": "That is so for everybody whom no other rule of this server places.",
    "admin": "An administrator decided that.",
    "service": "An application service made your account there.",
    "provider": "The provider with which you sign in decided that.",
}
"""Why somebody's data rests where it does, by the evidence that was kept."""


async def _page(server: Server, browser: Browser, done: str = "") -> Response:
    visitor = browsing.need_visitor(browser)
    found = await whereabouts.of_user(server, visitor.caller)
    given = await consents.of_user(visitor.node, visitor.user_nid)
    spoken, policy = browser.language, server.policy.now
    leaving = await telling.to_residents(server, visitor.node)
    return browsing.show(
        server,
        browser,
        "residency.html",
        until="" if leaving is None else spoken.day(leaving["ends_ts"]),
        export=EXPORT,
        done=spoken.text(done),
        user_id=visitor.user_id,
        action=WHERE,
        why="" if found.pin is None or found.pin.how not in WHY else spoken.text(WHY[found.pin.how]),
        here=places.label(policy, spoken, visitor.node.jurisdiction),
        node=visitor.node.name,
        stored=[_stored(server, spoken, each) for each in found.stored],
        reached=_reached(server, spoken, found, visitor.node.jurisdiction),
        consents=[
            {
                "target": each.target,
                "place": places.label(policy, spoken, each.target),
                "given": spoken.day(each.given_ts),
                "withdrawn": "" if each.withdrawn_ts is None else spoken.day(each.withdrawn_ts),
                "holds": consents.holds(server, each),
                "current": each.source == visitor.node.jurisdiction,
            }
            for each in given
        ],
    )


def _stored(server: Server, spoken: Language, stored: Stored) -> dict[str, Any]:
    known = stored.classes is not None
    amounts = [
        {"what": spoken.text(KEPT[name]), "rows": spoken.number(amount.rows), "size": spoken.size(amount.size)}
        for name, amount in (stored.classes or {}).items()
    ]
    if stored.files.number:
        files = {"what": spoken.text("files"), "rows": spoken.number(stored.files.number)}
        amounts.append({**files, "size": spoken.size(stored.files.size)})
    return {
        "place": places.label(server.policy.now, spoken, stored.jurisdiction),
        "node": stored.node,
        "known": known,
        "amounts": amounts,
    }


def _reached(server: Server, spoken: Language, found: Whereabouts, here: str) -> list[dict[str, Any]]:
    """The other jurisdictions that the rooms reach, by whom, and what is seen there."""
    policy = server.policy.now
    by_place: dict[str, list[str]] = {}
    for name in found.company.nodes:
        by_place.setdefault(server.nodes[name].jurisdiction, []).append(server.name)
    for name in found.company.servers:
        by_place.setdefault(policy.jurisdiction_of_server(name), []).append(name)
    return [
        {
            "crossing": crossing(server, spoken, code, exposure.classes(server, here, code)),
            "servers": list(dict.fromkeys(names))[:50],
            "more": max(len(set(names)) - 50, 0),
        }
        for code, names in sorted(by_place.items())
        if code != here
    ]


@browsing.page("GET", WHERE)
async def where_page(server: Server, request: Request) -> Response:
    """Say where the data is of who is signed in."""
    browser = await browsing.browser_of(server, request)
    if browser.visitor is None:
        return browsing.to_login(server, WHERE)
    return await _page(server, browser)


@browsing.page("POST", WHERE)
async def withdraw(server: Server, request: Request) -> Response:
    """Take back what the visitor has agreed to."""
    sent = forms.in_body(request)
    browser = await browsing.browser_of(server, request)
    browsing.check_form(server, request, browser, sent)
    visitor = browsing.need_visitor(browser)
    if sent.need("do") != "withdraw":
        raise InvalidParam("There is no such thing to do")
    await consents.withdraw(server, visitor.node, visitor.user_nid, [sent.need("target")])
    return await _page(server, browser, "Your consent is taken back. What has left stays where it is.")

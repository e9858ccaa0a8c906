"""Policies that ask users before a border, and how users are asked and agree."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from tests.deployment import FLOWING, Answer, User
from tests.endpoints.visiting import Browser, Page

ASKING = FLOWING.replace("consent = false\n", "")
"""Everything may flow between the nodes, to those who agree."""


def asked(answer: Answer, *targets: str, source: str = "IR") -> str:
    """The address of the page that an answer names, which asks about these jurisdictions and no others."""
    assert (answer.status, answer.errcode) == (403, "M_CONSENT_NOT_GIVEN"), answer
    assert answer.json["org.domicile.reason"] == "consent_needed"
    assert answer.json["org.domicile.consent"] == {"from": source, "to": sorted(targets)}
    address = str(answer.json["consent_uri"])
    assert urlsplit(address).path == "/_domicile/consent"
    return address


def token_of(address: str) -> str:
    """What an address holds."""
    return parse_qs(urlsplit(address).query)["t"][0]


async def opened(user: User, address: str, language: str = "en") -> tuple[Browser, Page]:
    """The page, in a browser of the user's."""
    browser = Browser(user.deployment, headers={"Accept-Language": language})
    page = await browser.get(address)
    assert page.status == 200, page.text
    return browser, page


async def agree(user: User, address: str) -> None:
    """Open the page and press the button."""
    browser, page = await opened(user, address)
    done = await browser.send(page, decision="agree")
    assert (done.status, "You have agreed" in done.text) == (200, True)

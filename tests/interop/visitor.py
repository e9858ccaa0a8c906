"""A person with a browser of few talents, at a server that runs.

It follows links, keeps cookies and sends forms as they stand on the page: for plays that are about something else than
how pages look. chromium.py is a browser with eyes.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPMessage, HTTPResponse
from http.cookiejar import CookieJar
from typing import IO
from urllib.parse import urlencode, urlsplit

from tests.endpoints.visiting import FORM, Page

MOST_STEPS = 10


class _Seeing(urllib.request.HTTPRedirectHandler):
    """Shows where one is sent instead of going there."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Called by urllib: None is no request."""


class Visitor:
    """Somebody who knows a name and a password."""

    def __init__(self, base_url: str, user: str, password: str) -> None:
        self._base_url = base_url
        self._user = user
        self._password = password
        self._opener = urllib.request.build_opener(_Seeing, urllib.request.HTTPCookieProcessor(CookieJar()))

    def opens(self, address: str) -> Page:
        """Open an address and go where one is sent, as long as it is with the server; sign in where one must."""
        page = self._go(self._ask(address))
        while page.forms and "password" in page.forms[0][2] and "user" in page.forms[0][2]:
            page = self.sends(page, user=self._user, password=self._password)
        return page

    def sends(self, page: Page, **entered: str) -> Page:
        """Fill in the first form of a page and send it."""
        method, action, fields = page.forms[0]
        filled = urlencode({**fields, **entered})
        if method == "get":
            return self._go(self._ask(f"{action}?{filled}"))
        return self._go(self._ask(action, filled.encode()))

    def allows(self, link: str) -> dict[str, str]:
        """Let a client in that has shown a link; returns what its redirect URI is told."""
        page = self.sends(self.opens(link), decision="allow")
        assert not self._ours(page.location), page.text
        return page.told

    def enters(self, user_code: str, address: str) -> Page:
        """Let a device in that shows a code."""
        page = self.sends(self.opens(address), user_code=user_code)
        assert user_code in page.text
        return self.sends(page, decision="allow")

    def _ours(self, address: str) -> bool:
        return urlsplit(address)[:2] == urlsplit(self._base_url)[:2]

    def _go(self, page: Page) -> Page:
        for _ in range(MOST_STEPS):
            if page.status not in (302, 303) or not self._ours(page.location):
                assert page.status < 400, page
                return page
            page = self._ask(page.location)
        raise AssertionError("the browser is sent round in circles")

    def _ask(self, address: str, body: bytes | None = None) -> Page:
        assert self._ours(address), address
        headers = {"Accept-Language": "en"}
        if body is not None:
            headers |= {"Content-Type": FORM, "Origin": self._base_url}
        request = urllib.request.Request(address, body, headers)
        answer: HTTPResponse | urllib.error.HTTPError
        try:
            answer = self._opener.open(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            told = {name.lower(): value for name, value in answer.headers.items()}
            return Page(answer.status or 0, answer.read().decode(), told, urlsplit(address).path)

"""Asking a server as any stranger does: one request, of a bounded answer, that no redirect leads elsewhere."""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Final

SECONDS: Final = 30.0


class Unfetched(Exception):
    """There is no answer; the text says why."""


class _Here(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: what is asked for is where it is said to be."""

    def redirect_request(self, *_: object) -> None:
        """Called by urllib; None makes the redirect an error."""


def fetched(url: str, most: int, *, token: str | None = None, sent: bytes | None = None) -> bytes:
    """The body of a page of http or https; with ``sent`` (JSON), of the answer to a POST. Raises Unfetched."""
    if not url.startswith(("https://", "http://")):
        raise Unfetched(f"{url} is no address of https or http")
    try:
        request = urllib.request.Request(url, data=sent)  # noqa: S310
        if sent is not None:
            request.add_header("Content-Type", "application/json")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.build_opener(_Here).open(request, timeout=SECONDS) as answer:
            raw: bytes = answer.read(most + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise Unfetched(f"{url} answers with status {error.code}") from None
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        raise Unfetched(f"{url} cannot be fetched: {getattr(error, 'reason', error)}") from None
    if len(raw) > most:
        raise Unfetched(f"{url} answers with more than {most} bytes")
    return raw

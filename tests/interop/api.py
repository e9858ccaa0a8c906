"""Bare requests to a homeserver, for what no client library does by itself."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Api:
    """One user's way to the server; without a token, anybody's."""

    base_url: str
    token: str = ""

    def fetch(self, method: str, path: str, data: bytes | None = None, content_type: str = "application/json") -> bytes:
        """Send bytes, return the bytes of the answer. Raises ApiError for every status from 400."""
        headers = {"Content-Type": content_type}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.base_url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                raise ApiError(error.code, json.load(error)) from None

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send JSON, return JSON. Raises ApiError for every status from 400."""
        return json.loads(self.fetch(method, path, None if body is None else json.dumps(body).encode()))

    def client(self, method: str, path: str, body: Any = None) -> Any:
        """The same, with a path of the client-server API."""
        return self.ask(method, f"/_matrix/client/v3{path}", body)

    def download(self, url: str) -> bytes:
        """What the server has at an mxc:// address."""
        return self.fetch("GET", "/_matrix/client/v1/media/download/" + url.removeprefix("mxc://"))


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")

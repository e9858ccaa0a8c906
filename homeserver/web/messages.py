"""Requests and answers as endpoints see them, whatever carried them.

Nothing that arrived is trusted: each accessor answers with the specification's error when the bytes
are not what was asked for. An address or a token never shows in a representation.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote_to_bytes

import orjson

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, InvalidParam, LimitExceeded, MissingParam, NotJson, Refusal
from homeserver.web.incoming import Incoming

if TYPE_CHECKING:
    from homeserver.context import Caller

JSON = "application/json"
T = TypeVar("T")
_DIGITS = bytes(ord("1") if chr(code).isdigit() and code < 128 else 0 for code in range(256))
_LONG_NUMBER = b"1" * 19
"""What only a text with integers of nearly 64 bits or more has, once its characters are translated by ``_DIGITS``: a
regular expression would take ten times as long, most of a request with many ciphertexts."""

DEEPEST = 200
"""How many arrays and objects of a request may be in one another: what is nested deeper could not be encoded again
with what stands around it in an answer (254)."""
LARGE = 16 * 1024
"""Bytes of a body that is looked through without counting first."""
_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


def percent_decoded(text: str) -> str:
    """The text with its ``%xx`` read as UTF-8. Raises InvalidParam for what is no text, and for NUL.

    NUL is refused here because no identifier has one and PostgreSQL cannot store it.
    """
    if "%" in text:
        try:
            text = unquote_to_bytes(text).decode()
        except UnicodeDecodeError:
            raise InvalidParam("The address of the request is not valid UTF-8") from None
    if "\0" in text:
        raise InvalidParam("The address of the request contains a NUL")
    return text


class Query:
    """The parameters behind the ``?`` of an address, in order; a name may come more than once."""

    __slots__ = ("_values",)

    def __init__(self, text: str = "") -> None:
        self._values: dict[str, list[str]] = {}
        for field in text.split("&") if text else ():
            if field:
                name, _, value = field.replace("+", " ").partition("=")
                self._values.setdefault(percent_decoded(name), []).append(percent_decoded(value))

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str, default: T | None = None) -> str | T | None:
        """The first value of the parameter."""
        values = self._values.get(name)
        return values[0] if values else default

    def all(self, name: str) -> list[str]:
        """All values of a parameter that may be repeated."""
        return list(self._values.get(name, ()))

    def pairs(self) -> list[tuple[str, str]]:
        """All parameters with their values."""
        return [(name, value) for name, values in self._values.items() for value in values]

    def require(self, name: str) -> str:
        """The first value of the parameter. Raises MissingParam."""
        values = self._values.get(name)
        if not values:
            raise MissingParam(f"The parameter {name} is missing")
        return values[0]

    def integer(self, name: str, default: T, low: int | None = None, high: int | None = None) -> int | T:
        """A whole number. Below ``low`` raises InvalidParam; above ``high`` counts as ``high``."""
        values = self._values.get(name)
        if not values:
            return default
        if not _INTEGER.fullmatch(values[0]):
            raise InvalidParam(f"The parameter {name} must be a whole number")
        number = int(values[0])
        if low is not None and number < low:
            raise InvalidParam(f"The parameter {name} must be at least {low}")
        return number if high is None else min(number, high)

    def boolean(self, name: str, default: bool = False) -> bool:
        """``true`` or ``false``. Raises InvalidParam for anything else."""
        values = self._values.get(name)
        if not values:
            return default
        if values[0] not in ("true", "false"):
            raise InvalidParam(f"The parameter {name} must be true or false")
        return values[0] == "true"

    def choice(self, name: str, choices: Collection[str], default: T) -> str | T:
        """One of ``choices``. Raises InvalidParam for anything else."""
        values = self._values.get(name)
        if not values:
            return default
        if values[0] not in choices:
            raise InvalidParam(f"The parameter {name} must be one of: {', '.join(choices)}")
        return values[0]


class Request:
    """One request. ``path`` and ``query_text`` are as they came; ``args`` are decoded.

    ``target`` is path and query to the byte as they came, which is what a server's signature covers.
    ``template`` is the path of the route; ``args`` has the segments that the route names.
    ``address`` is the client's, for rate limits and sealed records: it is never stored in the clear, and never logged.
    """

    __slots__ = (
        "_body",
        "_caller",
        "_json",
        "_origin",
        "_query",
        "address",
        "args",
        "headers",
        "incoming",
        "method",
        "path",
        "query_text",
        "target",
        "template",
    )

    def __init__(
        self,
        method: str,
        target: str,
        headers: Mapping[bytes, bytes],
        address: str = "",
        incoming: Incoming | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.path, _, self.query_text = target.partition("?")
        self.headers = headers  # names in lower case
        self.incoming = Incoming(0, 0) if incoming is None else incoming
        self.address = address
        self.args: dict[str, str] = {}
        self.template = ""
        self._body: bytes | None = None
        self._caller: Caller | None = None
        self._origin: str | None = None
        self._json: dict[str, Any] | None = None
        self._query: Query | None = None

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.template or '(no route)'}>"

    @property
    def query(self) -> Query:
        """The parameters of the address. Raises InvalidParam when they are not UTF-8."""
        if self._query is None:
            self._query = Query(self.query_text)
        return self._query

    @property
    def caller(self) -> Caller:
        """The user who calls. Only a route that demands a user may ask."""
        if self._caller is None:
            raise LookupError(f"{self!r} has no caller: its route does not authenticate a user")
        return self._caller

    @caller.setter
    def caller(self, caller: Caller) -> None:
        self._caller = caller

    @property
    def caller_or_none(self) -> Caller | None:
        """The user who calls, on a route where a token is optional."""
        return self._caller

    @property
    def origin(self) -> str:
        """The server that signed the request. Only a route for signed requests may ask."""
        if self._origin is None:
            raise LookupError(f"{self!r} has no origin: its route does not verify a signature")
        return self._origin

    @origin.setter
    def origin(self, server_name: str) -> None:
        self._origin = server_name

    @property
    def body(self) -> bytes:
        """The whole body. On a route that streams, read `incoming` instead."""
        if self._body is None:
            raise LookupError(f"{self!r} has not read its body: its route streams")
        return self._body

    async def read(self) -> bytes:
        """Wait for the whole body, which `body` and `json` then have."""
        if self._body is None:
            self._body = await self.incoming.whole()
        return self._body

    def header(self, name: str) -> str | None:
        """A header's value; of a repeated header all values, joined by commas."""
        value = self.headers.get(name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    def json(self, *, required: bool = True, exact: bool = False) -> dict[str, Any]:
        """The body as a JSON object; without ``required``, no body counts as ``{}``.

        The object belongs to the request: it is parsed once. Raises NotJson, BadJson. An integer of more than 64 bits
        is refused too, as it could not be kept as it was sent, unless whoever asks first wants it ``exact``: other
        servers send events of old room versions, in which it is legal.

        spec: client-server-api/#standard-error-response
        """
        if self._json is None:
            if not self.body and not required:
                return {}
            long = _LONG_NUMBER in self.body.translate(_DIGITS)
            try:
                value = canonical.parse(self.body, strict=False) if exact and long else orjson.loads(self.body)
            except orjson.JSONDecodeError as fault:
                where = f"line {fault.lineno}, column {fault.colno}" if self.body else "it is empty"
                raise NotJson(f"The request body is not valid JSON: {where}") from None
            if not isinstance(value, dict):
                raise BadJson("The request body must be a JSON object")
            if _may_be_deep(self.body) and _is_deep(value):
                raise BadJson(f"The request body may be nested at most {DEEPEST} levels deep")
            if long and not exact:
                _refuse_inexact(self.body)
            self._json = value
        return self._json

    def token(self) -> str | None:
        """The access token, from the header or (as older clients do) from the query.

        spec: client-server-api/#using-access-tokens
        """
        value = self.headers.get(b"authorization")
        if value is not None:
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return token.strip().decode("latin-1") or None
            return None
        if "access_token=" in self.query_text:
            return self.query.get("access_token") or None
        return None


def _refuse_inexact(body: bytes) -> None:
    """Raise BadJson if a JSON text has an integer that a parser of 64 bits gives back as another number."""

    def check(digits: str) -> None:
        if not -(2**63) <= int(digits[:25]) < 2**64:
            raise BadJson("Integers must have at most 64 bits")

    json.loads(body, parse_int=check)


def _may_be_deep(body: bytes) -> bool:
    """Whether it takes a look: in a large body, counting would take longer than that."""
    return len(body) > LARGE or body.count(b"{") + body.count(b"[") > DEEPEST


def _is_deep(value: Any) -> bool:
    """Runs for every larger body, hence the exact type tests: orjson makes no others."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            part
            for whole in level
            for part in (whole.values() if type(whole) is dict else whole)
            if type(part) is dict or type(part) is list
        ]
        if not level:
            return False
    return True


Body = bytes | Sequence[bytes] | AsyncIterator[bytes]


class Response:
    """An answer. ``body`` is bytes, a sequence of bytes that are sent one after the other, or a stream.

    ``length`` is the number of bytes of a stream, if that is known; a stream without it is sent in chunks.
    ``headers`` come besides Content-Type, Content-Length, Date, Connection and CORS, which are set for you.
    """

    __slots__ = ("body", "content_type", "headers", "length", "status")

    def __init__(
        self,
        status: int = 200,
        body: Body = b"",
        headers: Sequence[tuple[str, str]] = (),
        *,
        content_type: str = JSON,
        length: int | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.content_type = content_type
        self.length = length

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def json_response(value: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Response:
    """The value as JSON. Raises TypeError when JSON cannot express it."""
    return Response(status, orjson.dumps(value), headers)


def spliced(*chunks: bytes, status: int = 200) -> Response:
    """An answer whose JSON is put together from bytes that are JSON already."""
    return Response(status, chunks)


def redirect(location: str, status: int = 302) -> Response:
    """Send the client elsewhere."""
    return Response(status, b"{}", (("Location", location),))


def refused(error: Refusal) -> Response:
    """The answer that a refusal stands for.

    spec: client-server-api/#standard-error-response
    spec: client-server-api/#rate-limiting
    """
    headers: tuple[tuple[str, str], ...] = ()
    if isinstance(error, LimitExceeded):
        headers = (("Retry-After", str(-(-error.retry_after_ms // 1000))),)
    return json_response(error.body(), error.status, headers)

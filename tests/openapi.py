"""What the specification's OpenAPI definitions say of requests and answers, and a check of answers against it.

Reads tests/vectors/operations.json, which ``scripts/operations`` makes. A route that the specification does not know
has no `Operation`; its errors can be checked nevertheless.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import orjson
from jsonschema_rs import Draft202012, Draft202012Validator, Registry

from tests.protocol.vectors import read

JSON = "application/json"
HTML = "text/html; charset=utf-8"
DOCUMENT = "urn:matrix:operations"
INTERNALS = re.compile(rb"Traceback|object at 0x|NoneType|<class |[a-z]Error\(|\\n  File ")
"""What shows that an answer speaks of the program instead of the request."""

ACCEPTED = (
    "M_UNKNOWN_POS",
    "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD",
    "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION",
    "M_CONSENT_NOT_GIVEN",
)
"""Error codes that are accepted for a coming version of the specification, proposed for one, or known to clients."""

OAUTH_ERRORS = frozenset(
    [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "unsupported_token_type",
        "invalid_redirect_uri",
        "invalid_client_metadata",
        "authorization_pending",
        "slow_down",
        "access_denied",
        "expired_token",
        "temporarily_unavailable",
    ]
)
"""The errors of RFC 6749, 7009, 7591 and 8628. spec: client-server-api/#oauth-20-api"""

# The examples of the room versions have no such property, and who signs an event must not add one to it.
NOT_REQUIRED = {
    "sendInviteV1": re.compile(r"\$/1: \{.*", re.DOTALL),
    "sendInviteV2": re.compile(r'.*"origin" is a required property'),
}
"""The faults of answers in which the definitions demand what the text of the specification does not, by operation."""


@cache
def document() -> dict[str, Any]:
    """The definitions, as they are in the file."""
    return read("operations")


@cache
def _registry() -> Registry:
    return Registry([(DOCUMENT, _lenient(document()))], draft=Draft202012)


def _lenient(value: Any) -> Any:
    """The definitions with ``anyOf`` for ``oneOf``: some alternatives overlap, as an event is also "an object"."""
    if isinstance(value, dict):
        return {"anyOf" if name == "oneOf" else name: _lenient(part) for name, part in value.items()}
    return [_lenient(part) for part in value] if isinstance(value, list) else value


@cache
def validator(pointer: str) -> Draft202012Validator:
    """What checks values against the schema at this place of the document: ``/events/m.room.name``."""
    return Draft202012Validator({"$ref": f"{DOCUMENT}#{pointer}"}, registry=_registry())


def schema_faults(pointer: str, value: Any) -> Iterator[str]:
    """How a value differs from the schema at this place of the document."""
    for error in validator(pointer).iter_errors(value):
        yield f"{'/'.join(map(str, ('$', *error.instance_path)))}: {error.message[:300]}"


def resolved(schema: Any) -> dict[str, Any]:
    """A schema itself, or what it refers to."""
    while isinstance(schema, dict) and "$ref" in schema:
        schema = document()["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema if isinstance(schema, dict) else {}


@dataclass(frozen=True)
class Operation:
    """One operation. ``pointer`` is its place in the document."""

    pointer: str
    defined: dict[str, Any]

    @cached_property
    def id(self) -> str:
        """Its ``operationId``."""
        return str(self.defined["operationId"])

    def parameters(self, place: str) -> list[dict[str, Any]]:
        """The parameters in the ``path`` or ``query``: name, schema, and whether required."""
        return [parameter for parameter in self.defined["parameters"] if parameter["in"] == place]

    def gives_json(self, status: int) -> bool:
        """Whether an answer of this status is JSON, or nothing is said of it."""
        content = self.defined["responses"].get(str(status))
        return not content or JSON in content

    @property
    def body(self) -> dict[str, Any] | None:
        """The schema of a JSON body; None when it takes none."""
        found: dict[str, Any] | None = self.defined.get("body", {}).get(JSON)
        return found

    def answer_faults(self, status: int, value: Any) -> Iterator[str]:
        """How a JSON answer differs from what is defined for this status; none when that is nothing."""
        if JSON in self.defined["responses"].get(str(status), {}):
            allowed = NOT_REQUIRED.get(self.id)
            for fault in schema_faults(f"{self.pointer}/responses/{status}/application~1json", value):
                if allowed is None or not allowed.fullmatch(fault):
                    yield fault


@cache
def _operations() -> dict[tuple[str, str], Operation]:
    found: dict[tuple[str, str], Operation] = {}
    for number, defined in enumerate(document()["operations"]):
        # Two operations share an address, to invite by user ID and by third-party ID; the first is what we serve.
        found.setdefault((defined["method"], _nameless(defined["path"])), Operation(f"/operations/{number}", defined))
    return found


def operation(method: str, path: str) -> Operation | None:
    """The operation of a route, whatever the path's parameters are called there."""
    return _operations().get((method, _nameless(path)))


def _nameless(path: str) -> str:
    return re.sub(r"{\w+}", "{}", path.strip())


@cache
def _errcodes() -> frozenset[str]:
    return frozenset([*document()["errcodes"], *ACCEPTED])


def error_faults(status: int, body: bytes) -> Iterator[str]:
    """What is wrong with the answer of a request that was not granted.

    spec: client-server-api/#standard-error-response, client-server-api/#user-interactive-authentication-api
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        yield f"the answer {status} is no JSON object: {body[:200]!r}"
        return
    if status == 401 and "flows" in value:
        yield from schema_faults("/schemas/api_client_server_definitions_auth_response", value)
        if "errcode" not in value:
            return
    if "error_description" in value:
        if value.get("error") not in OAUTH_ERRORS or not isinstance(value["error_description"], str):
            yield f"{value!r} is no error of OAuth 2.0"
        return
    if value.get("errcode") not in _errcodes():
        yield f"{value.get('errcode')!r} is no error code of the specification"
    if not isinstance(value.get("error"), str) or not value["error"]:
        yield "the error has no text"
    if status == 429 and not isinstance(value.get("retry_after_ms"), int):
        yield "retry_after_ms is missing"


def answer_faults(operation: Operation | None, status: int, content_type: str, body: bytes) -> list[str]:
    """What is wrong with an answer: an error of ours, internals that show, another form than the specification's."""
    faults = []
    if content_type == HTML:
        if status >= 500 or not body.startswith(b"<!doctype html>") or INTERNALS.search(body):
            faults.append(f"{status} is no page for a person: {body[:300]!r}")
        return faults
    if content_type == JSON and INTERNALS.search(body):
        faults.append(f"the answer tells how the server works inside: {body[:300]!r}")
    if status >= 400:
        if status >= 500 and b'"M_NOT_YET_UPLOADED"' not in body:
            faults.append(f"{status} is a fault of ours")
        faults += error_faults(status, body)
    elif content_type == JSON and status == 200 and (operation is None or operation.gives_json(status)):
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            return [*faults, f"the answer is no JSON: {body[:300]!r}"]
        if operation is not None:
            faults += operation.answer_faults(status, value)
    return faults

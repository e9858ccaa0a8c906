"""Whom somebody means who logs in or proves who they are: by a user id, an e-mail address or a phone number.

spec: client-server-api/#identifier-types
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from homeserver.accounts import contacts
from homeserver.protocol import threepids
from homeserver.protocol.errors import BadJson, InvalidParam, MissingParam, Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Server

NOBODY: Final = "!"
"""What no localpart can be, nor begin with."""


async def named_user(server: Server, body: Mapping[str, Any]) -> str:
    """Whom a login or a stage names: ``identifier``, or from older clients ``user``, or ``medium`` and ``address``.

    An identifier that is nobody's gives a name that is nobody's, so that the answer is the same as to a wrong password,
    and takes as long. Raises MissingParam, BadJson, Unknown for a type of identifier that is not known,
    NodeUnavailable.
    """
    identifier = body.get("identifier")
    if identifier is None and ("address" in body or "medium" in body):
        identifier = {**body, "type": "m.id.thirdparty"}
    if identifier is None and body.get("user") is None:
        raise MissingParam("Missing parameter: identifier")
    if identifier is None:
        return text_of(body, "user")
    if not isinstance(identifier, dict):
        raise BadJson("identifier must be an object")
    kind = text_of(identifier, "type")
    if kind == "m.id.user":
        return text_of(identifier, "user")
    if kind not in ("m.id.thirdparty", "m.id.phone"):
        raise Unknown("The type of an identifier is m.id.user, m.id.thirdparty or m.id.phone")
    try:
        if kind == "m.id.thirdparty":
            found = threepids.identifier(text_of(identifier, "medium"), text_of(identifier, "address"))
        else:
            number = "phone" if "phone" in identifier else "number"  # COMPAT(matrix-js-sdk, 2019): as drafts had it
            found = threepids.phone_number(text_of(identifier, number), text_of(identifier, "country"))
    except InvalidParam:
        return NOBODY
    return await contacts.owner(server, found) or f"{NOBODY} {found.address}"


def text_of(body: Mapping[str, Any], name: str, called: str | None = None) -> str:
    """A text of a JSON object; ``called``: what it is called in a refusal. Raises MissingParam, BadJson."""
    value = body.get(name)
    if value is None:
        raise MissingParam(f"Missing parameter: {called or name}")
    if not isinstance(value, str):
        raise BadJson(f"{called or name} must be a string")
    return value

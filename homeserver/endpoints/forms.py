"""Forms as browsers and OAuth clients send them: each field once, all of it text.

spec: client-server-api/#oauth-20-api
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from homeserver.protocol.errors import InvalidParam, MissingParam
from homeserver.web.messages import Query

if TYPE_CHECKING:
    from homeserver.web.messages import Request

FORM: Final = "application/x-www-form-urlencoded"


class Form:
    """The fields of a form. One that is empty counts as missing (RFC 6749, 3.1)."""

    def __init__(self, fields: Query) -> None:
        self._fields = fields

    def get(self, name: str) -> str | None:
        """A field. Raises InvalidParam when it comes twice."""
        values = self._fields.all(name)
        if len(values) > 1:
            raise InvalidParam(f"{name} stands there more than once")
        return values[0] or None if values else None

    def need(self, name: str) -> str:
        """A field that must be there. Raises MissingParam, InvalidParam."""
        value = self.get(name)
        if value is None:
            raise MissingParam(f"{name} is missing")
        return value


def in_query(request: Request) -> Form:
    """The parameters of the address. Raises InvalidParam."""
    return Form(request.query)


def in_body(request: Request) -> Form:
    """The form that is the body. Raises InvalidParam."""
    kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise InvalidParam(f"The body must be a form ({FORM})")
    try:
        text = request.body.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidParam("The body is not a form") from None
    return Form(Query(text))

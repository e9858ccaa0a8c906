"""Third-party identifiers in their canonical form, by which they are compared: e-mail addresses and phone numbers.

A message goes to the canonical form only, so that whoever reads it owns that, and not something that looks like it.

spec: appendices/#3pid-types
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import phonenumbers
from email_validator import EmailNotValidError, validate_email

from homeserver.protocol.errors import InvalidParam

EMAIL: Final = "email"
MSISDN: Final = "msisdn"
MEDIA: Final = (EMAIL, MSISDN)

_SECRET: Final = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
_COUNTRY: Final = re.compile(r"[A-Z]{2}")


class Identifier(NamedTuple):
    """An identifier in canonical form. ``medium`` is ``email`` or ``msisdn``."""

    medium: str
    address: str


def email_address(text: str) -> Identifier:
    """The identifier of an e-mail address as somebody wrote it. Raises InvalidParam."""
    try:
        normal = validate_email(text, check_deliverability=False, test_environment=True).normalized
        # folding can join and lengthen: what comes out is judged again
        folded = validate_email(normal.casefold(), check_deliverability=False, test_environment=True).normalized
    except EmailNotValidError:
        raise InvalidParam("That is not an e-mail address") from None
    return Identifier(EMAIL, folded.casefold())


def phone_number(text: str, country: str | None = None) -> Identifier:
    """The identifier of a phone number as it is dialled in ``country`` (two capital letters). Raises InvalidParam."""
    if country is not None and not _COUNTRY.fullmatch(country):
        raise InvalidParam("A country is two capital letters, such as IR")
    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        raise InvalidParam("That is not a phone number") from None
    if not phonenumbers.is_valid_number(number) or number.extension:
        raise InvalidParam("That is not a phone number")
    return Identifier(MSISDN, phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)[1:])


def identifier(medium: str, address: str) -> Identifier:
    """The identifier that a client names, in whatever form. Raises InvalidParam."""
    if medium == EMAIL:
        return email_address(address)
    if medium == MSISDN:
        return phone_number(f"+{address.removeprefix('+')}")
    raise InvalidParam(f"A medium is one of: {', '.join(MEDIA)}")


def country_of(number: Identifier) -> str | None:
    """The country to whose plan a phone number belongs; None for those of no country."""
    found: str | None = phonenumbers.region_code_for_number(phonenumbers.parse(f"+{number.address}"))
    return found


def is_client_secret(text: str) -> bool:
    """Whether this can be a ``client_secret``.

    spec: client-server-api/#post_matrixclientv3registeremailrequesttoken
    """
    return _SECRET.fullmatch(text) is not None

"""Log files, looked through for what never leaves its class: addresses of people's machines, e-mail addresses, phone
numbers, access tokens.

A log belongs to no node: what it says of somebody rests wherever it is kept.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Slip(NamedTuple):
    """A line of a log that says too much: its number, counted from 1, and what it shows. The words themselves are not
    repeated."""

    line: int
    shows: str


_V4: Final = r"\d{1,3}(?:\.\d{1,3}){3}"
_V6: Final = r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}"
_ADDRESS: Final = re.compile(rf"(?<![\w.:])(?:{_V4}|{_V6})(?![\w:]|\.\w)")
_MAIL: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_PHONE: Final = re.compile(r"(?<![\w.+-])\+[1-9]\d{7,14}(?!\w)")
_TOKEN: Final = re.compile(r"\b(?:access_token=|Bearer )[\w.~+/=-]{8,}")


def slips(lines: Iterable[str]) -> Iterator[Slip]:
    """Lines that show what no log may hold. Loopback and unspecified addresses are the server's own."""
    for number, line in enumerate(lines, 1):
        if any(_is_somebodys(found) for found in _ADDRESS.findall(line)):
            yield Slip(number, "an IP address")
        if _MAIL.search(line):
            yield Slip(number, "an e-mail address")
        if _PHONE.search(line):
            yield Slip(number, "a phone number")
        if _TOKEN.search(line):
            yield Slip(number, "an access token")


def _is_somebodys(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)

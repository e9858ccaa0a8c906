"""What is written to an e-mail address or a phone number, and the sending of it.

A message says who caused it and what it is good for, because it may come to somebody who asked for nothing.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import structlog

from config.load import read_secret
from config.residency import DataClass
from homeserver.protocol.errors import MediumNotSupported, NotDelivered
from homeserver.protocol.threepids import EMAIL
from homeserver.residency import gate, places
from homeserver.runtime import mail
from homeserver.runtime.exchange import Unreachable
from homeserver.runtime.outbound import own_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.kinds import Secret
    from config.sections.registration import Email, Sms
    from homeserver.context import Server
    from homeserver.protocol.threepids import Identifier
    from homeserver.storage.nodes import Node

log = structlog.get_logger("letters")

SECONDS = 20.0
"""How long the mail server or the gateway may take for a step."""


class Purpose(StrEnum):
    """What somebody wants with an identifier. A proof for one purpose is none for another."""

    REGISTER = "register"
    PASSWORD = "password"  # noqa: S105  # to set a new one
    ADD = "add"


_WANTED = {
    Purpose.REGISTER: "register an account",
    Purpose.PASSWORD: "set a new password for your account",
    Purpose.ADD: "add this address to an account",
}


def is_possible(server: Server, medium: str) -> bool:
    """Whether identifiers of this medium can be verified here."""
    return (server.settings.email if medium == EMAIL else server.settings.sms) is not None


async def send_proof(server: Server, to: Identifier, purpose: Purpose, secret: str, link: str) -> None:
    """Send the code (to a phone) or the link (to an e-mail address) that proves the ownership.

    Raises MediumNotSupported, NotDelivered.
    """
    if to.medium == EMAIL:
        text = (
            f"Somebody, you we hope, wants to {_WANTED[purpose]} at {server.name} with this e-mail address.\n\n"
            f"If it was you, open this page and confirm it:\n\n{link}\n\n"
            "If it was not you, do nothing: without your confirmation nothing happens.\n"
        )
        await _send(server, to, f"Confirm your e-mail address for {server.name}", text)
    else:
        text = f"{secret} is your code to {_WANTED[purpose]} at {server.name}. Tell it to nobody."
        await _send(server, to, "", text)


async def send_refusal(server: Server, to: Identifier, purpose: Purpose) -> None:
    """Tell the owner of an identifier why it cannot be used, which nobody else is to know.

    Raises MediumNotSupported, NotDelivered.
    """
    if purpose is Purpose.PASSWORD:
        text = f"Somebody wanted to {_WANTED[purpose]} at {server.name}, but no account there has this address."
    else:
        text = (
            f"Somebody wanted to {_WANTED[purpose]} at {server.name}, but there is an account with this address"
            " already. If it is yours, log in to it, or set a new password."
        )
    await _send(server, to, f"About your account at {server.name}", text + "\n" * (to.medium == EMAIL))


async def send_digest(server: Server, to: Identifier, unread: int, rooms: int) -> None:
    """Tell somebody that they have not read something, and how much. Raises MediumNotSupported, NotDelivered."""
    what = f"{unread} unread message{'s' * (unread != 1)} in {rooms} room{'s' * (rooms != 1)}"
    text = (
        f"You have {what} at {server.name}.\n\nNobody but you and those who wrote them can read them: open your"
        " client to do so.\n\nYou get this because a client of yours asked for it; its settings for notifications"
        " end it.\n"
    )
    await _send(server, to, f"{what} at {server.name}", text)


async def send_key_notice(server: Server, to: Identifier, devices: Sequence[str], times: Sequence[str]) -> None:
    """Tell somebody that there are new devices in their account, or that its identity was reset (no ``devices``).

    Raises MediumNotSupported, NotDelivered.
    """
    if devices:
        said = f"New devices ({', '.join(devices)}) can read what is written to you from now on"
        subject = f"A new device in your account at {server.name}"
    else:
        said = "Your identity was reset: all who have verified you are told that your keys have changed"
        subject = f"Your identity at {server.name} was reset"
    text = (
        f"{said}, since {', '.join(times)}.\n\nIf that was you, do nothing, but verify the new device with one of your"
        " others. If it was not you, log the device out in the settings of your client, and set a new password.\n\n"
        f"All changes of your keys are listed at {server.settings.base_url}/_domicile/keys\n"
    )
    await _send(server, to, subject, text)


def may_reach(server: Server, node: Node, address: str) -> bool:
    """Whether the residency policy lets letters go there: where a mail server stands is said by its domain."""
    there = places.of_host(server, address.rpartition("@")[2])
    return gate.may(server, DataClass.NOTIFICATIONS, node.jurisdiction, there)


async def _send(server: Server, to: Identifier, subject: str, text: str) -> None:
    try:
        if to.medium == EMAIL:
            if server.settings.email is None:
                raise MediumNotSupported("This server verifies no e-mail addresses")
            await _mail(server, server.settings.email, to.address, subject, text)
        else:
            if server.settings.sms is None:
                raise MediumNotSupported("This server verifies no phone numbers")
            await _text(server, server.settings.sms, to.address, text)
    except mail.NotSent as fault:
        log.warning("message not sent", medium=to.medium, reason=str(fault))
        raise NotDelivered("The message could not be sent; try again later") from None


async def _mail(server: Server, settings: Email, address: str, subject: str, text: str) -> None:
    relay = mail.MailServer(
        settings.server,
        settings.port,
        settings.security,
        settings.user,
        None if settings.password is None else _secret(settings.password),
        settings.ca_file,
        SECONDS,
    )
    try:
        message = mail.written(server.name, settings.sender, address, subject, text, server.clock.now_ms())
    except ValueError:
        raise mail.NotSent("no message can be written to that address") from None
    await relay.send(message, settings.sender, address)


async def _text(server: Server, settings: Sms, digits: str, text: str) -> None:
    places = {"{number}": f"+{digits}", "{digits}": digits, "{text}": text}
    url = settings.url
    for name, value in places.items():
        url = url.replace(name, quote(value, safe=""))
    headers = {"Connection": "close"}  # so that no text is sent twice because a kept connection ended
    headers |= {} if settings.secret is None else {settings.header: _secret(settings.secret)}
    body = b""
    if settings.method != "GET":
        headers["Content-Type"] = "application/json"
        body = json.dumps(_filled(json.loads(settings.body), places)).encode()
    try:
        place, target = own_place(url)
        async with server.outbound.stream(
            settings.method, place, target, headers=headers, body=body, most=sys.maxsize, seconds=SECONDS
        ) as answer:  # whose body nobody reads
            if not 200 <= answer.status < 300:
                raise mail.NotSent(f"the answer was {answer.status} at {place.host}")
    except Unreachable as fault:
        raise mail.NotSent(fault.fault) from None
    except ValueError:
        raise mail.NotSent("the request has a line that is none") from None


def _filled(template: Any, places: dict[str, str]) -> Any:
    """The template with its places filled, in strings only: what is filled in cannot become anything else."""
    if isinstance(template, dict):
        return {name: _filled(value, places) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, places) for value in template]
    if isinstance(template, str):
        for place, value in places.items():
            template = template.replace(place, value)
    return template


@lru_cache(maxsize=8)
def _secret(secret: Secret) -> str:
    return read_secret(secret)

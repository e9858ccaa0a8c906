"""Four people of the plays: one matrix-nio and one matrix-js-sdk client in each of two jurisdictions."""

import contextlib
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from tests.interop.client import Client, Kind

Country = Literal["IR", "FR"]


class House(Protocol):
    """The server that the plays are given in."""

    @property
    def base_url(self) -> str:
        """Where clients find it."""

    def registration_token(self, country: Country) -> str | None:
        """What a person must show to get an account that rests in this country; None if nothing."""

    def restart(self) -> None:
        """Stop it in order and start it again on the same data and address."""


def device_name(name: str) -> str:
    """What a device is called that nobody else has."""
    return f"{name}'s device {secrets.token_hex(6)}"


@dataclass(frozen=True)
class Cast:
    """Nasrin and Javad live in Iran, Noémie and Jules in France; who begins with N uses matrix-nio, J matrix-js-sdk."""

    nasrin: Client
    javad: Client
    noemie: Client
    jules: Client

    @property
    def everyone(self) -> tuple[Client, ...]:
        """All four."""
        return self.nasrin, self.javad, self.noemie, self.jules


class Wardrobe:
    """Makes clients, each with an address of its own, and ends them all with the play."""

    _serial = itertools.count(1)

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()

    def client(self, kind: Kind, name: str, base_url: str) -> Client:
        """A client program that is not logged in yet."""
        serial = next(self._serial)
        address = f"127.83.{serial // 200 + 1}.{serial % 200 + 17}"
        made = Client(kind, f"{name}-{serial}", base_url, self._folder, address)
        return self._stack.enter_context(made)

    def another_device(self, person: Client, base_url: str, name: str) -> Client:
        """A second device of a person, of the same kind, logged in."""
        made = self.client(person.kind, name, base_url)
        made.login(person.user_id, person.password, device_name(name))
        return made

    def close(self) -> None:
        """End all clients."""
        self._stack.close()


ROLES: tuple[tuple[str, Kind, Country], ...] = (
    ("nasrin", "nio", "IR"),
    ("javad", "js", "IR"),
    ("noemie", "nio", "FR"),
    ("jules", "js", "FR"),
)


@contextlib.contextmanager
def gathered(house: House, folder: Path) -> Iterator[tuple[Cast, Wardrobe]]:
    """The four people, registered, logged in and with cross-signing set up."""
    wardrobe = Wardrobe(folder)
    try:
        people = {name: wardrobe.client(kind, name, house.base_url) for name, kind, _ in ROLES}
        for name, _, country in ROLES:
            token = house.registration_token(country)
            localpart = f"{name}-{secrets.token_hex(4)}"
            people[name].register(localpart, secrets.token_urlsafe(12), device_name(name), token)
        for person in people.values():
            person.sets_up_cross_signing()
        yield Cast(**people), wardrobe
    finally:
        wardrobe.close()


def meet(host: Client, *guests: Client, name: str = "meeting", encrypted: bool = True) -> str:
    """Gather people in a new room; returns its id when everybody knows that everybody is there."""
    room = host.creates_room(name, *guests, encrypted=encrypted)
    for guest in guests:
        guest.joins(room)
    for person in (host, *guests):
        person.sees_members(room, host, *guests)
    return room

"""Plays with people whose client learns by sliding sync what is new, beside one whose client does not.

The client is matrix-js-sdk's own, with real encryption; it is told of its rooms, keys and messages in one connection.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.interop.cast import Country, House, Wardrobe, device_name, meet
from tests.interop.client import Client, Kind
from tests.interop.test_clients import all_read_all, words

ROLES: tuple[tuple[str, Kind, Country], ...] = (
    ("sahar", "sliding", "IR"),
    ("simone", "sliding", "FR"),
    ("jalal", "js", "IR"),
)


@dataclass(frozen=True)
class Sliders:
    """Sahar and Simone use sliding sync, in Iran and in France; Jalal in Iran does not."""

    sahar: Client
    simone: Client
    jalal: Client


@pytest.fixture(scope="module")
def people(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sliders]:
    """The three, registered, logged in and with cross-signing set up."""
    wardrobe = Wardrobe(tmp_path_factory.mktemp("sliders"))
    try:
        made = {name: wardrobe.client(kind, name, house.base_url) for name, kind, _ in ROLES}
        for name, _, country in ROLES:
            token = house.registration_token(country)
            made[name].register(f"{name}-{secrets.token_hex(4)}", secrets.token_urlsafe(12), device_name(name), token)
            made[name].sets_up_cross_signing()
        yield Sliders(**made)
    finally:
        wardrobe.close()


def test_they_read_one_another(people: Sliders) -> None:
    room = meet(people.sahar, people.simone, people.jalal)
    for _ in range(3):
        all_read_all(room, people.sahar, people.simone, people.jalal)


def test_two_of_them_talk_over_the_border(people: Sliders) -> None:
    room = meet(people.simone, people.sahar)
    all_read_all(room, people.simone, people.sahar)
    content, name = secrets.token_bytes(50_001), f"{secrets.token_hex(6)}.bin"
    people.sahar.sends_file(room, name, "application/x-secret", content)
    assert people.simone.receives_file(room, people.sahar, name) == content


def test_a_device_that_was_away_finds_its_keys_waiting(people: Sliders) -> None:
    writer, reader = people.jalal, people.simone
    room = meet(writer, reader)
    reader.goes_offline()
    said = [words(writer) for _ in range(3)]
    for text in said:
        writer.sends(room, text)
    reader.goes_online()
    for text in said:
        reader.sees(room, writer, text)
    all_read_all(room, writer, reader)


def test_signs_of_life(people: Sliders) -> None:
    for writer, reader in ((people.sahar, people.simone), (people.jalal, people.sahar)):
        room = meet(writer, reader)
        text = words(writer)
        event_id = writer.sends(room, text)
        reader.sees(room, writer, text)
        reader.call("typing", room=room, typing=True)
        writer.call("wait_for_typing", room=room, user=reader.user_id, typing=True)
        reader.call("typing", room=room, typing=False)
        writer.call("wait_for_typing", room=room, user=reader.user_id, typing=False)
        reader.call("read", room=room, event_id=event_id)
        writer.call("wait_for_receipt", room=room, user=reader.user_id, event_id=event_id)
        reader.call("react", room=room, event_id=event_id, key="👍")
        writer.call("wait_for_reaction", room=room, sender=reader.user_id, event_id=event_id, key="👍")
        writer.call("redact", room=room, event_id=event_id)
        reader.call("wait_for_redaction", room=room, event_id=event_id)


def test_their_own_data_comes_back(people: Sliders) -> None:
    room = meet(people.sahar, people.jalal)
    people.sahar.call("set_tag", room=room, tag="m.favourite", order=0.25)
    assert people.sahar.call("wait_for_tag", room=room, tag="m.favourite")["order"] == 0.25
    content = {"said": secrets.token_hex(8)}
    people.sahar.call("set_account_data", type="org.example.data", content=content)
    assert people.sahar.call("wait_for_account_data", type="org.example.data", content=content) == content


def test_the_conversation_goes_on_over_a_restart(people: Sliders, house: House) -> None:
    """Nobody logs in again, and no connection begins anew: what was said meanwhile is told as what is new."""
    room = meet(people.sahar, people.simone, people.jalal)
    all_read_all(room, people.sahar, people.simone, people.jalal)
    people.simone.goes_offline()
    waiting = words(people.sahar)
    people.sahar.sends(room, waiting)
    house.restart()
    people.simone.goes_online()
    people.simone.sees(room, people.sahar, waiting)
    all_read_all(room, people.sahar, people.simone, people.jalal)

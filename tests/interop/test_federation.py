"""Plays between a Domicile and a real Synapse: people of both write to each other, encrypted, over links that break."""

import secrets
from collections.abc import Iterator

import pytest

from tests.interop.cast import device_name, meet
from tests.interop.client import Client
from tests.interop.neighbours import Neighbours, neighbours
from tests.interop.test_clients import all_read_all, words


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbours]:
    """The two servers; what was done in an earlier play stays."""
    with neighbours(tmp_path_factory.mktemp("street")) as made:
        yield made


PAIRS = [("nasrin", "nils"), ("nils", "nasrin"), ("jules", "jana"), ("jana", "noemie")]
"""Who invites whom; each client library is first on each server."""


def couple(street: Neighbours, names: tuple[str, str]) -> tuple[Client, Client]:
    """Two of the people."""
    return getattr(street, names[0]), getattr(street, names[1])


@pytest.mark.parametrize("names", PAIRS)
def test_two_people_talk_between_servers(street: Neighbours, names: tuple[str, str]) -> None:
    host, guest = couple(street, names)
    room = meet(host, guest)
    all_read_all(room, host, guest)
    all_read_all(room, guest, host)


@pytest.mark.parametrize("names", PAIRS)
def test_an_attachment_goes_between_servers_and_opens(street: Neighbours, names: tuple[str, str]) -> None:
    giver, taker = couple(street, names)
    room = meet(giver, taker)
    content, name = secrets.token_bytes(200_001), f"{secrets.token_hex(6)}.bin"
    giver.sends_file(room, name, "application/x-secret", content)
    assert taker.receives_file(room, giver, name) == content


@pytest.mark.parametrize("names", PAIRS[:2])
def test_typing_and_receipts_are_seen(street: Neighbours, names: tuple[str, str]) -> None:
    writer, reader = couple(street, names)
    room = meet(writer, reader)
    writer.call("typing", room=room, typing=True)
    reader.call("wait_for_typing", room=room, user=writer.user_id, typing=True)
    text = words(writer)
    event_id = writer.sends(room, text)
    reader.sees(room, writer, text)
    reader.call("read", room=room, event_id=event_id)
    writer.call("wait_for_receipt", room=room, user=reader.user_id, event_id=event_id)


@pytest.mark.parametrize("names", PAIRS[:2])
def test_a_new_device_is_given_the_keys(street: Neighbours, names: tuple[str, str]) -> None:
    writer, reader = couple(street, names)
    room = meet(writer, reader)
    all_read_all(room, writer, reader)
    second = street.wardrobe.another_device(reader, reader.base_url, f"{names[1]}-second")
    writer.notices(second)
    text = words(writer)
    writer.sends(room, text)
    second.sees(room, writer, text)
    reader.sees(room, writer, text)


def test_everybody_is_in_one_room(street: Neighbours) -> None:
    people = (street.nasrin, street.noemie, street.jules, street.nils, street.jana)
    all_read_all(meet(*people), *people)


@pytest.mark.parametrize("names", PAIRS[:2])
def test_a_cut_link_loses_nothing(street: Neighbours, names: tuple[str, str]) -> None:
    """Both sides write, and change the state, while neither reaches the other."""
    host, guest = couple(street, names)
    room = meet(host, guest)
    all_read_all(room, host, guest)
    said = {person: [words(person) for _ in range(3)] for person in (host, guest)}
    topic = secrets.token_hex(8)
    with street.apart():
        for person, texts in said.items():
            for text in texts:
                person.sends(room, text)
        host.api.client("PUT", f"/rooms/{room}/state/m.room.topic", {"topic": topic})
    for reader, writer in ((host, guest), (guest, host)):
        for text in said[writer]:
            reader.sees(room, writer, text)
    assert host.api.client("GET", f"/rooms/{room}/state/m.room.topic") == {"topic": topic}


@pytest.mark.parametrize("server", ["domicile", "synapse"])
def test_a_server_that_was_killed_catches_up(street: Neighbours, server: str) -> None:
    host, guest = (street.nasrin, street.nils) if server == "synapse" else (street.nils, street.nasrin)
    room = meet(host, guest)
    all_read_all(room, host, guest)
    killed = street.synapse if server == "synapse" else street.domicile
    killed.kill9()
    said = [words(host) for _ in range(5)]
    for text in said:
        host.sends(room, text)
    killed.start()
    for text in said:
        guest.sees(room, host, text)


def test_leaving_and_coming_back(street: Neighbours) -> None:
    host, guest = street.nils, street.nasrin
    room = meet(host, guest)
    guest.call("leave", room=room)
    host.sees_members(room, guest, membership="leave")
    host.call("invite", room=room, user=guest.user_id)
    guest.joins(room)
    host.sees_members(room, guest)
    all_read_all(room, host, guest)


def test_a_lost_device_gets_nothing_any_more(street: Neighbours) -> None:
    writer, reader = street.nils, street.nasrin
    room = meet(writer, reader)
    second = street.wardrobe.client("nio", "lost", reader.base_url)
    second.login(reader.user_id, reader.password, device_name("lost"))
    writer.notices(second)
    all_read_all(room, writer, reader)
    second.goes_offline()
    reader.call("delete_device", device_id=second.device_id, password=reader.password)
    text = words(writer)
    writer.sends(room, text)
    reader.sees(room, writer, text)
    known = writer.api.client("POST", "/keys/query", {"device_keys": {reader.user_id: []}})["device_keys"][
        reader.user_id
    ]
    assert second.device_id not in known
    assert reader.device_id in known

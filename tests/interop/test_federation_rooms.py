"""Rooms between a Domicile and a real Synapse: their history, who may come in, who is thrown out, and long silences."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from tests.interop.api import ApiError, segment
from tests.interop.cast import meet
from tests.interop.client import PATIENCE, Client
from tests.interop.neighbours import Neighbours, neighbours
from tests.interop.test_clients import all_read_all, words
from tests.rooms.play import ciphertext, text_of

T = TypeVar("T")
BACKLOG = int(os.environ.get("DOMICILE_TEST_BACKLOG", "200"))
"""Events that are queued for a server that is away."""
BOTH_WAYS = [("nasrin", "nils"), ("nils", "nasrin")]


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neighbours]:
    """The two servers; what was done in an earlier play stays."""
    with neighbours(tmp_path_factory.mktemp("street")) as made:
        yield made


@pytest.fixture(params=BOTH_WAYS, ids=["from Domicile", "from Synapse"])
def couple(request: pytest.FixtureRequest, street: Neighbours) -> tuple[Client, Client]:
    """The host of a room, and somebody on the other server."""
    host, guest = request.param
    return getattr(street, host), getattr(street, guest)


def eventually(look: Callable[[], T | None], seconds: float = PATIENCE) -> T:
    """What ``look`` finds; it looks again and again, since nothing tells when another program is done."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def server_of(person: Client) -> str:
    """The server name of somebody."""
    return person.user_id.partition(":")[2]


def room_of(host: Client, **wish: Any) -> str:
    """An encrypted room."""
    encryption = {"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    wish["initial_state"] = [encryption, *wish.get("initial_state", [])]
    created: str = host.api.client("POST", "/createRoom", wish)["room_id"]
    return created


def writes(person: Client, room: str, text: str) -> str:
    """Send what looks encrypted; returns the event id."""
    path = f"/rooms/{segment(room)}/send/m.room.encrypted/{secrets.token_hex(8)}"
    event_id: str = person.api.client("PUT", path, ciphertext(text))["event_id"]
    return event_id


def messages(person: Client, room: str) -> list[str]:
    """The texts of `writes` that somebody is told of, oldest first."""
    found: list[str] = []
    start = ""
    while True:
        page = person.api.client("GET", f"/rooms/{segment(room)}/messages?dir=b&limit=100{start}")
        found += [text_of(event) for event in page["chunk"] if "ciphertext" in event["content"]]
        if "end" not in page or not page["chunk"]:
            return found[::-1]
        start = f"&from={segment(page['end'])}"


def membership(person: Client, room: str, of: Client) -> str | None:
    """Somebody's membership as somebody's server knows it."""
    try:
        content = person.api.client("GET", f"/rooms/{segment(room)}/state/m.room.member/{segment(of.user_id)}")
    except ApiError:
        return None
    said: str = content["membership"]
    return said


def comes_in(guest: Client, room: str, by: Client) -> None:
    """Join by the server of somebody who is in."""
    via = segment(server_of(by))
    guest.api.client("POST", f"/join/{segment(room)}?via={via}&server_name={via}", {})


def test_history_from_before_the_server_came(couple: tuple[Client, Client]) -> None:
    host, guest = couple
    room = room_of(host, preset="public_chat")
    said = [f"{number}" for number in range(150)]
    for text in said:
        writes(host, room, text)
    comes_in(guest, room, host)
    assert messages(guest, room) == said


def test_knocking(couple: tuple[Client, Client]) -> None:
    host, guest = couple
    rules = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
    room = room_of(host, initial_state=[rules])
    via = segment(server_of(host))
    guest.api.client("POST", f"/knock/{segment(room)}?via={via}&server_name={via}", {"reason": "let me in"})
    eventually(lambda: membership(host, room, guest) == "knock" or None)
    host.api.client("POST", f"/rooms/{segment(room)}/invite", {"user_id": guest.user_id})
    guest.call("wait_for_invite", room=room)
    comes_in(guest, room, host)
    eventually(lambda: membership(host, room, guest) == "join" or None)


def test_a_restricted_room_lets_in_who_is_in_the_other(couple: tuple[Client, Client]) -> None:
    host, guest = couple
    club = room_of(host, preset="public_chat")
    allow = [{"type": "m.room_membership", "room_id": club}]
    rules = {"type": "m.room.join_rules", "content": {"join_rule": "restricted", "allow": allow}}
    room = room_of(host, initial_state=[rules])
    with pytest.raises(ApiError):
        comes_in(guest, room, host)
    comes_in(guest, club, host)
    eventually(lambda: membership(host, club, guest) == "join" or None)
    comes_in(guest, room, host)
    eventually(lambda: membership(host, room, guest) == "join" or None)


def test_who_is_banned_is_out(couple: tuple[Client, Client]) -> None:
    host, guest = couple
    room = meet(host, guest)
    host.api.client("POST", f"/rooms/{segment(room)}/ban", {"user_id": guest.user_id})
    eventually(lambda: membership(guest, room, guest) in ("ban", None) or None)
    with pytest.raises(ApiError):
        writes(guest, room, "unheard")
    with pytest.raises(ApiError):
        comes_in(guest, room, host)
    host.api.client("POST", f"/rooms/{segment(room)}/unban", {"user_id": guest.user_id})
    host.call("invite", room=room, user=guest.user_id)
    guest.joins(room)
    all_read_all(room, host, guest)


def test_a_server_that_an_acl_shuts_out_is_not_heard(couple: tuple[Client, Client]) -> None:
    host, guest = couple
    room, elsewhere = meet(host, guest), meet(host, guest)
    acl = {"allow": ["*"], "deny": [server_of(guest).partition(":")[0]], "allow_ip_literals": True}
    host.api.client("PUT", f"/rooms/{segment(room)}/state/m.room.server_acl", acl)
    unheard = writes(guest, room, "unheard")
    heard = writes(guest, elsewhere, "heard")  # goes the same way, after the other
    eventually(lambda: sees(host, elsewhere, heard))
    assert sees(host, room, unheard) is None


def sees(person: Client, room: str, event_id: str) -> bool | None:
    """True when somebody's server has an event; None when it does not."""
    try:
        person.api.client("GET", f"/rooms/{segment(room)}/event/{segment(event_id)}")
    except ApiError:
        return None
    return True


def test_presence_is_told(couple: tuple[Client, Client]) -> None:
    host, guest = couple
    meet(host, guest)
    said = secrets.token_hex(8)
    path = f"/presence/{segment(host.user_id)}/status"
    host.api.client("PUT", path, {"presence": "online", "status_msg": said})

    def told() -> bool | None:
        try:
            answer = guest.api.client("GET", path)
        except ApiError:
            return None
        return answer.get("status_msg") == said or None

    eventually(told)


def test_profiles_and_aliases_are_found(couple: tuple[Client, Client]) -> None:
    host, guest = couple
    name = secrets.token_hex(6)
    host.call("set_profile", displayname=name)
    assert guest.call("profile", user=host.user_id) == {"displayname": name}
    alias = f"#{name}:{server_of(host)}"
    room = room_of(host, preset="public_chat", room_alias_name=name)
    found = guest.api.client("GET", f"/directory/room/{segment(alias)}")
    assert found["room_id"] == room
    guest.api.client("POST", f"/join/{segment(alias)}", {})
    eventually(lambda: membership(host, room, guest) == "join" or None)


def test_a_long_silence_loses_nothing(street: Neighbours, couple: tuple[Client, Client]) -> None:
    """What is said while a server is away arrives there whole and in order."""
    host, guest = couple
    room = room_of(host, preset="public_chat")
    comes_in(guest, room, host)
    all_said = [f"{number}" for number in range(BACKLOG)]
    with street.apart():
        for text in all_said:
            writes(host, room, text)
    eventually(lambda: messages(guest, room)[-1:] == all_said[-1:] or None, PATIENCE + BACKLOG / 4)
    assert messages(guest, room) == all_said


@pytest.mark.parametrize("killed", ["domicile", "synapse"])
def test_a_server_killed_amid_a_transaction(street: Neighbours, couple: tuple[Client, Client], killed: str) -> None:
    host, guest = couple
    room = room_of(host, preset="public_chat")
    comes_in(guest, room, host)
    said = [f"{number}" for number in range(40)]
    for number, text in enumerate(said):
        if number == 20:
            victim = street.domicile if killed == "domicile" else street.synapse
            victim.kill9()
            victim.start()
        writes(host, room, text)
    eventually(lambda: sorted(messages(guest, room), key=int) == said or None, 2 * PATIENCE)


def test_both_change_the_state_while_the_link_is_cut(street: Neighbours) -> None:
    host, guest = street.nils, street.nasrin
    room = room_of(host, preset="public_chat", power_level_content_override={"state_default": 0})
    comes_in(guest, room, host)
    topics = [secrets.token_hex(6), secrets.token_hex(6)]
    with street.apart():
        for person, topic in zip((host, guest), topics, strict=True):
            person.api.client("PUT", f"/rooms/{segment(room)}/state/m.room.topic", {"topic": topic})
            person.api.client("PUT", f"/rooms/{segment(room)}/state/org.test/{segment(topic)}", {"by": person.user_id})

    def agreed() -> bool | None:
        states = [person.api.client("GET", f"/rooms/{segment(room)}/state") for person in (host, guest)]
        sets = [{(e["type"], e["state_key"], e["event_id"]) for e in each} for each in states]
        both = {topic for _, topic, _ in sets[0] & sets[1]} >= set(topics)
        return (sets[0] == sets[1] and both) or None

    eventually(agreed, 2 * PATIENCE)
    text = words(host)
    writes(host, room, text)
    eventually(lambda: text in messages(guest, room) or None)

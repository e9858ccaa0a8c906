"""Where nothing may flow, nothing is: two countries of one deployment, whose people try to reach each other.

Every try is refused, and afterwards the files of each node hold nothing at all of the other's people.
"""

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.interop.api import ApiError, segment
from tests.interop.belongings import mark, token_forms
from tests.interop.cast import ROLES, Wardrobe, device_name, meet
from tests.interop.client import CallError, Client
from tests.interop.deployment import NODES, Deployment
from tests.interop.remains import Remains

HOME = {name: NODES[country] for name, _, country in ROLES}
PAIRS = [("nasrin", "jules"), ("jules", "nasrin"), ("javad", "noemie"), ("noemie", "javad")]
TRIES = ("create", "invite", "join", "knock")


@dataclass(frozen=True)
class Square:
    """A room of a person that everybody may find and join, and one that everybody may ask to join."""

    public: str
    knock: str
    alias: str

    @classmethod
    def of(cls, host: Client) -> "Square":
        """Make both."""
        alias = f"square-{mark()}"
        public = {"preset": "public_chat", "visibility": "public", "room_alias_name": alias, "name": mark()}
        rule = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}
        knock = {"preset": "private_chat", "initial_state": [rule]}
        made = [host.api.client("POST", "/createRoom", body)["room_id"] for body in (public, knock)]
        return cls(made[0], made[1], alias)


@dataclass(frozen=True)
class Refusal:
    """How a try ended."""

    status: int | None
    body: dict[str, Any]

    @classmethod
    def of(cls, attempt: Callable[[], object]) -> "Refusal":
        """Try, and return the answer, which must be an error."""
        try:
            done = attempt()
        except (ApiError, CallError) as error:
            return cls(error.status, error.body)
        return cls(200, {"done": done})


@dataclass
class Town:
    """What is known about whom, what was tried, and what lies where after all of it."""

    traces: dict[str, dict[str, list[bytes]]]
    refusals: dict[tuple[str, str], dict[str, Refusal]]
    letters: dict[str, str]
    running: dict[str, Remains]
    stopped: dict[str, Remains]


def _tries(first: Client, second: Client, square: Square) -> dict[str, Refusal]:
    """Everything that would let two people share a room."""
    alone = first.creates_room("alone")
    reason = {"reason": "let me in"}
    return {
        "create": Refusal.of(lambda: first.creates_room("together", second)),
        "invite": Refusal.of(lambda: first.call("invite", room=alone, user=second.user_id)),
        "join": Refusal.of(lambda: first.call("join", room=square.public)),
        "knock": Refusal.of(lambda: first.api.client("POST", f"/knock/{segment(square.knock)}", reason)),
    }


def _write_letter(first: Client, second: Client) -> str:
    """A message to a device, whatever the server answers."""
    letter = mark()
    messages = {second.user_id: {second.device_id: {"letter": letter}}}
    try:
        first.api.client("PUT", f"/sendToDevice/org.example.letter/{mark()}", {"messages": messages})
    except ApiError as error:
        assert error.status == 403  # noqa: PT017  # either is fine: refused, or accepted and not delivered
    return letter


def _traces(person: Client, square: Square, room: str, event_id: str) -> dict[str, list[bytes]]:
    """What there is to know about a person, as their own server tells it to them; each in its possible forms."""
    ask = person.api.client
    keys = ask("POST", "/keys/query", {"device_keys": {person.user_id: []}})
    device = keys["device_keys"][person.user_id][person.device_id]
    (master,) = keys["master_keys"][person.user_id]["keys"].values()
    event = ask("GET", f"/rooms/{segment(room)}/event/{segment(event_id)}")
    displayname = ask("GET", f"/profile/{segment(person.user_id)}")["displayname"]
    texts = {
        "user id": person.user_id,
        "localpart": person.user_id[1:].partition(":")[0],
        "device id": person.device_id,
        "device name": device["unsigned"]["device_display_name"],
        **device["keys"],
        "master key": master,
        "display name": displayname,
        "room": room,
        "public room": square.public,
        "alias": square.alias,
        "event": event_id,
        "ciphertext": event["content"]["ciphertext"][:200],
    }
    return {**{name: [text.encode()] for name, text in texts.items()}, "access token": token_forms(person.access_token)}


def _move_in(deployment: Deployment, wardrobe: Wardrobe) -> Iterator[tuple[str, Client]]:
    for name, kind, country in ROLES:
        localpart, password = f"{name}-{secrets.token_hex(6)}", secrets.token_urlsafe(16)
        deployment.add_user_by_secret(localpart, password, NODES[country])
        client = wardrobe.client(kind, name, deployment.base_url)
        client.login(localpart, password, device_name(name))
        client.sets_up_cross_signing()
        client.call("set_profile", displayname=f"{name} {mark()}")
        yield name, client


def _talk(host: Client, guest: Client) -> tuple[str, dict[Client, str]]:
    """Two neighbours write to each other; returns the room, and the event of each."""
    room, sent = meet(host, guest), {}
    for writer, reader in ((host, guest), (guest, host)):
        text = mark()
        sent[writer] = writer.sends(room, text)
        reader.sees(room, writer, text)
    return room, sent


def _disk(deployment: Deployment) -> dict[str, Remains]:
    nodes = {node: deployment.remains(node) for node in NODES.values()}
    return {**nodes, "elsewhere": deployment.remains_elsewhere()}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """Neighbours talk, people of two countries try to reach each other; then the pictures of the disk are taken."""
    wardrobe = Wardrobe(tmp_path_factory.mktemp("clients"))
    deployment = Deployment(tmp_path_factory.mktemp("deployment"), flows=False)
    try:
        deployment.start()
        people = dict(_move_in(deployment, wardrobe))
        squares = {name: Square.of(person) for name, person in people.items()}
        traces = {}
        for first, second in (("nasrin", "javad"), ("noemie", "jules")):
            room, sent = _talk(people[first], people[second])
            for name in (first, second):
                traces[name] = _traces(people[name], squares[name], room, sent[people[name]])
        refusals = {(one, other): _tries(people[one], people[other], squares[other]) for one, other in PAIRS}
        letters = {one: _write_letter(people[one], people[other]) for one, other in PAIRS}
        for one, other in PAIRS:
            _check_view(people[one], people[other], squares[one], squares[other])
        running = _disk(deployment)
    finally:
        wardrobe.close()
        deployment.stop()
    return Town(traces, refusals, letters, running, _disk(deployment))


def _check_view(viewer: Client, stranger: Client, own: Square, strange: Square) -> None:
    """What people see of each other over a border that nothing may cross: nothing."""
    ask = viewer.api.client
    answer = ask("POST", "/keys/query", {"device_keys": {stranger.user_id: []}})
    assert not answer.get("device_keys", {}).get(stranger.user_id)
    assert stranger.user_id not in answer.get("master_keys", {})
    claim = {"one_time_keys": {stranger.user_id: {stranger.device_id: "signed_curve25519"}}}
    assert not ask("POST", "/keys/claim", claim)["one_time_keys"].get(stranger.user_id)
    assert Refusal.of(lambda: ask("GET", f"/profile/{segment(stranger.user_id)}")).status in {403, 404}
    listed = {room["room_id"] for room in ask("GET", "/publicRooms")["chunk"]}
    assert own.public in listed
    assert strange.public not in listed


@pytest.mark.parametrize("attempt", TRIES)
@pytest.mark.parametrize("pair", PAIRS)
def test_what_would_cross_the_border_is_refused(town: Town, pair: tuple[str, str], attempt: str) -> None:
    """With a reason that a program can read, and the two countries for whoever reads the message."""
    refusal = town.refusals[pair][attempt]
    assert refusal.status == 403, refusal
    assert refusal.body["errcode"] == "M_FORBIDDEN"
    assert refusal.body["org.domicile.reason"] == "flow_denied"
    told = json.dumps(refusal.body)
    assert any(name in told for name in ("IR", "Iran"))
    assert any(name in told for name in ("FR", "France"))


@pytest.mark.parametrize("moment", ["running", "stopped"])
@pytest.mark.parametrize("name", HOME)
def test_nothing_of_one_is_with_the_other(town: Town, name: str, moment: str) -> None:
    """Each trace is found at home, by the same search, and nowhere on the other node."""
    disk: dict[str, Remains] = getattr(town, moment)
    (other,) = set(NODES.values()) - {HOME[name]}
    for trace, forms in town.traces[name].items():
        assert any(disk[HOME[name]].places(form) for form in forms), f"{trace} of {name} is not at home"
        found = {place for form in forms for place in disk[other].places(form)}
        assert found == set(), f"{trace} of {name}, of {HOME[name]}, at {other}"


@pytest.mark.parametrize("moment", ["running", "stopped"])
@pytest.mark.parametrize("name", HOME)
def test_the_directory_names_nobody(town: Town, name: str, moment: str) -> None:
    disk: dict[str, Remains] = getattr(town, moment)
    for trace in ("user id", "localpart", "device id", "device name", "display name", "access token"):
        for form in town.traces[name][trace]:
            assert disk["elsewhere"].places(form) == set(), f"{trace} of {name}"


@pytest.mark.parametrize("moment", ["running", "stopped"])
def test_no_letter_was_delivered(town: Town, moment: str) -> None:
    disk: dict[str, Remains] = getattr(town, moment)
    for one, letter in town.letters.items():
        (other,) = set(NODES.values()) - {HOME[one]}
        assert disk[other].places(letter) == set()

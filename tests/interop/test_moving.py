"""People with real clients and real encryption, of whom one is moved to another country while they talk."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeserver import control_socket
from tests.interop.cast import Wardrobe, device_name, meet
from tests.interop.client import Client
from tests.interop.deployment import Deployment
from tests.interop.test_clients import all_read_all, words
from tests.support import Databases

PASSWORD = "a password that is long enough"
PATIENCE = 60.0
"""Seconds that a move gets."""
MOMENTS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds after which the server is killed: while things are copied, at the switch, and while they are erased."""


@pytest.fixture
def moving_house(engines: Databases, tmp_path: Path) -> Iterator[Deployment]:
    """The real product on either engine."""
    urls = {} if engines.kind == "sqlite" else {node: engines.url(node) for node in ("tehran", "paris")}
    with Deployment(tmp_path, databases=urls) as house:
        yield house


@pytest.fixture
def wardrobe_of_two(moving_house: Deployment, tmp_path: Path) -> Iterator[Wardrobe]:
    """Makes their clients."""
    made = Wardrobe(tmp_path / "clients")
    yield made
    made.close()


def ask(house: Deployment, command: str, **arguments: object) -> dict[str, object]:
    """What an operator has done."""
    answered = control_socket.ask_server(house.folder / "data", command, arguments)
    assert answered is not None
    assert answered[0] == 200, answered
    return answered[1]


def move(house: Deployment, person: Client, node: str) -> None:
    """Move somebody, and wait until all is done."""
    ask(house, "residency-move", user=person.user_id, to=node)
    arrived(house, person, node)


def arrived(house: Deployment, person: Client, node: str) -> None:
    """Wait until somebody who is being moved is on their node, and nothing is left to be done."""
    waiting = threading.Event()
    for _ in range(int(PATIENCE / 0.1)):
        if not ask(house, "residency-move-status")["moves"]:
            break
        waiting.wait(0.1)  # an operator has no other way than to look
    assert ask(house, "user-show", user=person.user_id)["node"] == node


def couple(house: Deployment, people: Wardrobe) -> tuple[Client, Client, str]:
    """Nasrin in Iran and Noémie in France, and the room in which they talk."""
    nasrin, noemie = (people.client("nio", name, house.base_url) for name in ("nasrin", "noemie"))
    for person, country in ((nasrin, "IR"), (noemie, "FR")):
        token = house.registration_token(country)  # type: ignore[arg-type]  # one of the two
        person.register(person.name, PASSWORD, device_name(person.name), token)
        person.sets_up_cross_signing()
    room = meet(nasrin, noemie)
    all_read_all(room, nasrin, noemie)
    return nasrin, noemie, room


def test_a_move_in_the_midst_of_a_conversation(moving_house: Deployment, wardrobe_of_two: Wardrobe) -> None:
    house, people = moving_house, wardrobe_of_two
    nasrin, noemie, room = couple(house, people)
    key = nasrin.enables_key_backup()
    early = words(noemie)
    noemie.sends(room, early)
    nasrin.sees(room, noemie, early)
    nasrin.backs_up()
    # They go on talking while she is moved.
    moving = threading.Thread(target=move, args=(house, nasrin, "paris"))
    moving.start()
    while moving.is_alive():
        all_read_all(room, nasrin, noemie)
    moving.join()
    all_read_all(room, nasrin, noemie)
    # She is away while she is moved back, and a device that is new to her says something meanwhile.
    nasrin.goes_offline()
    second = people.another_device(noemie, house.base_url, "noemie-at-work")
    said = words(second)
    second.sends(room, said)
    move(house, nasrin, "tehran")
    late = words(noemie)
    noemie.sends(room, late)
    nasrin.goes_online()
    nasrin.sees(room, second, said)
    nasrin.sees(room, noemie, late)
    all_read_all(room, nasrin, noemie)
    # A new device of hers finds her keys and what she has kept.
    fresh = people.another_device(nasrin, house.base_url, "nasrin-at-work")
    assert fresh.restores(key) > 0
    all_read_all(room, fresh, noemie)
    assert noemie.trusts(nasrin)["devices"][nasrin.device_id]["signed_by_owner"]
    assert ask(house, "residency-audit")["findings"] == []


def test_a_server_that_is_killed_in_the_midst_of_moves(moving_house: Deployment, wardrobe_of_two: Wardrobe) -> None:
    house = moving_house
    nasrin, noemie, room = couple(house, wardrobe_of_two)
    key = nasrin.enables_key_backup()
    said = []
    for number, seconds in enumerate(MOMENTS):
        target = ("paris", "tehran")[number % 2]
        said.append(words(noemie))
        noemie.sends(room, said[-1])
        ask(house, "residency-move", user=nasrin.user_id, to=target)
        threading.Event().wait(seconds)  # the moment of the kill; nothing waits for it
        house.kill9()
        house.start()
        all_read_all(room, nasrin, noemie)  # wherever she is by now
        arrived(house, nasrin, target)
        all_read_all(room, nasrin, noemie)
        assert ask(house, "residency-audit")["findings"] == []
    nasrin.backs_up()
    history = nasrin.history(room)
    assert [history.count(text) for text in said] == [1] * len(said)
    fresh = wardrobe_of_two.another_device(nasrin, house.base_url, "nasrin-at-work")
    assert fresh.restores(key) > 0
    all_read_all(room, fresh, noemie)

"""The files tell: what is whose rests where, read from the bytes of each node's disk and not from the server's word.

Four people live a day in two countries between which everything may flow. Then their nodes' databases, write-ahead
logs and media are searched, once while the server runs and once after it has stopped.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pytest

from tests.interop.api import segment
from tests.interop.belongings import THINGS, Belongings, Thing
from tests.interop.cast import ROLES, Wardrobe, device_name, meet
from tests.interop.deployment import NODES, Deployment
from tests.interop.remains import Remains

Moment = Literal["running", "stopped"]
MOMENTS: tuple[Moment, ...] = ("running", "stopped")
DIALLING = {"IR": "98912", "FR": "33612"}


@dataclass
class Disk:
    """Pictures of what lies on each node, and in the deployment outside of the nodes."""

    nodes: dict[str, Remains]
    elsewhere: Remains

    @classmethod
    def of(cls, deployment: Deployment) -> "Disk":
        """Take the pictures now."""
        nodes = {node: deployment.remains(node) for node in NODES.values()}
        return cls(nodes, deployment.remains_elsewhere())

    def others(self, node: str) -> dict[str, Remains]:
        """All but one node, and what is outside of the nodes."""
        others = {name: remains for name, remains in self.nodes.items() if name != node}
        return {**others, "elsewhere": self.elsewhere}

    def everything(self) -> dict[str, Remains]:
        """All there is."""
        return {**self.nodes, "elsewhere": self.elsewhere}


@dataclass
class Day:
    """What happened, and what was found on the disk after it."""

    people: list[Belongings]
    ciphertext: str
    disks: dict[Moment, Disk]
    log: str


def _move_in(deployment: Deployment, wardrobe: Wardrobe) -> Iterator[Belongings]:
    """Accounts with verified phone numbers, which pin them; then the first device of each."""
    accounts = []
    for name, _, country in ROLES:
        localpart, password = f"{name}-{secrets.token_hex(6)}", secrets.token_urlsafe(16)
        phone = DIALLING[country] + "".join(secrets.choice("0123456789") for _ in range(7))
        deployment.add_user(localpart, password, "--phone", f"+{phone}")
        accounts.append((localpart, password, phone))
    deployment.start()
    for (name, kind, country), (localpart, password, phone) in zip(ROLES, accounts, strict=True):
        client = wardrobe.client(kind, name, deployment.base_url)
        called = device_name(name)
        client.login(localpart, password, called)
        client.sets_up_cross_signing()
        person = Belongings(client, NODES[country])
        person.has("phone number", phone)
        person.notes_device(called, client.access_token)
        yield person


def _live(people: list[Belongings]) -> str:
    """A conversation of all, and what each leaves beside it; returns the id of the room."""
    first, *guests = people
    room = meet(first.owner, *(guest.owner for guest in guests))
    for writer in people:
        writer.says(room)
        name = writer.sends_file(room)
        for reader in people:
            if reader is not writer:
                reader.owner.sees(room, writer.owner, writer.said[0])
                assert reader.owner.receives_file(room, writer.owner, name) == writer.files[0]
    for person in people:
        person.notes_account_data(room)
        person.notes_key_backup()
        sender = next(other for other in people if other.node != person.node)
        person.notes_mailbox(sender.owner)
    return room


def _a_ciphertext(person: Belongings, room: str) -> str:
    """What a message of the person looks like to the server."""
    events = person.owner.api.client("GET", f"/rooms/{segment(room)}/messages?dir=b&limit=50")["chunk"]
    sent = next(
        event for event in events if event["sender"] == person.owner.user_id and "ciphertext" in event["content"]
    )
    ciphertext: str = sent["content"]["ciphertext"]
    return ciphertext[:400]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """One day, from moving in to the pictures of the disk."""
    deployment = Deployment(tmp_path_factory.mktemp("deployment"))
    wardrobe = Wardrobe(tmp_path_factory.mktemp("clients"))
    try:
        people = list(_move_in(deployment, wardrobe))
        room = _live(people)
        ciphertext = _a_ciphertext(people[0], room)
        running = Disk.of(deployment)
    finally:
        wardrobe.close()
        deployment.stop()
    disks: dict[Moment, Disk] = {"running": running, "stopped": Disk.of(deployment)}
    return Day(people, ciphertext, disks, deployment.log.read_text())


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("thing", THINGS)
def test_a_thing_rests_with_its_owner_and_nowhere_else(day: Day, thing: Thing, moment: Moment) -> None:
    disk = day.disks[moment]
    for person in day.people:
        assert person.things[thing], f"{person.owner!r} left no {thing}"
        for forms in person.things[thing]:
            assert any(disk.nodes[person.node].places(form) for form in forms), f"no {thing} of {person.owner!r}"
            for place, remains in disk.others(person.node).items():
                found = {found for form in forms for found in remains.places(form)}
                assert found == set(), f"{thing} of {person.owner!r}, of {person.node}, at {place}"


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_conversation_itself_is_on_both_nodes_as_ciphertext(day: Day, moment: Moment) -> None:
    """The control of all that is *not* found: the same search finds what both nodes must have."""
    for remains in day.disks[moment].nodes.values():
        assert remains.places(day.ciphertext)
        for person in day.people:
            assert remains.places(person.owner.user_id)


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_was_said_can_be_read_nowhere(day: Day, moment: Moment) -> None:
    for person in day.people:
        plain = [text.encode() for text in (*person.said, person.owner.password)]
        plain += [content[offset : offset + 64] for content in person.files for offset in (0, 1500)]
        for place, remains in day.disks[moment].everything().items():
            for needle in plain:
                assert remains.places(needle) == set(), f"what {person.owner!r} said or knows, at {place}"


@pytest.mark.parametrize("moment", MOMENTS)
def test_where_somebody_was_is_known_at_home_at_most(day: Day, moment: Moment) -> None:
    """Addresses and user agents never leave the node; outside of the nodes nobody is named at all."""
    for person in day.people:
        name = person.owner.user_id.removeprefix("@").partition(":")[0]
        for place, remains in day.disks[moment].others(person.node).items():
            for needle in (person.owner.address, person.owner.user_agent):
                assert remains.places(needle) == set(), f"{needle} of {person.owner!r} at {place}"
        assert day.disks[moment].elsewhere.places(name) == set()


def test_the_log_tells_nothing(day: Day) -> None:
    """No content, tokens, phone numbers, addresses; the control: it does tell that the server was there."""
    assert "ready" in day.log
    for person in day.people:
        owner = person.owner
        private = [form for forms in person.things.values() for thing in forms for form in thing if form.isascii()]
        for needle in (*private, *(text.encode() for text in person.said)):
            assert needle.decode() not in day.log
        for text in (owner.password, owner.access_token, owner.address, owner.user_agent):
            assert text not in day.log

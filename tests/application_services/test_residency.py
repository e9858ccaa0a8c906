"""What a service is told that runs abroad: what the policy lets go there, from the node and from who said it."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from config.load import policy_from_text
from config.policy import Policy
from homeserver.application_services.sending.gathering import withheld
from homeserver.storage.engine import Transaction
from tests.application_services.stage import NODE, SetUp, Stage, path_of
from tests.deployment import FLOWING, NAME, POLICY
from tests.e2ee.play import Device, message
from tests.rooms.play import CLIENT
from tests.support import aio

ABROAD = NODE + 'jurisdiction = "FR"\n'


def flows(*classes: str, places: tuple[tuple[str, str], ...] = (("IR", "FR"), ("FR", "IR"))) -> str:
    """A policy that lets classes flow between places."""
    lines = [
        f'[[flows]]\nfrom = "{source}"\nto = ["{target}"]\nclasses = {list(classes)}\nconsent = false\n'
        for source, target in places
    ]
    return POLICY + "".join(lines).replace("'", '"')


def policy_of(text: str) -> Policy:
    """A policy that can be put in force."""
    return policy_from_text(text, "residency.toml", NAME)


def held_back(stage: Stage, data_class: str) -> float:
    """How much of a class was not sent."""
    return withheld(stage.server).value(data_class)


@aio
async def test_only_what_may_flow_is_told(set_up: SetUp) -> None:
    everything = {"receive_ephemeral": True, "org.matrix.msc3202": True}
    stage = await set_up(place=ABROAD, policy=flows("events", "keys"), registration=everything)
    alice = Device(await stage.play.user("alice"))
    ghost = Device(await stage.ghost("joe", "BRIDGE"))
    room_id = await stage.room(alice.user, ghost.user)
    read = await stage.play.send(alice.user, room_id, "to be read")
    await stage.bridge.has(read)
    await alice.gets("PUT", path_of(room_id, "typing", alice.user_id), {"typing": True, "timeout": 9000})
    await alice.gets("POST", path_of(room_id, "receipt", "m.read", read), {})
    await alice.gets("PUT", f"/presence/{alice.user_id}/status", {"presence": "online", "status_msg": "here"})
    await alice.send("1", {ghost.user_id: {"BRIDGE": message("flows where keys do")}})
    await stage.bridge.has(await stage.play.send(alice.user, room_id, "the last"))
    await stage.bridge.until(stage.bridge.letters)
    assert [stage.bridge.ephemeral(kind) for kind in ("m.typing", "m.receipt", "m.presence")] == [[], [], []]
    assert held_back(stage, "receipts") >= 2
    assert held_back(stage, "presence") >= 1
    assert held_back(stage, "events") == held_back(stage, "mailbox") == 0


@aio
async def test_what_may_flow_no_more_is_withheld_and_counted(set_up: SetUp) -> None:
    stage = await set_up(place=ABROAD, registration={"receive_ephemeral": True})
    alice = Device(await stage.play.user("alice"))
    ghost = Device(await stage.ghost("joe", "BRIDGE"))
    room_id = await stage.room(alice.user, ghost.user)
    await stage.bridge.has(await stage.play.send(alice.user, room_id, "before"))
    stage.server.policy.now = policy_of(POLICY)
    secret = await stage.play.send(alice.user, room_id, "in between")
    await alice.send("1", {ghost.user_id: {"BRIDGE": message("in between")}})
    position = stage.play.node("tehran").position
    await stage.has_been_told_up_to(position)
    stage.server.policy.now = policy_of(FLOWING)
    await stage.bridge.has(await stage.play.send(alice.user, room_id, "after"))
    assert secret not in stage.bridge.event_ids()
    assert stage.bridge.letters() == []
    assert held_back(stage, "events") == held_back(stage, "mailbox") == 1


@aio
async def test_its_users_bring_its_jurisdiction_into_rooms(set_up: SetUp) -> None:
    stage = await set_up(place=ABROAD)
    ghost = await stage.ghost("joe")
    alice = await stage.play.user("alice")
    stage.server.policy.now = policy_of(POLICY)
    room_id = await stage.play.create(alice)
    refused = await stage.play.refused(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": ghost.user_id})
    assert (refused.status, refused.json["org.domicile.reason"]) == (403, "flow_denied")
    created = await alice.asks("POST", f"{CLIENT}/createRoom", {"invite": [ghost.user_id]})
    flow = created.json["org.domicile.flow"]
    assert (created.status, {flow["from"], flow["to"]}) == (403, {"IR", "FR"})


GERMANY = POLICY.replace("[nodes.tehran]", '[jurisdictions.DE]\nname = "Germany"\n[nodes.tehran]')
PAIRS = (("IR", "FR"), ("FR", "IR"), ("IR", "DE"), ("DE", "IR"))


@aio
async def test_what_somebody_of_another_node_says_needs_a_flow_from_there(set_up: SetUp) -> None:
    policy = flows("*", places=PAIRS).replace(POLICY, GERMANY)
    stage = await set_up(place=NODE + 'jurisdiction = "DE"\n', policy=policy)
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob", "paris")
    ghost = await stage.ghost("joe")
    room_id = await stage.room(alice, ghost, bob)
    hidden = await stage.play.send(bob, room_id, "from France")
    await stage.play.settle()
    await stage.bridge.has(await stage.play.send(alice, room_id, "from Iran"))
    assert hidden not in stage.bridge.event_ids()
    assert bob.user_id not in {event["sender"] for event in stage.bridge.events()}
    assert held_back(stage, "events") >= 2


async def _rows(tx: Transaction) -> tuple[int, int]:
    """How much waits for services, and for how many."""
    items = await tx.all("SELECT pos FROM service_items")
    return len(items), len(await tx.all("SELECT service FROM application_services"))


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_what_waits_for_a_service_rests_on_its_node(set_up: SetUp, node: str) -> None:
    stage = await set_up(place=f'node = "{node}"\n')
    alice, bob = await stage.play.user("alice"), await stage.play.user("bob", "paris")
    ghost = await stage.ghost("joe")
    room_id = await stage.room(alice, ghost, bob)
    stage.bridge.outcomes.extend([500] * 1000)
    await stage.play.send(alice, room_id, "waits")
    await stage.play.settle()
    begun = len(stage.bridge.attempts)
    await stage.bridge.until(lambda: len(stage.bridge.attempts) > begun)

    async def rows(name: str) -> tuple[int, int]:
        return await stage.play.node(name).engine.read(_rows)

    other = "paris" if node == "tehran" else "tehran"
    assert await rows(other) == (0, 0)
    items, services = await rows(node)
    assert items > 0
    assert services == 1
    stage.bridge.outcomes.clear()

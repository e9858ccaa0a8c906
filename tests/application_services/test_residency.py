"""What a service is told that runs abroad: what the policy lets go there, from the node and from who said it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from config.load import policy_from_text
from config.policy import Policy
from homeserver.application_services.sending import sender
from homeserver.application_services.sending.gathering import withheld
from homeserver.application_services.sending.repeating import may_be_sent
from homeserver.application_services.sending.sender import Senders
from homeserver.storage.engine import Transaction
from tests.application_services.bridge import Answering
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


def told_by(stage: Stage) -> Any:
    """What sends to the service."""
    return stage.server.nodes.directory.memory(Senders).held[stage.bridge.name]


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


@aio
async def test_a_transaction_that_waits_is_made_anew_when_it_may_flow_no_more(set_up: SetUp) -> None:
    stage = await set_up(place=ABROAD, registration={"receive_ephemeral": True})
    alice = Device(await stage.play.user("alice"))
    ghost = Device(await stage.ghost("joe", "BRIDGE"))
    room_id = await stage.room(alice.user, ghost.user)
    await stage.bridge.has(await stage.play.send(alice.user, room_id, "before"))
    stage.bridge.answers["/_matrix/app/v1/transactions"] = Answering(503)
    secret = await stage.play.send(alice.user, room_id, "before the flow was closed")
    await alice.send("1", {ghost.user_id: {"BRIDGE": message("in that one too")}})
    told = told_by(stage)
    await stage.bridge.until(lambda: told.pending is not None and secret.encode() in told.pending.body)
    stage.server.policy.now = policy_of(POLICY)
    stage.bridge.answers.clear()
    await stage.play.send(alice.user, room_id, "after it")
    await stage.has_been_told_up_to(stage.play.node("tehran").position)
    stage.server.policy.now = policy_of(FLOWING)
    await stage.bridge.has(await stage.play.send(alice.user, room_id, "the last"))
    assert secret not in stage.bridge.event_ids()
    assert stage.bridge.letters() == []
    assert held_back(stage, "events") >= 2
    assert held_back(stage, "mailbox") == 1


@aio
async def test_a_transaction_that_may_flow_stays_the_same_under_another_policy(set_up: SetUp) -> None:
    stage = await set_up(place=ABROAD)
    alice, _, room_id = await stage.meeting()
    await stage.bridge.has(await stage.play.send(alice, room_id, "before"))
    stage.bridge.outcomes.extend([503] * 3)
    begun = len(stage.bridge.attempts)
    sent = await stage.play.send(alice, room_id, "first")
    await stage.bridge.until(lambda: len(stage.bridge.attempts) > begun)
    stage.server.policy.now = policy_of(flows("events", "keys"))
    await stage.bridge.has(sent)
    attempts = [asked for asked in stage.bridge.attempts[begun:] if asked.path.startswith("/_matrix/app")]
    assert len(attempts) == 4
    assert all(asked == attempts[0] for asked in attempts)


@aio
async def test_a_transaction_that_waits_is_not_sent_while_its_node_is_isolated(
    set_up: SetUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one for whose next attempt was waited already when the isolation began."""
    stage = await set_up(place=ABROAD)
    monkeypatch.setattr(sender, "FIRST_PAUSE", 3600)
    alice, _, room_id = await stage.meeting()
    await stage.bridge.has(await stage.play.send(alice, room_id, "before"))
    stage.bridge.answers["/_matrix/app/v1/transactions"] = Answering(503)
    sent = await stage.play.send(alice, room_id, "while it is away")
    told = told_by(stage)
    with stage.server.wakeups.listen([told.news_key]) as listener:
        while not told.failures:
            await listener.wait(0.01)
    begun = len(stage.bridge.attempts)
    stage.server.policy.isolated = {"IR"}
    await told.deliver()
    assert len(stage.bridge.attempts) == begun
    stage.bridge.answers.clear()
    stage.server.policy.isolated = ()
    await told.deliver()
    assert sent in stage.bridge.event_ids()


EVERYTHING: dict[str, Any] = {
    "events": [{"sender": "@a:x"}],
    "ephemeral": [
        {"type": "m.typing", "content": {"user_ids": ["@b:x"]}},
        {"type": "m.receipt", "content": {"$1": {"m.read": {"@c:x": {"ts": 1}}}}},
        {"type": "m.presence", "sender": "@d:x", "content": {}},
    ],
    "de.sorunome.msc2409.to_device": [{"sender": "@e:x"}],
    "org.matrix.msc3202.device_lists": {"changed": ["@f:x"], "left": ["@g:x"]},
}


@pytest.mark.parametrize(
    ("part", "data_class"),
    [
        (("events", 0), "events"),
        (("ephemeral", 0), "receipts"),
        (("ephemeral", 1), "receipts"),
        (("ephemeral", 2), "presence"),
        (("de.sorunome.msc2409.to_device", 0), "keys"),
        (("org.matrix.msc3202.device_lists", "changed"), "keys"),
        (("org.matrix.msc3202.device_lists", "left"), "keys"),
    ],
)
@aio
async def test_each_part_of_a_transaction_is_asked_of(set_up: SetUp, part: tuple[str, Any], data_class: str) -> None:
    stage = await set_up(place=ABROAD, sending=False)
    [service] = stage.server.services
    name, key = part
    said = {"events": [], name: {key: EVERYTHING[name][key]} if isinstance(key, str) else [EVERYTHING[name][key]]}
    others = {"events", "receipts", "presence", "keys"} - {data_class}
    for classes, expected in ((others, False), ({data_class}, True)):
        stage.server.policy.now = policy_of(flows(*sorted(classes)))
        node = stage.play.node("tehran")
        assert await may_be_sent(stage.server, node, service, orjson.dumps(said)) is expected


@aio
async def test_who_types_or_has_new_keys_elsewhere_needs_a_flow_from_there(set_up: SetUp) -> None:
    policy = flows("*", places=PAIRS).replace(POLICY, GERMANY)
    everything = {"receive_ephemeral": True, "org.matrix.msc3202": True}
    stage = await set_up(place=NODE + 'jurisdiction = "DE"\n', policy=policy, registration=everything)
    alice, bob = Device(await stage.play.user("alice")), Device(await stage.play.user("bob", "paris"))
    ghost = await stage.ghost("joe")
    room_id = await stage.room(alice.user, ghost, bob.user)

    async def types(device: Device, typing: bool) -> None:
        said = {"typing": typing, "timeout": 9000} if typing else {"typing": False}
        await device.gets("PUT", path_of(room_id, "typing", device.user_id), said)
        await stage.play.settle()
        await stage.has_been_told_by_now()

    for who, typing in ((bob, True), (alice, True), (bob, False), (alice, False)):
        await types(who, typing)
    await bob.publish()
    await stage.play.settle()
    await alice.publish()

    def changed() -> set[str]:
        lists = [asked.body["org.matrix.msc3202.device_lists"]["changed"] for asked in stage.bridge.transactions]
        return {user_id for each in lists for user_id in each}

    await stage.bridge.has(await stage.play.send(alice.user, room_id, "the last"))
    await stage.bridge.until(lambda: alice.user_id in changed())
    assert bob.user_id not in changed()
    assert [each["content"]["user_ids"] for each in stage.bridge.ephemeral("m.typing")] == [[alice.user_id], []]


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

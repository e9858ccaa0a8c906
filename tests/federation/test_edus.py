"""What users of other servers do that is no event: taken in when it is theirs to say, and dropped when it is not."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from federation import edus
from federation.remote import RemoteRefusal
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms.presence import Presences
from homeserver.storage import receipts as stored_receipts
from tests.deployment import POLICY, User
from tests.federation.forging import Scene, scene, third
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

DROPPED = "domicile_federation_edus_dropped"


def edu(kind: str, content: object) -> dict[str, object]:
    return {"edu_type": kind, "content": content}


async def synced(play: Play, user: User) -> dict[str, Any]:
    return await play.ask(user, "GET", "/sync")


async def ephemeral(made: Scene, user: User, kind: str) -> list[dict[str, Any]]:
    """The ephemeral events of a kind that a user is told in the room."""
    room = (await synced(made.here, user))["rooms"]["join"][made.room_id]
    return [each for each in room["ephemeral"]["events"] if each["type"] == kind]


def dropped(made: Scene, kind: str, reason: str) -> float:
    return made.counted(DROPPED, kind, reason)


# typing -------------------------------------------------------------------------------------------


def typing(user_id: str, room_id: str, is_typing: object = True) -> dict[str, object]:
    return edu("m.typing", {"room_id": room_id, "user_id": user_id, "typing": is_typing})


@aio
async def test_typing(network: Network) -> None:
    made = await scene(network)
    bob = made.bob.user_id
    await made.tell(edus=[typing(bob, made.room_id)])
    assert [each["content"] for each in await ephemeral(made, made.alice, "m.typing")] == [{"user_ids": [bob]}]
    await made.tell(edus=[typing(bob, made.room_id, False)])
    assert await ephemeral(made, made.alice, "m.typing") == []
    await made.tell(edus=[typing(bob, made.room_id)])
    await network.clock.advance(61)
    assert await ephemeral(made, made.alice, "m.typing") == [], "nobody types for ever"


@aio
async def test_who_types_must_be_there(network: Network) -> None:
    made = await scene(network)
    _, carol = await third(made)
    mallory = await made.there.user("mallory")
    other = await made.here.create(made.alice)
    bad = [
        typing(carol.user_id, made.room_id),
        typing(made.alice.user_id, made.room_id),
        typing(mallory.user_id, made.room_id),
        typing(made.bob.user_id, other),
        typing(made.bob.user_id, "!none:here.test"),
        typing(made.bob.user_id, made.room_id, "yes"),
        edu("m.typing", {"user_id": 5, "room_id": [], "typing": True}),
        edu("m.typing", {}),
    ]
    await made.tell(edus=bad)
    assert await ephemeral(made, made.alice, "m.typing") == []
    counts = {reason: dropped(made, "m.typing", reason) for reason in ("not_theirs", "not_in_room", "malformed")}
    assert counts == {"not_theirs": 2, "not_in_room": 3, "malformed": 3}


# receipts -----------------------------------------------------------------------------------------


def receipt(room_id: str, user_id: str, event_id: object, **data: object) -> dict[str, object]:
    said = {"event_ids": [event_id], "data": {"ts": 5, **data}}
    return edu("m.receipt", {room_id: {"m.read": {user_id: said}}})


async def read_to(made: Scene, node: str = "tehran", thread: str = "") -> str | None:
    """How far Bob has read, as a node of here.test has it."""
    place = made.here.node(node)
    room = await made.room(node=node)
    found = await place.read(stored_receipts.since, [room.nid], 0, 2**60)
    return next((one.event_id for _, one in found if (one.user_id, one.thread_id) == (made.bob.user_id, thread)), None)


@aio
async def test_receipts(network: Network) -> None:
    made = await scene(network)
    dora = await made.here.user("dora", "paris")
    await made.here.change(dora, made.room_id, "join")
    sent = [await made.here.send(made.alice, made.room_id, f"{number}") for number in range(3)]
    await made.here.settle()
    await made.tell(edus=[receipt(made.room_id, made.bob.user_id, sent[1])])
    for user in (made.alice, dora):
        (told,) = await ephemeral(made, user, "m.receipt")
        assert told["content"] == {sent[1]: {"m.read": {made.bob.user_id: {"ts": 5}}}}
    await made.tell(edus=[receipt(made.room_id, made.bob.user_id, sent[0], ts=9)])
    assert (await read_to(made), await read_to(made, "paris")) == (sent[1], sent[1]), "nobody reads backwards"
    await made.tell(edus=[receipt(made.room_id, made.bob.user_id, sent[0], thread_id="main")])
    assert (await read_to(made), await read_to(made, thread="main")) == (sent[1], sent[0])
    await made.tell(edus=[receipt(made.room_id, made.bob.user_id, sent[2])])
    assert (await read_to(made), await read_to(made, "paris")) == (sent[2], sent[2])


@aio
async def test_a_receipt_for_an_event_that_comes_with_it(network: Network) -> None:
    made = await scene(network)
    event = await made.message("mine")
    await made.tell([event], [receipt(made.room_id, made.bob.user_id, event.event_id)])
    assert await read_to(made) == event.event_id
    await made.tell(edus=[receipt(made.room_id, made.bob.user_id, "$unheard", ts=4)])
    assert await read_to(made) == event.event_id
    await made.tell(edus=[receipt(made.room_id, made.bob.user_id, "$unheard", ts=6)])
    assert await read_to(made) == "$unheard"


@aio
async def test_receipts_that_are_none(network: Network) -> None:
    made = await scene(network)
    event_id = await made.here.send(made.alice, made.room_id, "x")
    bob, room_id = made.bob.user_id, made.room_id
    other = await made.here.create(made.alice)
    bad: list[object] = [
        receipt(room_id, made.alice.user_id, event_id),
        receipt(room_id, "@nobody:there.test", event_id),
        receipt(other, bob, event_id),
        receipt("nowhere", bob, event_id),
        receipt(room_id, bob, 5),
        receipt(room_id, bob, "x"),
        receipt(room_id, bob, event_id, ts=-1),
        receipt(room_id, bob, event_id, ts=True),
        receipt(room_id, bob, event_id, thread_id=[]),
        receipt(room_id, bob, event_id, thread_id="x" * 300),
        receipt(room_id, bob, "$a\0b"),
        edu("m.receipt", {room_id: {"m.read": {bob: {"event_ids": [], "data": {}}}}}),
        edu("m.receipt", {room_id: {"m.read": {bob: {"event_ids": [event_id]}}}}),
        edu("m.receipt", {room_id: {"m.read": {bob: 5}}}),
        edu("m.receipt", {room_id: {"m.read": []}}),
        edu("m.receipt", {room_id: {"m.read.private": {bob: {"event_ids": [event_id], "data": {}}}}}),
        edu("m.receipt", {room_id: 5}),
        edu("m.receipt", {f"!{number}:x.test": {"m.read": {}} for number in range(edus.MOST_ROOMS + 1)}),
        edu("m.receipt", {room_id: {"m.read": {f"@{number}:there.test": {} for number in range(501)}}}),
    ]
    await made.tell(edus=bad)
    assert await read_to(made) is None
    assert dropped(made, "m.receipt", "too_many") == 2
    await made.tell(edus=[receipt(room_id, bob, event_id)])
    assert await read_to(made) == event_id


@aio
async def test_an_access_control_list_holds_for_what_is_said_in_a_room(network: Network) -> None:
    made = await scene(network)
    event_id = await made.here.send(made.alice, made.room_id, "x")
    path = f"/rooms/{made.room_id}/state/m.room.server_acl/"
    await made.here.ask(made.alice, "PUT", path, {"allow": ["*"], "deny": ["there.test"]})
    bob = made.bob.user_id
    await made.tell(edus=[typing(bob, made.room_id), receipt(made.room_id, bob, event_id)])
    assert await ephemeral(made, made.alice, "m.typing") == []
    assert await read_to(made) is None
    assert (dropped(made, "m.typing", "acl"), dropped(made, "m.receipt", "acl")) == (1, 1)


# presence -----------------------------------------------------------------------------------------


def pushed(*each: object) -> dict[str, object]:
    return edu("m.presence", {"push": list(each)})


@aio
async def test_presence(network: Network) -> None:
    made = await scene(network)
    bob = made.bob.user_id
    said = {"user_id": bob, "presence": "unavailable", "status_msg": "tea", "last_active_ago": 5000}
    await made.tell(edus=[pushed(said)])
    told = [each for each in (await synced(made.here, made.alice))["presence"]["events"] if each["sender"] == bob]
    assert [each["content"] for each in told] == [
        {"presence": "unavailable", "currently_active": False, "last_active_ago": 5000, "status_msg": "tea"}
    ]
    path = f"/presence/{quote(bob)}/status"
    assert (await made.here.ask(made.alice, "GET", path))["status_msg"] == "tea"
    mallory = await made.there.user("mallory")
    unseen = await made.here.refused(made.alice, "GET", f"/presence/{quote(mallory.user_id)}/status")
    assert unseen.status == 403
    bad = [
        {"user_id": made.alice.user_id, "presence": "online"},
        {"user_id": mallory.user_id, "presence": "online"},
        {"user_id": bob, "presence": "dancing"},
        {"user_id": bob, "presence": "online", "status_msg": 5},
        5,
    ]
    await made.tell(edus=[pushed(*bad), edu("m.presence", {"push": 5}), pushed(*[said] * (edus.MOST_USERS + 1))])
    shown = made.here.node("tehran").memory(Presences).shown
    assert shown[bob].state == "unavailable"
    assert mallory.user_id not in shown, "nobody shares a room with them"
    assert dropped(made, "m.presence", "not_theirs") == 1
    assert dropped(made, "m.presence", "too_many") == 1
    assert dropped(made, "m.presence", "malformed") == 4
    long = {"user_id": bob, "presence": "online", "status_msg": "x" * 5000, "last_active_ago": "soon"}
    await made.tell(edus=[pushed(long)])
    assert len(shown[bob].status or "") == 1000


# to devices ---------------------------------------------------------------------------------------


def message(made: Scene, message_id: object = "m1", to: object = None, **changed: object) -> dict[str, object]:
    messages = {made.alice.user_id: {made.alice.device_id: {"secret": 1}}} if to is None else to
    content = {"sender": made.bob.user_id, "type": "m.room_key", "message_id": message_id, "messages": messages}
    return edu("m.direct_to_device", {**content, **changed})


async def letters(play: Play, user: User) -> list[dict[str, Any]]:
    return list((await synced(play, user)).get("to_device", {}).get("events", []))


@aio
async def test_messages_to_devices_come_once(network: Network) -> None:
    made = await scene(network)
    await made.tell(edus=[message(made)])
    await made.tell(edus=[message(made)])
    assert await letters(made.here, made.alice) == [
        {"sender": made.bob.user_id, "type": "m.room_key", "content": {"secret": 1}}
    ]
    await made.tell(edus=[message(made, "m2"), message(made, "m2", type="m.again")])
    assert len(await letters(made.here, made.alice)) == 2
    play, carol = await third(made)
    await made.tell(edus=[message(made, "m1", sender=carol.user_id)], by=play)
    assert len(await letters(made.here, made.alice)) == 3, "ids are those of each server"


@aio
async def test_messages_rest_with_the_addressee(network: Network) -> None:
    made = await scene(network)
    dora = await made.here.user("dora", "paris")
    to = {made.alice.user_id: {"*": {"n": 1}}, dora.user_id: {"*": {"n": 2}}, "@none:here.test": {"*": {"n": 3}}}
    await made.tell(edus=[message(made, to={**to, made.bob.user_id: {"*": {"n": 4}}})])
    assert [each["content"] for each in await letters(made.here, made.alice)] == [{"n": 1}]
    assert [each["content"] for each in await letters(made.here, dora)] == [{"n": 2}]
    for node, content in (("tehran", {"n": 1}), ("paris", {"n": 2})):
        rows = await made.here.node(node).read(_mailbox)
        assert [orjson.loads(row)["content"] for row in rows] == [content]


async def _mailbox(tx: Any) -> list[bytes]:
    return [row[0] for row in await tx.all("SELECT message FROM to_device")]


@aio
async def test_messages_that_are_none(network: Network) -> None:
    made = await scene(network)
    play, carol = await third(made)
    alice = made.alice.user_id
    bad = [
        message(made, sender=made.alice.user_id),
        message(made, sender=carol.user_id),
        message(made, sender="bob"),
        message(made, 5),
        message(made, "x" * 300),
        message(made, "a\0b"),
        message(made, type=""),
        message(made, type=5),
        message(made, to=[]),
        message(made, to={alice: []}),
        message(made, to={alice: {"*": "text"}}),
        message(made, to={alice: {f"D{number}": {} for number in range(edus.MOST_RECIPIENTS + 1)}}),
        message(made, to={alice: {"*": {"x": "y" * 70_000}}}),
        edu("m.direct_to_device", {}),
    ]
    await made.tell(edus=bad)
    assert await letters(made.here, made.alice) == []
    assert dropped(made, "m.direct_to_device", "not_theirs") == 2
    assert dropped(made, "m.direct_to_device", "too_many") == 1
    assert dropped(made, "m.direct_to_device", "malformed") == len(bad) - 3
    assert play.server.name == "third.test"


@aio
async def test_what_cannot_be_stored_comes_again(network: Network) -> None:
    """A message to a device is not lost because the node of the addressee is down."""
    made = await scene(network)
    node = made.here.node("tehran")
    event = await made.message("with it")

    async def unavailable(*args: Any, **kw: Any) -> Any:
        raise NodeUnavailable("tehran")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(node), "advance_together", unavailable)
        with pytest.raises(RemoteRefusal) as refused:
            await made.tell([event], [message(made)], txn_id="again")
        assert refused.value.status == 503
    assert await made.tell([event], [message(made)], txn_id="again") == {event.event_id: {}}
    assert len(await letters(made.here, made.alice)) == 1
    assert await made.here.texts(made.alice, made.room_id) == ["with it"]


# device lists -------------------------------------------------------------------------------------


@aio
async def test_changes_of_device_lists_are_told(network: Network) -> None:
    made = await scene(network)
    since = (await synced(made.here, made.alice))["next_batch"]
    content: dict[str, object] = {"user_id": made.bob.user_id, "device_id": "NEW", "stream_id": 7, "prev_id": []}
    await made.tell(edus=[edu("m.device_list_update", content)])
    told = await made.here.ask(made.alice, "GET", "/sync", since=since)
    assert told["device_lists"]["changed"] == [made.bob.user_id]
    since = told["next_batch"]
    await made.tell(edus=[edu("m.signing_key_update", {"user_id": made.bob.user_id})])
    told = await made.here.ask(made.alice, "GET", "/sync", since=since)
    assert told["device_lists"]["changed"] == [made.bob.user_id]


@aio
async def test_nobody_changes_the_devices_of_others(network: Network) -> None:
    made = await scene(network)
    _, carol = await third(made)
    since = (await synced(made.here, made.alice))["next_batch"]
    bad: list[object] = []
    for user_id in (carol.user_id, made.alice.user_id, 5, None):
        content: dict[str, object] = {"user_id": user_id, "device_id": "NEW", "stream_id": 7}
        bad += [edu("m.device_list_update", content), edu("m.signing_key_update", {"user_id": user_id})]
    own = {"user_id": made.bob.user_id, "device_id": "NEW", "stream_id": 7}
    wrong: list[dict[str, object]] = [{"stream_id": "x"}, {"stream_id": True}, {"prev_id": 5}, {"device_id": 5}]
    bad += [edu("m.device_list_update", {**own, **each}) for each in wrong]
    await made.tell(edus=bad)
    told = await made.here.ask(made.alice, "GET", "/sync", since=since)
    assert told.get("device_lists", {}).get("changed", []) == []
    assert dropped(made, "m.device_list_update", "not_theirs") == 2
    assert dropped(made, "m.device_list_update", "malformed") == 2 + len(wrong)


# all of them --------------------------------------------------------------------------------------


@aio
async def test_what_is_no_edu(network: Network) -> None:
    made = await scene(network)
    junk: list[object] = [None, 5, "x", [], {}, edu("m.unheard_of", {}), {"edu_type": [], "content": {}}]
    contents: list[object] = [None, 5, "x", [], {"x": {}}]
    junk += [edu(kind, content) for kind in edus.READERS for content in contents]
    event = await made.message("fine")
    assert await made.tell([event], junk) == {event.event_id: {}}
    assert dropped(made, "unknown", "unknown") == 7
    assert all(not made.counted(DROPPED, kind, "fault") for kind in edus.READERS)


@aio
async def test_each_class_needs_a_flow(network: Network) -> None:
    """Into Iran nothing flows from there.test, into France everything."""
    policy = (
        POLICY
        + """
[[peers]]
server = "there.test"
jurisdiction = "FR"
"""
    )
    made = await scene(network)
    dora = await made.here.user("dora", "paris")
    await made.here.change(dora, made.room_id, "join")
    event_id = await made.here.send(made.alice, made.room_id, "x")
    await made.here.settle()
    closed = await network.found("closed.test", policy=policy)
    made.here.server.policy.now = closed.server.policy.now
    bob = made.bob.user_id
    to = {made.alice.user_id: {"*": {"n": 1}}, dora.user_id: {"*": {"n": 2}}}
    since = {user.user_id: (await synced(made.here, user))["next_batch"] for user in (made.alice, dora)}
    await made.tell(
        edus=[
            typing(bob, made.room_id),
            receipt(made.room_id, bob, event_id),
            pushed({"user_id": bob, "presence": "online"}),
            message(made, to=to),
            edu("m.device_list_update", {"user_id": bob, "device_id": "NEW", "stream_id": 7}),
            edu("m.signing_key_update", {"user_id": bob}),
        ]
    )
    for user, kept in ((made.alice, 0), (dora, 1)):
        told = await made.here.ask(user, "GET", "/sync", since=since[user.user_id])
        room = told.get("rooms", {}).get("join", {}).get(made.room_id, {}).get("ephemeral", {}).get("events", [])
        assert len(room) == 2 * kept, user.user_id
        assert len(told.get("to_device", {}).get("events", [])) == kept
        assert len([each for each in told.get("presence", {}).get("events", []) if each["sender"] == bob]) == kept
        assert told.get("device_lists", {}).get("changed", []) == [bob] * kept
    assert (await read_to(made), await read_to(made, "paris")) == (None, event_id)
    for kind in edus.READERS:
        assert dropped(made, kind, "policy") == 1, kind

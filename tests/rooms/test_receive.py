"""Events of other servers in the graph of a room: what proves them, where they stand, what they may change."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol import events, signing
from homeserver.protocol.events import Event
from homeserver.protocol.versions import VERSIONS
from homeserver.rooms import branches, placing, state
from homeserver.rooms.branches import Lacking, TooMuch
from homeserver.rooms.receive import take_in
from homeserver.rooms.state import Rooms
from homeserver.storage.events import Verdict
from homeserver.storage.nodes import Node
from tests.federation.forging import Scene, scene
from tests.network import Network, network
from tests.rooms.play import ciphertext
from tests.support import aio

__all__ = ["network"]

ALL = pytest.mark.parametrize("version", ["1", "2", "3", "6", "10", "11", "12"])
JUST_SOME = pytest.mark.parametrize("version", ["1", "2", "11", "12"])


async def taken(made: Scene, event: Event, **given: object) -> Verdict | None:
    return await take_in(made.here.server, made.here.node("tehran"), made.room_id, event, **given)  # type: ignore[arg-type]


async def name_of(made: Scene) -> str | None:
    answer = await made.alice.asks("GET", f"/_matrix/client/v3/rooms/{quote(made.room_id)}/state/m.room.name/")
    return answer.json.get("name")


async def powerful(network: Network, **wish: object) -> Scene:
    """A scene in which Bob may change the state."""
    levels = {"state_default": 0, "events": {"m.room.power_levels": 100, "m.room.name": 0}}
    return await scene(network, power_level_content_override=levels, **wish)


# what proves an event -----------------------------------------------------------------------------


@JUST_SOME
@aio
async def test_authorities(network: Network, version: str) -> None:
    made = await powerful(network, room_version=version)
    rules = VERSIONS[version]
    room = await made.room()
    entries = {key: entry.event_id for key, entry in room.now.state.items()}
    member, power = entries["m.room.member", made.bob.user_id], entries["m.room.power_levels", ""]
    create, join_rules = entries["m.room.create", ""], entries["m.room.join_rules", ""]
    fine = [member, power, *([create] if rules.create_in_auth_events else [])]
    alice = entries["m.room.member", made.alice.user_id]
    cases = {
        "bears not on it": [*fine, join_rules],
        "another's membership": [alice, *fine[1:]],
        "no membership": fine[1:],
        "cited twice": [*fine, member],
    }
    for why, cited in cases.items():
        event = await made.message(why, auth_events=cited)
        assert await taken(made, event) is Verdict.REJECTED, why
    if rules.create_in_auth_events:
        assert await taken(made, await made.message("no create", auth_events=fine[:2])) is Verdict.REJECTED
    else:
        assert await taken(made, await made.message("create", auth_events=[*fine, create])) is Verdict.REJECTED
    with pytest.raises(Lacking) as lacking:
        await taken(made, await made.message("unknown", auth_events=[*fine, "$unknown:there.test"]))
    assert lacking.value.auth == {"$unknown:there.test"}
    assert await taken(made, await made.message("fine", auth_events=fine)) is Verdict.ACCEPTED


@JUST_SOME
@aio
async def test_a_rejected_event_proves_nothing(network: Network, version: str) -> None:
    made = await scene(network, room_version=version)
    tips = list((await made.room()).now.tips)
    power = await made.forged(made.bob, "m.room.power_levels", {"users_default": 100}, "", prev_events=tips)
    assert await taken(made, power) is Verdict.REJECTED
    room = await made.room()
    cited = [
        power.event_id if key[0] == "m.room.power_levels" else entry.event_id
        for key, entry in room.now.state.items()
        if key in (("m.room.power_levels", ""), ("m.room.member", made.bob.user_id))
        or (key[0] == "m.room.create" and room.rules.create_in_auth_events)
    ]
    name = await made.forged(made.bob, "m.room.name", {"name": "Bob's"}, "", auth_events=cited, prev_events=tips)
    assert await taken(made, name) is Verdict.REJECTED
    later = await made.message("after it", after=[power], auth_events=cited)
    assert await taken(made, later) is Verdict.REJECTED
    honest = await made.message("after it too", prev_events=[power.event_id])
    assert await taken(made, honest) is Verdict.ACCEPTED, "to follow on it is no fault"


@aio
async def test_an_authority_of_another_room_is_none(network: Network) -> None:
    made = await scene(network, room_version="2")
    other = await made.here.create(made.alice, preset="public_chat", room_version="2")
    theirs = await state.get(made.here.node("tehran"), other)
    create = theirs.now.state["m.room.create", ""].event_id
    room = await made.room()
    own = [
        entry.event_id
        for key, entry in room.now.state.items()
        if key in (("m.room.power_levels", ""), ("m.room.member", made.bob.user_id))
    ]
    with pytest.raises(Lacking):
        await taken(made, await made.message("x", auth_events=[*own, create]))
    with pytest.raises(Lacking):
        await taken(made, await made.message("x", prev_events=[next(iter(theirs.now.tips))]))


@pytest.mark.parametrize("version", ["1", "2"])
@aio
async def test_references_with_wrong_hashes(network: Network, version: str) -> None:
    made = await scene(network, room_version=version)
    good = await made.message("fine")
    for name in ("prev_events", "auth_events"):
        pdu = good.pdu()
        pdu[name] = [[event_id, {"sha256": "A" * 43}] for event_id, _ in pdu[name]]
        pdu["event_id"] = f"$wrong{name[0]}:there.test"
        signed = resigned(made, pdu)
        assert await taken(made, signed) is Verdict.REJECTED
    assert await taken(made, good) is Verdict.ACCEPTED


def resigned(made: Scene, pdu: dict[str, object]) -> Event:
    """An event that its server made of this."""
    server = made.there.server
    bare = {key: value for key, value in pdu.items() if key not in ("signatures", "hashes")}
    rules = made.here.node("tehran").memory(Rooms).get(made.room_id)
    assert rules is not None
    return events.from_pdu(rules.rules, signing.sign_event(rules.rules, bare, server.name, server.identity.key))


@ALL
@aio
async def test_nothing_begins_a_room_anew(network: Network, version: str) -> None:
    made = await powerful(network, room_version=version)
    create = (await made.room()).now.state["m.room.create", ""].event_id
    event = await made.message("no roots", prev_events=[])
    assert await taken(made, event) is Verdict.REJECTED
    if not VERSIONS[version].room_id_is_create_hash:
        content = {"room_version": version, "creator": made.bob.user_id}
        again = await made.forged(made.bob, "m.room.create", content, "", prev_events=[], auth_events=[])
        assert await taken(made, again) is Verdict.REJECTED
    assert (await made.room()).now.state["m.room.create", ""].event_id == create


# where it stands ----------------------------------------------------------------------------------


@aio
async def test_what_it_follows_must_be_here(network: Network) -> None:
    made = await scene(network)
    first = await made.message("one")
    second = await made.message("two", after=[first])
    with pytest.raises(Lacking) as lacking:
        await taken(made, second)
    assert lacking.value.prev == {first.event_id}
    assert await made.held(second) is None
    assert await taken(made, first) is Verdict.ACCEPTED
    assert await taken(made, second) is Verdict.ACCEPTED
    assert await taken(made, second) is None, "it is here already"


@ALL
@aio
async def test_a_state_that_is_given(network: Network, version: str) -> None:
    """Where what an event follows is not to be had, the state before it is what another server says it is."""
    made = await powerful(network, room_version=version)
    room = await made.room()
    given = {key: entry.event_id for key, entry in room.now.state.items()}
    lost = await made.message("lost")
    event = await made.message("after the gap", after=[lost])
    assert await taken(made, event, given=given) is Verdict.ACCEPTED
    name = await made.forged(made.bob, "m.room.name", {"name": "Found"}, "", after=[event])
    assert await taken(made, name) is Verdict.ACCEPTED
    assert await name_of(made) == "Found"
    assert len((await made.room()).now.tips) == 2
    without = {key: event_id for key, event_id in given.items() if key != ("m.room.member", made.bob.user_id)}
    other = await made.message("from nobody", prev_events=["$lost:there.test"])
    assert await taken(made, other, given=without) is Verdict.REJECTED


@aio
async def test_a_given_state_does_not_undo_a_ban(network: Network) -> None:
    made = await scene(network)
    given = {key: entry.event_id for key, entry in (await made.room()).now.state.items()}
    event = await made.message("still here", prev_events=["$lost"])
    await made.here.change(made.alice, made.room_id, "ban", user_id=made.bob.user_id)
    assert await taken(made, event, given=given) is Verdict.SOFT_FAILED
    assert (await made.room()).now.membership(made.bob.user_id) == "ban"


@ALL
@aio
async def test_both_sides_change_the_state(network: Network, version: str) -> None:
    made = await powerful(network, room_version=version)
    tips = list((await made.room()).now.tips)
    await made.here.ask(made.alice, "PUT", f"/rooms/{quote(made.room_id)}/state/m.room.topic/", {"topic": "Hers"})
    name = await made.forged(made.bob, "m.room.name", {"name": "His"}, "", prev_events=tips)
    assert await taken(made, name) is Verdict.ACCEPTED
    assert await name_of(made) == "His"
    path = f"/rooms/{quote(made.room_id)}/state/m.room.topic/"
    assert await made.here.ask(made.alice, "GET", path) == {"topic": "Hers"}
    assert len((await made.room()).now.tips) == 2
    await made.here.send(made.alice, made.room_id, "merged")
    assert len((await made.room()).now.tips) == 1
    assert await name_of(made) == "His"
    await made.here.replica("tehran", made.room_id)
    await made.here.state_of("tehran", made.room_id)


@aio
async def test_a_thousand_tips_become_one(network: Network) -> None:
    made = await powerful(network)
    root = list((await made.room()).now.tips)
    for number in range(60):
        kind = ("m.room.name", {"name": f"{number}"}, "") if number % 2 else ("m.room.encrypted", ciphertext("x"), None)
        event = await made.forged(made.bob, kind[0], kind[1], kind[2], prev_events=root)
        assert await taken(made, event) is Verdict.ACCEPTED
    assert len((await made.room()).now.tips) == 61 - 1
    sent = 0
    while len((await made.room()).now.tips) > 1:
        await made.here.send(made.alice, made.room_id, f"{sent}")
        sent += 1
    assert sent <= 5
    await made.here.replica("tehran", made.room_id)
    await made.here.send(made.alice, made.room_id, "still works")


@aio
async def test_tips_are_not_kept_without_end(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "MOST_TIPS", 7)
    monkeypatch.setattr(branches, "MOST_BRANCHES", 3)
    made = await powerful(network)
    root = list((await made.room()).now.tips)
    for number in range(12):
        event = await made.forged(made.bob, "m.room.name", {"name": f"{number}"}, "", prev_events=root)
        assert await taken(made, event) is Verdict.ACCEPTED
    room = await made.room()
    assert len(room.now.tips) == 7
    assert event.event_id in room.now.tips


@aio
async def test_a_resolution_that_takes_too_much_is_given_up(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await powerful(network)
    root = list((await made.room()).now.tips)
    first, second = [
        await made.forged(made.bob, "m.room.name", {"name": text}, "", prev_events=root) for text in ("one", "two")
    ]
    assert await taken(made, first) is Verdict.ACCEPTED
    await made.here.replica("tehran", made.room_id)  # with nothing in memory
    monkeypatch.setattr(branches, "MOST_EVENTS", -1000)
    with pytest.raises(TooMuch):
        await taken(made, second)
    monkeypatch.undo()
    assert await taken(made, second) is Verdict.ACCEPTED


# redactions ---------------------------------------------------------------------------------------


@ALL
@aio
async def test_a_redaction_before_what_it_redacts(network: Network, version: str) -> None:
    made = await scene(network, room_version=version)
    target = await made.message("not for long")
    before = await made.message("x")
    content = {"redacts": target.event_id} if VERSIONS[version].redacts_in_content else {}
    redaction = await made.forged(
        made.bob, "m.room.redaction", content, after=[before], redacts=target.event_id, depth=target.depth + 5
    )
    assert await taken(made, before) is Verdict.ACCEPTED
    assert await taken(made, redaction) is Verdict.ACCEPTED
    assert await taken(made, target) is Verdict.ACCEPTED
    assert await made.here.texts(made.alice, made.room_id) == ["x", "<redacted>"]
    row = await made.held(target)
    assert row is not None
    assert b"ciphertext" not in row.client + row.rest
    assert row.unsigned is not None
    assert b"redacted_because" in row.unsigned
    other = await made.message("another", after=[target])
    assert await taken(made, other) is Verdict.ACCEPTED
    assert await made.here.texts(made.alice, made.room_id) == ["x", "<redacted>", "another"]


@aio
async def test_a_redaction_that_is_not_allowed_redacts_nothing(network: Network) -> None:
    made = await scene(network)
    hers = await made.here.send(made.alice, made.room_id, "hers")
    redaction = await made.forged(made.bob, "m.room.redaction", {"redacts": hers}, redacts=hers)
    assert await taken(made, redaction) is Verdict.ACCEPTED
    assert await made.here.texts(made.alice, made.room_id) == ["hers"]


# the other nodes ----------------------------------------------------------------------------------


@JUST_SOME
@aio
async def test_the_other_node_follows_over_a_gap(network: Network, version: str) -> None:
    """It lacks what the event follows on, and is told what the home node made of it."""
    made = await powerful(network, room_version=version)
    dora = await made.here.user("dora", "paris")
    await made.here.change(dora, made.room_id, "join")
    await made.here.settle()
    clear = await made.forged(made.bob, "m.room.message", {"body": "readable"})
    name = await made.forged(made.bob, "m.room.name", {"name": "His"}, "", after=[clear])
    assert await taken(made, clear) is Verdict.SOFT_FAILED
    assert await taken(made, name) is Verdict.ACCEPTED
    given = {key: entry.event_id for key, entry in (await made.room()).now.state.items()}
    lost = await made.message("lost", after=[name])
    found = await made.message("found", after=[lost])
    assert await taken(made, found, given=given) is Verdict.ACCEPTED
    await made.here.send(dora, made.room_id, "from Paris")
    await made.here.settle()
    assert await made.here.texts(dora, made.room_id) == ["found", "from Paris"]
    assert await made.here.state_of("tehran", made.room_id) == await made.here.state_of("paris", made.room_id)


@aio
async def test_an_invitation_reaches_the_node_of_the_invited(network: Network) -> None:
    made = await scene(network, power_level_content_override={"invite": 0})
    dora = await made.here.user("dora", "paris")
    invite = await made.forged(made.bob, "m.room.member", {"membership": "invite"}, dora.user_id)
    assert await taken(made, invite) is Verdict.ACCEPTED
    await made.here.settle()
    synced = await made.here.ask(dora, "GET", "/sync")
    assert made.room_id in synced["rooms"]["invite"]
    kick = await made.forged(made.bob, "m.room.member", {"membership": "leave"}, dora.user_id)
    assert await taken(made, kick) is Verdict.REJECTED, "he may not"
    await made.here.change(made.alice, made.room_id, "kick", user_id=dora.user_id)
    await made.here.settle()
    assert "invite" not in (await made.here.ask(dora, "GET", "/sync")).get("rooms", {})


@aio
async def test_nothing_keeps_the_other_node_from_following(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot resolve a state it takes what it is told, until the next event mends that."""
    made = await powerful(network)
    dora = await made.here.user("dora", "paris")
    await made.here.change(dora, made.room_id, "join")
    await made.here.settle()
    tips = list((await made.room()).now.tips)
    await made.here.end()
    for text in ("one", "two"):
        name = await made.forged(made.bob, "m.room.name", {"name": text}, "", prev_events=tips)
        assert await taken(made, name) is Verdict.ACCEPTED
    resolve = branches.resolve

    async def failing(node: Node, *args: Any) -> Any:
        if node.name == "paris":
            raise Lacking(auth=["$nowhere"])
        return await resolve(node, *args)

    monkeypatch.setattr(branches, "resolve", failing)
    await made.here.begin()
    await made.here.settle()
    assert list((await made.room(node="paris")).now.tips) == [name.event_id]
    monkeypatch.undo()
    await made.here.send(made.alice, made.room_id, "mended")
    await made.here.settle()
    assert await made.here.texts(dora, made.room_id) == ["mended"]
    assert await made.here.state_of("tehran", made.room_id) == await made.here.state_of("paris", made.room_id)

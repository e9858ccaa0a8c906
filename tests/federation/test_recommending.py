"""A server that is itself the policy server of rooms: what it signs, for whom, and what it does not."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from nacl.signing import VerifyKey

from config.load import policy_from_text, settings_from_text
from config.settings import Settings
from federation import remote
from homeserver import credentials
from homeserver.protocol import canonical, signing
from homeserver.protocol.event_view import CREATE
from homeserver.protocol.events import Event
from homeserver.protocol.signing import SigningKey
from homeserver.rooms import state
from homeserver.storage import events as stored
from homeserver.storage.events import Verdict
from tests.deployment import FLOWING, User, flow
from tests.federation.forging import Scene, scene
from tests.federation.meetings import enter, members
from tests.federation.test_spoilt_requests import spoilt
from tests.network import OPEN, Network
from tests.rooms.play import CLIENT, Play, ciphertext
from tests.support import aio

SIGN = "/_matrix/policy/v1/sign"
KEY_ID = "ed25519:policy_server"
WELL_KNOWN = "/.well-known/matrix/policy_server"
ENABLED = "[policy_server]\nenabled = true\n"


ABROAD = (
    "".join(
        f"""
[jurisdictions.{code}]
name = "{code}"
[[peers]]
server = "{code.lower()}.test"
jurisdiction = "{code}"
"""
        + flow(code, "IR", "FR", "unknown")
        + flow("IR", code)
        + flow("FR", code)
        for code in ("DE", "US")
    )
    + """
[[peers]]
server = "there.test"
jurisdiction = "DE"
"""
)


@dataclass
class Guarded:
    """A room of Alice's on here.test, with Bob of there.test in it; ``guard`` is its policy server."""

    made: Scene
    guard: Play
    carol: User

    async def asks(self, pdu: Event | Mapping[str, Any] | bytes, by: Play | None = None) -> dict[str, Any]:
        """Ask the policy server to sign. Raises RemoteRefusal."""
        content = pdu.pdu() if isinstance(pdu, Event) else pdu
        asker = (by or self.made.there).server
        return await remote.ask(asker, self.guard.server.name, "POST", SIGN, content, most=10**5)

    async def refused(self, pdu: Event | Mapping[str, Any] | bytes, by: Play | None = None) -> tuple[int, str]:
        """Ask in vain; status and errcode."""
        with pytest.raises(remote.RemoteRefusal) as refusal:
            await self.asks(pdu, by)
        return refusal.value.status, refusal.value.errcode

    async def held(self, play: Play, event_id: str) -> Event:
        """An event as a server has it."""
        node = play.node("tehran")
        room = await state.get(node, self.made.room_id)
        row = await node.read(stored.by_id, room.nid, event_id)
        assert row is not None
        return state.parse(room, row)


async def public_key(play: Play) -> str:
    answer = await play.deployment.asked("GET", WELL_KNOWN)
    assert answer.status == 200
    return str(answer.json["public_keys"]["ed25519"])


async def name(made: Scene, guard: Play, key: str | None = None) -> None:
    """Have Alice name a policy server."""
    content = {"via": guard.server.name, "public_keys": {"ed25519": key or await public_key(guard)}}
    await made.here.ask(made.alice, "PUT", f"/rooms/{quote(made.room_id)}/state/m.room.policy/", content)
    await made.network.settle()


async def guarded(network: Network, *, settings: str = ENABLED, policy: str = OPEN, **wish: Any) -> Guarded:
    """A room whose policy server is a third one."""
    await network.found("third.test", settings=settings, policy=policy)
    made = await scene(network, **wish)
    guard = network.plays["third.test"]
    carol = await guard.user("carol")
    await enter(guard, carol, made.room_id, "here.test")
    await network.settle()
    await name(made, guard)
    return Guarded(made, guard, carol)


def covered(pdu: Mapping[str, Any]) -> bytes:
    """What the signatures of a message cover in rooms of version 12, written down from the specification."""
    kept = ("type", "room_id", "sender", "state_key", "hashes", "depth", "prev_events", "auth_events")
    redacted = {key: pdu[key] for key in (*kept, "origin_server_ts") if key in pdu} | {"content": {}}
    return json.dumps(redacted, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))


def signed_by(pdu: Mapping[str, Any], server_name: str, key: str) -> None:
    """Raise unless a message has the signature of a policy server."""
    VerifyKey(unpadded(key)).verify(covered(pdu), unpadded(pdu["signatures"][server_name][KEY_ID]))


def asked(network: Network) -> list[tuple[str, int | None]]:
    """Who asked for a signature, and the status of the answer."""
    return [(each.source, each.status) for each in network.exchanges if each.target == SIGN]


# a room of two whose policy server is a third -----------------------------------------------------


@aio
async def test_a_room_of_two_servers_is_guarded_by_a_third(network: Network) -> None:
    room = await guarded(network)
    made, key = room.made, await public_key(room.guard)
    mine = await made.here.send(made.alice, made.room_id, "hello")
    await network.settle()
    theirs = await made.there.send(made.bob, made.room_id, "hello to you")
    await network.settle()
    hers = await room.guard.send(room.carol, made.room_id, "I am watching")
    await network.settle()
    assert asked(network) == [("here.test", 200), ("there.test", 200)]
    for play, reader in ((made.here, made.alice), (made.there, made.bob), (room.guard, room.carol)):
        texts = await play.texts(reader, made.room_id)
        assert texts[-3:] == ["hello", "hello to you", "I am watching"]
        for event_id in (mine, theirs, hers):
            pdu = (await room.held(play, event_id)).pdu()
            signed_by(pdu, "third.test", key)
            assert len([each for signatures in pdu["signatures"].values() for each in signatures]) == 2
    counter = room.guard.server.telemetry.counter("domicile_policy_server_answers", "", ["outcome"])
    assert (counter.value("signed"), counter.value("refused")) == (2, 0)


@aio
async def test_who_joins_and_leaves_is_recommended_too(network: Network) -> None:
    room = await guarded(network)
    made = room.made
    fourth = await network.found("fourth.test")
    dave = await fourth.user("dave")
    await enter(fourth, dave, made.room_id, "here.test")
    await network.settle()
    assert dave.user_id in await members(room.guard, room.carol, made.room_id)
    await fourth.send(dave, made.room_id, "I am new")
    await network.settle()
    await fourth.change(dave, made.room_id, "leave")
    await network.settle()
    assert dave.user_id not in await members(made.there, made.bob, made.room_id)
    assert (await made.there.texts(made.bob, made.room_id))[-1:] == ["I am new"]
    assert {status for _, status in asked(network)} == {200}


@aio
async def test_what_it_refuses_is_not_sent_and_shown_to_nobody(network: Network) -> None:
    room = await guarded(network)
    made = room.made
    plain = await made.forged(made.bob, "m.room.message", {"msgtype": "m.text", "body": "buy"})
    assert await room.refused(plain) == (400, "M_FORBIDDEN")
    assert await made.tell([plain]) == {plain.event_id: {}}
    assert await made.verdict(plain) is Verdict.SOFT_FAILED


# itself --------------------------------------------------------------------------------------------


@aio
async def test_it_guards_rooms_of_its_own_users(network: Network) -> None:
    await network.found("here.test", settings=ENABLED)
    made = await own(network)
    key = await public_key(made.here)
    event_id = await made.here.send(made.alice, made.room_id, "hello")
    row = await made.held(event_id)
    assert row is not None
    signed_by(state.parse(await made.room(), row).pdu(), "here.test", key)
    assert asked(network) == []
    await network.settle()
    await made.there.send(made.bob, made.room_id, "hello to you")
    assert asked(network) == [("there.test", 200)]
    await network.settle()
    assert await made.here.texts(made.alice, made.room_id) == ["hello", "hello to you"]
    assert await made.there.texts(made.bob, made.room_id) == ["hello", "hello to you"]


async def own(network: Network) -> Scene:
    """A scene on a server that has been founded, which guards it."""
    here, there = network.plays["here.test"], await network.found("there.test")
    alice, bob = await here.user("alice"), await there.user("bob")
    room_id = await here.create(alice, preset="public_chat")
    await enter(there, bob, room_id, "here.test")
    await network.settle()
    made = Scene(network, here, there, alice, bob, room_id)
    await name(made, here)
    return made


@aio
async def test_what_others_sent_without_asking_it_is_judged_when_it_comes(network: Network) -> None:
    await network.found("here.test", settings=ENABLED)
    made = await own(network)
    fine = await made.message("fine")
    plain = await made.forged(made.bob, "m.room.message", {"msgtype": "m.text", "body": "buy"})
    forged = (await made.message("forged")).with_signature("here.test", KEY_ID, "A" * 86)
    assert await made.tell([fine, plain, forged]) == {each.event_id: {} for each in (fine, plain, forged)}
    assert [await made.verdict(each) for each in (fine, plain, forged)] == [
        Verdict.ACCEPTED,
        Verdict.SOFT_FAILED,
        Verdict.ACCEPTED,
    ]
    row = await made.held(fine)
    assert row is not None
    signed_by(state.parse(await made.room(), row).pdu(), "here.test", await public_key(made.here))


@pytest.mark.parametrize("settings", ["", ENABLED, ENABLED + 'rooms = ["!other"]\n'])
@aio
async def test_a_room_that_names_it_wrongly_lets_nobody_send(network: Network, settings: str) -> None:
    here = await network.found("here.test", settings=settings)
    there = await network.found("there.test")
    alice, bob = await here.user("alice"), await there.user("bob")
    room_id = await here.create(alice, preset="public_chat")
    await enter(there, bob, room_id, "here.test")
    await network.settle()
    made = Scene(network, here, there, alice, bob, room_id)
    is_listed = "rooms" in settings
    await name(made, here, await public_key(here) if is_listed else "A" * 43)
    path = f"{CLIENT}/rooms/{quote(room_id)}/send/m.room.encrypted/t"
    answer = await alice.asks("PUT", path, ciphertext("hello"))
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert "policy server" in answer.json["error"]
    answer = await bob.asks("PUT", path, ciphertext("hello"))
    assert (answer.status, asked(network)) == (502, [("there.test", 404)])
    unsigned = await made.message("unsigned")
    await made.tell([unsigned])
    assert await made.verdict(unsigned) is Verdict.SOFT_FAILED
    await here.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.policy/", {})
    await here.send(alice, room_id, "it was given up")


@aio
async def test_it_guards_only_while_one_of_its_users_is_there(network: Network) -> None:
    room = await guarded(network)
    made = room.made
    await room.guard.change(room.carol, made.room_id, "leave")
    await network.settle()
    before = len(asked(network))
    await made.here.send(made.alice, made.room_id, "alone")
    assert len(asked(network)) == before
    assert await room.refused(await made.message("bob")) == (404, "M_NOT_FOUND")


# what it answers -----------------------------------------------------------------------------------


@aio
async def test_the_signature_alone_is_answered(network: Network) -> None:
    room = await guarded(network)
    event = await room.made.message("hello")
    answer = await room.asks(event)
    assert list(answer) == ["third.test"]
    assert list(answer["third.test"]) == [KEY_ID]
    signed_by({**event.pdu(), "signatures": answer}, "third.test", await public_key(room.guard))
    assert await room.asks(event, by=room.made.here) == answer, "whoever is in the room may ask, too"
    assert await room.asks({**event.pdu(), "unsigned": {"age": 5}}) == answer


@aio
async def test_who_is_none_says_so(network: Network) -> None:
    made = await scene(network)
    room = Guarded(made, made.here, made.alice)
    assert await room.refused(await made.message("hello")) == (404, "M_UNRECOGNIZED")
    answer = await made.here.deployment.asked("GET", WELL_KNOWN)
    assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


@aio
async def test_rooms_that_it_does_not_guard(network: Network) -> None:
    room = await guarded(network)
    made = room.made
    event = (await made.message("hello")).pdu()
    unknown = await made.here.create(made.alice)
    assert await room.refused({**event, "room_id": unknown}) == (404, "M_NOT_FOUND")
    await made.here.ask(made.alice, "PUT", f"/rooms/{quote(made.room_id)}/state/m.room.policy/", {})
    await network.settle()
    assert await room.refused(await made.message("hello")) == (404, "M_NOT_FOUND")
    await name(made, room.guard, "A" * 43)
    assert await room.refused(await made.message("hello")) == (404, "M_NOT_FOUND")
    await name(made, made.here, await public_key(room.guard))
    assert await room.refused(await made.message("hello")) == (404, "M_NOT_FOUND")
    await name(made, room.guard)
    assert await room.asks(await made.message("hello"))


@aio
async def test_only_listed_rooms_are_guarded(network: Network) -> None:
    room = await guarded(network, settings=ENABLED + 'rooms = ["!other"]\n')
    assert await room.refused(await room.made.message("hello")) == (404, "M_NOT_FOUND")


@aio
async def test_what_is_no_event(network: Network) -> None:
    room = await guarded(network)
    event = (await room.made.message("hello")).pdu()
    malformed: list[dict[str, Any]] = [
        {"room_id": 5},
        {"room_id": None},
        {"sender": "bob"},
        {"depth": -1},
        {"content": []},
        {"hashes": {}},
        {"event_id": "$a:there.test"},
        {"content": {"long": "x" * 66_000}},
    ]
    for changes in malformed:
        assert await room.refused({**event, **changes}) == (400, "M_BAD_JSON"), changes
    assert await room.refused(b"[]") == (400, "M_BAD_JSON")


@aio
async def test_the_creation_of_a_room_names_it_by_itself(network: Network) -> None:
    room = await guarded(network)
    made = room.made
    entry = (await made.room()).now.state[CREATE]
    creation = await room.held(made.here, entry.event_id)
    assert "room_id" not in creation.pdu()
    assert await room.asks(creation, by=made.here)
    strange = {**creation.pdu(), "content": {"room_version": "99"}}
    assert await room.refused(strange, by=made.here) == (400, "M_BAD_JSON")
    other = signing.sign_event(
        creation.rules, {**creation.pdu(), "depth": 2, "hashes": {}}, "here.test", made.here.server.identity.key
    )
    assert await room.refused(other, by=made.here) == (404, "M_NOT_FOUND"), "that is another room"


@aio
async def test_what_is_not_recommended(network: Network) -> None:
    room = await guarded(network)
    made = room.made
    no = (400, "M_FORBIDDEN")
    assert await room.refused(await made.forged(made.bob, "m.room.message", {"body": "plain"})) == no
    weaker = {"algorithm": "m.megolm.v1.aes-sha2", "rotation_period_ms": 10**12}
    assert await room.refused(await made.forged(made.alice, "m.room.encryption", weaker, ""), by=made.here) == no
    naming = {"via": "there.test", "public_keys": {"ed25519": "A" * 43}}
    assert await room.refused(await made.forged(made.alice, "m.room.policy", naming, ""), by=made.here) == no
    assert await room.asks(await made.forged(made.alice, "m.room.policy", naming, "other"), by=made.here)
    assert await room.asks(await made.forged(made.bob, "m.room.policy", {}, "@bob:there.test"))
    fine = await made.message("fine")
    assert await room.refused({**fine.pdu(), "content": ciphertext("another")}) == no, "the hash is of something else"
    assert await room.refused(fine.redacted()) == no, "nobody can tell what it said"
    assert await room.asks(fine)


@aio
async def test_others_speak_only_of_what_is_proved(network: Network) -> None:
    room = await guarded(network)
    made = room.made
    no = (400, "M_FORBIDDEN")
    forged = await made.forged(made.bob, "m.room.encrypted", ciphertext("forged"), by=made.here)
    assert await room.refused(forged, by=made.here) == no, "it is not signed by Bob's server"
    unsigned = {**(await made.message("unsigned")).pdu(), "signatures": {}}
    assert await room.refused(unsigned, by=made.here) == no
    assert await room.asks(unsigned), "for its own users a server speaks"
    stranger = await network.found("stranger.test")
    assert await room.refused(await made.message("heard"), by=stranger) == no


@aio
async def test_an_access_control_list_holds_for_who_asks_and_for_who_sends(network: Network) -> None:
    room = await guarded(network)
    made = room.made
    acl = {"allow": ["*"], "deny": ["there.*"]}
    event = await made.message("hello")
    await made.here.ask(made.alice, "PUT", f"/rooms/{quote(made.room_id)}/state/m.room.server_acl/", acl)
    await network.settle()
    assert await room.refused(event) == (403, "M_FORBIDDEN")
    assert await room.refused(event, by=made.here) == (400, "M_FORBIDDEN")
    assert await room.asks(await made.forged(made.alice, "m.room.encrypted", ciphertext("mine")), by=made.here)


@aio
async def test_whose_server_the_policy_does_not_let_in_may_only_leave(network: Network) -> None:
    room = await guarded(network)
    made = room.made
    # Since Bob came, the policy has changed: nothing flows to servers that it does not name.
    narrowed = FLOWING + '[[peers]]\nserver = "here.test"\njurisdiction = "FR"\n'
    room.guard.server.policy.now = policy_from_text(narrowed, "residency.toml", "third.test")
    assert await room.refused(await made.message("hello")) == (400, "M_FORBIDDEN")
    joined = await made.forged(made.bob, "m.room.member", {"membership": "join"}, made.bob.user_id)
    assert await room.refused(joined) == (400, "M_FORBIDDEN")
    leave = await made.forged(made.bob, "m.room.member", {"membership": "leave"}, made.bob.user_id)
    assert await room.asks(leave)
    hers = await made.forged(made.alice, "m.room.encrypted", ciphertext("mine"))
    assert await room.asks(hers, by=made.here), "the others are not kept from speaking"


@aio
async def test_who_comes_has_to_be_let_in_to_all_who_are_there(network: Network) -> None:
    room = await guarded(network)
    made = room.made
    invite = {"membership": "invite"}
    one, other = [await made.forged(made.alice, "m.room.member", invite, f"@dave:{name}.test") for name in ("de", "us")]
    assert await room.asks(one, by=made.here)
    # From here on there.test is in DE, and between US and DE nothing flows.
    room.guard.server.policy.now = policy_from_text(OPEN + ABROAD, "residency.toml", "third.test")
    assert await room.asks(one, by=made.here)
    assert await room.refused(other, by=made.here) == (400, "M_FORBIDDEN")
    assert await room.asks(await made.message("hello"))


@pytest.mark.parametrize("version", ["1", "12"])
@aio
async def test_events_that_are_spoilt(network: Network, version: str) -> None:
    room = await guarded(network, room_version=version)
    event = await room.made.message("hello")
    found = set()
    for body in spoilt(event.pdu()):
        try:
            answer = await room.asks(canonical.encode(body, strict=False))
        except remote.RemoteRefusal as refusal:
            found.add((refusal.status, refusal.errcode))
        else:
            assert list(answer) == ["third.test"]
    assert found == {(400, "M_BAD_JSON"), (400, "M_FORBIDDEN"), (404, "M_NOT_FOUND")}


# the key -------------------------------------------------------------------------------------------


@aio
async def test_the_key_is_none_that_the_server_publishes(network: Network) -> None:
    room = await guarded(network)
    document = (await room.guard.deployment.asked("GET", "/_matrix/key/v2/server")).json
    published = {each["key"] for each in (*document["verify_keys"].values(), *document["old_verify_keys"].values())}
    assert await public_key(room.guard) not in published


def read(folder: Path, text: str = "") -> Settings:
    (folder / "signing.key").write_text(f"ed25519 a {'A' * 43}\n")
    return settings_from_text('server_name = "here.test"\n' + ENABLED + text, str(folder / "domicile.toml"))


def test_the_key_follows_from_the_deployment_secret(tmp_path: Path) -> None:
    first, again, other = (credentials.policy_key(read(tmp_path), secret) for secret in (b"one", b"one", b"two"))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.key_id == KEY_ID
    assert first.verify_key.raw == again.verify_key.raw != other.verify_key.raw
    assert credentials.policy_key(settings_from_text('server_name = "here.test"\n'), b"one") is None


def test_the_key_may_stand_in_a_file(tmp_path: Path) -> None:
    settings = read(tmp_path, 'signing_key_file = "policy.key"\n')
    (tmp_path / "policy.key").write_text(f"ed25519 1 {'B' * 42}A\n")
    made = credentials.policy_key(settings, b"one")
    assert made is not None
    assert made.verify_key.raw == SigningKey("any", unpadded("B" * 42 + "A")).verify_key.raw
    for text, said in (
        ("junk", "is none"),
        (f"ed25519 1 {'B' * 42}A\n" * 2, "holds 2"),
        (f"ed25519 1 {'A' * 43}\n", "one of its own"),
    ):
        (tmp_path / "policy.key").write_text(text)
        with pytest.raises(credentials.StartError, match=said):
            credentials.policy_key(settings, b"one")
    (tmp_path / "policy.key").unlink()
    policy = policy_from_text(FLOWING, "residency.toml", "here.test")
    assert [
        str(problem) for problem in credentials.unreadable_secrets(settings, policy) if "policy.key" in str(problem)
    ]

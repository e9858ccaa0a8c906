"""Inviting somebody by an address, with the help of an identity server that the client names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from homeserver import app
from homeserver.accounts import contacts
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.threepids import Identifier
from homeserver.rooms import identity_servers
from homeserver.storage.accounts import Threepid
from tests.deployment import FLOWING, SETTINGS, Answer, Deploy, Deployment, Observed, User
from tests.federation.authority import Authority, Stranger
from tests.federation.internet import Internet, Wired
from tests.federation.meetings import members, membership, told
from tests.network import OPEN, Network
from tests.rooms.identity_server import API, NAME, TOKEN, IdentityServer
from tests.rooms.play import CLIENT, Play
from tests.support import aio

ALLOWED = f'[third_party_invites]\nidentity_servers = ["{NAME}"]\n'
ON_BIND = "/_matrix/federation/v1/3pid/onbind"
BOB = "bob@example.com"


def named(address: str = BOB, **other: Any) -> dict[str, Any]:
    """Whom a client invites."""
    return {"id_server": NAME, "id_access_token": TOKEN, "medium": "email", "address": address, **other}


async def found(network: Network, name: str = "a.test", **kwargs: Any) -> tuple[Play, IdentityServer]:
    """A server that may ask an identity server."""
    play = await network.found(name, **{"settings": ALLOWED, **kwargs})
    identity = IdentityServer()
    network.others[NAME] = identity.answer
    return play, identity


async def invites(user: User, room_id: str, **who: Any) -> Answer:
    """Invite by an address."""
    return await user.asks("POST", f"{CLIENT}/rooms/{quote(room_id)}/invite", named(**who))


async def left(play: Play, user: User, room_id: str) -> dict[str, dict[str, Any]]:
    """The third-party invites in a room: contents by token."""
    answer: Any = (await user.asks("GET", f"{CLIENT}/rooms/{quote(room_id)}/state")).json
    return {each["state_key"]: each["content"] for each in answer if each["type"] == "m.room.third_party_invite"}


@pytest.mark.parametrize(
    ("medium", "address", "expected"),
    [
        ("email", "alice@example.com", "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc"),
        ("email", "bob@example.com", "LJwSazmv46n0hlMlsb_iYxI0_HXEqy_yj6Jm636cdT8"),
        ("msisdn", "18005552067", "nlo35_T5fzSGZzJApqu8lgIudJvmOQtDaHtr-I4rU7I"),
    ],
)
def test_hashes_are_those_of_the_specification(medium: str, address: str, expected: str) -> None:
    assert identity_servers._hash(Identifier(medium, address), "matrixrocks") == expected


@pytest.mark.parametrize("server", ["a.test", "b.test"])
@aio
async def test_whose_address_it_is_is_invited(network: Network, server: str) -> None:
    a, identity = await found(network)
    await network.found("b.test")
    alice, bob = await a.user("alice"), await network.plays[server].user("bob", "paris")
    room_id = await a.create(alice)
    identity.bound["email", BOB] = bob.user_id
    assert (await invites(alice, room_id, address="Bob@Example.com", reason="come")).status == 200
    await network.settle()
    assert await told(network.plays[server], bob, "invite", room_id) is not None
    event = next(each for each in await a.timeline(alice, room_id) if each.get("state_key") == bob.user_id)
    assert (event["content"]["membership"], event["content"]["reason"]) == ("invite", "come")
    assert "third_party_invite" not in event["content"]
    assert identity.paths() == ["/hash_details", "/lookup"]
    assert identity.faults == []
    assert b"example.com" not in network.bytes_out("a.test")  # the identity server was shown a hash


@pytest.mark.parametrize("version", ["6", "12"])
@pytest.mark.parametrize("server", ["a.test", "b.test"])
@aio
async def test_an_invitation_waits_for_whoever_gets_the_address(network: Network, server: str, version: str) -> None:
    a, identity = await found(network)
    await network.found("b.test")
    home = network.plays[server]
    alice, bob = await a.user("alice"), await home.user("bob", "paris")
    await a.ask(alice, "PUT", f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    room_id = await a.create(alice, name="Hall", room_version=version)
    assert (await invites(alice, room_id)).json == {}
    kept = identity.kept["token0"]
    assert (kept["medium"], kept["address"], kept["room_id"], kept["sender"]) == ("email", BOB, room_id, alice.user_id)
    assert (kept["room_name"], kept["room_join_rules"], kept["sender_display_name"]) == ("Hall", "invite", "Alice")
    assert "room_type" not in kept
    key = {"public_key": identity.key.verify_key.base64, "key_validity_url": f"https://{NAME}{API}/pubkey/isvalid"}
    expected = {"display_name": "b…@e…", **key, "public_keys": [key]}
    assert await left(a, alice, room_id) == {"token0": expected}
    events = await a.timeline(alice, room_id)
    assert BOB.encode() not in orjson.dumps(events)
    assert await told(home, bob, "invite", room_id) is None

    notice = identity.bind(BOB, bob.user_id)
    assert (await home.deployment.asked("PUT", ON_BIND, notice)).status == 200
    await network.settle()
    assert await told(home, bob, "invite", room_id) is not None
    assert identity.paths()[-1] == "/pubkey/isvalid"
    await home.change(bob, room_id, "join")
    await network.settle()
    assert await members(a, alice, room_id) == {alice.user_id, bob.user_id}
    assert identity.faults == []


@pytest.mark.parametrize("server", ["a.test", "b.test"])
@pytest.mark.parametrize("wrong", ["revoked", "away", "elsewhere", "forged"])
@aio
async def test_a_key_that_nobody_stands_by_lets_nobody_in(network: Network, server: str, wrong: str) -> None:
    a, identity = await found(network)
    await network.found("b.test")
    home = network.plays[server]
    alice, bob = await a.user("alice"), await home.user("bob", "paris")
    room_id = await a.create(alice)
    assert (await invites(alice, room_id)).status == 200
    notice = identity.bind(BOB, bob.user_id)
    if wrong == "revoked":
        identity.revoked = True
    elif wrong == "away":
        del network.others[NAME]
    elif wrong == "elsewhere":  # where nobody is asked
        content = (await left(a, alice, room_id))["token0"]
        url = "https://id.elsewhere.example/isvalid"
        content |= {"key_validity_url": url, "public_keys": [{**content["public_keys"][0], "key_validity_url": url}]}
        await a.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.third_party_invite/token0", content)
    else:
        identity.key = SigningKey("0", b"e" * 32)
        notice = identity.bind(BOB, bob.user_id)
    asked = len(identity.asked)
    assert (await home.deployment.asked("PUT", ON_BIND, notice)).status == 200
    await network.settle()
    assert await told(home, bob, "invite", room_id) is None
    assert len(identity.asked) == asked + (wrong == "revoked")
    identity.revoked = False


@aio
async def test_only_those_are_asked_whom_the_operator_allows(network: Network) -> None:
    a, identity = await found(network)
    b, _ = await found(network, "b.test", settings="")
    network.others[NAME] = identity.answer
    for play, id_server in ((a, "id.elsewhere.example"), (a, f"{NAME}:8090"), (a, f"{NAME}/x"), (b, NAME)):
        user = await play.user(f"u{len(id_server)}{len(play.server.name)}")
        room_id = await play.create(user)
        answer = await invites(user, room_id, id_server=id_server)
        assert (answer.status, answer.errcode) == (400, "M_SERVER_NOT_TRUSTED"), answer
        assert id_server in answer.json["error"]
        new = await user.asks("POST", f"{CLIENT}/createRoom", {"invite_3pid": [named(id_server=id_server)]})
        assert new.errcode == "M_SERVER_NOT_TRUSTED"
        assert (await play.ask(user, "GET", "/joined_rooms"))["joined_rooms"] == [room_id]
    assert identity.asked == []


@aio
async def test_where_no_flow_leads_nobody_is_asked(network: Network) -> None:
    a, identity = await found(network, policy=FLOWING)
    alice = await a.user("alice")
    room_id = await a.create(alice)
    answer = await invites(alice, room_id)
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert answer.json["org.domicile.reason"] == "flow_denied"
    assert "events" in answer.json["error"]
    assert identity.asked == []


PLACED = (
    FLOWING
    + f"""
[[peers]]
server = "{NAME}"
jurisdiction = "FR"
"""
)


@pytest.mark.parametrize("profile", [True, False])
@aio
async def test_no_more_is_told_than_may_flow_there(network: Network, profile: bool) -> None:
    policy = PLACED if profile else PLACED.replace('"*"', '"events", "keys"')
    a, identity = await found(network, policy=policy)
    alice = await a.user("alice")
    await a.ask(alice, "PUT", f"/profile/{alice.user_id}/displayname", {"displayname": "Alice"})
    room_id = await a.create(alice, name="Hall")
    assert (await invites(alice, room_id)).status == 200
    kept = identity.kept["token0"]
    assert ("sender_display_name" in kept) is profile
    assert kept["room_name"] == "Hall"


@aio
async def test_what_somebody_wrote_whose_words_may_not_go_there_is_not_told(network: Network) -> None:
    only_paris = OPEN.partition('[[flows]]\nfrom = "IR"\nto = ["unknown"]')[0]
    assert only_paris != OPEN
    policy = only_paris + '[[flows]]\nfrom = "FR"\nto = ["unknown"]\nclasses = ["*"]\nconsent = false\n'
    a, identity = await found(network, policy=policy)
    alice, noemie = await a.user("alice"), await a.user("noemie", "paris")
    room_id = await a.create(noemie, name="Hall", invite=[alice.user_id])
    await a.change(alice, room_id, "join")
    levels = {"users": {alice.user_id: 50}}
    await a.ask(noemie, "PUT", f"/rooms/{quote(room_id)}/state/m.room.power_levels", levels)
    await a.ask(alice, "PUT", f"/rooms/{quote(room_id)}/state/m.room.name", {"name": "Garden"})
    await a.settle()
    assert (await invites(noemie, room_id)).status == 200
    assert "room_name" not in identity.kept["token0"]
    assert identity.kept["token0"]["room_join_rules"] == "invite"
    assert (await invites(alice, room_id)).json["org.domicile.reason"] == "flow_denied"


@aio
async def test_who_may_not_invite_asks_nothing(network: Network) -> None:
    a, identity = await found(network)
    alice, eve, outsider = await a.user("alice"), await a.user("eve"), await a.user("outsider")
    room_id = await a.create(alice, invite=[eve.user_id], power_level_content_override={"invite": 50})
    await a.change(eve, room_id, "join")
    for user in (eve, outsider):
        answer = await invites(user, room_id)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    assert (await invites(alice, "!none:a.test")).status == 404
    for body in ({"id_server": 5}, {"address": "nobody"}, {"medium": "pigeon"}, {"id_access_token": "a\nb"}):
        answer = await invites(alice, room_id, **body)
        assert answer.status == 400, answer
    without = {key: value for key, value in named().items() if key != "id_access_token"}
    answer = await alice.asks("POST", f"{CLIENT}/rooms/{quote(room_id)}/invite", without)
    assert answer.errcode == "M_MISSING_PARAM"
    assert identity.asked == []


KEYS = [{"public_key": "A" * 43, "key_validity_url": f"https://{NAME}{API}/pubkey/isvalid"}]
KEPT = {"token": "t", "public_keys": KEYS, "display_name": "b…"}


@pytest.mark.parametrize(
    ("path", "status", "said", "expected"),
    [
        ("/hash_details", 200, {"lookup_pepper": "p", "algorithms": ["none"]}, 502),
        ("/hash_details", 200, {"lookup_pepper": 5, "algorithms": ["sha256"]}, 502),
        ("/hash_details", 404, {"errcode": "M_UNRECOGNIZED", "error": "?"}, 502),
        ("/hash_details", 200, b"[]", 502),
        ("/hash_details", 200, b"<html>", 502),
        ("/hash_details", 403, {"errcode": "M_TERMS_NOT_SIGNED", "error": "sign"}, 403),
        ("/lookup", 400, {"errcode": "M_INVALID_PEPPER", "error": "for ever"}, 502),
        ("/lookup", 200, {}, 502),
        ("/lookup", 200, {"mappings": {"LJwSazmv46n0hlMlsb_iYxI0_HXEqy_yj6Jm636cdT8": "nobody"}}, 502),
        ("/store-invite", 500, {}, 502),
        ("/store-invite", 200, {}, 502),
        ("/store-invite", 200, {**KEPT, "token": "a/b"}, 502),
        ("/store-invite", 200, {**KEPT, "public_keys": []}, 502),
        ("/store-invite", 200, {**KEPT, "public_keys": [{**KEYS[0], "public_key": "AAAA"}]}, 502),
        (
            "/store-invite",
            200,
            {**KEPT, "public_keys": [*KEYS, {**KEYS[0], "key_validity_url": "https://x.test/"}]},
            502,
        ),
        ("/store-invite", 200, {**KEPT, "display_name": 5}, 502),
        ("/store-invite", 400, {"errcode": "M_THREEPID_IN_USE", "error": "whose?"}, 502),
    ],
)
@aio
async def test_nonsense_changes_nothing(network: Network, path: str, status: int, said: Any, expected: int) -> None:
    a, identity = await found(network)
    alice = await a.user("alice")
    room_id = await a.create(alice)
    before = await a.timeline(alice, room_id)
    identity.instead[API + path] = (status, said)
    answer = await invites(alice, room_id)
    assert answer.status == expected, answer
    assert NAME in answer.json["error"]
    assert await a.timeline(alice, room_id) == before


@aio
async def test_a_wrong_token_and_a_server_that_is_away(network: Network) -> None:
    a, _ = await found(network)
    alice = await a.user("alice")
    room_id = await a.create(alice)
    assert (await invites(alice, room_id, id_access_token="wrong")).status == 403
    del network.others[NAME]
    assert (await invites(alice, room_id)).status == 502


@aio
async def test_the_pepper_may_change_and_the_address_find_its_owner_meanwhile(network: Network) -> None:
    a, identity = await found(network)
    alice, bob = await a.user("alice"), await a.user("bob")
    room_id = await a.create(alice)
    identity.peppers = ["old", "new"]
    identity.bound["email", BOB] = bob.user_id
    identity.instead[f"{API}/lookup"] = (200, {"mappings": {}})
    assert (await invites(alice, room_id)).status == 200
    assert await membership(a, alice, room_id, bob) == "invite"
    assert await left(a, alice, room_id) == {}
    del identity.instead[f"{API}/lookup"]
    identity.peppers = ["new", "newer"]
    other = await a.create(alice)
    assert (await invites(alice, other)).status == 200
    assert await membership(a, alice, other, bob) == "invite"


@aio
async def test_phone_numbers_are_looked_up_and_not_kept(network: Network) -> None:
    a, identity = await found(network)
    alice, bob = await a.user("alice"), await a.user("bob")
    room_id = await a.create(alice)
    number = {"medium": "msisdn", "address": "989123456789"}
    assert (await invites(alice, room_id, **number)).errcode == "M_THREEPID_MEDIUM_NOT_SUPPORTED"
    identity.bound["msisdn", "989123456789"] = bob.user_id
    assert (await invites(alice, room_id, **number)).status == 200
    assert await membership(a, alice, room_id, bob) == "invite"


@aio
async def test_a_name_that_gives_the_address_away_is_not_taken(network: Network) -> None:
    a, identity = await found(network)
    alice = await a.user("alice")
    room_id = await a.create(alice)
    identity.instead[f"{API}/store-invite"] = (200, {**KEPT, "display_name": "Bob@Example.com"})
    assert (await invites(alice, room_id)).status == 200
    assert (await left(a, alice, room_id))["t"]["display_name"] == "b…@e…"


@aio
async def test_it_does_not_show_whether_a_user_here_has_the_address(network: Network) -> None:
    a, identity = await found(network)
    alice, bob = await a.user("alice"), await a.user("bob")
    caller, row = await bob.caller(), Threepid("email", BOB, 1, 1)
    async with contacts.claimed(a.server, caller.node, [row]):
        await caller.node.write(contacts.add_within, caller.user_nid, [row])
    assert await contacts.owner(a.server, ("email", BOB)) == bob.user_id
    room_id = await a.create(alice)
    for address in (BOB, "nobody@example.com"):
        identity.asked.clear()
        assert (await invites(alice, room_id, address=address)).json == {}
        assert identity.paths() == ["/hash_details", "/lookup", "/store-invite"]
    assert len(await left(a, alice, room_id)) == 2
    assert await told(a, bob, "invite", room_id) is None


# as a room is made --------------------------------------------------------------------------


@aio
async def test_a_room_is_made_with_those_who_have_an_address(network: Network) -> None:
    a, identity = await found(network)
    alice, bob, dora = await a.user("alice"), await a.user("bob", "paris"), await a.user("dora")
    identity.bound["email", BOB] = bob.user_id
    identity.bound["email", "me@example.com"] = alice.user_id
    wish = {
        "invite": [dora.user_id],
        "invite_3pid": [named(), named("eve@example.com"), named("me@example.com"), named("eve@example.com")],
        "preset": "trusted_private_chat",
        "room_version": "10",
        "is_direct": True,
    }
    room_id = await a.create(alice, **wish)
    assert await membership(a, alice, room_id, dora) == "invite"
    path = f"/rooms/{quote(room_id)}/state"
    invited = await a.ask(alice, "GET", f"{path}/m.room.member/{quote(bob.user_id)}")
    assert (invited["membership"], invited["is_direct"]) == ("invite", True)
    levels = await a.ask(alice, "GET", f"{path}/m.room.power_levels")
    assert levels["users"] == {alice.user_id: 100, bob.user_id: 100, dora.user_id: 100}
    assert list(await left(a, alice, room_id)) == ["token0"]
    assert [kept["address"] for kept in identity.kept.values()] == ["eve@example.com"]
    assert identity.paths() == ["/hash_details", "/lookup", "/store-invite"]  # once for all of them


@aio
async def test_a_room_is_not_made_when_an_address_cannot_be_asked_about(network: Network) -> None:
    a, identity = await found(network)
    alice = await a.user("alice")
    wishes: list[tuple[list[Any], int]] = [
        ([named(id_access_token="wrong")], 403),
        ([named("nonsense")], 400),
        ([named(f"user{n}@example.com") for n in range(21)], 400),
        ([5], 400),
        ([{**named(), "id_server": None}], 400),
    ]
    for invite_3pid, status in wishes:
        answer = await alice.asks("POST", f"{CLIENT}/createRoom", {"invite_3pid": invite_3pid})
        assert answer.status == status, answer
    identity.instead[f"{API}/store-invite"] = (500, {})
    room_id = await a.create(alice, invite_3pid=[named()])  # it is there by then
    assert (await a.ask(alice, "GET", "/joined_rooms"))["joined_rooms"] == [room_id]
    assert await left(a, alice, room_id) == {}


# over a wire --------------------------------------------------------------------------------


@aio
async def test_over_a_wire(deploy: Deploy, tmp_path: Path) -> None:
    made = await deploy(settings=SETTINGS + ALLOWED, policy=OPEN)
    authority, internet, identity = Authority(tmp_path), Internet(), IdentityServer()
    stranger = Stranger(authority.issue(NAME), identity.serve)
    internet.put(NAME, 443, await stranger.open())
    outbound = Wired(internet, authority, telemetry=made.server.telemetry)
    server = replace(made.server, outbound=outbound)
    site = app.site_of(server)
    site.observer = Observed()
    deployment = Deployment(server, site, site.observer)
    try:
        alice, bob = await deployment.user("alice"), await deployment.user("bob")
        room_id = (await alice.asks("POST", f"{CLIENT}/createRoom", {})).json["room_id"]
        assert (await invites(alice, room_id)).status == 200
        assert (await deployment.asked("PUT", ON_BIND, identity.bind(BOB, bob.user_id))).status == 200
        sync = (await bob.asks("GET", f"{CLIENT}/sync")).json
        assert room_id in sync["rooms"]["invite"]
        assert identity.paths() == ["/hash_details", "/lookup", "/store-invite", "/pubkey/isvalid"]
        assert stranger.asked[-1].header("authorization") is None
        counted = server.telemetry.counter("domicile_federation_bytes", "", []).values()
        assert counted["IR", "unknown"] > 100
        assert identity.faults == []
    finally:
        await outbound.close()
        await stranger.close()

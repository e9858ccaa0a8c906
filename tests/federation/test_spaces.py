"""Spaces: walked through here and over servers, with what each walker may see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from config.load import policy_from_text
from homeserver.rooms import spaces
from homeserver.rooms.spaces import may_see, ordered
from homeserver.runtime import exchange
from homeserver.runtime.outbound import Place
from tests.deployment import FLOWING, Answer, User
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio


async def space(play: Play, user: User, name: str, **wish: Any) -> str:
    """A space that everybody may join, unless said otherwise."""
    return await play.create(
        user, **{"preset": "public_chat", "name": name, **wish}, creation_content={"type": "m.space"}
    )


async def put(play: Play, user: User, parent: str, child: str, *via: str, **more: Any) -> None:
    """Put a room into a space."""
    path = f"/rooms/{quote(parent)}/state/m.space.child/{quote(child)}"
    await play.ask(user, "PUT", path, {"via": list(via) or [play.server.name], **more})


async def walk(play: Play, user: User, room_id: str, **query: str) -> dict[str, Any]:
    answer = await user.asks("GET", f"/_matrix/client/v1/rooms/{quote(room_id)}/hierarchy", **query)
    assert answer.status == 200, answer
    return answer.json


async def walked(play: Play, user: User, room_id: str, **query: str) -> list[str]:
    """The names of the rooms, over all pages."""
    found: list[str] = []
    while True:
        page = await walk(play, user, room_id, **query)
        found += [room.get("name", room["room_id"]) for room in page["rooms"]]
        if "next_batch" not in page:
            return found
        query["from"] = page["next_batch"]


async def tree(play: Play, user: User) -> dict[str, str]:
    """root: a (a1, a2), b, and a loop back to the root; order is by name."""
    made = {name: await space(play, user, name) for name in ("root", "a")}
    for name in ("a1", "a2", "b"):
        made[name] = await play.create(user, preset="public_chat", name=name)
    for parent, child in (("root", "b"), ("root", "a"), ("a", "a2"), ("a", "a1"), ("a", "root")):
        await put(play, user, made[parent], made[child], order=child, suggested=child != "a2")
    return made


# here ---------------------------------------------------------------------------------------


@aio
async def test_a_walk_is_depth_first_and_ends(network: Network) -> None:
    here = await network.found("here.test")
    alice, bob = await here.user("alice"), await here.user("bob", "paris")
    made = await tree(here, alice)
    for user in (alice, bob):
        assert await walked(here, user, made["root"]) == ["root", "a", "a1", "a2", "b"]
        assert await walked(here, user, made["root"], limit="2") == ["root", "a", "a1", "a2", "b"]
        assert await walked(here, user, made["root"], max_depth="1") == ["root", "a", "b"]
        assert await walked(here, user, made["root"], max_depth="0") == ["root"]
        assert await walked(here, user, made["root"], suggested_only="true") == ["root", "a", "a1", "b"]
    root = (await walk(here, alice, made["root"]))["rooms"][0]
    assert root["room_type"] == "m.space"
    assert [child["state_key"] for child in root["children_state"]] == [made["a"], made["b"]]
    assert set(root["children_state"][0]) == {"type", "state_key", "content", "sender", "origin_server_ts"}
    await here.ask(alice, "PUT", f"/rooms/{quote(made['root'])}/state/m.space.child/{quote(made['a'])}", {})
    assert await walked(here, alice, made["root"]) == ["root", "b"]


@aio
async def test_the_tokens_of_a_walk(network: Network) -> None:
    here = await network.found("here.test")
    alice, bob = await here.user("alice"), await here.user("bob")
    made = await tree(here, alice)
    first = await walk(here, alice, made["root"], limit="2")
    token = first["next_batch"]
    again = [await walk(here, alice, made["root"], limit="2", **{"from": token}) for _ in range(2)]
    assert [room["name"] for room in again[0]["rooms"]] == ["a1", "a2"]
    assert again[0]["rooms"] == again[1]["rooms"]
    for user, room_id, query in (
        (bob, made["root"], {}),
        (alice, made["a"], {}),
        (alice, made["root"], {"max_depth": "1"}),
        (alice, made["root"], {"suggested_only": "true"}),
        (alice, made["root"], {"from": "nonsense"}),
        (alice, made["root"], {"limit": "0"}),
    ):
        asked = {"from": token, **query}
        answer = await user.asks("GET", f"/_matrix/client/v1/rooms/{quote(room_id)}/hierarchy", **asked)
        assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM"), query


@aio
async def test_who_may_see_which_room(network: Network) -> None:
    here = await network.found("here.test")
    alice, bob = await here.user("alice"), await here.user("bob", "paris")
    root = await space(here, alice, "root")
    closed = await here.create(alice, name="closed")
    invited = await here.create(alice, name="invited", invite=[bob.user_id])
    readable = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    await_all = {
        "closed": closed,
        "invited": invited,
        "readable": await here.create(alice, name="readable", initial_state=[readable]),
        "knock": await here.create(
            alice, name="knock", initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        ),
        "members": await here.create(
            alice,
            name="members",
            initial_state=[
                {
                    "type": "m.room.join_rules",
                    "content": {
                        "join_rule": "restricted",
                        "allow": [{"type": "m.room_membership", "room_id": root}],
                    },
                }
            ],
        ),
    }
    for name, room_id in await_all.items():
        await put(here, alice, root, room_id, order=name)
    await here.settle()
    assert await walked(here, alice, root) == ["root", "closed", "invited", "knock", "members", "readable"]
    assert await walked(here, bob, root) == ["root", "invited", "knock", "readable"]
    await here.change(bob, root, "join")
    await here.settle()
    assert await walked(here, bob, root) == ["root", "invited", "knock", "members", "readable"]
    refused = await bob.asks("GET", f"/_matrix/client/v1/rooms/{quote(closed)}/hierarchy")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    nowhere = await bob.asks("GET", "/_matrix/client/v1/rooms/!none:here.test/hierarchy")
    assert (nowhere.status, nowhere.errcode) == (403, "M_FORBIDDEN")


@aio
async def test_a_room_in_short(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    alice, bob, carol = await here.user("alice"), await here.user("bob"), await there.user("carol")
    room_id = await here.create(alice, preset="public_chat", name="open", room_alias_name="open")
    closed = await here.create(alice, name="closed")
    far = await there.create(carol, preset="public_chat", name="far", room_alias_name="far")

    async def summary(user: User, named: str, **query: str) -> tuple[int, dict[str, Any]]:
        answer = await user.asks("GET", f"/_matrix/client/v1/room_summary/{quote(named)}", **query)
        return answer.status, answer.json

    for named in (room_id, "#open:here.test"):
        status, shown = await summary(alice, named)
        assert (status, shown["room_id"], shown["name"], shown["membership"]) == (200, room_id, "open", "join")
    assert (await summary(bob, room_id))[1]["membership"] == "leave"
    assert (await summary(bob, closed))[0] == 404
    assert (await summary(alice, closed))[0] == 200
    for named, query in (("#far:there.test", {}), (far, {"via": "there.test"})):
        status, shown = await summary(alice, named, **query)
        assert (status, shown["room_id"], shown["name"], shown["join_rule"]) == (200, far, "far", "public")
        assert "children_state" not in shown
    assert (await summary(alice, "!other:there.test"))[0] == 404
    assert (await summary(alice, "nonsense"))[0] == 400


EARLY = ("summary/{}", "rooms/{}/summary")


@pytest.mark.parametrize("form", ["v1/room_summary/{}", *(f"unstable/im.nheko.summary/{each}" for each in EARLY)])
@aio
async def test_a_room_in_short_for_anybody(network: Network, form: str) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    alice, carol = await here.user("alice"), await there.user("carol")
    room_id = await here.create(alice, preset="public_chat", name="open", room_alias_name="open")
    readable = {"type": "m.room.history_visibility", "content": {"history_visibility": "world_readable"}}
    shown = await here.create(alice, name="shown", initial_state=[readable])
    closed = await here.create(alice, name="closed")
    far = await there.create(carol, preset="public_chat", room_alias_name="far")

    async def summary(named: str, **query: str) -> Answer:
        return await here.deployment.asked("GET", "/_matrix/client/" + form.format(quote(named)), **query)

    for named in (room_id, "#open:here.test"):
        answer = await summary(named)
        assert (answer.status, answer.json["room_id"], answer.json["name"]) == (200, room_id, "open")
        assert "membership" not in answer.json
        if form.startswith("unstable"):
            assert answer.json["im.nheko.summary.room_version"] == answer.json["room_version"]
            assert answer.json["im.nheko.summary.version"] == answer.json["room_version"]
            assert answer.json["im.nheko.summary.encryption"] == answer.json["encryption"]
        else:
            assert not [name for name in answer.json if name.startswith("im.")]
    assert (await summary(shown)).json["name"] == "shown"
    assert {(await summary(named)).status for named in (closed, "!none:here.test", "#none:here.test")} == {404}
    for named, query in ((far, {"via": "there.test"}), ("#far:there.test", {})):
        assert (await summary(named, **query)).status == 404
    assert network.exchanges == [], "nobody makes this server ask others without saying who they are"
    here.server.policy.now = policy_from_text(FLOWING, "residency.toml", "here.test")
    assert (await summary(room_id)).status == 404, "what may not flow to somebody unknown"


# over servers -------------------------------------------------------------------------------


@aio
async def test_a_space_reaches_over_servers(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    alice, carol = await here.user("alice"), await there.user("carol")
    made = await tree(there, carol)
    secret = await there.create(carol, name="Secretname")
    await put(there, carol, made["root"], secret, order="c")
    mine = await space(here, alice, "mine")
    await put(here, alice, mine, made["root"], "nowhere.test", "there.test")
    expected = ["mine", "root", "a", "a1", "a2", "b"]
    assert await walked(here, alice, mine) == expected
    asked = [each.target for each in network.exchanges if "hierarchy" in each.target]
    assert len(asked) == 2, "for the root and for the space in it; rooms are described with their space"
    assert await walked(here, alice, mine) == expected
    assert len([each for each in network.exchanges if "hierarchy" in each.target]) == 2, "it is remembered"
    assert await walked(here, alice, mine, limit="2") == expected
    assert b"Secretname" not in network.bytes_out("there.test")
    network.cut("here.test", "there.test")
    await network.clock.advance(301)
    assert await walked(here, alice, mine) == ["mine"]


@aio
async def test_our_own_knowledge_counts_more(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    alice, carol = await here.user("alice"), await there.user("carol")
    root = await space(there, carol, "root")
    ours = await here.create(alice, name="ours")
    await put(there, carol, root, ours, "here.test")
    mine = await space(here, alice, "mine")
    await put(here, alice, mine, root, "there.test")
    assert await walked(here, alice, mine) == ["mine", "root", "ours"]
    assert await walked(here, await here.user("bob"), mine) == ["mine", "root"]


@aio
async def test_what_another_server_could_get_into(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    carol = await there.user("carol")
    root, closed = await space(there, carol, "root"), await there.create(carol, name="closed")
    await put(there, carol, root, closed)
    await put(there, carol, root, "!elsewhere:far.test", "far.test")
    ask = here.server.remote.hierarchy
    found = await ask(here.server, here.node("tehran"), "there.test", root, False)
    assert (found.room["name"], found.children, set(found.inaccessible)) == ("root", {}, {closed})
    assert [child["state_key"] for child in found.room["children_state"]] == [closed, "!elsewhere:far.test"]
    for room_id in (closed, "!none:there.test", "nonsense"):
        with pytest.raises(Exception, match="shows no such room"):
            await ask(here.server, here.node("tehran"), "there.test", room_id, False)


@aio
async def test_what_one_server_says_of_a_room_is_not_what_another_says(network: Network) -> None:
    here, there, liar = [await network.found(name) for name in ("here.test", "there.test", "liar.test")]
    alice, bob = await here.user("alice"), await here.user("bob")
    root = await there.create(await there.user("carol"), preset="public_chat", name="true")
    carry = network.carry

    async def carried(
        source: str, place: Place, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> exchange.Answer:
        if "hierarchy" not in target or place.host != liar.server.name:
            return await carry(source, place, method, target, headers, body)
        room = {"room_id": root, "name": "false", "join_rule": "public", "children_state": []}
        return exchange.Answer(200, {}, orjson.dumps({"room": room, "children": [], "inaccessible_children": []}))

    network.carry = carried  # type: ignore[method-assign]
    his, hers = await space(here, bob, "his"), await space(here, alice, "hers")
    await put(here, bob, his, root, liar.server.name)
    await put(here, alice, hers, root, there.server.name)
    assert await walked(here, bob, his) == ["his", "false"]
    assert await walked(here, alice, hers) == ["hers", "true"]


@aio
async def test_one_page_asks_few_questions(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    alice, carol = await here.user("alice"), await there.user("carol")
    mine = await space(here, alice, "mine")
    for number in range(spaces.QUESTIONS + 3):
        await put(here, alice, mine, await space(there, carol, f"s{number:02}"), "there.test", order=f"{number:02}")
    page = await walk(here, alice, mine)
    assert len(page["rooms"]) == 1 + spaces.QUESTIONS
    assert len([each for each in network.exchanges if "hierarchy" in each.target]) == spaces.QUESTIONS
    assert len(await walked(here, alice, mine)) == spaces.QUESTIONS + 4


# values -------------------------------------------------------------------------------------


def child(room: str, order: object = None, ts: int = 0, via: object = ("a.test",), **more: Any) -> dict[str, Any]:
    content = {"via": list(via) if isinstance(via, tuple) else via, "order": order, **more}
    return {"type": "m.space.child", "state_key": f"!{room}:a.test", "content": content, "origin_server_ts": ts}


def test_the_order_of_children() -> None:
    events = [
        child("b", " ", 1640341000000),
        child("a", "aaaa", 1640141000000),
        child("c", "first", 1640841000000),
        child("e", None, 1640641000000),
        child("d", None, 1640741000000),
        child("g", "\x7f", 1640941000000),
        child("h", "x" * 51, 1640951000000),
        child("i", 5, 1640951000000),
        child("x1", via=()),
        child("x2", via=None),
        child("x3", via=("not a server",)),
    ]
    assert [each.room_id[1] for each in ordered(events, False)] == ["b", "a", "c", "e", "d", "g", "h", "i"]
    suggested = [child("p"), child("q", suggested=True), child("r", suggested="yes")]
    assert [each.room_id[1] for each in ordered(suggested, True)] == ["q"]


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        ({"join_rule": "public"}, True),
        ({}, True),
        ({"join_rule": "invite"}, False),
        ({"join_rule": "private"}, False),
        ({"join_rule": "knock_restricted"}, True),
        ({"join_rule": "restricted"}, False),
        ({"join_rule": "restricted", "allowed_room_ids": ["!in:a"]}, True),
        ({"join_rule": "restricted", "allowed_room_ids": ["!asked:a"]}, False),
        ({"join_rule": "invite", "allowed_room_ids": ["!in:a"]}, False),
        ({"join_rule": "invite", "world_readable": True}, True),
        ({"join_rule": "invite", "room_id": "!in:a"}, True),
        ({"join_rule": "invite", "room_id": "!asked:a"}, True),
        ({"join_rule": "invite", "room_id": "!gone:a"}, False),
    ],
)
def test_what_may_be_seen(shown: dict[str, Any], seen: bool) -> None:
    assert may_see(shown, {"!in:a": "join", "!asked:a": "invite", "!gone:a": "ban"}) is seen

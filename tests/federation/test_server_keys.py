"""Keys of servers: published, asked of them and of notaries, kept, and disbelieved."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from federation import key_slots, server_keys
from federation.key_documents import LONGEST_VALIDITY, MOST_KEYS
from federation.key_slots import ENOUGH, MOST, Standing
from federation.server_keys import FIRST_PAUSE, LONGEST_PAUSE, MOST_BYTES, SHORTEST_REST, verify_keys
from homeserver.protocol.signing import SigningKey, sign_json, verify_json
from homeserver.storage import peers, servers
from homeserver.storage.engine import Transaction
from tests.federation.authority import Asked, Changing, Script, Stranger, says, silence
from tests.federation.towns import Town, World, document, query, signing_key, telling
from tests.support import aio

HOUR, DAY = 3600.0, 86400.0
OWN = "/_matrix/key/v2/server"
QUERY = "/_matrix/key/v2/query"


async def good(town: Town, name: str, key: SigningKey, at_ms: int | None = None) -> bool:
    """Whether a town believes that a key of a server was good, now unless another moment is given."""
    at = town.clock.now_ms() if at_ms is None else at_ms
    found = await verify_keys(town.server, name, [key.key_id], at)
    assert all(found[key_id].raw == key.verify_key.raw for key_id in found)
    return bool(found)


def forget(town: Town) -> None:
    """As after a restart: only the database is left."""
    known = town.server.nodes.directory.memory(server_keys.Known)
    known.rings.clear()
    known.pauses.clear()


# ours ---------------------------------------------------------------------------------------


@aio
async def test_our_keys(world: World) -> None:
    old = signing_key("old")
    town = await world.town(
        "a.test",
        f'old_keys = [{{ id = "{old.key_id}", key = "{old.verify_key.base64}", expired_ts = 5 }}]\nkey_validity = "3h"',
        keys=2,
    )
    answer = await town.asked("GET", OWN)
    assert answer.status == 200
    keys = town.server.identity.keys
    assert {**answer.json, "signatures": None} == {
        "server_name": "a.test",
        "verify_keys": {key.key_id: {"key": key.verify_key.base64} for key in keys},
        "old_verify_keys": {old.key_id: {"key": old.verify_key.base64, "expired_ts": 5}},
        "valid_until_ts": world.clock.now_ms() + 3 * 3600 * 1000,
        "signatures": None,
    }
    assert set(answer.json["signatures"]["a.test"]) == {key.key_id for key in keys}
    verify_json(answer.json, "a.test", {key.key_id: key.verify_key for key in keys})


# asked of the server itself -----------------------------------------------------------------


@aio
async def test_two_domiciles_know_each_other(either_world: World) -> None:
    world = either_world
    one, two = await world.town("a.test"), await world.town("b.test")
    assert await good(one, "b.test", two.key)
    assert await good(two, "a.test", one.key)
    assert not await good(one, "b.test", one.key)


@aio
async def test_a_key_is_asked_for_once(world: World) -> None:
    town, key = await world.town("a.test"), signing_key("b")
    made = await world.stranger("b.test", telling(document("b.test", key, until=world.clock.now_ms() + 10**7)))
    believed = await asyncio.gather(*(good(town, "b.test", key) for _ in range(20)))
    assert all(believed)
    forget(town)
    assert await good(town, "b.test", key)
    assert [asked.line for asked in made.asked] == [f"GET {OWN} HTTP/1.1"]


@aio
async def test_a_key_is_good_up_to_its_end(world: World) -> None:
    town, key = await world.town("a.test"), signing_key("b")
    now = world.clock.now_ms()
    script = Changing(telling(document("b.test", key, until=now + 3_600_000)))
    made = await world.stranger("b.test", script)
    assert await good(town, "b.test", key)
    script.script = says(b"", 500)
    await world.clock.advance(HOUR)
    assert await good(town, "b.test", key)
    await world.clock.advance(0.001)
    assert not await good(town, "b.test", key)
    assert await good(town, "b.test", key, now)  # what it signed then stays signed
    assert await good(town, "b.test", key, 0)
    assert len(made.asked) == 2
    script.script = telling(document("b.test", key, until=now + 7_200_000))
    await world.clock.advance(FIRST_PAUSE)
    assert await good(town, "b.test", key)


@aio
async def test_no_key_is_good_for_more_than_seven_days(world: World) -> None:
    town, key = await world.town("a.test"), signing_key("b")
    now = world.clock.now_ms()
    made = await world.stranger("b.test", telling(document("b.test", key, until=2**53 - 1)))
    assert await good(town, "b.test", key, now + LONGEST_VALIDITY)
    assert not await good(town, "b.test", key, now + LONGEST_VALIDITY + 1)
    assert len(made.asked) == 1
    await world.clock.advance(SHORTEST_REST)
    assert await good(town, "b.test", key, now + LONGEST_VALIDITY + 1)
    assert len(made.asked) == 2


@aio
async def test_an_old_key_is_good_for_what_is_old(world: World) -> None:
    town, key, old = await world.town("a.test"), signing_key("b"), signing_key("old")
    now = world.clock.now_ms()
    listed = {old.key_id: {"key": old.verify_key.base64, "expired_ts": now - 1000}}
    await world.stranger("b.test", telling(document("b.test", key, until=now + 10**7, old_verify_keys=listed)))
    assert not await good(town, "b.test", old)
    assert not await good(town, "b.test", old, now - 999)
    assert await good(town, "b.test", old, now - 1000)


@aio
async def test_an_old_key_cannot_expire_in_the_future(world: World) -> None:
    town, key, old = await world.town("a.test"), signing_key("b"), signing_key("old")
    now = world.clock.now_ms()
    listed = {old.key_id: {"key": old.verify_key.base64, "expired_ts": now + 10**9}}
    await world.stranger("b.test", telling(document("b.test", key, until=now + 10**7, old_verify_keys=listed)))
    await good(town, "b.test", key)
    await world.clock.advance(1)
    assert not await good(town, "b.test", old)


@aio
async def test_a_rotation(either_world: World) -> None:
    world = either_world
    town, before, after = await world.town("a.test"), signing_key("before"), signing_key("after")
    now = world.clock.now_ms()
    script = Changing(telling(document("b.test", before, until=now + 10**8)))
    await world.stranger("b.test", script)
    assert await good(town, "b.test", before)
    await world.clock.advance(HOUR)
    retired = {before.key_id: {"key": before.verify_key.base64, "expired_ts": world.clock.now_ms() - 1}}
    script.script = telling(document("b.test", after, until=now + 2 * 10**8, old_verify_keys=retired))
    assert await good(town, "b.test", after)  # an unknown key is asked for
    assert not await good(town, "b.test", before)
    assert await good(town, "b.test", before, now)
    script.script = telling(document("b.test", after, until=now + 3 * 10**8))
    await world.clock.advance(DAY * 3)
    assert await good(town, "b.test", after)
    assert await good(town, "b.test", before, now)  # though its server names it no more


@aio
async def test_unknown_keys_do_not_make_us_ask_and_ask(world: World) -> None:
    town, key = await world.town("a.test"), signing_key("b")
    made = await world.stranger("b.test", telling(document("b.test", key, until=world.clock.now_ms() + 10**7)))
    for number in range(50):
        assert not await good(town, "b.test", signing_key(f"invented {number}"))
    assert len(made.asked) == 1
    await world.clock.advance(SHORTEST_REST)
    assert not await good(town, "b.test", signing_key("invented"))
    assert len(made.asked) == 2


@aio
async def test_failures_are_remembered_with_growing_pauses(world: World) -> None:
    town, key = await world.town("a.test"), signing_key("b")
    script = Changing(says(b"", 500))
    made = await world.stranger("b.test", script)
    pause = FIRST_PAUSE
    for expected in range(1, 9):
        await good(town, "b.test", key)
        assert len(made.asked) == expected
        await world.clock.advance(pause - 0.5)
        await good(town, "b.test", key)
        assert len(made.asked) == expected
        await world.clock.advance(0.5)
        pause = min(2 * pause, LONGEST_PAUSE)
    script.script = telling(document("b.test", key, until=world.clock.now_ms() + 10**7))
    assert await good(town, "b.test", key)


@aio
async def test_only_so_many_servers_are_asked_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    town = await world.town("a.test")
    monkeypatch.setitem(MOST, Standing.STRANGER, 3)
    made = [await world.stranger(f"b{number}.test", silence) for number in range(4)]
    asking = [asyncio.ensure_future(good(town, f"b{number}.test", signing_key("b"))) for number in range(3)]
    for stranger in made[:3]:
        await stranger.arrived.wait()
    assert not await good(town, "b3.test", signing_key("b"))
    assert made[3].connections == 0
    assert refusals(town) == {("stranger",): 1}
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


# lies ---------------------------------------------------------------------------------------


def lies(now: int) -> dict[str, Any]:
    key, other = signing_key("b"), signing_key("other")
    fine = document("b.test", key, until=now + 10**7)
    entry = {"key": key.verify_key.base64}
    until = now + 10**7
    return {
        "of another server": document("c.test", key, until=until),
        "of no server": {name: value for name, value in fine.items() if name != "server_name"},
        "not signed": {**fine, "signatures": {}},
        "signed by another key": sign_json({**fine, "signatures": {}}, "b.test", other),
        "signed by another server": sign_json({**fine, "signatures": {}}, "c.test", key),
        "changed afterwards": {**fine, "valid_until_ts": now + 10**8},
        "signed with another's id": {
            **fine,
            "signatures": {"b.test": {key.key_id: next(iter(sign_json({}, "b", other)["signatures"]["b"].values()))}},
        },
        "signed by an old key only": {
            **sign_json(
                {
                    **fine,
                    "signatures": {},
                    "verify_keys": {},
                    "old_verify_keys": {key.key_id: {**entry, "expired_ts": now}},
                },
                "b.test",
                key,
            ),
        },
        "without keys": document("b.test", until=until),
        "of expired keys": document("b.test", key, until=now - 1),
        "without an end": document("b.test", key, until="soon"),  # type: ignore[arg-type]
        "of a boolean end": document("b.test", key, until=True),
        "of a negative end": document("b.test", key, until=-5),
        "of old keys without end": document(
            "b.test", key, until=until, old_verify_keys={other.key_id: {"key": other.verify_key.base64}}
        ),
        "with a key that is none": document(
            "b.test", key, until=until, verify_keys={key.key_id: entry, "ed25519:x": {"key": "AAAA"}}
        ),
        "with a key that is a list": document("b.test", key, until=until, verify_keys=[entry]),
        "with an entry that is text": document("b.test", key, until=until, verify_keys={key.key_id: "x"}),
        "with too many keys": document(
            "b.test",
            key,
            until=until,
            verify_keys={key.key_id: entry, **{f"ed25519:k{n}": entry for n in range(MOST_KEYS)}},
        ),
        "too deep": document("b.test", key, until=until, x=deep(251)),
        "too large": document("b.test", key, until=until, x="x" * MOST_BYTES),
        "a list": [fine],
        "of signatures that are text": {**fine, "signatures": {"b.test": {key.key_id: 7}}},
    }


def deep(levels: int) -> object:
    made: object = 1
    for _ in range(levels):
        made = [made]
    return made


@pytest.mark.parametrize("lie", lies(0))
@aio
async def test_lies(world: World, lie: str) -> None:
    town, key = await world.town("a.test"), signing_key("b")
    made = await world.stranger("b.test", telling(lies(world.clock.now_ms())[lie]))
    assert not await good(town, "b.test", key)
    assert len(made.asked) == 1
    kept = await town.server.nodes.directory.engine.read(servers.keys, "b.test")
    assert [entry.key_id for entry in kept] == ([key.key_id] if lie == "of expired keys" else [])
    forget(town)
    answer = await town.asked("GET", query("b.test"))
    assert answer.status == 200
    assert len(answer.json["server_keys"]) == (lie == "of expired keys")


@aio
async def test_the_truth_that_the_lies_are_made_of(world: World) -> None:
    town, key = await world.town("a.test"), signing_key("b")
    strange = {"key": "x", "ed25519:": {}, "rsa:1": {"key": 7}}
    fine = document("b.test", key, until=world.clock.now_ms() + 10**7, x=deep(200))
    fine["verify_keys"] |= strange
    await world.stranger("b.test", telling(sign_json(fine, "b.test", key)))
    assert await good(town, "b.test", key)


@pytest.mark.parametrize("script", [says(b"{}"), says(b"x"), says(b"", 404), says(b"\xff" * 100)])
@aio
async def test_answers_that_are_none(world: World, script: Script) -> None:
    town = await world.town("a.test")
    await world.stranger("b.test", script)
    assert not await good(town, "b.test", signing_key("b"))


@aio
async def test_a_server_cannot_fill_the_database(either_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = either_world
    monkeypatch.setattr(servers, "MOST_KEYS", 5)
    town = await world.town("a.test")
    script = Changing(silence)
    await world.stranger("b.test", script)
    for number in range(8):
        key = signing_key(str(number))
        script.script = telling(document("b.test", key, until=world.clock.now_ms() + 10**6))
        assert await good(town, "b.test", key)
        await world.clock.advance(SHORTEST_REST)
    kept = await town.server.nodes.directory.engine.read(servers.keys, "b.test")
    assert {entry.key_id for entry in kept} == {signing_key(str(number)).key_id for number in range(3, 8)}


# notaries -----------------------------------------------------------------------------------


@aio
async def test_a_notary_vouches(world: World) -> None:
    notary, town = await world.town("n.test"), await world.town("b.test")
    answer = await notary.asked("GET", query("b.test"))
    (vouched,) = answer.json["server_keys"]
    verify_json(vouched, "n.test", {notary.key.key_id: notary.key.verify_key})
    verify_json(vouched, "b.test", {town.key.key_id: town.key.verify_key})
    assert vouched["verify_keys"] == {town.key.key_id: {"key": town.key.verify_key.base64}}


@aio
async def test_keys_through_a_notary(either_world: World) -> None:
    """The server is gone; the notary, who knew it, vouches for it."""
    world = either_world
    notary, away = await world.town("n.test"), await world.town("b.test")
    one = await world.town("a.test", 'notaries = ["absent.test", "n.test"]')
    assert await good(notary, "b.test", away.key)
    world.internet.ports.pop((world.internet.hosts["b.test"][0], 8448))
    assert await good(one, "b.test", away.key)
    other = await world.town("c.test")
    assert not await good(other, "b.test", away.key)  # it asks no notary


@aio
async def test_a_notary_is_asked_only_when_the_server_does_not_answer(world: World) -> None:
    notary = await world.stranger("n.test", silence)
    two = await world.town("b.test")
    one = await world.town("a.test", 'notaries = ["n.test"]')
    assert await good(one, "b.test", two.key)
    assert notary.connections == 0


class Notary:
    """A notary who answers with what a test gives."""

    def __init__(self, now: int) -> None:
        self.key = signing_key("notary")
        self.own = document("n.test", self.key, until=now + 10**9)
        self.documents: object = []

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        made = self.own if asked.line.startswith("GET") else {"server_keys": self.documents}
        await telling(made)(asked, writer)

    def vouch(self, made: dict[str, Any]) -> dict[str, Any]:
        return sign_json(made, "n.test", self.key)


async def notary(world: World) -> tuple[Notary, Town, Stranger]:
    script = Notary(world.clock.now_ms())
    made = await world.stranger("n.test", script)
    return script, await world.town("a.test", 'notaries = ["n.test"]'), made


@aio
async def test_what_a_notary_is_asked(world: World) -> None:
    script, town, made = await notary(world)
    key = signing_key("b")
    script.documents = [script.vouch(document("b.test", key, until=world.clock.now_ms() + 10**7))]
    assert await good(town, "b.test", key)
    post, own = made.asked
    assert (post.line, orjson.loads(post.body)) == (f"POST {QUERY} HTTP/1.1", {"server_keys": {"b.test": {}}})
    assert own.line == f"GET {OWN} HTTP/1.1"


@pytest.mark.parametrize(
    "lie",
    [
        "unsigned",
        "by another",
        "of another",
        "not self-signed",
        "no list",
        "a list of text",
        "nothing",
        "a bad one first",
    ],
)
@aio
async def test_lies_of_a_notary(world: World, lie: str) -> None:
    script, town, _ = await notary(world)
    key, until = signing_key("b"), world.clock.now_ms() + 10**7
    fine = document("b.test", key, until=until)
    script.documents = {
        "unsigned": [fine],
        "by another": [sign_json(fine, "n.test", signing_key("other"))],
        "of another": [script.vouch(document("c.test", key, until=until))],
        "not self-signed": [script.vouch({**fine, "signatures": {}})],
        "no list": {"b.test": script.vouch(fine)},
        "a list of text": ["b.test"],
        "nothing": [],
        "a bad one first": [fine, script.vouch(fine)],
    }[lie]
    assert not await good(town, "b.test", key)


@aio
async def test_a_notary_that_is_behind_revives_no_key(either_world: World) -> None:
    world = either_world
    script, town, _ = await notary(world)
    key, after, now = signing_key("b"), signing_key("after"), world.clock.now_ms()
    retired = {key.key_id: {"key": key.verify_key.base64, "expired_ts": now - 5}}
    latest = document("b.test", after, until=now + 10**7, old_verify_keys=retired)
    itself = Changing(telling(latest))
    await world.stranger("b.test", itself)
    assert await good(town, "b.test", after)
    itself.script = says(b"", 500)
    script.documents = [script.vouch(document("b.test", key, signing_key("elder"), until=now + 10**6))]
    await world.clock.advance(SHORTEST_REST)
    assert not await good(town, "b.test", key)
    assert await good(town, "b.test", signing_key("elder"))  # of which nothing better was known
    answer = await town.asked("GET", query("b.test"))
    assert after.key_id in answer.json["server_keys"][0]["verify_keys"]


@aio
async def test_notaries_that_vouch_for_each_other_do_not_wait_for_each_other(world: World) -> None:
    town = await world.town("a.test", 'notaries = ["n.test", "m.test"]')
    for name in ("n.test", "m.test"):
        await world.stranger(name, says(b"", 500))
    assert not await good(town, "n.test", signing_key("n"))
    assert not await good(town, "b.test", signing_key("b"))


# as a notary --------------------------------------------------------------------------------


@aio
async def test_a_batch(either_world: World) -> None:
    world = either_world
    notary, two, three = [await world.town(name) for name in ("n.test", "b.test", "c.test")]
    asked: dict[str, Any] = {"b.test": {}, "c.test": {"ed25519:x": {"minimum_valid_until_ts": 5}}, "gone.test": {}}
    answer = await notary.asked("POST", QUERY, {"server_keys": {**asked, "n.test": {}}})
    found = {each["server_name"]: each for each in answer.json["server_keys"]}
    assert set(found) == {"b.test", "c.test", "n.test"}
    assert set(found["c.test"]["signatures"]) == {"c.test", "n.test"}
    assert two.key.key_id in found["b.test"]["verify_keys"]
    assert three.key.key_id in found["c.test"]["verify_keys"]
    assert set(found["n.test"]["signatures"]) == {"n.test"}
    assert (await notary.asked("POST", QUERY, {"server_keys": {}})).json == {"server_keys": []}


@aio
async def test_a_notary_asks_again_at_half_of_the_life(world: World) -> None:
    town, key = await world.town("n.test"), signing_key("b")
    now = world.clock.now_ms()
    script = Changing(telling(document("b.test", key, until=now + 8 * 3_600_000)))
    made = await world.stranger("b.test", script)
    for advance, asked in ((0, 1), (3.9 * HOUR, 1), (0.2 * HOUR, 2)):
        await world.clock.advance(advance)
        assert len((await town.asked("GET", query("b.test"))).json["server_keys"]) == 1
        assert len(made.asked) == asked
    script.script = says(b"", 500)
    await world.clock.advance(DAY)
    answer = await town.asked("GET", query("b.test"))
    assert answer.json["server_keys"][0]["valid_until_ts"] == now + 8 * 3_600_000  # the last that it said
    assert len(made.asked) == 3


@aio
async def test_a_notary_asks_when_more_is_wanted_than_it_has(world: World) -> None:
    town, key = await world.town("n.test"), signing_key("b")
    now = world.clock.now_ms()
    script = Changing(telling(document("b.test", key, until=now + 10**7)))
    made = await world.stranger("b.test", script)
    await town.asked("GET", query("b.test"))
    await world.clock.advance(SHORTEST_REST)
    script.script = telling(document("b.test", key, until=now + 2 * 10**7))
    later = {"minimum_valid_until_ts": str(now + 15 * 10**6)}
    assert len(made.asked) == 1
    answer = await town.asked("GET", query("b.test"), **later)
    assert answer.json["server_keys"][0]["valid_until_ts"] == now + 2 * 10**7
    assert len(made.asked) == 2
    body = {"server_keys": {"b.test": {"a": {}, "b": {"minimum_valid_until_ts": now + 3 * 10**7}}}}
    await world.clock.advance(SHORTEST_REST)
    await town.asked("POST", QUERY, body)
    assert len(made.asked) == 3


@aio
async def test_strangers_use_up_only_their_share(world: World) -> None:
    town = await world.town("n.test")
    most = MOST[Standing.FOR_OTHERS]
    names = [f"s{number}.test" for number in range(most + 4)]
    silent = [await world.stranger(name, silence) for name in names]
    batch = asyncio.ensure_future(town.asked("POST", QUERY, {"server_keys": {name: {} for name in names}}))
    for stranger in silent[:most]:
        await stranger.arrived.wait()
    two = await world.town("b.test")
    assert await good(town, "b.test", two.key)
    assert [stranger.connections for stranger in silent[most:]] == [0] * 4
    await town.server.outbound.close()
    assert (await batch).json == {"server_keys": []}


@aio
async def test_servers_that_nobody_knows_keep_us_from_none_that_we_know(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST, Standing.STRANGER, 3)
    town, old, new = await world.town("n.test"), await world.town("b.test"), await world.town("c.test")
    assert await good(town, "b.test", old.key)
    await world.clock.advance(SHORTEST_REST)
    names = [f"s{number}.test" for number in range(3)]
    silent = [await world.stranger(name, silence) for name in names]
    asking = [asyncio.ensure_future(good(town, name, old.key)) for name in names]
    for stranger in silent:
        await stranger.arrived.wait()
    assert not await good(town, "c.test", new.key), "one more that nobody knows"
    later = world.clock.now_ms() + LONGEST_VALIDITY
    await verify_keys(town.server, "b.test", [old.key.key_id], later)
    pause = town.server.nodes.directory.memory(server_keys.Known).pauses.get("b.test")
    assert pause is not None
    assert pause.until > world.clock.monotonic(), "it was asked anew"
    await town.server.outbound.close()
    assert not any(await asyncio.gather(*asking))


def refusals(town: Town) -> dict[tuple[str, ...], float]:
    """How often there was no place to ask a server, by its standing."""
    counter = town.server.telemetry.counter("domicile_federation_key_requests_refused", "", ["standing"])
    return dict(counter.values())


async def hold(world: World, town: Town, count: int, asker: str = "") -> list[asyncio.Task[Any]]:
    """Have servers asked that do not answer."""
    silent = [await world.stranger(f"s{number}{asker}.test", silence) for number in range(count)]
    asking = [
        asyncio.ensure_future(verify_keys(town.server, f"s{number}{asker}.test", ["ed25519:a"], 0, asker))
        for number in range(count)
    ]
    for stranger in silent:
        await stranger.arrived.wait()
    return asking


@aio
async def test_who_takes_long_makes_room_for_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invented names hold a place for a few seconds, and then only while nobody else needs it."""
    monkeypatch.setitem(MOST, Standing.STRANGER, 3)
    town, new = await world.town("n.test"), await world.town("c.test")
    asking = await hold(world, town, 3)
    await world.clock.advance(ENOUGH - 0.1)
    assert not await good(town, "c.test", new.key)
    await world.clock.advance(0.1)
    assert await good(town, "c.test", new.key)
    cut_short, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    assert (len(cut_short), len(waiting)) == (1, 2)
    cut = town.server.telemetry.counter("domicile_federation_key_requests_cut_short", "", ["standing"])
    assert cut.value("stranger") == 1
    await town.server.outbound.close()
    await asyncio.gather(*asking)


@aio
async def test_who_shares_a_room_with_us_has_a_place_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MOST, Standing.STRANGER, 3)
    monkeypatch.setitem(MOST, Standing.KNOWN, 0)
    town, member = await world.town("n.test"), await world.town("c.test")

    async def enter(tx: Transaction) -> None:
        peers.enter(tx, [("c.test", 1, 1)])

    asking = await hold(world, town, 3)
    assert not await good(town, "c.test", member.key)
    await town.server.nodes["paris"].write(enter)
    assert await good(town, "c.test", member.key)
    await town.server.outbound.close()
    await asyncio.gather(*asking)


@aio
async def test_one_address_names_only_so_many_strangers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_slots, "MOST_OF_ONE", 2)
    town, new = await world.town("n.test"), await world.town("c.test")
    asking = await hold(world, town, 2, "x")
    asked = [new.key.key_id]
    assert await verify_keys(town.server, "c.test", asked, 0, "x") == {}
    assert refusals(town) == {("stranger",): 1}
    assert await verify_keys(town.server, "c.test", asked, 0, "y") != {}
    await town.server.outbound.close()
    await asyncio.gather(*asking)


@aio
async def test_nobody_is_asked_for_ever(world: World) -> None:
    town = await world.town("n.test")
    (asking,) = await hold(world, town, 1)
    await world.clock.advance(key_slots.LONGEST)
    assert await asking == {}
    assert town.server.nodes.directory.memory(server_keys.Known).slots.held == {}


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"server_keys": []}, "M_BAD_JSON"),
        ({"server_keys": {"b.test": []}}, "M_BAD_JSON"),
        ({"server_keys": {"b.test": {"ed25519:a": 5}}}, "M_BAD_JSON"),
        ({"server_keys": {"b.test": {"ed25519:a": {"minimum_valid_until_ts": "5"}}}}, "M_BAD_JSON"),
        ({"server_keys": {"b.test": {"ed25519:a": {"minimum_valid_until_ts": True}}}}, "M_BAD_JSON"),
        ({"server_keys": {"no name": {}}}, "M_INVALID_PARAM"),
        (b"x", "M_NOT_JSON"),
        (b"[]", "M_BAD_JSON"),
    ],
)
@aio
async def test_questions_that_are_none(world: World, body: object, errcode: str) -> None:
    town = await world.town("n.test")
    answer = await town.asked("POST", QUERY, body)
    assert (answer.status, answer.errcode) == (400, errcode)


@aio
async def test_questions_about_no_server(world: World) -> None:
    town = await world.town("n.test")
    assert (await town.asked("GET", query("no name"))).errcode == "M_INVALID_PARAM"
    assert (await town.asked("GET", query("b.test"), minimum_valid_until_ts="x")).errcode == "M_INVALID_PARAM"

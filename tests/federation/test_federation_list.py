"""The federation list: what of it holds and when, and that nothing takes its place that is not better."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from config.load import policy_from_text
from homeserver.control import commands
from homeserver.protocol.errors import Conflict
from homeserver.protocol.federation_lists import MOST_BYTES
from homeserver.residency.changes import comparing, listed
from homeserver.residency.listing import holding, pulling
from homeserver.storage import federation_lists as stored
from homeserver.storage.engine import Transaction
from tests.deployment import FLOWING, User, start
from tests.federation.meetings import enter
from tests.federation.treaty import DAY, KEY, OTHER, Treaty, peer, policy
from tests.network import OPEN, Network
from tests.rooms.play import Play
from tests.support import ON_SQLITE, aio

HERE, THERE = "here.test", "there.test"


async def found(network: Network, text: str | None = None) -> tuple[Play, Treaty]:
    """A server that believes the list of a treaty, which places there.test in Germany."""
    treaty = Treaty(network)
    treaty.put(there="DE")
    return await network.found(HERE, policy=text or policy()), treaty


def where(play: Play, name: str = THERE) -> str:
    return play.server.policy.now.jurisdiction_of_server(name)


async def refused(play: Play) -> str:
    """Why no list is taken."""
    with pytest.raises(pulling.NotPulled) as fault:
        await pulling.pull(play.server)
    return str(fault.value)


# what holds ---------------------------------------------------------------------------------


@ON_SQLITE
@aio
async def test_a_list_places_servers_and_the_policy_has_the_last_word(network: Network) -> None:
    text = policy(more=peer("one.test", "IR") + peer("*.sub.test", "FR"))
    play, treaty = await found(network, text)
    treaty.put(there="DE", one="DE", far="XX")
    treaty.servers["a.sub.test"] = {"jurisdiction": "DE"}
    treaty.servers["here.test"] = {"jurisdiction": "DE"}
    assert where(play) == "unknown"
    assert await pulling.pull(play.server)
    assert [where(play, name) for name in (THERE, "There.Test", "one.test", "a.sub.test", "far.test", "no.test")] == [
        *("DE", "DE", "IR", "FR", "XX", "unknown")
    ]
    assert not play.server.policy.now.room_may_span({"IR", "DE"})
    assert play.server.policy.now.room_may_span({"IR", "XX"})
    answer = await commands.perform(play.server, "federation-list-status", {})
    assert (answer["list"]["serial"], answer["valid_servers"], answer["fault"]) == (3, 5, None)
    assert answer["undeclared"] == ["XX"]
    assert answer["contradictions"] == [
        {"server": "one.test", "policy": "IR", "list": "DE"},
        {"server": "a.sub.test", "policy": "FR", "list": "DE"},
    ]
    assert not await pulling.pull(play.server)


@ON_SQLITE
@aio
async def test_what_has_expired_is_unknown_again(network: Network) -> None:
    play, treaty = await found(network)
    treaty.put(there="DE", short="DE")
    treaty.servers["short.test"]["valid_until"] = network.clock.now_ms() + DAY
    await pulling.refresh(play.server)
    assert (where(play), where(play, "short.test")) == ("DE", "DE")
    treaty.status = 500
    await network.clock.advance(DAY / 1000)
    await pulling.refresh(play.server)
    assert (where(play), where(play, "short.test")) == ("DE", "unknown")
    await network.clock.advance(29 * DAY / 1000)
    await pulling.refresh(play.server)
    assert where(play) == "unknown"
    answer = await commands.perform(play.server, "doctor", {})
    assert {each["what"] for each in answer["findings"]} == {
        "federation list that has expired",
        "federation list that cannot be fetched any more",
    }


@aio
async def test_the_last_list_survives_a_restart_as_long_as_its_key_is_believed(network: Network) -> None:
    play, _ = await found(network)
    await pulling.pull(play.server)
    databases = network.databases_of(HERE)

    async def again(text: str) -> str:
        made = await start(databases, policy=text, clock=network.clock)
        await holding.load(made.server)
        return made.server.policy.now.jurisdiction_of_server(THERE)

    assert await again(policy()) == "DE"
    assert await again(policy(OTHER)) == "unknown"
    assert await again(policy(OTHER, KEY)) == "DE"

    async def alter(tx: Transaction) -> None:
        kept = await stored.kept(tx)
        assert kept is not None
        document = kept.document.replace(b'"DE"', b'"FR"')
        await tx.run("UPDATE federation_list SET document = ?", document)

    await play.server.nodes.directory.engine.write(alter)
    assert await again(policy()) == "unknown"


@ON_SQLITE
@aio
async def test_a_list_that_was_kept_and_not_put_in_force_is_taken_the_next_time(network: Network) -> None:
    play, treaty = await found(network)
    await pulling.pull(play.server)
    treaty.put(there="FR")
    kept = stored.KeptList(treaty.signed(), treaty.serial, 0, 0)
    assert await play.server.nodes.directory.engine.write(stored.keep, kept, 2)
    assert not await play.server.nodes.directory.engine.write(stored.keep, kept, 2)
    assert "meanwhile" in await refused(play)
    assert await pulling.pull(play.server)
    assert where(play) == "FR"


@ON_SQLITE
@aio
async def test_a_policy_that_believes_another_key_lets_the_list_go_at_once(network: Network) -> None:
    play, treaty = await found(network)
    await pulling.pull(play.server)
    server = play.server
    before = server.policy.now
    server.policy.now = policy_from_text(policy(OTHER), server_name=HERE, file="residency.toml")
    assert where(play) == "unknown"
    assert comparing.peers(before, server.policy.now)["removed"] == [{"server": THERE, "jurisdiction": "DE"}]
    treaty.raw = treaty.signed(OTHER, serial=1)  # another treaty counts for itself
    await pulling.refresh(server)
    assert (where(play), holding.status(server)["list"]["serial"]) == ("DE", 1)
    server.policy.now = policy_from_text(FLOWING, server_name=HERE, file="residency.toml")
    assert where(play) == "unknown"
    await pulling.refresh(server)
    assert where(play) == "unknown"


@ON_SQLITE
@aio
async def test_a_key_takes_the_place_of_another_without_a_gap(network: Network) -> None:
    play, treaty = await found(network, policy(KEY, OTHER))
    treaty.raw = treaty.signed(KEY, OTHER)
    await pulling.pull(play.server)
    play.server.policy.now = policy_from_text(policy(OTHER), server_name=HERE, file="residency.toml")
    assert where(play) == "DE"


# what is not believed -----------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[Treaty], bytes], str]] = {
    "another key": (lambda treaty: treaty.signed(OTHER), "signature"),
    "changed behind the signature": (lambda treaty: treaty.signed().replace(b'"DE"', b'"FR"'), "signature"),
    "no signature": (lambda treaty: orjson.dumps(treaty.document()), "signature"),
    "older": (lambda treaty: treaty.signed(serial=1), "was there already"),
    "another with the same number": (lambda treaty: treaty.signed(name="Other"), "two lists with number"),
    "truncated": (lambda treaty: treaty.signed()[:-30], "not all of it"),
    "huge": (lambda treaty: treaty.signed() + b" " * MOST_BYTES, "more than"),
    "expired": (lambda treaty: treaty.signed(serial=9, issued=1, valid_until=2), "expired"),
    "no list": (lambda treaty: b"[]", "not a JSON object"),
}


@ON_SQLITE
@pytest.mark.parametrize("why", REFUSED)
@aio
async def test_what_is_not_believed_changes_nothing(network: Network, why: str) -> None:
    play, treaty = await found(network)
    await pulling.pull(play.server)
    before = holding.status(play.server)
    served, words = REFUSED[why]
    treaty.raw = served(treaty)
    assert words in await refused(play)
    after = holding.status(play.server)
    assert words in after["fault"]
    assert {**after, "fault": None} == before
    assert where(play) == "DE"
    kept = await play.server.nodes.directory.engine.read(stored.kept)
    assert kept is not None
    assert kept.document != treaty.raw
    assert "federation list that cannot be fetched any more" in {
        each["what"] for each in (await commands.perform(play.server, "doctor", {}))["findings"]
    }
    treaty.raw = None
    assert not await pulling.pull(play.server)
    assert holding.status(play.server)["fault"] is None


@ON_SQLITE
@aio
async def test_no_redirect_is_followed_and_no_silence_believed(network: Network) -> None:
    play, treaty = await found(network)
    await pulling.pull(play.server)
    for status in (301, 302, 404, 500):
        treaty.status = status
        assert str(status) in await refused(play)
    del network.others["lists.test"]
    assert "cannot be fetched" in await refused(play)
    assert where(play) == "DE"
    with pytest.raises(Conflict):
        await commands.perform(play.server, "federation-list-pull", {})


@ON_SQLITE
@aio
async def test_a_list_may_be_a_file(network: Network) -> None:
    play, treaty = await found(network, policy(url="file:list.json"))
    assert "cannot be read" in await refused(play)
    play.server.settings.data_dir.mkdir(parents=True, exist_ok=True)
    (play.server.settings.data_dir / "list.json").write_bytes(treaty.signed())
    assert await pulling.pull(play.server)
    assert (where(play), treaty.fetched) == ("DE", 0)


# when it is fetched -------------------------------------------------------------------------


@ON_SQLITE
@aio
async def test_it_is_fetched_as_often_as_the_policy_says(network: Network) -> None:
    play, treaty = await found(network)

    async def minutes(count: int) -> int:
        """How often it is fetched in so many minutes."""
        before = treaty.fetched
        for _ in range(count):
            await network.clock.advance(60)
            await pulling.refresh(play.server)
        return treaty.fetched - before

    await pulling.refresh(play.server)
    assert treaty.fetched == 1
    assert await minutes(59) == 0
    assert await minutes(1) == 1
    treaty.status = 503
    assert await minutes(59) == 0
    assert await minutes(11) == 3  # soon again, until it is there
    treaty.status = 200
    assert await minutes(5) == 1
    assert await minutes(59) == 0


@ON_SQLITE
@aio
async def test_it_is_not_fetched_while_all_borders_are_closed(network: Network) -> None:
    play, treaty = await found(network)
    play.server.policy.isolated = {"IR", "FR"}
    await pulling.refresh(play.server)
    await pulling.appears(play.server, THERE)
    assert treaty.fetched == 0
    play.server.policy.isolated = {"IR"}
    await pulling.refresh(play.server)
    assert (treaty.fetched, where(play)) == (1, "DE")
    play.server.policy.isolated = ()
    assert where(play) == "DE"


@ON_SQLITE
@aio
async def test_a_server_that_nothing_places_is_looked_for_in_the_list(network: Network) -> None:
    play, treaty = await found(network)
    treaty.put()
    there = await network.found(THERE, policy=OPEN)
    alice, bob = await play.user("alice"), await there.user("bob")
    room_id = await play.create(alice)
    body = {"user_id": bob.user_id}
    await play.refused(alice, "POST", f"/rooms/{room_id}/invite", body)
    assert treaty.fetched == 1
    treaty.put(there="DE")
    await play.refused(alice, "POST", f"/rooms/{room_id}/invite", body)  # it was looked for just now
    assert treaty.fetched == 1
    await network.clock.advance(3601)
    await play.ask(alice, "POST", f"/rooms/{room_id}/invite", body)
    assert (treaty.fetched, where(play)) == (2, "DE")
    await enter(there, bob, room_id, HERE)
    await network.settle()
    await network.clock.advance(3601)
    await play.send(alice, room_id, "hello")
    await network.settle()
    assert treaty.fetched == 2


@ON_SQLITE
@aio
async def test_a_server_that_comes_of_itself_is_looked_for_too(network: Network) -> None:
    play, treaty = await found(network)
    there = await network.found(THERE, policy=OPEN)
    alice, bob = await play.user("alice"), await there.user("bob")
    room_id = await there.create(bob, invite=[alice.user_id])
    assert (treaty.fetched, where(play)) == (1, "DE")
    await enter(play, alice, room_id, THERE)


@ON_SQLITE
@aio
async def test_servers_that_nothing_places_cost_one_question_a_minute(network: Network) -> None:
    play, treaty = await found(network)
    for number in range(20):
        await pulling.appears(play.server, f"s{number}.test")
    assert treaty.fetched == 1
    await network.clock.advance(61)
    await pulling.appears(play.server, "s0.test")  # it was looked for
    assert treaty.fetched == 1
    await pulling.appears(play.server, "s19.test")
    assert treaty.fetched == 2
    for name in (THERE, HERE):
        await network.clock.advance(61)
        await pulling.appears(play.server, name)
    assert treaty.fetched == 2


# what it does to what is there --------------------------------------------------------------


async def shared(network: Network) -> tuple[Play, Treaty, Play, User, User, str]:
    """A room of Alice here with Bob there, which the list lets be."""
    play, treaty = await found(network)
    await pulling.pull(play.server)
    there = await network.found(THERE, policy=OPEN)
    alice, bob = await play.user("alice"), await there.user("bob")
    room_id = await play.create(alice, preset="public_chat")
    await enter(there, bob, room_id, HERE)
    await network.settle()
    await listed.report(play.server)
    return play, treaty, there, alice, bob, room_id


@ON_SQLITE
@aio
async def test_what_may_not_flow_any_more_stays_and_the_rooms_are_named(network: Network) -> None:
    play, treaty, there, alice, bob, room_id = await shared(network)
    await play.send(alice, room_id, "heron")
    await network.settle()
    assert await there.texts(bob, room_id) == ["heron"]
    network.cut(HERE, THERE)
    await play.send(alice, room_id, "kestrel")
    await play.settle()
    treaty.put(there="FR")
    answer = await commands.perform(play.server, "federation-list-pull", {})
    assert answer["changed"] is True
    assert [
        each["room_id"] for each in answer["report"]["rooms"]["rooms"]
    ] == []  # inside one deployment FR and IR flow
    treaty.put(there="XX")
    answer = await commands.perform(play.server, "federation-list-pull", {})
    (broken,) = answer["report"]["rooms"]["rooms"]
    assert (broken["room_id"], broken["servers"]) == (room_id, [THERE])
    network.mend(HERE, THERE)
    await network.clock.advance(600)
    await network.settle()
    assert await there.texts(bob, room_id) == ["heron"]
    treaty.put(there="DE")
    answer = await commands.perform(play.server, "federation-list-pull", {})
    assert answer["report"]["rooms"]["healed"] == 1
    await play.send(alice, room_id, "ibis")
    await network.settle()
    assert (await there.texts(bob, room_id))[-1] == "ibis"

"""What is of the moment and between servers: it ends by itself, is said again while it lasts, and a restart says
nothing that is not true any more.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.rooms import presence, presence_elsewhere
from homeserver.rooms.from_servers import TYPING_SECONDS
from tests.deployment import User
from tests.federation.forging import Scene, scene
from tests.federation.test_edus import ephemeral, pushed, synced, typing
from tests.federation.test_missed_lists import restart
from tests.federation.test_outgoing_edus import be_online, edus, meeting
from tests.federation.test_sender import ONE, TWO, sent
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

MINUTE = 60.0


async def poll(network: Network, play: Play, user: User, minutes: int) -> None:
    """Be there for so long."""
    caller = await user.caller()
    for _ in range(minutes * 2):
        await presence.seen(play.server, caller, presence.ONLINE)
        presence.active(play.server, caller)
        await pass_by(network, play, MINUTE / 2)


async def pass_by(network: Network, play: Play, seconds: float) -> None:
    """Let time pass, and what it changes of who is there be told."""
    await network.clock.advance(seconds)
    await network.settle()


async def seen_as(made: Scene) -> str:
    """What alice is told of the presence of bob, who is elsewhere."""
    answer = await made.here.ask(made.alice, "GET", f"/presence/{quote(made.bob.user_id)}/status")
    return str(answer["presence"])


async def news(made: Scene, since: str) -> list[dict[str, Any]]:
    """What alice is told of the presence of bob."""
    answer = await made.here.ask(made.alice, "GET", "/sync", since=since)
    return [each for each in answer.get("presence", {}).get("events", []) if each["sender"] == made.bob.user_id]


@aio
async def test_who_types_elsewhere_does_so_for_a_minute_and_not_after_a_restart(network: Network) -> None:
    made = await scene(network)
    bob = made.bob.user_id
    await made.tell(edus=[typing(bob, made.room_id)])
    assert await ephemeral(made, made.alice, "m.typing")
    await restart(made.here, room_id=made.room_id)
    assert await ephemeral(made, made.alice, "m.typing") == []
    await made.tell(edus=[typing(bob, made.room_id, False)])
    await made.tell(edus=[typing(bob, made.room_id)])
    assert [each["content"] for each in await ephemeral(made, made.alice, "m.typing")] == [{"user_ids": [bob]}]
    await network.clock.advance(TYPING_SECONDS - 1)
    assert await ephemeral(made, made.alice, "m.typing")
    await network.clock.advance(1)
    assert await ephemeral(made, made.alice, "m.typing") == []


@aio
async def test_typing_is_told_again_while_it_lasts_and_not_after_a_restart(network: Network) -> None:
    one, alice, _, room_id = await meeting(network)
    path = f"/rooms/{quote(room_id)}/typing/{quote(alice.user_id)}"
    for _ in range(4):
        await one.ask(alice, "PUT", path, {"typing": True, "timeout": 30_000})
        await network.settle()
        await network.clock.advance(20)
    assert [each["typing"] for each in edus(network, "m.typing")] == [True, True]
    transactions = len(sent(network, ONE, TWO))
    await restart(one, room_id=room_id)
    await network.clock.advance(3 * MINUTE)
    await network.settle()
    assert len(sent(network, ONE, TWO)) == transactions


@aio
async def test_who_is_there_elsewhere_is_so_while_their_server_says_it(network: Network) -> None:
    made = await scene(network)
    online = {"user_id": made.bob.user_id, "presence": "online", "status_msg": "tea"}
    await made.tell(edus=[pushed(online)])
    since = (await synced(made.here, made.alice))["next_batch"]
    await network.clock.advance(presence_elsewhere.BELIEVED - 1)
    await made.tell(edus=[pushed(online)])
    assert await news(made, since) == [], "nothing new"
    await network.clock.advance(presence_elsewhere.BELIEVED - 1)
    assert await seen_as(made) == "online"
    await network.clock.advance(1)
    assert await seen_as(made) == "offline"
    (told,) = await news(made, since)
    assert (told["sender"], told["content"]["presence"]) == (made.bob.user_id, "offline")
    assert told["content"]["status_msg"] == "tea"
    await made.tell(edus=[pushed(online)])
    assert await seen_as(made) == "online"
    await restart(made.here)
    assert await seen_as(made) == "offline", "nobody has said otherwise"


@pytest.mark.parametrize("last", ["offline", "unavailable"])
@aio
async def test_what_was_said_last_counts(network: Network, last: str) -> None:
    made = await scene(network)
    for state in ("online", last):
        await made.tell(edus=[pushed({"user_id": made.bob.user_id, "presence": state})])
    heard = made.here.node("tehran").memory(presence_elsewhere.Heard)
    assert len(heard.at) == (last != "offline")
    await network.clock.advance(presence_elsewhere.BELIEVED)
    assert await seen_as(made) == "offline"
    assert heard.timer is None


@aio
async def test_that_somebody_is_there_is_said_again_while_it_lasts(network: Network) -> None:
    one, alice, _, _ = await meeting(network)
    await be_online(one, alice, status_msg="here")
    await poll(network, one, alice, 60)

    def told() -> list[Any]:
        return [each["presence"] for edu in edus(network, "m.presence") for each in edu["push"]]

    assert told() == ["online"] * 3
    assert presence.TOLD_AGAIN < presence_elsewhere.BELIEVED
    await pass_by(network, one, 2 * MINUTE)
    assert told() == ["online"] * 3 + ["offline"]
    await pass_by(network, one, 120 * MINUTE)
    assert len(told()) == 4, "who is not there is not spoken of"


@aio
async def test_after_a_restart_nobody_is_said_to_be_there_who_has_not_come_back(network: Network) -> None:
    one, alice, _, _ = await meeting(network)
    await be_online(one, alice)
    await network.settle()
    await restart(one)
    transactions = len(sent(network, ONE, TWO))
    await network.clock.advance(40 * MINUTE)
    await network.settle()
    assert len(sent(network, ONE, TWO)) == transactions
    await be_online(one, alice)
    await network.settle()
    assert [push["presence"] for each in edus(network, "m.presence") for push in each["push"]] == ["online"] * 2

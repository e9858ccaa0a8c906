"""Room aliases between servers."""

from __future__ import annotations

from urllib.parse import quote

from tests.network import Network
from tests.rooms.play import CLIENT
from tests.support import aio


@aio
async def test_an_alias_of_another_server_is_found(network: Network) -> None:
    here, there = await network.found("here.test"), await network.found("there.test")
    alice, bob = await here.user("alice"), await there.user("bob")
    room_id = await there.create(bob, room_alias_name="hall")
    found = await here.ask(alice, "GET", f"/directory/room/{quote('#hall:there.test')}")
    assert found == {"room_id": room_id, "servers": ["there.test"]}
    assert (await here.refused(alice, "GET", f"/directory/room/{quote('#none:there.test')}")).errcode == "M_NOT_FOUND"
    anybody = await here.deployment.asked("GET", f"{CLIENT}/directory/room/{quote('#hall:there.test')}")
    assert anybody.status == 404, "nobody makes us ask others who is not our user"


@aio
async def test_a_server_out_of_reach_is_said_to_be(network: Network) -> None:
    here = await network.found("here.test")
    await network.found("there.test")
    alice = await here.user("alice")
    network.cut("here.test", "there.test")
    answer = await here.refused(alice, "GET", f"/directory/room/{quote('#hall:there.test')}")
    assert (answer.status, answer.json["error"]) == (502, "there.test could not be reached")

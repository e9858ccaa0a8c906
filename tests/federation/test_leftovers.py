"""Changes of keys do not pile up for a server that is away for long, and it finds out that it missed some."""

from __future__ import annotations

from federation import leftovers
from federation.sender import MOST_FAILURES
from homeserver.storage import peers
from tests.e2ee.play import Device
from tests.federation.test_outgoing_edus import away, back, edus, meeting
from tests.federation.test_sender import ONE, TWO
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

UPDATE = "m.device_list_update"


def collapsed(play: Play) -> float:
    """How many changes were given up."""
    return play.server.telemetry.counter("domicile_federation_collapsed", "").value()


@aio
async def test_of_the_changes_of_a_user_s_keys_the_last_is_sent_to_who_was_away_for_long(network: Network) -> None:
    one, alice, bob, room_id = await meeting(network)
    carol = Device(await one.user("carol"))
    await one.change(carol.user, room_id, "join")
    phone = Device(alice)
    await phone.publish()
    await network.settle()
    (known,) = edus(network, UPDATE)
    network.cut(ONE, TWO)
    for _ in range(3):
        await (await phone.another()).publish()
    await carol.publish()
    await phone.send("t1", {bob.user_id: {"PHONE": {"body": "x"}}})
    await away(network)
    await leftovers.collapse(one.server)
    assert collapsed(one) == 0, "it has not been away for long"
    node = one.node("tehran")
    row = await node.read(peers.find, TWO)
    await node.write(peers.put, [row._replace(failures=MOST_FAILURES)])
    await leftovers.collapse(one.server)
    assert collapsed(one) == 2
    await back(network)
    later = edus(network, UPDATE)[1:]
    assert sorted(each["user_id"] for each in later) == [alice.user_id, carol.user_id]
    (last,) = [each for each in later if each["user_id"] == alice.user_id]
    assert last["prev_id"] != [known["stream_id"]], "something is missing"
    assert len(edus(network, "m.direct_to_device")) == 1


def test_a_server_is_away_for_long_when_its_pauses_make_a_day() -> None:
    assert leftovers.failures_in(1.0, 3600.0) == 3  # 0.75 and 1.5 seconds
    assert leftovers.failures_in(leftovers.LONG_AWAY, 3600.0) == 44
    assert leftovers.failures_in(leftovers.LONG_AWAY, 60.0) == MOST_FAILURES

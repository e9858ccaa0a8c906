"""The bytes that cross borders are counted."""

from __future__ import annotations

from homeserver import control
from tests.federation.test_outgoing_edus import letting, meeting
from tests.federation.test_sender import ONE, TWO, sent
from tests.network import Network
from tests.support import aio


@aio
async def test_what_is_sent_is_counted_between_its_jurisdictions(network: Network) -> None:
    one, alice, _, room_id = await meeting(network, letting("*"))
    await one.send(alice, room_id, "hello")
    await network.settle()
    (transaction,) = sent(network, ONE, TWO)
    shown = (await control.perform(one.server, "residency-traffic", {}))["traffic"]
    pairs = {(each["from"], each["to"]): each["bytes"] for each in shown}
    assert pairs["IR", "DE"] == len(transaction.body)
    assert pairs["DE", "IR"] == len(transaction.answer)
    theirs = (await control.perform(network.plays[TWO].server, "residency-traffic", {}))["traffic"]
    (inward,) = [each["bytes"] for each in theirs if (each["from"], each["to"]) == ("unknown", "deployment")]
    assert inward >= len(transaction.body)


@aio
async def test_what_did_not_leave_is_not_counted(network: Network) -> None:
    one, alice, _, room_id = await meeting(network, letting("*"))
    network.cut(ONE, TWO)
    await one.send(alice, room_id, "hello")
    await network.settle()
    assert (await control.perform(one.server, "residency-traffic", {}))["traffic"] == []

"""What somebody's own devices encrypt for one that nobody has signed: it is held until somebody does."""

from __future__ import annotations

import asyncio
from typing import Any

from homeserver.e2ee import held_messages
from homeserver.e2ee.held_messages import MOST, SECONDS, Held
from homeserver.storage.engine import Transaction
from tests.deployment import SETTINGS
from tests.e2ee.play import Cast, Device, Identity, KeyPlay, events, message
from tests.e2ee.test_cross_signing import identity
from tests.e2ee.test_unsigned import sign
from tests.support import ON_SQLITE, aio
from tests.transparency import ghosts
from tests.transparency.ghosts import GHOST

SECRET = "m.room.encrypted"


async def two(cast: Cast, **kwargs: Any) -> tuple[KeyPlay, Device, Device, Identity]:
    """Alice has cross-signing keys, a device that they have signed, and another that they have not."""
    play = await cast(**kwargs)
    first = await play.device("alice")
    mine = await identity(first)
    await sign(first, mine)
    second = await first.another()
    await second.publish()
    return play, first, second, mine


async def resting(play: KeyPlay) -> int:
    """Messages to devices that rest in the database, but for what the server says of new devices."""

    async def count(tx: Transaction) -> int:
        return sum(b"ciphertext" in row[0] for row in await tx.all("SELECT message FROM to_device"))

    return await play.node("tehran").read(count)


def messages(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """What people's devices have sent, of an answer of `/sync`."""
    return [event for event in events(answer) if "ciphertext" in event["content"]]


async def told(sender: Device, recipient: Device, txn: str, kind: str = SECRET, device: str = "") -> None:
    """Send a message to a device of one's own."""
    sent = await sender.send(txn, {recipient.user_id: {device or recipient.device_id: message(txn)}}, kind)
    assert sent.status == 200, sent


async def read(device: Device) -> list[str]:
    """The transactions of the messages that a device is given."""
    texts = {message(name)["ciphertext"]: name for name in ("one", "two", "three", "four")}
    return [texts[event["content"]["ciphertext"]] for event in messages(await device.sync())]


async def ended(play: KeyPlay) -> None:
    """Wait until nobody watches for signatures any more."""
    while tasks := list(play.node("tehran").memory(Held).watching.values()):
        await asyncio.wait(tasks)


@aio
async def test_it_comes_with_the_signature_in_order_and_once(cast: Cast) -> None:
    play, first, second, mine = await two(cast)
    await told(first, second, "one")
    await told(first, second, "two")
    await told(first, second, "two")  # the answer was lost
    assert await resting(play) == 0, "whoever can read the database finds nothing"
    await told(first, second, "three", "m.key.verification.request")
    assert await read(second) == ["three"], "what is needed to verify it comes at once"
    since = (await second.sync())["next_batch"]
    await sign(second, mine)
    await ended(play)
    await told(first, second, "two")
    await told(first, second, "four")
    found = messages(await second.sync(since))
    assert [event["content"] for event in found] == [message("one"), message("two"), message("four")]
    assert [(event["sender"], event["type"]) for event in found] == [(first.user_id, SECRET)] * 3


@ON_SQLITE
@aio
async def test_a_star_means_those_that_are_signed(cast: Cast) -> None:
    play, first, second, mine = await two(cast)
    third = await first.another()
    await third.publish()
    await sign(third, mine)
    await told(first, second, "one", device="*")
    assert (await read(first), await read(second), await read(third)) == (["one"], [], ["one"])
    await sign(second, mine)
    await ended(play)
    assert await read(second) == ["one"]


@ON_SQLITE
@aio
async def test_a_device_that_the_log_does_not_know_hears_nothing(cast: Cast) -> None:
    play, first, _, _ = await two(cast)
    await ghosts.by_sql(play.node("tehran"), first.user_id)
    await play.settle()
    await first.query(first)
    await told(first, first, "one", device=GHOST)
    assert await resting(play) == 0
    assert len(play.node("tehran").memory(Held).messages.get(first.user_id) or ()) == 1


@ON_SQLITE
@aio
async def test_it_is_forgotten(cast: Cast) -> None:
    """After a time, with the device, and the oldest when there are many."""
    play, first, second, mine = await two(cast)
    held = play.node("tehran").memory(Held)
    await told(first, second, "one")
    await play.deployment.clock.advance(SECONDS - 1)
    await told(first, second, "two")
    await play.deployment.clock.advance(2)
    await sign(second, mine)
    await ended(play)
    assert await read(second) == ["two"]
    third = await first.another()
    await third.publish()
    for number in range(MOST + 1):
        await told(first, third, f"{number}")
    texts = [kept.event for kept in held.messages.get(first.user_id) or ()]
    assert len(texts) == MOST
    assert message("0")["ciphertext"].encode() not in texts[0]
    await play.deployment.clock.advance(SECONDS + 1)
    await ended(play)
    assert held.messages.get(first.user_id) is None


@ON_SQLITE
@aio
async def test_who_gives_devices_time_has_nothing_held(cast: Cast) -> None:
    play, first, second, _ = await two(cast, settings=SETTINGS + '[encryption]\nunsigned_device_grace = "1w"\n')
    await told(first, second, "one")
    assert await read(second) == ["one"]
    bob = await play.device("bob")  # who has no keys to sign with
    other = await bob.another()
    await other.publish()
    await told(bob, other, "two")
    assert await read(other) == ["two"]
    assert not play.node("tehran").memory(held_messages.Held).watching

"""Who is told of a new device, and of another identity: the user's other devices, and their e-mail addresses."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.accounts import letters
from homeserver.context import Server
from homeserver.e2ee import notices
from homeserver.runtime import mail
from homeserver.storage.engine import Transaction
from tests.deployment import POLICY, SETTINGS
from tests.e2ee.play import Cast, Device, Identity, KeyPlay, events
from tests.e2ee.test_cross_signing import confirm, identity
from tests.e2ee.test_dehydrated import Sleeper
from tests.e2ee.test_unsigned import sign
from tests.support import ON_SQLITE, aio

EMAIL = SETTINGS + '[email]\nserver = "127.0.0.1"\nport = 1\nsecurity = "none"\nsender = "d@example.org"\n'
REACHED = POLICY + '[[peers]]\nserver = "mail.ir"\njurisdiction = "IR"\n'


def told(answer: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What a device was told of keys."""
    found = [event for event in events(answer) if event["type"] == notices.EVENT]
    return [(event["content"]["reason"], event["content"]["devices"]) for event in found]


@aio
async def test_other_devices_are_told_and_cannot_be_kept_from_it(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    assert told(await alice.sync()) == []  # her first device is no news
    since = {each: (await each.sync())["next_batch"] for each in (alice, bob)}
    second = await alice.another()
    assert told(await alice.sync(since[alice])) == []  # it cannot read anything yet
    await second.publish()
    await second.publish(one_time_keys=second.one_time_keys("A"))  # the same once more
    assert told(await second.sync()) == []
    await second.gets("POST", "/logout", {})
    answer = await alice.sync(since[alice])
    assert told(answer) == [("device_keys", [second.device_id])]
    # Clients that know nothing of such messages, Element among them, look at their own list, and show what is unsigned.
    assert answer["device_lists"]["changed"] == [alice.user_id]
    await play.settle()
    assert told(await bob.sync(since[bob])) == []


@aio
async def test_another_identity_is_told_to_those_that_did_not_make_it(play: KeyPlay) -> None:
    alice = await play.device("alice")
    second = await alice.another()
    mine = await identity(alice)
    since = {each: (await each.sync())["next_batch"] for each in (alice, second)}
    sleeper = Sleeper(alice, mine, "SLEEPER")  # which the user's own keys have signed
    assert (await sleeper.put()).status == 200
    await confirm(second, Identity(alice.user_id).upload())
    assert told(await alice.sync(since[alice])) == [("identity_reset", [])]
    assert told(await second.sync(since[second])) == []


@aio
async def test_a_first_identity_is_told_to_those_that_did_not_make_it(play: KeyPlay) -> None:
    alice = await play.device("alice")
    second = await alice.another()
    mine = Identity(alice.user_id)
    for _ in range(2):
        await second.gets("POST", "/keys/device_signing/upload", mine.upload())  # the second time nothing is new
    assert told(await alice.sync()) == [("cross_signing", [])]
    assert told(await second.sync()) == []


@aio
async def test_other_keys_of_a_device_that_there_was_are_told(play: KeyPlay) -> None:
    alice, bob = await play.device("alice"), await play.device("bob", "paris")
    await play.room_of(alice.user, bob.user)
    second = await alice.another()
    mine = await identity(alice)
    await second.publish()
    await sign(second, mine)
    await sign(alice, mine)
    since = (await alice.sync())["next_batch"]
    signed = mine.by(mine.self_signing, second.device_keys())
    await second.gets("POST", "/keys/upload", {"device_keys": signed})  # the same keys, signed
    assert told(await alice.sync(since)) == []
    await play.settle()
    assert set((await bob.query(alice))["device_keys"][alice.user_id]) == {alice.device_id, second.device_id}
    await Device(second.user).publish()
    assert told(await alice.sync(since)) == [("device_keys", [second.device_id])]
    await play.settle()
    assert set((await bob.query(alice))["device_keys"][alice.user_id]) == {alice.device_id}  # nobody has signed these


class Post:
    """Takes letters, or does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.letters: list[tuple[str, str, str]] = []
        self.down = False

        async def send(server: Server, settings: Any, address: str, subject: str, text: str) -> None:
            if self.down:
                raise mail.NotSent("down")
            self.letters.append((address, subject, text))

        monkeypatch.setattr(letters, "_mail", send)


async def _own(tx: Transaction, user_id: str, *addresses: str) -> None:
    await tx.run("DELETE FROM threepids")
    for address in addresses:
        await tx.run(
            "INSERT INTO threepids (medium, address, user_nid, validated_ts, added_ts)"
            " SELECT 'email', ?, user_nid, 0, 0 FROM users WHERE user_id = ?",
            address,
            user_id,
        )


@ON_SQLITE
@aio
async def test_letters_go_to_the_addresses_that_there_were(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    post, play = Post(monkeypatch), await cast(settings=EMAIL, policy=REACHED)
    tehran = play.node("tehran")
    alice = await play.device("alice", published=False)
    await tehran.write(_own, alice.user_id, "a@mail.ir", "a@elsewhere.example")
    await alice.publish()
    await notices.write_letters(play.server)
    assert post.letters == []
    ghosts = [await alice.another(), await alice.another()]
    for ghost in ghosts:
        await ghost.publish()
    await tehran.write(_own, alice.user_id)  # as somebody does who has got into the account
    post.down = True
    await notices.write_letters(play.server)
    post.down = False
    await play.deployment.clock.advance(60)
    await notices.write_letters(play.server)
    ((address, subject, text),) = post.letters  # the policy lets nothing go to the other one
    assert (address, subject) == ("a@mail.ir", "A new device in your account at example.org")
    assert all(ghost.device_id in text for ghost in ghosts)
    await notices.write_letters(play.server)
    assert len(post.letters) == 1
    await tehran.write(_own, alice.user_id, "a@mail.ir")
    await Device(alice.user).publish()  # a device that there was, with other keys
    await notices.write_letters(play.server)
    assert alice.device_id in post.letters[1][2]


@ON_SQLITE
@aio
async def test_what_cannot_be_sent_is_given_up(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    post, play = Post(monkeypatch), await cast(settings=EMAIL, policy=REACHED)
    alice = await play.device("alice")
    await play.node("tehran").write(_own, alice.user_id, "a@mail.ir")
    await identity(alice)
    await confirm(alice, Identity(alice.user_id).upload())
    post.down = True
    await notices.write_letters(play.server)
    await play.deployment.clock.advance(601)
    await notices.write_letters(play.server)
    post.down = False
    await notices.write_letters(play.server)
    assert post.letters == []
    await confirm(alice, Identity(alice.user_id).upload())
    await notices.write_letters(play.server)
    assert [subject for _, subject, _ in post.letters] == ["Your identity at example.org was reset"]

"""Events that are sent later: when, once, by whom they can be stopped, and what is never put off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from homeserver.accounts import deactivation
from homeserver.protocol.errors import NodeUnavailable
from homeserver.rooms import delayed, housekeeping, say
from homeserver.runtime.clock import FakeClock, Timer
from homeserver.storage import delayed_events as stored
from tests.deployment import FLOWING, SETTINGS, Answer, User, start
from tests.rooms.play import CLIENT, Cast, Play, ciphertext, text_of
from tests.support import Databases, aio

UNSTABLE = "/_matrix/client/unstable/org.matrix.msc4140"
CALL = "org.matrix.msc3401.call.member"


class Noting(FakeClock):
    """Says how long somebody has begun to wait."""

    def __init__(self) -> None:
        super().__init__()
        self._waits: asyncio.Queue[float] = asyncio.Queue()

    def call_later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Note the wait."""
        self._waits.put_nowait(seconds)
        return super().call_later(seconds, callback, *args)

    async def wait_of(self, seconds: float) -> None:
        """Wait until somebody has begun to wait that long."""
        while await self._waits.get() != pytest.approx(seconds):
            pass


async def later(user: User, room_id: str, text: str, delay_ms: int, txn_id: str) -> str:
    """Have a message sent later, in the form of the proposal."""
    path = f"{UNSTABLE}/rooms/{quote(room_id)}/delayed_event/m.room.encrypted/{txn_id}"
    answer = await user.asks("PUT", path, {"delay_ms": delay_ms, "content": ciphertext(text)})
    assert answer.status == 200, answer
    return str(answer.json["delay_id"])


async def by_parameter(user: User, path: str, content: object, delay: object) -> Answer:
    """Send something later as clients do today; the specification knows no such answer."""
    response = await user.deployment.site.call(
        "PUT",
        f"{CLIENT}{path}?org.matrix.msc4140.delay={delay}",
        headers={"Authorization": f"Bearer {user.token}"},
        body=orjson.dumps(content),
        address="127.0.0.1",
    )
    assert isinstance(response.body, bytes)
    return Answer(response.status, orjson.loads(response.body))


async def act(play: Play, delay_id: str, action: str) -> Answer:
    """Do something to a delayed event, without a token."""
    return await play.deployment.asked("POST", f"{UNSTABLE}/delayed_events/{delay_id}/{action}")


async def waiting(user: User) -> list[dict[str, Any]]:
    """What a user sees of their events that wait."""
    answer = await user.asks("GET", f"{UNSTABLE}/delayed_events")
    assert answer.status == 200
    return list(answer.json["delayed_events"])


async def pass_time(play: Play, seconds: float, node: str = "tehran") -> float | None:
    """Let time pass, and do what `follow` does then."""
    await play.deployment.clock.advance(seconds)
    return await delayed.send_due(play.server, play.node(node))


@aio
async def test_a_message_is_sent_when_its_time_has_come(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    path = f"/rooms/{quote(room_id)}/send/m.room.encrypted/t1"
    answer = await by_parameter(alice, path, ciphertext("late"), 5000)
    assert (answer.status, set(answer.json)) == (200, {"delay_id"})
    assert await pass_time(play, 4.9) == pytest.approx(0.1)
    assert await play.texts(alice, room_id) == []
    [shown] = await waiting(alice)
    assert shown == {
        "delay_id": answer.json["delay_id"],
        "room_id": room_id,
        "type": "m.room.encrypted",
        "delay_ms": 5000,
        "delay": 5000,
        "scheduled_at": play.server.clock.now_ms() - 4900,
        "running_since": play.server.clock.now_ms() - 4900,
        "content": ciphertext("late"),
    }
    assert (await alice.asks("GET", f"{UNSTABLE}/delayed_events/{shown['delay_id']}")).json == shown
    assert await pass_time(play, 0.1) is None
    assert await play.texts(alice, room_id) == ["late"]
    assert await waiting(alice) == []
    assert (await alice.asks("GET", f"{UNSTABLE}/delayed_events/{shown['delay_id']}")).status == 404
    await pass_time(play, 100)
    assert await play.texts(alice, room_id) == ["late"]


@aio
async def test_its_sender_sees_which_it_was(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    delay_id = await later(alice, room_id, "late", 10, "t1")
    await pass_time(play, 1)
    for user, expected in ((alice, delay_id), (bob, None)):
        event = (await play.timeline(user, room_id))[-1]
        assert text_of(event) == "late"
        assert event["unsigned"].get("org.matrix.msc4140.delay_id") == expected
        assert "transaction_id" not in event["unsigned"]
    mine = await play.send(alice, room_id, "now", "t2")
    event = (await play.timeline(alice, room_id))[-1]
    assert (event["event_id"], event["unsigned"]["transaction_id"]) == (mine, "t2")


@aio
async def test_a_call_is_left_unless_the_client_lives(play: Play) -> None:
    """What the feature is for: the device puts it off as long as it is there."""
    alice = await play.user("alice", "paris")
    room_id = await play.create(alice)
    entry = f"/rooms/{quote(room_id)}/state/{CALL}/_{quote(alice.user_id)}_DEV"
    await play.ask(alice, "PUT", entry, {"application": "m.call"})
    delay_id = (await by_parameter(alice, entry, {}, 8000)).json["delay_id"]
    for _ in range(5):
        await pass_time(play, 5, "paris")
        assert (await act(play, delay_id, "restart")).status == 200
        assert await play.ask(alice, "GET", entry) == {"application": "m.call"}
    await pass_time(play, 8, "paris")
    assert await play.ask(alice, "GET", entry) == {}
    assert (await act(play, delay_id, "restart")).status == 409


@aio
async def test_what_is_done_can_be_done_again_and_not_undone(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    sent, gone = await later(alice, room_id, "sent", 1000, "a"), await later(alice, room_id, "gone", 1000, "b")
    for _ in range(2):
        assert (await act(play, sent, "send")).status == 200
        old = await play.deployment.asked("POST", f"{UNSTABLE}/delayed_events/{gone}", {"action": "cancel"})
        assert (old.status, old.json) == (200, {})
    for delay_id, action in ((sent, "cancel"), (sent, "restart"), (gone, "send"), (gone, "restart")):
        refused = await act(play, delay_id, action)
        assert (refused.status, refused.errcode) == (409, "M_UNKNOWN")
    await pass_time(play, 10)
    assert await play.texts(alice, room_id) == ["sent"]
    unknown = await act(play, "nonsense", "send")
    assert (unknown.status, unknown.errcode) == (404, "M_NOT_FOUND")
    assert (await act(play, sent, "sing")).errcode == "M_UNRECOGNIZED"
    held = await play.node("tehran").read(stored.find, gone)
    assert held is not None
    assert held.content is None


@aio
async def test_nobody_sends_it_twice(play: Play) -> None:
    """However many act at once, and whether the moment has come."""
    alice = await play.user("alice")
    room_id = await play.create(alice)
    delay_ids = [await later(alice, room_id, f"{number}", 1000, f"t{number}") for number in range(6)]
    await play.deployment.clock.advance(1)
    node = play.node("tehran")
    everybody = [act(play, each, action) for each in delay_ids for action in ("send", "cancel", "restart", "send")]
    answers, *_ = await asyncio.gather(
        asyncio.gather(*everybody),
        delayed.send_due(play.server, node),
        delayed.send_due(play.server, node),
    )
    await pass_time(play, 10)
    texts = await play.texts(alice, room_id)
    assert len(texts) == len(set(texts))
    for number, each in enumerate(delay_ids):
        first, cancelled, _, second = (answer.status for answer in answers[4 * number : 4 * number + 4])
        held = await node.read(stored.find, each)
        assert held is not None
        assert (cancelled == 200) == (held.action == "cancel") == (str(number) not in texts)
        assert {first, second} == ({409} if cancelled == 200 else {200}) or cancelled == 200


@aio
async def test_a_repeated_request_is_one(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    first, second = await asyncio.gather(*(later(alice, room_id, "once", 1000, "t1") for _ in range(2)))
    assert first == second == await later(alice, room_id, "once", 1000, "t1")
    assert await later(alice, room_id, "twice", 1000, "t2") != first
    await pass_time(play, 1)
    assert sorted(await play.texts(alice, room_id)) == ["once", "twice"]


@aio
async def test_after_a_restart_all_are_sent_in_order(engines: Databases) -> None:
    before = Play(await start(engines, policy=FLOWING))
    alice = await before.user("alice")
    room_id = await before.create(alice)
    for text, delay in (("third", 9000), ("first", 1000), ("second", 5000), ("later", 100_000)):
        await later(alice, room_id, text, delay, text)
    clock = Noting()
    after = Play(await start(engines, policy=FLOWING, clock=clock))
    await clock.advance(60)
    user = User(after.deployment, alice.user_id, alice.device_id, alice.token)
    following = asyncio.ensure_future(delayed.follow(after.server, after.node("tehran")))
    await clock.wait_of(40)
    assert await after.texts(user, room_id) == ["first", "second", "third"]
    await clock.advance(30)
    await later(user, room_id, "new", 500, "new")
    await clock.wait_of(0.5)
    await clock.advance(0.5)
    await clock.wait_of(9.5)
    assert await after.texts(user, room_id) == ["first", "second", "third", "new"]
    await clock.advance(9.5)
    after.server.wakeups.stop()
    await following
    assert await after.texts(user, room_id) == ["first", "second", "third", "new", "later"]


@aio
async def test_a_kill_between_sending_and_noting_it(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    called = await play.create(alice)
    entry = f"/rooms/{quote(called)}/state/{CALL}/x"
    await later(alice, room_id, "once", 1000, "t1")
    await by_parameter(alice, entry, {"left": True}, 1000)
    real = stored.end

    async def killed(*_: object) -> None:
        raise NodeUnavailable("tehran")

    monkeypatch.setattr(stored, "end", killed)
    assert await pass_time(play, 1) == delayed.RETRY
    assert await play.texts(alice, room_id) == ["once"]
    monkeypatch.setattr(stored, "end", real)
    assert await pass_time(play, 5) is None
    assert await play.texts(alice, room_id) == ["once"]
    assert [event["type"] for event in await play.timeline(alice, called)].count(CALL) == 1


@aio
async def test_what_may_not_be_sent_is_not_put_off_either(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.create(alice)
    send, state = f"/rooms/{quote(room_id)}/send", f"/rooms/{quote(room_id)}/state"
    plain = await by_parameter(alice, f"{send}/m.room.message/1", {"msgtype": "m.text", "body": "hi"}, 1000)
    assert (plain.status, plain.json["org.domicile.reason"]) == (403, "plaintext_refused")
    weaker = await by_parameter(alice, f"{state}/m.room.encryption/", {"algorithm": "none"}, 1000)
    assert weaker.status == 403
    for path, content in (
        (f"{send}/m.room.encrypted/2", ciphertext("not in it")),
        (f"{state}/m.room.name/", {"name": "Bob's"}),
    ):
        refused = await by_parameter(bob, path, content, 1000)
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    for kind, key, content in (
        ("m.room.create", "", {}),
        ("m.room.member", bob.user_id, {"membership": "invite"}),
        ("m.room.member", alice.user_id, {"membership": "join"}),
        ("m.room.member", alice.user_id, {}),
    ):
        assert (await by_parameter(alice, f"{state}/{kind}/{quote(key)}", content, 1000)).status in (400, 403)
    nowhere = await by_parameter(alice, f"/rooms/{quote('!no:example.org')}/send/m.room.encrypted/3", {}, 1000)
    assert nowhere.status in (403, 404)
    assert await waiting(alice) == await waiting(bob) == []
    left = await by_parameter(alice, f"{state}/m.room.member/{quote(alice.user_id)}", {"membership": "leave"}, 1000)
    assert left.status == 200
    await pass_time(play, 1)
    assert (await play.ask(alice, "GET", "/joined_rooms"))["joined_rooms"] == []


@aio
async def test_the_right_to_send_may_end_meanwhile(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    delay_id = await later(bob, room_id, "too late", 1000, "t1")
    await later(bob, await play.create(bob), "elsewhere", 1000, "t2")
    await play.change(alice, room_id, "ban", user_id=bob.user_id)
    assert await pass_time(play, 1) is None
    assert await play.texts(alice, room_id) == []
    assert (await act(play, delay_id, "restart")).status == 409
    other = await later(bob, await play.create(bob), "x", 1000, "t3")
    held = await play.node("tehran").read(stored.find, other)
    assert held is not None
    await play.change(bob, held.room_id, "leave")
    refused = await act(play, other, "send")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert await waiting(bob) == []


@aio
async def test_a_closed_account_sends_nothing(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    delay_id = await later(bob, room_id, "from the grave", 1000, "t1")
    await deactivation.deactivate(play.server, bob.user_id)
    assert (await act(play, delay_id, "send")).status == 404
    await pass_time(play, 1)
    assert await play.texts(alice, room_id) == []


@aio
async def test_a_suspended_user_sends_nothing(play: Play) -> None:
    alice = await play.user("alice")
    admin = await play.deployment.user("root", admin=True)
    room_id = await play.create(alice)
    await later(alice, room_id, "x", 1000, "t1")
    early = await later(alice, room_id, "y", 1000, "t2")
    path = f"/_matrix/client/v1/admin/suspend/{quote(alice.user_id)}"
    assert (await admin.asks("PUT", path, {"suspended": True})).status == 200
    refused = await act(play, early, "send")
    assert (refused.status, refused.errcode) == (403, "M_USER_SUSPENDED")
    await pass_time(play, 1)
    assert await play.texts(alice, room_id) == []


@aio
async def test_bounds(cast: Cast) -> None:
    play = await cast(settings=SETTINGS + '[delayed_events]\nmax_delay = "10s"\nper_user = 2\n')
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    capabilities = (await play.ask(alice, "GET", "/capabilities"))["capabilities"]
    assert capabilities["org.matrix.msc4140.delayed_events"] == {"max_delay_ms": 10_000, "max_scheduled": 2}
    room_id = await play.room_of(alice, bob)
    path = f"{UNSTABLE}/rooms/{quote(room_id)}/delayed_event/m.room.encrypted"
    refused = await alice.asks("PUT", f"{path}/1", {"delay_ms": 10_001, "content": ciphertext("x")})
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    refused = await by_parameter(alice, f"/rooms/{quote(room_id)}/send/m.room.encrypted/1", ciphertext("x"), 10_001)
    assert (refused.status, refused.errcode) == (400, "M_UNKNOWN")
    assert refused.json["org.matrix.msc4140.errcode"] == "M_MAX_DELAY_EXCEEDED"
    assert refused.json["org.matrix.msc4140.max_delay"] == 10_000
    await later(alice, room_id, "1", 10_000, "2")
    second = await later(alice, room_id, "2", 10_000, "3")
    await play.deployment.clock.advance(4)
    many = await alice.asks("PUT", f"{path}/4", {"delay_ms": 1, "content": ciphertext("3")})
    assert (many.status, many.errcode, many.json["retry_after_ms"]) == (429, "M_LIMIT_EXCEEDED", 6000)
    await later(bob, room_id, "another's", 1000, "1")
    assert (await act(play, second, "cancel")).status == 200
    await later(alice, room_id, "4", 1000, "5")


@aio
async def test_turned_off(cast: Cast) -> None:
    play = await cast(settings=SETTINGS + "[delayed_events]\nper_user = 0\n")
    alice = await play.user("alice")
    room_id = await play.create(alice)
    versions = await play.deployment.asked("GET", "/_matrix/client/versions")
    assert versions.json["unstable_features"]["org.matrix.msc4140"] is False
    capabilities = (await play.ask(alice, "GET", "/capabilities"))["capabilities"]
    assert "org.matrix.msc4140.delayed_events" not in capabilities
    refused = await by_parameter(alice, f"/rooms/{quote(room_id)}/send/m.room.encrypted/1", ciphertext("x"), 10)
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")


@aio
async def test_garbage(play: Play) -> None:
    alice = await play.user("alice")
    room_id = await play.create(alice)
    versions = await play.deployment.asked("GET", "/_matrix/client/versions")
    assert versions.json["unstable_features"]["org.matrix.msc4140"] is True
    send = f"/rooms/{quote(room_id)}/send/m.room.encrypted/1"
    for delay in ("", "0", "-1", "1.5", "soon", "%00"):
        refused = await by_parameter(alice, send, ciphertext("x"), delay)
        assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM"), delay
    path = f"{UNSTABLE}/rooms/{quote(room_id)}/delayed_event/m.room.encrypted/1"
    good: dict[str, Any] = {"delay_ms": 1, "content": ciphertext("x")}
    faults: tuple[dict[str, Any], ...] = (
        {"delay_ms": "1"},
        {"delay_ms": None},
        {"delay_ms": 0},
        {"content": []},
        {"state_key": 1},
    )
    for wrong in faults:
        assert (await alice.asks("PUT", path, good | wrong)).status == 400
    for body in ({}, {"action": "sing"}, {"action": 1}):
        assert (await play.deployment.asked("POST", f"{UNSTABLE}/delayed_events/x", body)).status == 400
    assert (await play.deployment.asked("GET", f"{UNSTABLE}/delayed_events")).status == 401
    assert await waiting(alice) == []


@aio
async def test_what_is_over_is_forgotten(play: Play) -> None:
    alice = await play.user("alice")
    delay_id = await later(alice, await play.create(alice), "x", 1000, "t1")
    waits = await later(alice, await play.create(alice), "y", 86_400_000, "t2")
    await act(play, delay_id, "cancel")
    await play.deployment.clock.advance(play.server.settings.sessions.transaction_id_lifetime.ms / 1000 + 1)
    await housekeeping.forget_transactions(play.server)
    assert (await act(play, delay_id, "cancel")).status == 404
    assert (await act(play, waits, "cancel")).status == 200


@aio
async def test_one_that_cannot_be_sent_now_keeps_no_other_room_waiting(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await play.user("alice")
    stuck, free = await play.create(alice), await play.create(alice)
    for text in ("a", "b"):
        await later(alice, stuck, text, 1000, text)
    await later(alice, free, "c", 1000, "c")
    real = say.send

    async def send(server: Any, caller: Any, room_id: str, *rest: Any, **more: Any) -> str:
        if room_id == stuck:
            raise NodeUnavailable("paris")
        return await real(server, caller, room_id, *rest, **more)

    monkeypatch.setattr(say, "send", send)
    assert await pass_time(play, 1) == delayed.RETRY
    assert (await play.texts(alice, stuck), await play.texts(alice, free)) == ([], ["c"])
    monkeypatch.setattr(say, "send", real)
    assert await pass_time(play, 5) is None
    assert await play.texts(alice, stuck) == ["a", "b"]

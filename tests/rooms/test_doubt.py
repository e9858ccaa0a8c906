"""A node that is lost in a COMMIT: what was committed unseen is found when it is back, and nothing is built past it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.protocol.errors import CommitUnknown
from homeserver.storage.engine import Transaction
from tests.rooms.play import Cast, ciphertext
from tests.rooms.test_outage import cut_off, reconnect
from tests.support import Databases, aio


class Unheard:
    """A transaction of whose commit nobody is told."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def after_commit(self, callback: Callable[[], object]) -> None:
        """Never called."""


@aio
async def test_what_was_committed_unseen(cast: Cast, engines: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    await engines.make_breakable("tehran")
    play = await cast()
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(alice, bob)
    await play.send(alice, room_id, "before")
    since = (await play.ask(bob, "GET", "/sync"))["next_batch"]
    engine = play.node("tehran").engine
    write = engine.write

    async def lost(fn: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        async def unheard(tx: Transaction) -> Any:
            return await fn(Unheard(tx), *args, **kwargs)

        monkeypatch.undo()
        await write(unheard)
        await cut_off(play, engines, "tehran")
        raise CommitUnknown("tehran")

    monkeypatch.setattr(engine, "write", lost)
    topic = f"/rooms/{quote(room_id)}/state/m.room.topic/"
    assert (await play.refused(alice, "PUT", topic, {"topic": "Unseen"})).status == 503
    path = f"/rooms/{quote(room_id)}/send/m.room.encrypted/t"
    assert (await play.refused(alice, "PUT", path, ciphertext("?"))).status == 503
    await reconnect(play, engines, "tehran")
    assert await play.ask(bob, "GET", topic) == {"topic": "Unseen"}
    await play.send(alice, room_id, "after")
    await play.state_of("tehran", room_id)
    assert len((await play.replica("tehran", room_id)).now.tips) == 1
    section = (await play.ask(bob, "GET", "/sync", since=since))["rooms"]["join"][room_id]
    assert [event["type"] for event in section["timeline"]["events"]] == ["m.room.topic", "m.room.encrypted"]
    assert section["unread_notifications"]["notification_count"] == 2

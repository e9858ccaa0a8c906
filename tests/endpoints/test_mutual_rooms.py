"""The rooms that two users share."""

from __future__ import annotations

import pytest

from tests.deployment import SETTINGS
from tests.rooms.play import Cast, Play, cast, play
from tests.support import aio

__all__ = ["cast", "play"]

PATH = "/_matrix/client/v1/mutual_rooms"
BEFORE = "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"


@aio
async def test_joined_rooms_page_by_page(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    shared = sorted([await play.room_of(alice, bob) for _ in range(3)])
    await play.room_of(alice)
    left = await play.room_of(alice, bob)
    await play.change(bob, left, "leave")
    invited = await play.create(alice, invite=[bob.user_id])
    assert invited not in shared
    await play.settle()
    for user, other in ((alice, bob), (bob, alice)):
        answer = (await user.asks("GET", PATH, user_id=other.user_id)).json
        assert answer == {"joined": shared, "count": 3}
    assert (await alice.asks("GET", PATH, user_id="@nobody:elsewhere.org")).json == {"joined": [], "count": 0}


@aio
async def test_pages(cast: Cast) -> None:
    play = await cast(settings=SETTINGS + "[limits]\npage_size = 2\n")
    alice, bob = await play.user("alice"), await play.user("bob")
    shared = sorted([await play.room_of(alice, bob) for _ in range(3)])
    first = (await alice.asks("GET", PATH, user_id=bob.user_id)).json
    assert (first["joined"], first["count"]) == (shared[:2], 3)
    onwards = await alice.asks("GET", PATH, **{"user_id": bob.user_id, "from": first["next_batch"]})
    assert onwards.json == {"joined": shared[2:], "count": 3}
    features = (await play.deployment.asked("GET", "/_matrix/client/versions")).json["unstable_features"]
    assert features["uk.half-shot.msc2666.query_mutual_rooms"]
    first = (await alice.asks("GET", BEFORE, user_id=bob.user_id)).json
    assert first == {"joined": shared[:2], "count": 3, "next_batch_token": first["next_batch_token"]}
    onwards = await alice.asks("GET", BEFORE, user_id=bob.user_id, batch_token=first["next_batch_token"])
    assert onwards.json == {"joined": shared[2:], "count": 3}


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"user_id": "bob"},
        {"user_id": "@:example.org"},
        {"user_id": "@alice:example.org"},
        {"user_id": "@bob:example.org", "from": "nonsense"},
        {"user_id": "@bob:example.org", "from": "bm8="},
    ],
)
@aio
async def test_what_cannot_be_asked(play: Play, query: dict[str, str]) -> None:
    alice = await play.user("alice")
    before = {"batch_token" if name == "from" else name: value for name, value in query.items()}
    for answer in (await alice.asks("GET", PATH, **query), await alice.asks("GET", BEFORE, **before)):
        assert (answer.status, answer.errcode) in ((400, "M_INVALID_PARAM"), (400, "M_MISSING_PARAM"))

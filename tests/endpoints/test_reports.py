"""Users report to the operator, who reads it; nobody learns from an answer what there is."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from homeserver.accounts import reports
from tests.deployment import User
from tests.rooms.play import CLIENT, Play, cast, play
from tests.support import aio

__all__ = ["cast", "play"]


async def told(play: Play) -> list[dict[str, Any]]:
    answer = await play.deployment.asked("POST", "/_domicile/v1/control/report-list", {})
    found: list[dict[str, Any]] = answer.json["reports"]
    return found


async def report(play: Play, user: User, path: str, reason: object = "it is spam") -> int:
    return (await user.asks("POST", CLIENT + path, {"reason": reason})).status


@aio
async def test_reports_rest_with_who_made_them_until_they_are_dismissed(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob", "paris")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "buy this")
    await play.settle()
    here = quote(room_id)
    assert await report(play, bob, f"/rooms/{here}/report/{quote(event_id)}") == 200
    assert await report(play, bob, f"/rooms/{here}/report", "") == 200
    assert await report(play, alice, f"/users/{quote('@mallory:elsewhere.org')}/report") == 200
    shown = await told(play)
    assert [(each["node"], each["reporter"], each["about"], each["room_id"], each["event_id"]) for each in shown] == [
        ("tehran", alice.user_id, "@mallory:elsewhere.org", None, None),
        ("paris", bob.user_id, alice.user_id, room_id, event_id),
        ("paris", bob.user_id, None, room_id, None),
    ]
    assert [each["reason"] for each in shown] == ["it is spam", "it is spam", ""]
    dismissal = {"node": "paris", "report_id": shown[1]["report_id"]}
    for errcode in (None, "M_NOT_FOUND"):
        answer = await play.deployment.asked("POST", "/_domicile/v1/control/report-dismiss", dismissal)
        assert answer.errcode == errcode
    assert [each["event_id"] for each in await told(play)] == [None, None]


@aio
async def test_an_event_is_reported_by_those_who_are_in_the_room_and_see_it(play: Play) -> None:
    alice, bob, carol = await play.user("alice"), await play.user("bob"), await play.user("carol")
    room_id = await play.room_of(alice, bob)
    event_id = await play.send(alice, room_id, "text")
    await play.change(bob, room_id, "leave")
    path = f"/rooms/{quote(room_id)}/report/"
    assert await report(play, alice, path + quote(event_id)) == 200
    for user in (bob, carol):
        assert (await user.asks("POST", CLIENT + path + quote(event_id), {})).errcode == "M_NOT_FOUND"
    assert (await alice.asks("POST", CLIENT + path + quote("$nothing"), {})).errcode == "M_NOT_FOUND"
    assert len(await told(play)) == 1


@aio
async def test_the_answer_does_not_tell_what_there_is(play: Play) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    room_id = await play.room_of(bob)
    for path in (f"/rooms/{quote(room_id)}", f"/rooms/{quote('!nothing:example.org')}"):
        assert await report(play, alice, f"{path}/report") == 200
    for user_id in (bob.user_id, "@nobody:example.org"):
        assert await report(play, alice, f"/users/{quote(user_id)}/report") == 200


@aio
async def test_what_is_kept_is_bounded(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, bob = await play.user("alice"), await play.user("bob")
    monkeypatch.setattr(reports, "MOST", 2)
    for user in (bob, alice):
        for number in range(4):
            await report(play, user, f"/users/{quote(bob.user_id)}/report", str(number))
    assert [(each["reporter"], each["reason"]) for each in await told(play)] == [
        (bob.user_id, "2"),
        (bob.user_id, "3"),
        (alice.user_id, "2"),
        (alice.user_id, "3"),
    ]


@pytest.mark.parametrize(
    ("path", "body", "errcode"),
    [
        ("/rooms/!r%3Aexample.org/report", {}, "M_MISSING_PARAM"),
        ("/rooms/!r%3Aexample.org/report", {"reason": 5}, "M_BAD_JSON"),
        ("/rooms/room/report", {"reason": ""}, "M_INVALID_PARAM"),
        ("/users/bob/report", {"reason": ""}, "M_INVALID_PARAM"),
        ("/users/@b%3Aexample.org/report", {"reason": "x" * 2001}, "M_INVALID_PARAM"),
    ],
)
@aio
async def test_what_cannot_be_reported(play: Play, path: str, body: object, errcode: str) -> None:
    alice = await play.user("alice")
    assert (await alice.asks("POST", CLIENT + path, body)).errcode == errcode
    assert await told(play) == []

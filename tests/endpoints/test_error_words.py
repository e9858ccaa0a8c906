"""Errors tell those who write clients what is wrong, and where."""

from __future__ import annotations

from tests.deployment import Deployment
from tests.support import ON_SQLITE, aio

pytestmark = ON_SQLITE

CLIENT = "/_matrix/client/v3"
ROOM_OF = "/createRoom"
EMAIL = {"type": "m.id.email", "address": "alice@example.com"}

FAULTS: tuple[tuple[str, object, str, str], ...] = (
    (ROOM_OF, b'{"name": "x",\n"topic"}', "M_NOT_JSON", "line 2, column 8"),
    (ROOM_OF, b"", "M_NOT_JSON", "it is empty"),
    (ROOM_OF, {"room_version": "99"}, "M_UNSUPPORTED_ROOM_VERSION", "it knows 1, 2, "),
    (ROOM_OF, {"room_alias_name": "#a:example.org"}, "M_INVALID_PARAM", "between # and the server's name"),
    (ROOM_OF, {"initial_state": [{"type": "a", "content": {}}, {"type": "b"}]}, "M_MISSING_PARAM", "[1].content"),
    (ROOM_OF, {"initial_state": [{"type": 5, "content": {}}]}, "M_BAD_JSON", "initial_state[0].type"),
    (ROOM_OF, {"initial_state": [{"type": "a\0", "content": {}}]}, "M_INVALID_PARAM", "initial_state[0].type"),
    ("/join/room", {}, "M_INVALID_PARAM", "begins with !"),
    ("/login", {"type": "m.login.password", "identifier": EMAIL, "password": "x"}, "M_UNKNOWN", "m.id.thirdparty"),
)
"""Requests, and what the answer has to say."""


@aio
async def test_what_and_where(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    for path, body, errcode, words in FAULTS:
        answer = await alice.asks("POST", CLIENT + path, body)
        assert (answer.status, answer.errcode) == (400, errcode), body
        assert words in answer.json["error"]
    answer = await alice.asks("GET", CLIENT + "/profile/alice")
    assert "such as @name:example.org" in answer.json["error"]
    answer = await alice.asks("GET", CLIENT + "/sync", since="yesterday")
    assert "as you were given it" in answer.json["error"]

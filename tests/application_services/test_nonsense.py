"""Services that answer with nonsense, and requests by the token of a service that make none."""

from __future__ import annotations

import pytest

from tests.application_services.bridge import Answering
from tests.application_services.stage import SetUp
from tests.deployment import NAME
from tests.rooms.play import CLIENT
from tests.support import aio

NONSENSE = (
    b"",
    b"null",
    b"[]",
    b"5",
    b'"text"',
    b"{",
    b'{"instances": 5}',
    b'[{"alias": null}]',
    b"\xff\xfe",
    b"<p>" * 9999,
)
APP = "/_matrix/app/v1"


@pytest.mark.parametrize("status", [200, 301, 404, 418, 503])
@aio
async def test_answers_that_are_none(set_up: SetUp, status: int) -> None:
    stage = await set_up(registration={"protocols": ["irc"]})
    alice = await stage.play.user("alice")
    for body in NONSENSE:
        stage.bridge.answers[""] = Answering(status, body)
        paths = ("/thirdparty/protocols", "/thirdparty/protocol/irc")
        for path in paths:
            assert (await alice.asks("GET", CLIENT + path)).status in (200, 404)
        for path in ("/thirdparty/location/irc", "/thirdparty/user/irc", f"/thirdparty/user?userid=@a:{NAME}"):
            response = await stage.play.deployment.site.call(
                "GET", CLIENT + path, headers={"Authorization": f"Bearer {alice.token}"}
            )
            assert (response.status, response.body) == (200, b"[]")
        pinged = await stage.as_service("POST", "/_matrix/client/v1/appservice/bridge/ping", {})
        assert pinged.status == (200 if status == 200 else 502)


BODIES: tuple[object, ...] = (
    b"",
    b"[]",
    b"{",
    b"null",
    {},
    {"type": 5},
    {"visibility": []},
    {"transaction_id": {}},
    {"username": 5},
)
PATHS = (
    ("POST", "/_matrix/client/v1/appservice/bridge/ping"),
    ("POST", "/_matrix/client/v1/appservice/%00/ping"),
    ("PUT", f"{CLIENT}/directory/list/appservice/town/!none:{NAME}"),
    ("PUT", f"{CLIENT}/directory/list/appservice/{'x' * 300}/nonsense"),
    ("PUT", f"{CLIENT}/devices/%ff"),
    ("PUT", f"{CLIENT}/devices/{'x' * 300}"),
    ("POST", f"{CLIENT}/register"),
    ("POST", f"{CLIENT}/login"),
    ("POST", f"{CLIENT}/logout"),
    ("POST", f"{CLIENT}/logout/all"),
    ("POST", f"{CLIENT}/keys/upload"),
    ("POST", f"{CLIENT}/account/deactivate"),
    ("POST", f"{CLIENT}/account/password"),
    ("POST", f"{CLIENT}/refresh"),
    ("GET", f"{CLIENT}/sync?timeout=0"),
    ("GET", f"{CLIENT}/thirdparty/location?alias=%23"),
)
ACTING = ("", "user_id=", "user_id=%00", "user_id=%ff", "user_id=@a", "device_id=", "device_id=%F0%9F%90%88", "ts=x")


@aio
async def test_requests_that_make_no_sense(set_up: SetUp) -> None:
    """Whatever comes of them, it is no fault of ours: the play fails for a 500."""
    stage = await set_up()
    for method, path in PATHS:
        for body in BODIES if method != "GET" else (b"",):
            for acting in ACTING:
                target = path + ("&" if "?" in path else "?") + acting
                answer = await stage.play.deployment.asked(method, target, body, token=stage.bridge.as_token)
                assert answer.status < 500 or answer.errcode == "M_CONNECTION_FAILED", (target, body, answer)

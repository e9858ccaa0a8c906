"""From a request with a route to its answer, without sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from homeserver.protocol.errors import InvalidSignature, ResidencyViolation
from homeserver.web.limits import Bucket, Limits
from homeserver.web.messages import Request, Response
from homeserver.web.routes import Auth, Table, declared, route
from homeserver.web.site import Site
from tests.support import aio
from tests.web.stage import ENDPOINTS, MIB, Props, Recorder, authenticate


@route("GET", "/none", auth=Auth.NONE)
@route("GET", "/optional", auth=Auth.OPTIONAL)
@route("GET", "/user", auth=Auth.USER)
@route("GET", "/active", auth=Auth.GUEST, unless_suspended=True)
@route("GET", "/guest", auth=Auth.GUEST)
@route("GET", "/admin", auth=Auth.ADMIN)
async def who(props: Props, request: Request) -> dict[str, Any]:
    caller = request.caller_or_none
    return {"user_id": None if caller is None else caller.user_id}


@route("PUT", "/signed", auth=Auth.SIGNED)
async def signed(props: Props, request: Request) -> dict[str, Any]:
    return {"origin": request.origin, **request.json()}


@route("GET", "/misplaced", auth=Auth.NONE)
async def misplaced(props: Props, request: Request) -> dict[str, Any]:
    raise ResidencyViolation("This row belongs elsewhere")


async def verify(request: Request) -> str:
    if request.header("Authorization") != "X-Matrix sig" or await request.read() != b'{"a":1}':
        raise InvalidSignature("The signature is not valid")
    return "peer.example"


def site(**more: Any) -> Site[Props]:
    table: Table[Props] = Table(declared(*ENDPOINTS, who, signed, misplaced))
    return Site(
        Props(),
        table,
        authenticate=authenticate,
        observer=Recorder(),
        seconds=lambda: 0.0,
        **{"verify": verify, **more},
    )


def read(answer: Response) -> tuple[int, dict[str, Any]]:
    assert isinstance(answer.body, bytes)
    return answer.status, orjson.loads(answer.body)


@pytest.mark.parametrize(
    ("path", "token", "status", "outcome"),
    [
        ("/none", None, 200, None),
        ("/none", "nobody", 200, None),
        ("/optional", None, 200, None),
        ("/optional", "alice", 200, "@alice:domicile.test"),
        ("/optional", "nobody", 401, "M_UNKNOWN_TOKEN"),
        ("/user", None, 401, "M_MISSING_TOKEN"),
        ("/user", "nobody", 401, "M_UNKNOWN_TOKEN"),
        ("/user", "alice", 200, "@alice:domicile.test"),
        ("/user", "admin", 200, "@admin:domicile.test"),
        ("/user", "guest", 403, "M_GUEST_ACCESS_FORBIDDEN"),
        ("/guest", "guest", 200, "@guest:domicile.test"),
        ("/guest", "suspended", 200, "@suspended:domicile.test"),
        ("/active", "guest", 200, "@guest:domicile.test"),
        ("/active", "suspended", 403, "M_USER_SUSPENDED"),
        ("/guest", None, 401, "M_MISSING_TOKEN"),
        ("/admin", "alice", 403, "M_FORBIDDEN"),
        ("/admin", "guest", 403, "M_GUEST_ACCESS_FORBIDDEN"),
        ("/admin", "admin", 200, "@admin:domicile.test"),
    ],
)
@aio
async def test_who_may_call_what(path: str, token: str | None, status: int, outcome: str | None) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    answered, body = read(await site().call("GET", path, headers=headers))
    assert (answered, body.get("errcode") if status != 200 else body["user_id"]) == (status, outcome)


@aio
async def test_another_server_is_known_by_its_signature() -> None:
    at = site()
    good = {"Authorization": "X-Matrix sig"}
    assert read(await at.call("PUT", "/signed", headers=good, body=b'{"a":1}')) == (
        200,
        {"origin": "peer.example", "a": 1},
    )
    assert (await at.call("PUT", "/signed", headers=good, body=b'{"a":2}')).status == 400
    assert (await at.call("PUT", "/signed", body=b'{"a":1}')).status == 400


def test_no_signed_route_goes_unverified() -> None:
    with pytest.raises(ValueError, match="verifies"):
        site(verify=None)


@pytest.mark.parametrize("how", ["error", "unserialisable", "cancelled"])
@aio
async def test_a_fault_of_ours_tells_the_log_and_not_the_client(how: str) -> None:
    at = site()
    assert read(await at.call("GET", f"/crash/{how}")) == (
        500,
        {"errcode": "M_UNKNOWN", "error": "Internal server error"},
    )
    recorder = at.observer
    assert isinstance(recorder, Recorder)
    assert len(recorder.failures) == 1
    assert recorder.answers == [("GET", "/crash/{how}", 500)]


@aio
async def test_a_violation_of_residency_is_a_fault_of_ours() -> None:
    at = site()
    status, body = read(await at.call("GET", "/misplaced"))
    assert (status, body["org.domicile.reason"]) == (500, "pin_mismatch")
    assert isinstance(at.observer, Recorder)
    assert len(at.observer.failures) == 1


@aio
async def test_who_cancels_an_answer_gets_none() -> None:
    at = site()
    asked = asyncio.ensure_future(at.call("GET", "/_matrix/client/v3/sync", headers={"Authorization": "Bearer alice"}))
    await at.server.begun.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert at.server.done == ["cancelled"]
    assert isinstance(at.observer, Recorder)
    assert at.observer.answers == [("GET", "/_matrix/client/v3/sync", 499)]
    assert at.observer.failures == []


@aio
async def test_an_endpoint_may_use_time_limits() -> None:
    @route("GET", "/slow", auth=Auth.NONE)
    async def slow(props: Props, request: Request) -> dict[str, Any]:
        try:
            async with asyncio.timeout(0):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            return {"late": True}
        raise AssertionError("there is no end to wait for")

    at = Site(
        Props(), Table[Props](declared(slow)), authenticate=authenticate, observer=Recorder(), seconds=lambda: 0.0
    )
    assert read(await at.call("GET", "/slow")) == (200, {"late": True})


@aio
async def test_limits_count_users_strangers_and_servers_apart() -> None:
    bucket = Bucket(per_second=1, burst=1)
    at = site(limits=Limits({"request": bucket, "federation": bucket}, lambda: 0.0))
    alice, admin = {"Authorization": "Bearer alice"}, {"Authorization": "Bearer admin"}

    async def status(path: str, headers: dict[str, str], address: str) -> int:
        return (await at.call("GET", path, headers=headers, address=address)).status

    assert await status("/none", {}, "192.0.2.1") == 200
    assert await status("/none", {}, "192.0.2.1") == 429
    assert await status("/none", {}, "192.0.2.2") == 200
    assert await status("/user", alice, "192.0.2.1") == 200
    assert await status("/user", alice, "192.0.2.9") == 429
    assert await status("/user", admin, "192.0.2.1") == 200
    headers = {"Authorization": "X-Matrix sig"}
    assert (await at.call("PUT", "/signed", headers=headers, body=b'{"a":1}')).status == 200
    assert (await at.call("PUT", "/signed", headers=headers, body=b'{"a":1}')).status == 429


def test_how_much_a_request_may_bring() -> None:
    at = site(max_body=5 * MIB, max_federation_body=17 * MIB)
    sizes = {made.path: at.max_body(made) for made in at.table.routes}
    assert sizes["/user"] == 5 * MIB
    assert sizes["/none"] == 64 * 1024
    assert sizes["/small"] == 1000


@aio
async def test_an_unknown_address_and_a_pre_flight_need_no_route() -> None:
    at = site()
    assert read(await at.call("GET", "/nowhere"))[1]["errcode"] == "M_UNRECOGNIZED"
    assert (await at.call("OPTIONS", "/nowhere")).status == 204
    answer = await at.call("POST", "/user")
    assert (answer.status, answer.headers) == (405, (("Allow", "GET, HEAD, OPTIONS"),))

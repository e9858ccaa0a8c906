"""Requests of other servers are believed to be of whom they say only when they signed exactly them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
import pytest

from federation import remote, server_keys, x_matrix
from homeserver.context import Server
from homeserver.protocol.errors import Forbidden
from homeserver.protocol.signing import SigningKey
from homeserver.runtime.exchange import Fault, Unreachable
from homeserver.storage import servers
from homeserver.web.incoming import Incoming
from homeserver.web.messages import Request
from homeserver.web.routes import Auth, declared, route
from tests.deployment import Answer
from tests.federation.authority import Changing, says
from tests.federation.towns import Town, World, document, signing_key, telling
from tests.support import aio

PATH = "/_matrix/federation/unstable/test"


@route("POST", PATH + "/{name}", auth=Auth.SIGNED)
@route("GET", PATH + "/{name}", auth=Auth.SIGNED)
async def tell(server: Server, request: Request) -> dict[str, Any]:
    """Say who asks, and what."""
    if request.args["name"] == "forbidden":
        raise Forbidden("No")
    if request.args["name"] == "sum":
        return {"sum": str(sum(request.json()["huge"]))}
    return {"origin": request.origin, "name": request.args["name"], "content": request.json(required=False)}


ROUTES = declared(tell)


def header(
    town: Town, path: str, content: dict[str, Any] | None = None, *, method: str = "POST", destination: str = "b.test"
) -> str:
    message = x_matrix.signed(method, path, town.name, destination, content)
    return x_matrix.write(town.name, destination, town.key, message)


# between two, over TLS ----------------------------------------------------------------------


@aio
async def test_a_signed_request_over_tls(world: World) -> None:
    one, two = await world.town("a.test"), await world.town("b.test", routes=ROUTES)
    target = f"{PATH}/b%2Fc?d=%C3%A9&d"
    for content in (None, {}, {"é": [1, {"x": None}], "a": "\x00\u2028"}):
        method = "GET" if content is None else "POST"
        answer = await remote.ask(one.server, "b.test", method, target, content, most=1000)
        assert answer == {"origin": "a.test", "name": "b/c", "content": content or {}}
    with pytest.raises(remote.RemoteRefusal) as refused:
        await remote.ask(one.server, "b.test", "GET", f"{PATH}/forbidden", most=1000)
    assert (refused.value.status, refused.value.errcode) == (403, "M_FORBIDDEN")
    with pytest.raises(Unreachable) as unreachable:
        await remote.ask(one.server, "b.test", "GET", f"{PATH}/{'x' * 1000}", most=1000)
    assert unreachable.value.fault is Fault.TOO_LARGE
    assert two.server.outbound.connections == 1


@aio
async def test_both_ask_at_once_without_knowing_each_other(world: World) -> None:
    """Each verifies the other's request by a request of its own, which needs no verifying."""
    one, two = await world.town("a.test", routes=ROUTES), await world.town("b.test", routes=ROUTES)
    await asyncio.gather(
        *(
            remote.ask(asking.server, other.name, "GET", f"{PATH}/x", most=1000)
            for asking, other in [(one, two), (two, one)] * 5
        )
    )


@aio
async def test_the_target_is_signed_as_it_is_sent(world: World) -> None:
    one, two = await world.town("a.test"), await world.town("b.test", routes=ROUTES)
    for path, sent in ((f"{PATH}/b%2fc", f"{PATH}/b%2Fc"), (f"{PATH}/x?", f"{PATH}/x?y"), (f"{PATH}/x", f"{PATH}/y")):
        assert (await two.signed("POST", sent, b"", header(one, path))).status == 401
        assert (await two.signed("POST", sent, b"", header(one, sent))).status == 200


# one that is not quite ----------------------------------------------------------------------


async def refused(town: Town, body: bytes, authorization: str | None, path: str = f"{PATH}/x") -> bool:
    answer = await town.signed("POST", path, body, authorization)
    assert answer.status == 200 or (answer.status, answer.errcode) == (401, "M_UNAUTHORIZED"), answer
    return answer.status == 401


@aio
async def test_whatever_is_changed_is_noticed(world: World) -> None:
    one, two = await world.town("a.test"), await world.town("b.test", routes=ROUTES)
    other = await world.town("c.test")
    path, content = f"{PATH}/x", {"a": 1}
    body = orjson.dumps(content)
    fine = header(one, path, content)
    assert not await refused(two, body, fine)
    assert not await refused(two, b' { "a" : 1 } ', fine)  # it is the value that is signed
    assert await refused(two, b'{"a": 2}', fine)
    assert await refused(two, b"{}", fine)
    assert await refused(two, b"", fine)
    assert await refused(two, body, header(one, path))
    assert await refused(two, body, header(one, path, content, method="GET"))
    assert await refused(two, body, header(one, path, content, destination="c.test"))
    assert await refused(two, body, fine.replace("a.test", "c.test"))
    assert await refused(two, body, fine.replace(one.key.key_id, other.key.key_id))
    assert await refused(two, body, fine.replace('destination="b.test",', ""))  # it was signed with one
    assert await refused(two, body, fine.replace('sig="', 'sig="A'))
    assert await refused(two, body, fine.replace('sig="', 'sig="!'))
    assert await refused(two, body, fine.replace(fine.partition('sig="')[2], '"'))
    assert await refused(two, body, None)
    assert await refused(two, body, "Bearer dom_abc")
    assert not await refused(two, body, fine)


@aio
async def test_a_request_without_destination_is_accepted_when_signed_so(world: World) -> None:
    one, two = await world.town("a.test"), await world.town("b.test", routes=ROUTES)
    message = x_matrix.signed("POST", f"{PATH}/x", "a.test", None, None)
    made = x_matrix.write("a.test", "?", one.key, message).replace('destination="?",', "")
    assert not await refused(two, b"", made)


@aio
async def test_no_body_is_read_of_whom_no_key_is_known(world: World) -> None:
    """Whoever wants memory for a large body has to name a server that has the key."""
    one, two = await world.town("a.test"), await world.town("b.test", routes=ROUTES)
    path = f"{PATH}/x"

    def request(authorization: str, incoming: Incoming) -> Request:
        made = Request("POST", path, {b"authorization": authorization.encode()}, "127.0.0.1", incoming)
        found, made.args = two.site.table.match("POST", path)
        made.template = found.path
        return made

    found, _ = two.site.table.match("POST", path)
    fine = header(one, path, {"a": 1})
    for authorization in (
        fine.replace("a.test", "nobody.test"),
        fine.replace(one.key.key_id, "ed25519:other"),
        fine.replace('destination="b.test"', 'destination="c.test"'),
    ):
        response = await two.site.answer(request(authorization, Incoming(10**7, 10**7)), found)
        assert response.status == 401
    incoming = Incoming(10**7, 7)
    answering = asyncio.ensure_future(two.site.answer(request(fine, incoming), found))
    incoming.feed(b'{"a":1}')
    incoming.end()
    assert (await answering).status == 200


@aio
async def test_nobody_is_us(world: World) -> None:
    town = await world.town("b.test", routes=ROUTES)
    assert await refused(town, b"", header(town, f"{PATH}/x"))


@aio
async def test_numbers_of_old_rooms_are_signed_too(world: World) -> None:
    one, two = await world.town("a.test"), await world.town("b.test", routes=ROUTES)
    content = {"level": 1.5, "large": 2**60, "huge": [10**30, -(2**64)]}
    assert not await refused(two, json.dumps(content).encode(), header(one, f"{PATH}/sum", content), f"{PATH}/sum")
    content["huge"] = [10**30, -(2**64) - 1]
    assert await refused(
        two, json.dumps(content).encode(), header(one, f"{PATH}/sum", {**content, "huge": []}), f"{PATH}/sum"
    )


@aio
async def test_a_question_mark_with_nothing_behind_it_is_signed_too(world: World) -> None:
    one, two = await world.town("a.test"), await world.town("b.test", routes=ROUTES)
    assert not await refused(two, b"", header(one, f"{PATH}/x?"), f"{PATH}/x?")
    assert await refused(two, b"", header(one, f"{PATH}/x"), f"{PATH}/x?")


@pytest.mark.parametrize(("body", "errcode"), [(b"{", "M_NOT_JSON"), (b"[]", "M_BAD_JSON"), (b"\xff", "M_NOT_JSON")])
@aio
async def test_a_body_that_is_no_object(world: World, body: bytes, errcode: str) -> None:
    one, two = await world.town("a.test"), await world.town("b.test", routes=ROUTES)
    answer = await two.signed("POST", f"{PATH}/x", body, header(one, f"{PATH}/x"))
    assert (answer.status, answer.errcode) == (400, errcode)


# keys ---------------------------------------------------------------------------------------


class Peer:
    """A server whose keys change."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.script = Changing(says(b"", 500))

    def tells(self, *keys: SigningKey, seconds: float = 10_000, **more: Any) -> None:
        until = self.world.clock.now_ms() + int(seconds * 1000)
        self.script.script = telling(document("p.test", *keys, until=until, **more))

    async def asks(self, town: Town, key: SigningKey) -> Answer:
        message = x_matrix.signed("POST", f"{PATH}/x", "p.test", town.name, None)
        return await town.signed("POST", f"{PATH}/x", b"", x_matrix.write("p.test", town.name, key, message))


async def peer(world: World) -> tuple[Peer, Town]:
    made = Peer(world)
    await world.stranger("p.test", made.script)
    return made, await world.town("b.test", routes=ROUTES)


@aio
async def test_an_expired_key_signs_nothing(world: World) -> None:
    made, town = await peer(world)
    key = signing_key("p")
    made.tells(key, seconds=100)
    assert (await made.asks(town, key)).status == 200
    made.script.script = says(b"", 500)
    await world.clock.advance(101)
    assert (await made.asks(town, key)).status == 401


@aio
async def test_an_old_key_signs_no_request(world: World) -> None:
    made, town = await peer(world)
    key, old = signing_key("p"), signing_key("old")
    expired = world.clock.now_ms() - 1
    made.tells(key, old_verify_keys={old.key_id: {"key": old.verify_key.base64, "expired_ts": expired}})
    assert (await made.asks(town, old)).status == 401
    assert (await made.asks(town, key)).status == 200


@aio
async def test_a_key_under_the_id_of_another(world: World) -> None:
    made, town = await peer(world)
    key = signing_key("p")
    made.tells(key)
    forged = SigningKey(key.key_id.removeprefix("ed25519:"), b"x" * 32)
    assert (await made.asks(town, forged)).status == 401
    assert (await made.asks(town, key)).status == 200


@aio
async def test_a_server_that_cannot_be_asked_is_not_believed(world: World) -> None:
    made, town = await peer(world)
    answer = await made.asks(town, signing_key("p"))
    assert (answer.status, answer.errcode) == (401, "M_UNAUTHORIZED")


@aio
async def test_without_the_directory_nothing_can_be_told(world: World) -> None:
    made, town = await peer(world)
    key = signing_key("p")
    made.tells(key)
    await town.server.nodes.directory.engine.close()
    answer = await made.asks(town, key)
    assert (answer.status, answer.json["org.domicile.reason"]) == (503, "node_unavailable")


@aio
async def test_keys_outlive_the_process(world: World) -> None:
    made, town = await peer(world)
    key = signing_key("p")
    made.tells(key)
    assert (await made.asks(town, key)).status == 200
    made.script.script = says(b"", 500)
    town.server.nodes.directory.memory(server_keys.Known).rings.clear()
    assert (await made.asks(town, key)).status == 200
    assert len(await town.server.nodes.directory.engine.read(servers.keys, "p.test")) == 1

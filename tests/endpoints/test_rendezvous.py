"""Slots in which two devices leave each other texts while one signs the other in by a QR code, in both forms."""

from __future__ import annotations

import orjson
import pytest

from homeserver.accounts.rendezvous import Slots
from homeserver.web.messages import Response
from tests.deployment import Deployment
from tests.endpoints.visiting import BASE
from tests.support import aio

TEXT = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"
JSON = "/_matrix/client/unstable/io.element.msc4388/rendezvous"


async def text(deployment: Deployment, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if method in ("POST", "PUT"):
        sent.setdefault("Content-Type", "text/plain")
    return await deployment.site.call(method, path.removeprefix(BASE), headers=sent, body=body)


def header(response: Response, name: str) -> str:
    return dict(response.headers)[name]


@aio
async def test_two_devices_meet_by_text(deployment: Deployment) -> None:
    made = await text(deployment, "POST", TEXT, b"hello")
    assert made.status == 201
    assert isinstance(made.body, bytes)
    url, version = orjson.loads(made.body)["url"], header(made, "ETag")
    assert url.startswith(BASE + TEXT + "/")
    assert "ETag" in header(made, "Access-Control-Expose-Headers")
    assert header(made, "Expires").endswith("GMT")
    read = await text(deployment, "GET", url)
    assert (read.status, read.body, read.content_type) == (200, b"hello", "text/plain")
    assert header(read, "ETag") == version
    assert (await text(deployment, "GET", url, If_None_Match=version)).status == 304
    written = await text(deployment, "PUT", url, b"hi", If_Match=version)
    assert written.status == 202
    assert header(written, "ETag") != version
    late = await text(deployment, "PUT", url, b"me too", If_Match=version)
    assert late.status == 412
    assert isinstance(late.body, bytes)
    assert orjson.loads(late.body)["org.matrix.msc4108.errcode"] == "M_CONCURRENT_WRITE"
    assert header(late, "ETag") == header(written, "ETag")
    read = await text(deployment, "GET", url, If_None_Match=version)
    assert (read.status, read.body) == (200, b"hi")
    assert (await text(deployment, "DELETE", url)).status == 204
    assert (await text(deployment, "GET", url)).status == 404
    assert (await text(deployment, "DELETE", url)).status == 404


@aio
async def test_what_a_text_may_not_be(deployment: Deployment) -> None:
    assert (await text(deployment, "POST", TEXT, b"x" * 4097)).status == 413
    assert (await text(deployment, "POST", TEXT, b"{}", Content_Type="application/json")).status == 400
    made = await text(deployment, "POST", TEXT, b"x" * 4096)
    assert isinstance(made.body, bytes)
    url, version = orjson.loads(made.body)["url"], header(made, "ETag")
    assert (await text(deployment, "PUT", url, b"hi")).status == 400
    assert (await text(deployment, "PUT", url, b"x" * 4097, If_Match=version)).status == 413
    assert (await text(deployment, "GET", url)).body == b"x" * 4096


@aio
async def test_two_devices_meet_by_json(deployment: Deployment) -> None:
    assert (await deployment.asked("GET", JSON)).json == {"create_available": True}
    made = (await deployment.asked("POST", JSON, {"data": "hello"})).json
    slot, first = f"{JSON}/{made['id']}", made["sequence_token"]
    assert made["expires_in_ms"] == 300_000
    await deployment.clock.advance(100)
    read = (await deployment.asked("GET", slot)).json
    assert read == {"data": "hello", "sequence_token": first, "expires_in_ms": 200_000}
    second = (await deployment.asked("PUT", slot, {"data": "hi", "sequence_token": first})).json["sequence_token"]
    again = await deployment.asked("PUT", slot, {"data": "hi", "sequence_token": first})
    assert (again.status, again.json) == (200, {"sequence_token": second})  # the answer was lost
    late = await deployment.site.call("PUT", slot, body=orjson.dumps({"data": "me too", "sequence_token": first}))
    assert late.status == 409
    assert isinstance(late.body, bytes)
    assert orjson.loads(late.body)["errcode"] == "IO_ELEMENT_MSC4388_CONCURRENT_WRITE"
    assert (await deployment.asked("GET", slot)).json["data"] == "hi"
    assert (await deployment.asked("DELETE", slot)).status == 200
    assert (await deployment.asked("GET", slot)).errcode == "M_NOT_FOUND"
    assert (await deployment.asked("POST", JSON, {"data": "é" * 2049})).errcode == "M_TOO_LARGE"
    assert (await deployment.asked("POST", JSON, {"data": 7})).errcode == "M_BAD_JSON"


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Mode": "navigate"}, {"Sec-Fetch-Dest": "iframe"}])
@aio
async def test_no_browser_shows_a_slot_to_anybody(deployment: Deployment, headers: dict[str, str]) -> None:
    made = (await deployment.asked("POST", JSON, {"data": "<script>"})).json
    assert (await deployment.site.call("GET", f"{JSON}/{made['id']}", headers=headers)).status == 403


@aio
async def test_slots_end(deployment: Deployment) -> None:
    made = (await deployment.asked("POST", JSON, {"data": "x"})).json
    await deployment.clock.advance(301)
    assert (await deployment.asked("GET", f"{JSON}/{made['id']}")).errcode == "M_NOT_FOUND"


@aio
async def test_there_are_only_so_many(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slots, "most", 3)
    made = [(await deployment.asked("POST", JSON, {"data": "x"})).json["id"] for _ in range(4)]
    found = [(await deployment.asked("GET", f"{JSON}/{name}")).status for name in made]
    assert found == [404, 200, 200, 200]

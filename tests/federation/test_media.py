"""Media of other servers: fetched once for each node, kept there, given out at home, and forgotten in time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from federation import reach, x_matrix
from federation.multipart import Multipart, NotMultipart, around, boundary_in
from homeserver.media import shelves, sweep
from homeserver.media.content_types import filename_in
from homeserver.media.remote_media import Fetching
from homeserver.runtime.exchange import Answer, Fault, Unreachable
from homeserver.runtime.outbound import Place, Target
from homeserver.storage.engine import Transaction
from tests.deployment import FLOWING, User
from tests.media.transfers import MEDIA, Got, files_in, get, opened, picture, send
from tests.network import Network
from tests.rooms.play import Play
from tests.support import aio

SIGNED = "/_matrix/federation/v1/media/download/"
OPEN_ROUTE = "/_matrix/media/v3/download/"
MIB = 2**20


async def upload(user: User, body: bytes, content_type: str = "image/png", filename: str = "") -> str:
    """Upload; the media id."""
    path = "/_matrix/media/v3/upload" + (f"?filename={quote(filename)}" if filename else "")
    answer = await send(user, body, content_type, path=path, verb="POST")
    assert answer.status == 200, answer
    return str(answer.json["content_uri"].rpartition("/")[2])


async def download(user: User, media_id: str, server_name: str = "there.test", query: str = "") -> Got:
    return await get(user, f"{MEDIA}/download/{server_name}/{media_id}{query}")


async def towns(network: Network, **here: Any) -> tuple[Play, Play]:
    return await network.found("here.test", **here), await network.found("there.test")


def fetched(network: Network, path: str = SIGNED) -> int:
    """How often a medium has been asked for."""
    return sum(exchange.target.startswith(path) for exchange in network.exchanges)


async def copies(play: Play, node: str = "tehran") -> list[tuple[str, str]]:
    async def read(tx: Transaction) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in await tx.all("SELECT server, media_id FROM remote_media")]

    return await play.node(node).read(read)


# fetching -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 300_000, 3 * MIB])
@aio
async def test_a_file_of_another_server(network: Network, size: int) -> None:
    here, there = await towns(network)
    alice, bob = await here.user("alice"), await there.user("bob")
    content = os.urandom(size)
    media_id = await upload(bob, content, "image/png", 'a "quoted" Gärten.png')
    for _ in range(2):
        got = await download(alice, media_id)
        assert (got.status, got.body, got.content_type) == (200, content, "image/png")
        assert filename_in(got.headers["Content-Disposition"]) == 'a "quoted" Gärten.png'
        assert "sandbox" in got.headers["Content-Security-Policy"]
    assert fetched(network) == 1
    counted = here.server.telemetry.counter("domicile_federation_bytes", "", []).values()
    assert size <= counted.get(("unknown", "IR"), 0) < size + 10_000
    assert await copies(here) == [("there.test", media_id)]
    part = await get(alice, f"{MEDIA}/download/there.test/{media_id}/other.txt", Range="bytes=0-0")
    assert (part.status, part.body) == (206, content[:1]) if size else (416, part.body)
    await there.node("tehran").engine.close()
    assert (await download(alice, media_id)).body == content, "it is served at home now"


@aio
async def test_each_node_fetches_for_itself(network: Network) -> None:
    here, there = await towns(network)
    alice, claire = await here.user("alice"), await here.user("claire", "paris")
    media_id = await upload(await there.user("bob", "paris"), b"content")
    for user, node in ((alice, "tehran"), (claire, "paris")):
        assert (await download(user, media_id)).body == b"content"
        assert len(files_in(here.deployment, node)) == 1
    assert fetched(network) == 2


@aio
async def test_many_who_want_the_same_fetch_it_once(network: Network) -> None:
    here, there = await towns(network)
    alice, carol = await here.user("alice"), await here.user("carol")
    media_id = await upload(await there.user("bob"), bytes(MIB))
    found = await asyncio.gather(*(download(user, media_id) for user in (alice, carol) * 5))
    assert {got.status for got in found} == {200}
    assert fetched(network) == 1
    assert here.node("tehran").memory(Fetching).tasks == {}


@aio
async def test_a_thumbnail_of_another_servers_picture(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await here.user("alice"), await there.user("bob")
    media_id = await upload(bob, picture(400, 300))
    got = await get(alice, f"{MEDIA}/thumbnail/there.test/{media_id}?width=32&height=32&method=crop")
    assert (got.status, opened(got.body).size) == (200, (32, 32))
    assert fetched(network) == 1


@aio
async def test_what_is_not_there(network: Network) -> None:
    here, _ = await towns(network)
    alice = await here.user("alice")
    for media_id, server_name, status, errcode in [
        ("nothing", "there.test", 404, "M_NOT_FOUND"),
        ("nothing", "nowhere.test", 502, "M_UNKNOWN"),
        ("..%2F..%2Fetc", "there.test", 404, "M_NOT_FOUND"),
        ("x", "bad_name!", 404, "M_NOT_FOUND"),
    ]:
        got = await download(alice, media_id, server_name)
        assert (got.status, got.errcode) == (status, errcode), media_id
    assert files_in(here.deployment, "tehran") == []


@aio
async def test_an_upload_that_is_still_to_come(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await here.user("alice"), await there.user("bob")
    made = await bob.asks("POST", "/_matrix/media/v1/create")
    media_id = made.json["content_uri"].rpartition("/")[2]
    got = await download(alice, media_id, query="?timeout_ms=0")
    assert (got.status, got.errcode) == (504, "M_NOT_YET_UPLOADED")
    assert network.exchanges[-1].target == f"{SIGNED}{media_id}?timeout_ms=0"
    await send(bob, b"now", path=f"/_matrix/media/v3/upload/there.test/{media_id}")
    assert (await download(alice, media_id)).body == b"now"


@pytest.mark.parametrize("size", [1_000_000, 5_000_000])
@aio
async def test_what_is_too_large_is_not_kept(network: Network, size: int) -> None:
    here, there = await towns(network, settings="[media]\nmax_download = 999999\n")
    alice, bob = await here.user("alice"), await there.user("bob")
    got = await download(alice, await upload(bob, bytes(size)))
    assert (got.status, got.errcode) == (502, "M_TOO_LARGE")
    assert await copies(here) == []
    assert files_in(here.deployment, "tehran") == []
    assert (await download(alice, await upload(bob, bytes(999_999)))).status == 200


Part = tuple[dict[str, str], bytes]


async def asked(here: Play, path: str) -> tuple[Answer, list[Part]]:
    """What a server answers to a signed question, and the parts of it."""
    server, destination = here.server, "there.test"
    message = x_matrix.signed("GET", path, server.name, destination, None)
    headers = {"Authorization": x_matrix.write(server.name, destination, server.identity.key, message)}
    place = Place((Target(destination, 8448),), destination, destination)
    answer = await server.outbound.request("GET", place, path, headers=headers, most=10 * MIB, seconds=5)
    boundary = boundary_in(answer.headers["content-type"])
    if boundary is None:
        return answer, []

    async def body() -> AsyncIterator[bytes]:
        yield answer.body

    read, found = Multipart(body(), boundary), []
    for _ in range(2):
        head = await read.part()
        found.append((head, b"".join([piece async for piece in read.content()])))
    with pytest.raises(NotMultipart):
        await read.part()
    return answer, found


# what others are given ----------------------------------------------------------------------


@aio
async def test_a_file_for_another_server(network: Network) -> None:
    here, there = await towns(network)
    media_id = await upload(await there.user("bob"), b"content", "text/html", "page.html")
    answer, ((first, nothing), (second, content)) = await asked(here, f"{SIGNED}{media_id}")
    assert answer.status == 200
    assert (first, nothing) == ({"content-type": "application/json"}, b"{}")
    assert second == {"content-type": "text/html", "content-disposition": 'attachment; filename="page.html"'}
    assert content == b"content"
    for path, status in ((f"{SIGNED}none", 404), (f"{SIGNED}{media_id}?timeout_ms=-1", 400)):
        answer, _ = await asked(here, path)
        assert answer.status == status
    unsigned = await there.deployment.asked("GET", f"{SIGNED}{media_id}")
    assert unsigned.status == 401


@aio
async def test_a_thumbnail_for_another_server(network: Network) -> None:
    here, there = await towns(network)
    bob = await there.user("bob")
    media_id, tiny = await upload(bob, picture(400, 300)), await upload(bob, picture(20, 20))
    text = await upload(bob, b"no picture", "text/plain")
    path = "/_matrix/federation/v1/media/thumbnail"
    _, (_, (head, content)) = await asked(here, f"{path}/{media_id}?width=96&height=96&method=crop&animated=false")
    assert opened(content).size == (96, 96)
    assert head["content-type"] in ("image/png", "image/jpeg")
    assert head["content-disposition"].startswith("inline; filename=")
    _, (_, (_, whole)) = await asked(here, f"{path}/{tiny}?width=96&height=96")
    assert opened(whole).size == (20, 20)
    for query, status in (("width=5", 400), ("width=a&height=5", 400), ("width=0&height=5", 400)):
        answer, _ = await asked(here, f"{path}/{media_id}?{query}")
        assert answer.status == status, query
    answer, _ = await asked(here, f"{path}/{text}?width=32&height=32")
    assert (answer.status, orjson.loads(answer.body)["errcode"]) == (400, "M_UNKNOWN")


# odd and old servers ------------------------------------------------------------------------


class Odd:
    """What answers in the place of the network, by path; the rest it lets through."""

    def __init__(self, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, Answer | Unreachable] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self._carry = network.carry
        monkeypatch.setattr(network, "carry", self.carry)

    async def carry(
        self, source: str, place: Place, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> Answer:
        self.asked.append((place.host, target, headers))
        for path, answer in self.answers.items():
            if target.startswith(path):
                if isinstance(answer, Unreachable):
                    raise answer
                return answer
        return await self._carry(source, place, method, target, headers, body)


def error(status: int, errcode: str) -> Answer:
    return Answer(status, {}, orjson.dumps({"errcode": errcode, "error": "no"}))


def parts(*of: bytes, boundary: str = "xyz") -> Answer:
    """An answer of these parts, each with its headers."""
    body = b"".join(b"--xyz\r\n" + part + b"\r\n" for part in of) + b"--xyz--\r\n"
    return Answer(200, {"content-type": f"multipart/mixed; boundary={boundary}"}, body)


@aio
async def test_an_old_server_is_asked_by_the_open_route(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, _ = await towns(network)
    alice, odd = await here.user("alice"), Odd(network, monkeypatch)
    odd.answers[SIGNED] = error(404, "M_UNRECOGNIZED")
    odd.answers[OPEN_ROUTE] = Answer(
        200, {"content-type": "text/plain", "content-disposition": "attachment; filename=x.txt"}, b"old"
    )
    got = await download(alice, "abc")
    assert (got.status, got.body, got.content_type) == (200, b"old", "text/plain")
    assert got.headers["Content-Disposition"] == 'inline; filename="x.txt"'
    _, target, headers = odd.asked[-1]
    assert target == f"{OPEN_ROUTE}there.test/abc?allow_remote=false&allow_redirect=true&timeout_ms=20000"
    assert "Authorization" not in headers
    odd.answers[OPEN_ROUTE] = error(404, "M_UNRECOGNIZED")
    assert (await download(alice, "abd")).status == 404


@aio
async def test_only_a_server_that_does_not_know_the_route_is_old(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = await towns(network)
    alice, odd = await here.user("alice"), Odd(network, monkeypatch)
    odd.answers[OPEN_ROUTE] = Answer(200, {}, b"open")
    for answer, status in (
        (error(404, "M_NOT_FOUND"), 404),
        (error(403, "M_FORBIDDEN"), 403),
        (error(500, "M_UNKNOWN"), 502),
        (error(502, "M_TOO_LARGE"), 502),
        (Answer(200, {}, b"plain"), 502),
        (Unreachable(Fault.TOO_LARGE, "more"), 502),
        (Unreachable(Fault.TIMEOUT, "late"), 502),
    ):
        odd.answers[SIGNED] = answer
        assert (await download(alice, "abc")).status == status
    assert not [target for _, target, _ in odd.asked if target.startswith(OPEN_ROUTE)]
    assert files_in(here.deployment, "tehran") == []


@aio
async def test_a_redirect_is_followed_where_it_may_lead(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    here, _ = await towns(network)
    alice, odd = await here.user("alice"), Odd(network, monkeypatch)
    odd.answers["/cdn/last"] = Answer(200, {"content-type": "text/css"}, b"from afar")
    odd.answers["/cdn/loop"] = Answer(302, {"location": "/cdn/loop"}, b"")
    odd.answers["/cdn/first"] = Answer(307, {"location": "/cdn/last?signed"}, b"")

    def to(location: str) -> None:
        odd.answers[SIGNED] = parts(b"\r\n{}", f"Location: {location}\r\n".encode() + b"\r\n")

    to("https://cdn.test/cdn/first")
    got = await download(alice, "abc")
    assert (got.status, got.body, got.content_type) == (200, b"from afar", "text/css")
    assert odd.asked[-1][:2] == ("cdn.test", "/cdn/last?signed")
    assert "Authorization" not in odd.asked[-1][2]
    for nowhere in ("https://cdn.test/cdn/loop", "http://cdn.test/cdn/last", "file:///etc/passwd", "nonsense"):
        to(nowhere)
        assert (await download(alice, "abd")).status == 502, nowhere


@aio
async def test_what_comes_of_it_says_whether_a_server_is_there(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = await towns(network)
    alice, odd = await here.user("alice"), Odd(network, monkeypatch)

    async def is_away(answer: Answer | Unreachable, path: str = SIGNED) -> bool:
        odd.answers[path] = answer
        assert (await download(alice, "abc")).status in (404, 502, 504)
        found = reach.is_away(here.server, "there.test")
        network.mend("here.test", "there.test")
        return found

    for answer, expected in (
        (Unreachable(Fault.CONNECTION, "gone"), True),
        (Answer(504, {}, b"<html>no answer from there</html>"), True),
        (error(504, "M_NOT_YET_UPLOADED"), False),
        (error(502, "M_UNKNOWN"), False),
        (error(404, "M_NOT_FOUND"), False),
        (Unreachable(Fault.TIMEOUT, "no longer than somebody may wait"), False),
        (parts(b"\r\n{}", b"Location: https://nowhere.test/x\r\n\r\n"), False),
    ):
        assert await is_away(answer) == expected, answer
    odd.answers[SIGNED] = error(404, "M_UNRECOGNIZED")
    assert await is_away(Unreachable(Fault.CONNECTION, "gone"), OPEN_ROUTE)
    assert not await is_away(Answer(302, {"location": "https://nowhere.test/x"}, b""), OPEN_ROUTE)


@aio
async def test_a_server_that_is_away_is_asked_again_after_a_while(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await towns(network)
    alice, media_id = await here.user("alice"), await upload(await there.user("bob"), b"content")
    odd = Odd(network, monkeypatch)
    odd.answers[SIGNED] = Unreachable(Fault.CONNECTION, "gone")
    for _ in range(3):
        assert (await download(alice, media_id)).status == 502
    asked = [target for _, target, _ in odd.asked if target.startswith(SIGNED)]
    assert len(asked) == 1
    odd.answers.clear()
    await network.clock.advance(reach.FIRST_PAUSE)
    assert (await download(alice, media_id)).body == b"content"
    assert here.server.nodes.directory.memory(reach.Absences).held.get("there.test") is None


@pytest.mark.parametrize(
    "answer",
    [
        parts(b"\r\n{}"),
        parts(),
        parts(b"\r\n{}", b"no header\r\n\r\nx"),
        parts(b"\r\n{}", b"X: " + b"y" * 20_000 + b"\r\n\r\nx"),
        parts(b"\r\n{}", b"\r\nx", boundary="other"),
        Answer(200, {"content-type": "multipart/mixed; boundary=xyz"}, b"--xyz\r\n\r\n{}\r\n--xyz\r\n\r\nhalf"),
        Answer(200, {"content-type": "multipart/mixed"}, b"x"),
        Answer(200, {"content-type": 'multipart/mixed; boundary="' + "x" * 80 + '"'}, b"x"),
    ],
)
@aio
async def test_answers_that_are_none(network: Network, monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    here, _ = await towns(network)
    alice, odd = await here.user("alice"), Odd(network, monkeypatch)
    odd.answers[SIGNED] = answer
    assert (await download(alice, "abc")).status == 502
    assert files_in(here.deployment, "tehran") == []


# borders ------------------------------------------------------------------------------------


@aio
async def test_no_medium_comes_in_where_no_flow_leads(network: Network) -> None:
    here, there = await towns(network, policy=FLOWING)
    alice = await here.user("alice")
    media_id = await upload(await there.user("bob"), b"content")
    got = await download(alice, media_id)
    assert (got.status, got.errcode) == (403, "M_FORBIDDEN")
    flow = orjson.loads(got.body)["org.domicile.flow"]
    assert flow == {"from": "unknown", "to": "IR", "class": "media"}
    assert network.exchanges == []


@aio
async def test_a_copy_is_not_given_out_once_the_policy_says_no(network: Network) -> None:
    here, there = await towns(network)
    alice = await here.user("alice")
    media_id = await upload(await there.user("bob"), b"content")
    assert (await download(alice, media_id)).status == 200
    other = await network.found("strict.test", policy=FLOWING)
    here.server.policy.now = other.server.policy.now
    assert (await download(alice, media_id)).status == 403


# forgetting ---------------------------------------------------------------------------------


@aio
async def test_a_copy_is_forgotten_when_nobody_asks(network: Network) -> None:
    here, there = await towns(network)
    alice, bob = await here.user("alice"), await there.user("bob")
    old, wanted = await upload(bob, b"old"), await upload(bob, b"wanted")
    for media_id in (old, wanted):
        await download(alice, media_id)
    day = 24 * 3600
    await network.clock.advance(20 * day)
    await download(alice, wanted)
    await sweep.sweep(here.server)
    assert len(await copies(here)) == 2
    await network.clock.advance(11 * day)
    await sweep.sweep(here.server)
    assert await copies(here) == [("there.test", wanted)]
    assert len(files_in(here.deployment, "tehran")) == 1
    before = fetched(network)
    assert (await download(alice, wanted)).body == b"wanted"
    assert fetched(network) == before
    assert (await download(alice, old)).body == b"old"
    assert fetched(network) == before + 1


@aio
async def test_a_file_of_a_copy_is_no_stray(network: Network) -> None:
    here, there = await towns(network)
    alice = await here.user("alice")
    media_id = await upload(await there.user("bob"), b"content")
    await download(alice, media_id)
    (path,) = files_in(here.deployment, "tehran")
    os.utime(path, (0, 0))
    stray = path.with_name(f"{shelves.new_id()}-{'0' * 16}")
    stray.write_bytes(b"left over")
    os.utime(stray, (0, 0))
    await sweep.sweep(here.server)
    assert files_in(here.deployment, "tehran") == [path]


# forms --------------------------------------------------------------------------------------


@aio
async def test_parts_are_read_however_they_are_cut() -> None:
    before, after = around("b", "text/plain", "inline")
    content = b"\r\n--a\r\n\r\n--\r\n" * 3
    whole = before + content + after

    async def cut(size: int) -> Any:
        for start in range(0, len(whole), size):
            yield whole[start : start + size]

    for size in range(1, len(whole) + 1):
        read = Multipart(cut(size), b"b")
        assert await read.part() == {"content-type": "application/json"}
        if size % 2:  # what is not wanted need not be taken
            assert b"".join([piece async for piece in read.content()]) == b"{}"
        assert await read.part() == {"content-type": "text/plain", "content-disposition": "inline"}
        assert b"".join([piece async for piece in read.content()]) == content
        with pytest.raises(NotMultipart):
            await read.part()


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/mixed; boundary=abc", b"abc"),
        ('Multipart/Mixed; charset=x; boundary="a b:c"', b"a b:c"),
        ("multipart/form-data; boundary=abc", None),
        ("multipart/mixed", None),
        ("multipart/mixed; boundary=", None),
        ('multipart/mixed; boundary="a\u2028b"', None),
        (None, None),
    ],
)
def test_boundaries(header: str | None, boundary: bytes | None) -> None:
    assert boundary_in(header) == boundary


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("inline; filename=x.png", "x.png"),
        ('attachment; filename="a \\"b\\".png"', 'a "b".png'),
        ("inline; filename*=utf-8''G%C3%A4rten.png", "Gärten.png"),
        ("inline; filename=plain; filename*=UTF-8''better", "better"),
        ("inline; filename*=utf-8''%ff", None),
        ("inline", None),
        ("inline; filename=../../etc/passwd", ".._.._etc_passwd"),
        (None, None),
    ],
)
def test_names_of_files(header: str | None, name: str | None) -> None:
    assert filename_in(header) == name

"""The content repository, over the routes."""

from __future__ import annotations

import asyncio
import os

import pytest

from homeserver.media import upload
from homeserver.web.incoming import DisconnectedError
from tests.deployment import FLOWING, NAME, SETTINGS, Deploy, Deployment
from tests.media.transfers import (
    CREATE,
    KIB,
    MEDIA,
    MIB,
    UPLOAD,
    Got,
    answered,
    arriving,
    download_path,
    files_in,
    get,
    media_id_of,
    picture,
    send,
    thumbnail_path,
    until,
    uploaded,
)
from tests.support import aio

SMALL = f"{SETTINGS}\n[media]\nmax_upload = '1 MiB'\npending_uploads = 2\npending_lifetime = '1h'\n"


@pytest.mark.parametrize("size", [0, 256 * KIB, 256 * KIB + 1, 3 * MIB + 7])
@aio
async def test_what_was_uploaded_comes_back(deployment: Deployment, size: int) -> None:
    alice = await deployment.user("alice")
    content = os.urandom(size)
    media_id = await uploaded(alice, content)
    assert len(media_id) >= 24
    got = await get(alice, download_path(media_id))
    assert got.status == 200
    assert got.body == content
    assert (got.pieces > 1) == (size > 256 * KIB)
    assert [path.read_bytes() for path in files_in(deployment, "tehran")] == [content]
    assert files_in(deployment, "paris") == []


@aio
async def test_an_upload_in_many_pieces(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    content = os.urandom(700 * KIB)
    request, incoming = arriving(alice, "POST", UPLOAD)
    asking = asyncio.ensure_future(answered(deployment, request))
    for start in range(0, len(content), 999):
        incoming.feed(content[start : start + 999])
        if start % 99900 == 0:
            await asyncio.sleep(0)
    incoming.end()
    got = await asking
    assert got.status == 200
    (path,) = files_in(deployment, "tehran")
    assert path.read_bytes() == content


@aio
async def test_headers(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, b"\x89PNG", "image/png", "a%20cat.png")
    got = await get(alice, download_path(media_id))
    assert got.content_type == "image/png"
    assert got.headers["Content-Disposition"] == 'inline; filename="a cat.png"'
    assert "sandbox" in got.headers["Content-Security-Policy"]
    assert got.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert "immutable" in got.headers["Cache-Control"]
    assert "private" in got.headers["Cache-Control"]


CONTENT_TYPES: list[tuple[str | None, str, str]] = [
    (None, "application/octet-stream", "attachment"),
    ("image/png", "image/png", "inline"),
    ("IMAGE/PNG", "IMAGE/PNG", "inline"),
    ("text/plain; charset=utf-8", "text/plain; charset=utf-8", "inline"),
    ("text/html", "text/html", "attachment"),
    ("image/svg+xml", "image/svg+xml", "attachment"),
    ("application/pdf", "application/pdf", "attachment"),
    ("application/json", "application/json", "inline"),
    ("image/png\u00e9", "application/octet-stream", "attachment"),
    ("png", "application/octet-stream", "attachment"),
    ("image/" + "x" * 300, "application/octet-stream", "attachment"),
    ("image/png, text/html", "application/octet-stream", "attachment"),
]
"""What an upload says, what it is served as, and how."""


@aio
async def test_content_types(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    for sent, stored, how in CONTENT_TYPES:
        media_id = media_id_of(await send(alice, b"content", sent))
        got = await get(alice, download_path(media_id))
        assert (got.content_type, got.headers["Content-Disposition"]) == (stored, how)
        assert "no-store" not in got.headers["Cache-Control"]


FILE_NAMES = [
    ("cat.png", 'attachment; filename="cat.png"'),
    ("a;b%22c.png", r'attachment; filename="a;b\"c.png"'),
    ("%D8%B9%DA%A9%D8%B3.png", "attachment; filename*=utf-8''%D8%B9%DA%A9%D8%B3.png"),
    ("..%2F..%2Fetc%2Fpasswd", 'attachment; filename=".._.._etc_passwd"'),
    ("a%0D%0ASet-Cookie:%20b", 'attachment; filename="aSet-Cookie: b"'),
    ("C:%5Cboot.ini", 'attachment; filename="C:_boot.ini"'),
    ("..", "attachment"),
]
"""A file name as it is asked for, and the header."""


@aio
async def test_file_names(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    other = await uploaded(alice, b"content", filename="other")
    for named, shown in FILE_NAMES:
        media_id = await uploaded(alice, b"content", filename=named)
        assert (await get(alice, download_path(media_id))).headers["Content-Disposition"] == shown
        renamed = await get(alice, f"{download_path(other)}/{named}")
        assert renamed.body == b"content"
        assert renamed.headers["Content-Disposition"] == shown


@aio
async def test_too_large(deploy: Deploy) -> None:
    deployment = await deploy(settings=SMALL)
    alice = await deployment.user("alice")
    for path in (f"{MEDIA}/config", "/_matrix/media/v3/config", "/_matrix/media/r0/config"):
        assert (await alice.asks("GET", path)).json == {"m.upload.size": MIB}
    await uploaded(alice, b"x" * MIB)
    assert len(files_in(deployment, "tehran")) == 1
    refused = await send(alice, b"x" * (MIB + 1))
    assert (refused.status, refused.errcode) == (413, "M_TOO_LARGE")
    request, incoming = arriving(alice, "POST", UPLOAD)  # says nothing about its length
    asking = asyncio.ensure_future(answered(deployment, request))
    for _ in range(3):
        incoming.feed(b"x" * (MIB // 2))
    got = await asking
    assert (got.status, got.errcode) == (413, "M_TOO_LARGE")
    assert len(files_in(deployment, "tehran")) == 1


@aio
async def test_a_truncated_upload_leaves_nothing(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    request, incoming = arriving(alice, "POST", UPLOAD, 4 * MIB)
    asking = asyncio.ensure_future(answered(deployment, request))
    incoming.feed(b"x" * 2 * MIB)
    await until(lambda: files_in(deployment, "tehran") != [])  # until some of it has been written
    incoming.fail(DisconnectedError("The client has gone away"))
    assert (await asking).status == 499
    assert files_in(deployment, "tehran") == []


@aio
async def test_uploads_at_the_same_time(deployment: Deployment) -> None:
    users = [await deployment.user(name, node) for name, node in (("alice", "tehran"), ("bob", "paris"))]
    contents = [os.urandom(300 * KIB) for _ in range(12)]
    ids = await asyncio.gather(*(uploaded(users[at % 2], content) for at, content in enumerate(contents)))
    assert len(set(ids)) == len(ids)
    got = await asyncio.gather(*(get(users[at % 2], download_path(media_id)) for at, media_id in enumerate(ids)))
    assert [answer.body for answer in got] == contents
    assert len(files_in(deployment, "tehran")) == len(files_in(deployment, "paris")) == 6


@aio
async def test_strangers_get_nothing(deployment: Deployment) -> None:
    for call in (("POST", UPLOAD), ("POST", CREATE), ("GET", f"{MEDIA}/config")):
        assert (await deployment.asked(*call, b"content")).errcode == "M_MISSING_TOKEN"


@aio
async def test_no_download_without_a_token(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, picture(10, 10), "image/png")
    for path in (download_path(media_id), thumbnail_path(media_id, width=5, height=5)):
        assert (await deployment.asked("GET", path)).errcode == "M_MISSING_TOKEN"
    for path in ("download/{}/{}", "download/{}/{}/name", "thumbnail/{}/{}?width=5&height=5"):
        for version in ("v3", "r0", "v1"):
            answer = await deployment.asked("GET", f"/_matrix/media/{version}/{path.format(NAME, media_id)}")
            assert (answer.status, answer.errcode) == (404, "M_NOT_FOUND")


TRICKS = [
    (NAME, "nothing"),
    (NAME, "a" * 32),
    (NAME, "..%2F..%2Fnode.db"),
    (NAME, "%2e%2e"),
    (NAME, ".."),
    (NAME, "a" * 2000),
    (NAME, "a%2Fb"),
    (NAME, "a%0Ab"),
    (NAME, "%C3%A9"),
    ("..", "a" * 32),
    ("..%2F..", "a" * 32),
    ("elsewhere.org", "a" * 32),
    ("EXAMPLE.ORG", "a" * 32),
]
"""Server names and media ids."""

STRANGERS = ("..", "elsewhere.org")
"""Those of the names that could be another server's, whose media may not come in."""


@aio
async def test_what_is_not_there(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    for server_name, media_id in TRICKS:
        for path in (
            f"{MEDIA}/download/{server_name}/{media_id}",
            f"{MEDIA}/download/{server_name}/{media_id}/name",
            f"{MEDIA}/thumbnail/{server_name}/{media_id}?width=5&height=5",
        ):
            answer = await alice.asks("GET", path)
            expected = (403, "M_FORBIDDEN") if server_name in STRANGERS else (404, "M_NOT_FOUND")
            assert (answer.status, answer.errcode) == expected, path
        put = await send(alice, b"content", path=f"{UPLOAD}/{server_name}/{media_id}")
        assert (put.status, put.errcode) == (404, "M_NOT_FOUND"), (server_name, media_id)
    assert files_in(deployment, "tehran") == []


# -- borders


@aio
async def test_no_flow_no_download(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice", "tehran"), await deployment.user("bob", "paris")
    media_id = await uploaded(alice, picture(200, 200), "image/png")
    for path in (download_path(media_id), thumbnail_path(media_id, width=5, height=5)):
        answer = await bob.asks("GET", path)
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert answer.json["org.domicile.reason"] == "flow_denied"
        assert answer.json["org.domicile.flow"] == {"from": "IR", "to": "FR", "class": "media"}
    assert files_in(deployment, "paris") == []


@aio
async def test_a_flow_lets_media_be_read_and_leaves_them_where_they_rest(deploy: Deploy) -> None:
    deployment = await deploy(policy=FLOWING)
    alice, bob = await deployment.user("alice", "tehran"), await deployment.user("bob", "paris")
    content = picture(200, 200)
    media_id = await uploaded(alice, content, "image/png")
    assert (await get(bob, download_path(media_id))).body == content
    assert (await get(bob, thumbnail_path(media_id, width=32, height=32, method="crop"))).status == 200
    assert len(files_in(deployment, "tehran")) == 2
    assert files_in(deployment, "paris") == []


# -- parts and caches


PARTS = [
    ("bytes=0-9", 206, 0, 10),
    ("bytes=300000-", 206, 300_000, 600_000),
    ("bytes=-5", 206, 599_995, 600_000),
    ("bytes=599999-700000", 206, 599_999, 600_000),
    ("bytes=-700000", 206, 0, 600_000),
    ("bytes=600000-", 416, 0, 0),
    ("bytes=-0", 416, 0, 0),
    ("bytes=5-4", 200, 0, 600_000),
    ("bytes=0-1,4-5", 200, 0, 600_000),
    ("lines=0-1", 200, 0, 600_000),
    ("bytes=-", 200, 0, 600_000),
]
"""A Range, the status, and which bytes of 600 000 come."""


@aio
async def test_parts(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    content = os.urandom(600_000)
    path = download_path(await uploaded(alice, content))
    for asked, status, start, end in PARTS:
        got = await get(alice, path, Range=asked)
        assert got.status == status, asked
        if status == 416:
            assert got.headers["Content-Range"] == "bytes */600000"
            continue
        assert got.body == content[start:end], asked
        assert got.headers.get("Content-Range") == (f"bytes {start}-{end - 1}/600000" if status == 206 else None)
        changed = await get(alice, path, Range=asked, If_Range='"something else"')
        assert (changed.status, changed.body) == (200, content)


@aio
async def test_what_a_client_has_is_not_sent_again(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, picture(200, 200), "image/png")
    for path in (download_path(media_id), thumbnail_path(media_id, width=5, height=5)):
        tag = (await get(alice, path)).headers["ETag"]
        again = await get(alice, path, If_None_Match=f'"x", W/{tag}')
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        assert (await get(alice, path, If_None_Match='"x"')).status == 200


# -- content that comes later


@aio
async def test_a_uri_before_its_content(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    made = await alice.asks("POST", CREATE)
    assert made.json["unused_expires_at"] == deployment.clock.now_ms() + 24 * 3_600_000
    media_id = media_id_of(made)
    early = await alice.asks("GET", f"{download_path(media_id)}?timeout_ms=0")
    assert (early.status, early.errcode) == (504, "M_NOT_YET_UPLOADED")
    path = f"{UPLOAD}/{NAME}/{media_id}"
    put = await send(alice, b"content", "text/plain", path=f"{path}?filename=a.txt", verb="PUT")
    assert (put.status, put.json) == (200, {})
    got = await get(alice, download_path(media_id))
    assert (got.body, got.headers["Content-Disposition"]) == (b"content", 'inline; filename="a.txt"')
    again = await send(alice, b"other", path=path)
    assert (again.status, again.errcode) == (409, "M_CANNOT_OVERWRITE_MEDIA")
    assert [file.read_bytes() for file in files_in(deployment, "tehran")] == [b"content"]


@aio
async def test_a_download_waits_for_the_upload(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = media_id_of(await alice.asks("POST", CREATE))
    waiting = asyncio.ensure_future(get(alice, f"{download_path(media_id)}?timeout_ms=5000"))
    thumbnail = asyncio.ensure_future(get(alice, thumbnail_path(media_id, width=64, height=64)))
    await until(lambda: deployment.server.wakeups.count == 2)
    content = picture(20, 20)
    await send(alice, content, "image/png", path=f"{UPLOAD}/{NAME}/{media_id}")
    assert (await waiting).body == content
    assert (await thumbnail).body == content


@pytest.mark.parametrize(("asked", "seconds"), [("?timeout_ms=5000", 5), ("", 20), ("?timeout_ms=999999999", 60)])
@aio
async def test_a_download_waits_no_longer_than_it_should(deployment: Deployment, asked: str, seconds: float) -> None:
    alice = await deployment.user("alice")
    media_id = media_id_of(await alice.asks("POST", CREATE))
    waiting: asyncio.Future[Got] = asyncio.ensure_future(get(alice, download_path(media_id) + asked))
    await until(lambda: deployment.clock.waiting > 0)
    await deployment.clock.advance(seconds - 0.01)
    assert not waiting.done()
    await deployment.clock.advance(0.02)
    assert (await waiting).errcode == "M_NOT_YET_UPLOADED"


@aio
async def test_a_uri_expires(deploy: Deploy) -> None:
    deployment = await deploy(settings=SMALL)
    alice = await deployment.user("alice")
    media_id = media_id_of(await alice.asks("POST", CREATE))
    await deployment.clock.advance(3600)
    late = await send(alice, b"content", path=f"{UPLOAD}/{NAME}/{media_id}")
    assert (late.status, late.errcode) == (404, "M_NOT_FOUND")
    assert (await alice.asks("GET", download_path(media_id))).errcode == "M_NOT_FOUND"
    assert files_in(deployment, "tehran") == []


@aio
async def test_a_uri_that_expires_during_the_upload(deploy: Deploy) -> None:
    deployment = await deploy(settings=SMALL)
    alice = await deployment.user("alice")
    media_id = media_id_of(await alice.asks("POST", CREATE))
    request, incoming = arriving(alice, "PUT", f"{UPLOAD}/{NAME}/{media_id}")
    asking = asyncio.ensure_future(answered(deployment, request))
    incoming.feed(b"x" * 300 * KIB)
    await until(lambda: incoming._room is not None)  # it is let in
    await deployment.clock.advance(3600)
    incoming.end()
    assert (await asking).errcode == "M_NOT_FOUND"
    assert files_in(deployment, "tehran") == []


@aio
async def test_pending_uploads_are_counted(deploy: Deploy) -> None:
    deployment = await deploy(settings=SMALL)
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    first = media_id_of(await alice.asks("POST", CREATE))
    await alice.asks("POST", CREATE)
    refused = await alice.asks("POST", CREATE)
    assert (refused.status, refused.errcode) == (429, "M_LIMIT_EXCEEDED")
    assert refused.json["retry_after_ms"] > 0
    assert (await bob.asks("POST", CREATE)).status == 200
    await send(alice, b"content", path=f"{UPLOAD}/{NAME}/{first}")
    assert (await alice.asks("POST", CREATE)).status == 200
    assert (await alice.asks("POST", CREATE)).status == 429
    await deployment.clock.advance(3600)
    assert (await alice.asks("POST", CREATE)).status == 200


@pytest.mark.parametrize("node", ["tehran", "paris"])
@aio
async def test_nobody_uploads_for_somebody_else(deployment: Deployment, node: str) -> None:
    alice, mallory = await deployment.user("alice"), await deployment.user("mallory", node)
    media_id = media_id_of(await alice.asks("POST", CREATE))
    refused = await send(mallory, b"content", path=f"{UPLOAD}/{NAME}/{media_id}")
    assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
    assert files_in(deployment, "tehran") == files_in(deployment, "paris") == []


@pytest.mark.parametrize("same", [True, False])
@aio
async def test_only_one_of_two_uploads_to_a_uri_counts(deployment: Deployment, same: bool) -> None:
    alice = await deployment.user("alice")
    media_id = media_id_of(await alice.asks("POST", CREATE))
    contents = [b"a" * 300 * KIB, b"a" * 300 * KIB if same else b"b" * 300 * KIB]
    bodies, asking = [], []
    for content in contents:
        request, incoming = arriving(alice, "PUT", f"{UPLOAD}/{NAME}/{media_id}")
        asking.append(asyncio.ensure_future(answered(deployment, request)))
        incoming.feed(content)
        bodies.append(incoming)
    await until(lambda: all(incoming._room is not None for incoming in bodies))  # both have been let in
    for incoming in bodies:
        incoming.end()
    statuses = [(await answer).status for answer in asking]
    assert sorted(statuses) == [200, 409]
    kept = contents[statuses.index(200)]
    assert (await get(alice, download_path(media_id))).body == kept
    assert [file.read_bytes() for file in files_in(deployment, "tehran")] == [kept]


QUOTA = f"{SETTINGS}\n[media]\nuser_files = 3\nuser_bytes = '4 KiB'\n"


@aio
async def test_a_quota_of_files(deploy: Deploy) -> None:
    deployment = await deploy(settings=QUOTA)
    alice, bob = await deployment.user("alice"), await deployment.user("bob")
    for number in range(3):
        media_id = await uploaded(alice, bytes([number]))
    answer = await send(alice, b"4")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    pending = media_id_of(await alice.asks("POST", CREATE))
    answer = await send(alice, b"4", path=f"{UPLOAD}/{NAME}/{pending}")
    assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
    await uploaded(bob, b"4")
    assert len(files_in(deployment, "tehran")) == 4
    assert await upload.delete(deployment.server, deployment.node("tehran"), media_id)
    assert (await send(alice, b"4", path=f"{UPLOAD}/{NAME}/{pending}")).status == 200
    assert (await send(alice, b"5")).status == 403


@pytest.mark.parametrize("declares", [True, False])
@aio
async def test_a_quota_of_bytes(deploy: Deploy, declares: bool) -> None:
    deployment = await deploy(settings=QUOTA)
    alice = await deployment.user("alice")
    await uploaded(alice, bytes(4 * KIB - 2))
    pending = media_id_of(await alice.asks("POST", CREATE))
    for method, path in (("POST", UPLOAD), ("PUT", f"{UPLOAD}/{NAME}/{pending}")):
        request, incoming = arriving(alice, method, path, 3 if declares else None)
        asking = asyncio.ensure_future(answered(deployment, request))
        if not declares:
            incoming.feed(b"abc")
            incoming.end()
        answer = await asking
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert len(files_in(deployment, "tehran")) == 1, "nothing is left of what was too much"
    assert (await send(alice, b"ab", path=f"{UPLOAD}/{NAME}/{pending}")).status == 200


@aio
async def test_a_quota_holds_for_uploads_at_once(deploy: Deploy) -> None:
    deployment = await deploy(settings=QUOTA)
    alice = await deployment.user("alice")
    pending = media_id_of(await alice.asks("POST", CREATE))
    paths = [UPLOAD] * 5 + [f"{UPLOAD}/{NAME}/{pending}"]
    asking, incomings = [], []
    for path in paths:
        request, incoming = arriving(alice, "POST" if path == UPLOAD else "PUT", path)
        incomings.append(incoming)
        asking.append(asyncio.ensure_future(answered(deployment, request)))
    for number, incoming in enumerate(incomings):
        incoming.feed(b"%d" % number)
        incoming.end()
    statuses = sorted(answer.status for answer in await asyncio.gather(*asking))
    assert statuses == [200] * 3 + [403] * 3
    assert len(files_in(deployment, "tehran")) == 3

"""Files of media: what a crash, a fault or a disk that has gone leaves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from blake3 import blake3

from homeserver.media import reading, shelves, store, sweep, upload
from homeserver.protocol.errors import CommitUnknown, NodeUnavailable
from homeserver.runtime import durable
from homeserver.storage import media as stored
from homeserver.storage.directory import AHEAD, Kind
from homeserver.storage.engine import ConstraintViolation, Transaction
from homeserver.storage.media import Content
from homeserver.storage.nodes import Node
from homeserver.web.incoming import Incoming
from tests.deployment import NAME, Deployment, User, start
from tests.media.transfers import (
    CREATE,
    KIB,
    UPLOAD,
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
from tests.support import Databases, aio

CONTENT = os.urandom(300 * KIB)


class PowerCutError(Exception):
    """The process ends here."""


def age(deployment: Deployment, node: str = "tehran") -> None:
    """Let every file have been touched long before now, by the deployment's clock."""
    long_ago = deployment.clock.now_ms() / 1000 - 2 * 3600
    for path in files_in(deployment, node):
        os.utime(path, (long_ago, long_ago))


async def route(deployment: Deployment, media_id: str) -> str | None:
    return await deployment.server.nodes.directory.find(Kind.MEDIA, media_id)


async def upload_as(user: User) -> None:
    """Upload past the routes, so that a fault is not turned into an answer."""
    server, caller = user.deployment.server, await user.caller()
    body = Incoming.of(CONTENT)
    await upload.upload(server, caller, body, declared=None, content_type="text/plain", filename=None)


async def leave(deployment: Deployment, user: User, monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    """Upload, and have the transaction of the row fail; returns the media id."""
    seen: list[str] = []

    async def failing(tx: Transaction, media_id: str, user_nid: int, content: Content, now: int, until: None) -> None:
        seen.append(media_id)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(stored, "add", failing)
        with pytest.raises(type(error)):
            await upload_as(user)
    return seen[0]


@aio
async def test_a_row_that_fails_takes_its_file_with_it(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await deployment.user("alice")
    media_id = await leave(deployment, alice, monkeypatch, NodeUnavailable("tehran"))
    assert files_in(deployment, "tehran") == []
    assert await route(deployment, media_id) is None


@aio
async def test_what_may_have_a_row_is_left_to_the_sweep(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await deployment.user("alice")
    media_id = await leave(deployment, alice, monkeypatch, CommitUnknown("tehran"))
    assert len(files_in(deployment, "tehran")) == 1
    await sweep.sweep(deployment.server)  # too early: it might be an upload in progress
    assert len(files_in(deployment, "tehran")) == 1
    assert await route(deployment, media_id) == "tehran"
    age(deployment)
    await sweep.sweep(deployment.server)
    assert files_in(deployment, "tehran") == []
    assert await route(deployment, media_id) is None


@aio
async def test_the_sweep_leaves_what_has_a_row(deployment: Deployment) -> None:
    alice, bob = await deployment.user("alice"), await deployment.user("bob", "paris")
    content = picture(300, 300)
    media_id = await uploaded(alice, content, "image/png")
    other = await uploaded(bob, CONTENT)
    assert (await get(alice, thumbnail_path(media_id, width=32, height=32))).status == 200
    age(deployment)
    age(deployment, "paris")
    await sweep.sweep(deployment.server)
    assert len(files_in(deployment, "tehran")) == 2
    assert (await get(alice, download_path(media_id))).body == content
    assert (await get(bob, download_path(other))).body == CONTENT


@aio
async def test_a_crash_at_each_step_of_an_upload(engines: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps that change a disk: the draft, its bytes, the folder, the name. After each the process is gone."""
    deployment = await start(engines)
    alice = await deployment.user("alice")
    kept = await uploaded(alice, b"kept")

    def cut(*args: object, **kwargs: object) -> None:
        raise PowerCutError

    async def cut_later(*args: object, **kwargs: object) -> None:
        raise PowerCutError

    for owner, step in ((os, "write"), (os, "fsync"), (Path, "rename"), (durable, "sync_folder"), (stored, "add")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, cut_later if owner is stored else cut)
            patch.setattr(store.Draft, "discard", cut_later)  # a process that is gone tidies nothing
            patch.setattr(store, "erase", cut_later)
            with pytest.raises(PowerCutError):
                await upload_as(alice)
    assert len(files_in(deployment, "tehran")) == 6

    again = await start(engines)
    age(again)
    await sweep.sweep(again.server)
    assert [path.read_bytes() for path in files_in(again, "tehran")] == [b"kept"]
    assert (await get(User(again, alice.user_id, alice.device_id, alice.token), download_path(kept))).body == b"kept"


@aio
async def test_a_file_is_synced_before_it_has_its_name(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await deployment.user("alice")
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def syncing(fd: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    def renaming(self: Path, target: Path) -> Path:
        done.append("rename")
        return rename(self, target)

    await uploaded(alice, b"the first one makes the folder")
    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "rename", renaming)
    await uploaded(alice, CONTENT)
    assert [step for step in done if step == "file"] == ["file"]
    assert done.index("file") < done.index("rename") < len(done) - 1
    assert done[-1] == "folder"


@aio
async def test_the_name_of_a_new_folder_is_synced_whoever_made_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, synced = deployment.node("tehran"), list[Path]()
    await put(node, "zz")  # the first one makes the place for drafts
    sync = durable.sync_folder

    def syncing(folder: Path) -> None:
        synced.append(folder)
        sync(folder)

    monkeypatch.setattr(durable, "sync_folder", syncing)
    media = node.media
    for name, known in (("aa", False), ("aa", True), ("a7", False)):
        synced.clear()
        await put(node, name)
        assert synced == ([media / name] if known else [media, media / name])
    synced.clear()
    (media / "bb").mkdir()  # by a process that was killed before it synced it
    await store.prepare(node)
    assert synced == [media]
    assert len(list(media.iterdir())) == 1 + 32 * 32
    await put(node, "bb")
    assert synced == [media, media / "bb"]
    rmtree(media / "bb")
    synced.clear()
    await put(node, "bb")
    assert synced == [media, media / "bb"]


async def put(node: Node, shelf: str) -> None:
    """Have a file stored in a folder."""
    draft = await store.begin(node)
    await draft.add(CONTENT)
    await draft.finish(shelf + shelves.new_id()[2:])


@aio
async def test_what_a_disk_takes_piece_by_piece_is_whole(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await deployment.user("alice")
    caller = await alice.caller()
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, rest: write(fd, rest[: max(1, len(rest) // 2)]))
    content = os.urandom(2 * store.ROOM + 1000)
    for pieces in (1, 7, 64):
        draft = await store.begin(caller.node)
        step = len(content) // pieces + 1
        for at in range(0, len(content), step):
            await draft.add(content[at : at + step])
        assert await draft.finish(shelves.new_id()) == (len(content), b"\x1e" + blake3(content).digest())
    assert [path.read_bytes() for path in files_in(deployment, "tehran")] == [content] * 3


@aio
async def test_memory_is_used_again_and_is_nobody_elses_meanwhile(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    node = (await alice.caller()).node
    first, second = await store.begin(node), await store.begin(node)
    await first.add(b"what the first one wrote, which is longer")
    await second.add(b"the second")
    assert (await first.finish(shelves.new_id())).size == 41
    third = await store.begin(node)  # where the first one was
    await third.add(b"the third")
    await second.discard()
    await second.discard()  # and its place is free but once
    assert len(node.memory(store.Files).rooms) == 1
    await third.finish(shelves.new_id())
    await third.discard()
    assert len(node.memory(store.Files).rooms) == 2
    held = [path.read_bytes() for path in files_in(deployment, "tehran")]
    assert sorted(held) == [b"the third", b"what the first one wrote, which is longer"]


@aio
@pytest.mark.parametrize("size", [1, store.ROOM - 1, store.ROOM, store.ROOM + 1, 3 * store.ROOM])
async def test_uploads_of_every_size_are_whole(deployment: Deployment, size: int) -> None:
    alice = await deployment.user("alice")
    content = os.urandom(size)
    assert (await get(alice, download_path(await uploaded(alice, content)))).body == content


@aio
async def test_a_pending_uri_outlives_its_broken_upload(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = media_id_of(await alice.asks("POST", CREATE))
    caller = await alice.caller()
    draft = await store.begin(caller.node)
    await draft.add(os.urandom(store.ROOM))  # and then the process is gone
    assert len(files_in(deployment, "tehran")) == 1
    age(deployment)
    await sweep.sweep(deployment.server)
    assert files_in(deployment, "tehran") == []
    assert (await send(alice, b"content", path=f"{UPLOAD}/{NAME}/{media_id}")).status == 200
    await draft.discard()


@aio
async def test_expired_uris_are_forgotten(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = media_id_of(await alice.asks("POST", CREATE))
    filled = media_id_of(await alice.asks("POST", CREATE))
    await send(alice, b"content", path=f"{UPLOAD}/{NAME}/{filled}")
    await sweep.sweep(deployment.server)
    assert await route(deployment, media_id) == "tehran"
    await deployment.clock.advance(24 * 3600)
    await sweep.sweep(deployment.server)
    assert await route(deployment, media_id) is None
    assert await deployment.node("tehran").read(stored.find, media_id) is None
    assert (await get(alice, download_path(filled))).body == b"content"


@aio
async def test_the_route_of_a_medium_that_moved_stays(deployment: Deployment) -> None:
    """What a move leaves behind on the old node is swept; where the medium is now is not forgotten."""
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, CONTENT)
    tehran, directory = deployment.node("tehran"), deployment.server.nodes.directory
    await tehran.write(stored.remove, media_id)
    await directory.release(Kind.MEDIA, media_id)
    await directory.claim(Kind.MEDIA, media_id, "paris")
    age(deployment)
    await sweep.sweep(deployment.server)
    assert files_in(deployment, "tehran") == []
    assert await route(deployment, media_id) == "paris"


@aio
async def test_deleting_takes_everything(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, picture(300, 300), "image/png")
    await get(alice, thumbnail_path(media_id, width=32, height=32))
    await get(alice, download_path(media_id))  # which is remembered
    assert len(files_in(deployment, "tehran")) == 2
    assert await upload.delete(deployment.server, deployment.node("tehran"), media_id)
    assert files_in(deployment, "tehran") == []
    assert (await get(alice, download_path(media_id))).errcode == "M_NOT_FOUND"
    assert not await upload.delete(deployment.server, deployment.node("tehran"), media_id)


@pytest.mark.parametrize("length", [1000, 300 * KIB])
@aio
async def test_a_file_that_is_lost_or_damaged_is_not_served(deployment: Deployment, length: int) -> None:
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, CONTENT[:length])
    (path,) = files_in(deployment, "tehran")
    path.write_bytes(CONTENT[: length - 1])
    assert (await get(alice, download_path(media_id))).errcode == "M_NOT_FOUND"
    path.unlink()
    assert (await get(alice, download_path(media_id))).errcode == "M_NOT_FOUND"


@pytest.mark.parametrize("remembered", [True, False])
@aio
async def test_a_node_that_is_down_costs_only_its_own(engines: Databases, remembered: bool) -> None:
    for node in ("tehran", "paris"):
        await engines.make_breakable(node)
    deployment = await start(engines)
    alice, bob = await deployment.user("alice", "tehran"), await deployment.user("bob", "paris")
    ours, theirs = await uploaded(alice, CONTENT), await uploaded(bob, CONTENT)
    if remembered:
        await get(alice, download_path(ours))
    await engines.take_away("tehran")
    await deployment.node("tehran").engine.probe()
    for path in (download_path(ours), thumbnail_path(ours, width=5, height=5)):
        assert (await get(alice, path)).status == 503
    assert (await send(alice, CONTENT)).status == 503
    assert (await get(bob, download_path(theirs))).body == CONTENT
    await sweep.sweep(deployment.server)
    await engines.bring_back("tehran")
    await deployment.node("tehran").engine.probe()
    assert (await get(alice, download_path(ours))).body == CONTENT
    await uploaded(alice, CONTENT)


@aio
async def test_a_folder_that_has_gone_does_not_come_back_empty(engines: Databases) -> None:
    deployment = await start(engines)
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, CONTENT)
    folder = deployment.node("tehran").media
    folder.rename(folder.with_name("unmounted"))
    assert (await get(alice, download_path(media_id))).status == 503
    assert (await send(alice, CONTENT)).status == 503
    again = await start(engines)
    asks = User(again, alice.user_id, alice.device_id, alice.token)
    assert (await send(asks, CONTENT)).status == 503
    assert not folder.exists()
    folder.with_name("unmounted").rename(folder)
    assert (await get(asks, download_path(media_id))).body == CONTENT
    await uploaded(asks, CONTENT)


@aio
async def test_a_cancelled_upload_leaves_nothing(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    request, incoming = arriving(alice, "POST", UPLOAD)
    asking = asyncio.ensure_future(answered(deployment, request))
    incoming.feed(os.urandom(store.ROOM))
    await until(lambda: files_in(deployment, "tehran") != [])
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await until(lambda: files_in(deployment, "tehran") == [])


@aio
async def test_readings_close_their_files(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    media_id = await uploaded(alice, CONTENT)
    node = deployment.node("tehran")
    medium = await node.read(stored.find, media_id)
    assert medium is not None
    assert medium.digest == b"\x1e" + blake3(CONTENT).digest()
    (path,) = files_in(deployment, "tehran")

    def held() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum(os.readlink(link) == str(path) for link in links if link.is_symlink())

    begun = await reading.read(node, medium)
    assert isinstance(begun, reading.Reading)
    assert held() == 1
    assert await anext(begun) == CONTENT[: reading.CHUNK]
    await begun.aclose()
    assert held() == 0
    assert [piece async for piece in begun] == []
    forgotten = await reading.read(node, medium)
    assert held() == 1
    del forgotten
    await until(lambda: held() == 0)  # the thread that opened it lets go a moment later


@aio
async def test_what_is_in_memory_is_read_without_a_thread(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await deployment.user("alice")
    content, short = os.urandom(5 * reading.CHUNK // 2), os.urandom(1000)
    node = deployment.node("tehran")
    hops: list[object] = []
    run, preadv = store.Files.run, os.preadv

    async def counting(self: store.Files, node: Node, work: Any, *args: Any, **kwargs: Any) -> Any:
        hops.append(work)
        return await run(self, node, work, *args, **kwargs)

    def cold(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        assert flags == os.RWF_NOWAIT
        raise BlockingIOError

    def lukewarm(fd: int, buffers: list[memoryview], offset: int, flags: int) -> int:
        assert flags == os.RWF_NOWAIT  # which not every file system knows
        return preadv(fd, [buffers[0][:100_000]], offset)

    async def takes(number: int) -> None:
        hops.clear()
        assert (await get(alice, download_path(media_id))).body == content
        assert (await get(alice, download_path(short_id))).body == short
        part = await get(alice, download_path(media_id), Range="bytes=300000-600000")
        assert part.body == content[300_000:600_001]
        assert len(hops) == number, hops

    monkeypatch.setattr(os, "preadv", lukewarm)
    media_id, short_id = await uploaded(alice, content), await uploaded(alice, short)
    monkeypatch.setattr(store.Files, "run", counting)
    await takes(0)
    monkeypatch.setattr(os, "preadv", cold)
    await takes(3 + 1 + 2)  # for each chunk, of which the first one opens the file
    monkeypatch.setattr(os, "preadv", lukewarm)
    await takes(2)  # for what was not at hand when it was read last
    await takes(0)
    files = {path.name[:32]: path for path in files_in(deployment, "tehran")}
    files[media_id].unlink()
    files[short_id].write_bytes(short[1:])
    for lost in (media_id, short_id):
        assert (await get(alice, download_path(lost))).status == 404
    assert not node.engine.health().reason


@aio
async def test_the_system_keeps_the_newest_files_in_memory(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those before them it is told to drop what it holds; they stay whole, and one may have been deleted."""
    alice = await deployment.user("alice")
    dropped: list[str] = []

    def advise(fd: int, start: int, length: int, advice: int) -> None:
        assert (start, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        dropped.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name[:32])

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(store, "KEPT", 4 * store.LEAST)
    small = [await uploaded(alice, b"little") for _ in range(4)]
    assert dropped == []
    files = {path.name[:32]: path for path in files_in(deployment, "tehran")}
    files[small[1]].unlink()
    large = await uploaded(alice, os.urandom(3 * store.LEAST))
    assert dropped == [small[0], small[2]]
    await uploaded(alice, os.urandom(2 * store.ROOM))  # more than may be kept of all
    assert dropped == [small[0], small[2], small[3], large]
    await uploaded(alice, b"little")
    assert len(dropped) == 5
    for media_id in (small[0], small[3]):
        assert (await get(alice, download_path(media_id))).body == b"little"


@aio
async def test_uploads_at_the_same_time_share_their_commits(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    await uploaded(alice, b"the first one makes the folder")
    node = deployment.node("tehran")

    trips = node.engine.trips
    uploads = await asyncio.gather(*(uploaded(alice, CONTENT) for _ in range(8)))
    assert node.engine.trips <= trips + 8
    for media_id in uploads:
        assert (await get(alice, download_path(media_id))).body == CONTENT


@aio
async def test_what_was_uploaded_is_known_until_it_is_deleted(deployment: Deployment) -> None:
    alice = await deployment.user("alice")
    node = deployment.node("tehran")
    media_id = await uploaded(alice, CONTENT)
    await alice.asks("GET", "/_matrix/client/v3/account/whoami")  # and so the token is known
    trips = node.engine.trips
    assert (await get(alice, download_path(media_id))).body == CONTENT
    assert node.engine.trips == trips
    assert await upload.delete(deployment.server, node, media_id)
    assert (await get(alice, download_path(media_id))).status == 404


@aio
async def test_ids_have_their_routes_before_they_are_given_out(engines: Databases) -> None:
    await engines.make_breakable("directory")
    deployment = await start(engines)
    alice, bob = await deployment.user("alice"), await deployment.user("bob", "paris")
    directory = deployment.server.nodes.directory
    trips = directory.engine.trips
    ids = await asyncio.gather(*(uploaded(user, CONTENT) for user in (alice, bob) for _ in range(AHEAD)))
    assert directory.engine.trips == trips + 2  # one for each node
    ids += [media_id_of(await alice.asks("POST", CREATE)), await uploaded(bob, CONTENT)]
    assert len(set(ids)) == 2 * AHEAD + 2
    directory.forget_all()  # what the database has, not what is remembered
    homes = [await route(deployment, media_id) for media_id in ids]
    assert homes == ["tehran"] * AHEAD + ["paris"] * AHEAD + ["tehran", "paris"]

    trips = directory.engine.trips
    await uploaded(alice, CONTENT)  # those that were ahead have been forgotten too
    assert directory.engine.trips == trips + 2  # and the route of the token
    with pytest.raises(ConstraintViolation):
        await directory.new_name(Kind.MEDIA, "paris", lambda: ids[0])
    assert await directory.ask(Kind.MEDIA, ids[0]) == "tehran"

    await uploaded(bob, CONTENT)
    await engines.take_away("directory")
    await directory.engine.probe()
    assert (await send(bob, CONTENT)).status == 503  # none is given out that may not be there any more
    await engines.bring_back("directory")
    await directory.engine.probe()
    await uploaded(bob, CONTENT)
    assert len(files_in(deployment, "paris")) == AHEAD + 3


def test_ids_are_of_all_letters_and_each_is_another() -> None:
    made = {shelves.new_id() for _ in range(200)}
    assert len(made) == 200
    assert all(map(shelves.is_ours, made))
    assert set("".join(made)) == set("abcdefghijklmnopqrstuvwxyz234567")


@pytest.mark.parametrize(
    "media_id", ["", "..", "../../x", "A" * 32, "a" * 31, "a" * 33, "a" * 31 + "/", "a" * 31 + "\n"]
)
def test_no_path_for_what_is_no_id(tmp_path: Path, media_id: str) -> None:
    with pytest.raises(ValueError, match="no media id"):
        shelves.path_of(tmp_path, media_id, bytes(32))
    assert shelves.path_of(tmp_path, shelves.new_id(), bytes(32)).is_relative_to(tmp_path)

"""Archives put back, into an empty database and an empty folder.

Nothing is written before all of the archive has been compared with its digests. Files come before rows, and all rows
come in one transaction, with what has to be made of them since time has gone on: the node is empty, or it is all there
and fit to be served. Files that a restore left that was cut off are kept.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from homeserver.accounts.deactivation import DEACTIVATED
from homeserver.accounts.devices import KEYS_CHANGED
from homeserver.archives.backing_up import media_files, node_migrations
from homeserver.archives.sealing import CHUNK, Damaged
from homeserver.media import shelves
from homeserver.protocol.errors import Conflict
from homeserver.protocol.identifiers import localpart_of
from homeserver.runtime import durable
from homeserver.storage import aftermath, closed_accounts, migrate, streams
from homeserver.storage import archive as stored
from homeserver.storage.directory import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from homeserver.archives.reading import Archive
    from homeserver.storage.directory import Directory
    from homeserver.storage.engine import Engine, Transaction

_MEDIA: Final = re.compile(r"media/((?:[a-z2-7]{2}/)?[\w-][\w.-]*)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an archive is put back. ``kind``: ``sqlite`` or ``postgresql``. ``opened`` gives an engine, not open yet,
    with some migrations. ``others``: the other nodes, by name. ``keep_sessions``: who was signed in stays so."""

    deployment: str
    node: str
    jurisdiction: str
    kind: str
    media: Path
    opened: Callable[[Sequence[migrate.Migration]], Engine]
    others: Sequence[str] = ()
    keep_sessions: bool = False


@dataclass(frozen=True, slots=True)
class Since:
    """What the directory knows of an archive's residents, by row id: who is on another node by now (``gone``), and
    whose account has been closed, with whether they were erased."""

    gone: frozenset[int]
    closed: Mapping[int, bool]


async def restore(archive: Archive, place: Place, directory: Directory, now_ms: int) -> dict[str, Any]:
    """Put an archive back; returns its manifest and what was done. Raises Conflict, OSError."""
    try:
        return await _restore(archive, place, directory, now_ms)
    except Damaged as fault:
        raise Conflict(f"{archive.path} cannot be used, and nothing was restored: {fault}") from None


async def _restore(archive: Archive, place: Place, directory: Directory, now_ms: int) -> dict[str, Any]:
    manifest = await asyncio.to_thread(archive.verified)
    migrations = _fitting(manifest, place)
    await asyncio.to_thread(_refuse_other_files, archive, place.media)
    users = await asyncio.to_thread(_residents, archive, stored.layouts(migrations))
    since = await _since(users, place, directory)
    engine = place.opened(migrations)
    try:
        await engine.open(create=True)
        if not engine.health().up:
            raise Conflict(f"the database of {place.node} cannot be opened: {engine.health().reason}")
        await engine.read(_refuse_rows, migrations)
        files = await asyncio.to_thread(_unpack, archive, place.media)
        jump = stored.gap((now_ms - int(manifest["time"])) / 1000)
        ended = await engine.write(_write, archive, place, migrations, jump, since, now_ms)
    finally:
        await engine.close()
    return {**manifest, "files_restored": files, "erased": len(since.gone), **ended}


def _fitting(manifest: dict[str, Any], place: Place) -> tuple[migrate.Migration, ...]:
    """The migrations that the archive's database had. Raises Conflict when it is none for this place."""
    for what, mine in (
        ("deployment", place.deployment),
        ("node", place.node),
        ("jurisdiction", place.jurisdiction),
    ):
        if manifest.get(what) != mine:
            raise Conflict(f"the archive is of the {what} {manifest.get(what)}, and not of {mine}")
    try:
        return applied_to(place.node, manifest)
    except migrate.SchemaMismatch as fault:
        raise Conflict(f"the archive does not fit this program: {fault}") from None


def applied_to(node: str, manifest: dict[str, Any]) -> tuple[migrate.Migration, ...]:
    """The migrations that the database of a node had, of which a manifest is. Raises SchemaMismatch."""
    known = node_migrations()
    applied = [(int(number), str(name), str(digest)) for number, name, digest in manifest["schema"]]
    migrate.pending(node, known, applied, create=False)
    return known[: max(number for number, _, _ in applied)]


def _refuse_other_files(archive: Archive, media: Path) -> None:
    """Raise Conflict if there are files but those that a restore of this very archive has left."""
    there = {f"media/{path.relative_to(media)}": path for path in media_files(media)}
    if not there:
        return
    for name, part in archive.parts():
        path = there.get(name)
        if path is not None and _digest(part) == _digest_of(path):
            del there[name]
    if there:
        raise Conflict(f"there are files in {media} already: move that folder away, and begin again")


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: BinaryIO) -> bytes:
    digest = sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.digest()


def _residents(archive: Archive, layouts: Sequence[stored.Layout]) -> dict[int, str]:
    """The residents in an archive, by row id."""
    by_name = {layout.table: layout for layout in layouts}
    residents: set[int] = set()
    users: dict[int, str] = {}
    for table, part in archive.rows():
        if table == "residents":
            residents.update(row[0] for row in stored.rows_of(by_name[table], part))
        elif table == "users":
            columns = by_name[table].columns
            nid, name = columns.index("user_nid"), columns.index("user_id")
            rows = stored.rows_of(by_name[table], part)
            users.update((row[nid], row[name]) for row in rows if row[nid] in residents)
        else:
            break
    return users


async def _since(users: Mapping[int, str], place: Place, directory: Directory) -> Since:
    names = {nid: localpart_of(user_id) for nid, user_id in users.items()}
    homes = await directory.find_all(Kind.USER, set(names.values()))
    gone = frozenset(nid for nid, name in names.items() if homes.get(name, place.node) != place.node)
    closed = await closed_accounts.among(directory, set(names.values()))
    return Since(gone, {nid: closed[name] for nid, name in names.items() if name in closed and nid not in gone})


async def _refuse_rows(tx: Transaction, migrations: Sequence[migrate.Migration]) -> None:
    table = await stored.occupied(tx, stored.layouts(migrations))
    if table is not None:
        raise Conflict(f"the database of {tx.node} is not empty, see {table}: move it away, and begin again")


def _unpack(archive: Archive, media: Path) -> int:
    """Write the files of the media folder, and have them on the disk. Returns how many there are."""
    count = 0
    media.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, part in archive.parts():
        if not name.startswith("media/"):
            continue
        _place(media, media / media_path(name), part)
        count += 1
    (media / shelves.DRAFTS).mkdir(mode=0o700, exist_ok=True)
    durable.sync_folder(media)
    return count


def media_path(name: str) -> str:
    """Where a part of an archive stands in a media folder. Raises Damaged for what leads anywhere else."""
    found = _MEDIA.fullmatch(name)
    if found is None or shelves.belongs_to(name.rpartition("/")[2]) is None:
        raise Damaged(f"{name} is no file of a media folder")
    return found[1]


def _place(media: Path, path: Path, part: BinaryIO) -> None:
    drafts = media / shelves.DRAFTS
    for folder in (drafts, path.parent):
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            durable.sync_folder(media)
    draft = drafts / path.name
    with open(draft, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        while chunk := part.read(CHUNK):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    durable.sync_folder(path.parent)


async def _write(
    tx: Transaction,
    archive: Archive,
    place: Place,
    migrations: Sequence[migrate.Migration],
    jump: int,
    since: Since,
    now_ms: int,
) -> dict[str, Any]:
    """All rows, and what is made of them; returns what did not go on. May be called again from the start."""
    await _refuse_rows(tx, migrations)
    layouts = stored.layouts(migrations)
    by_name = {layout.table: layout for layout in layouts}
    await stored.clear(tx, layouts)
    parts = archive.rows()
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        table, packed = part
        if table not in by_name:
            raise Damaged(f"it has a table {table}, which its version had not")
        await stored.put(tx, by_name[table], await asyncio.to_thread(stored.rows_of, by_name[table], packed))
    await stored.count_on(tx, layouts, place.kind)
    await stored.modernise(tx, node_migrations()[len(migrations) :], place.kind)
    await stored.settle(tx, place.node, jump, since.gone)
    return await _reinstate(tx, place, since, now_ms)


async def _reinstate(tx: Transaction, place: Place, since: Since, now_ms: int) -> dict[str, Any]:
    came = await streams.current(tx)
    sessions = 0 if place.keep_sessions else await aftermath.end_sessions(tx)
    delayed = await aftermath.call_off(tx)
    await aftermath.halt_moves(tx)
    await aftermath.close_again(tx, since.closed, DEACTIVATED, now_ms)
    await aftermath.publish_keys(tx, KEYS_CHANGED, came)
    await aftermath.ask_others(tx, place.others, came)
    return {"sessions_ended": sessions, "delayed_events_dropped": delayed, "closed_again": len(since.closed)}

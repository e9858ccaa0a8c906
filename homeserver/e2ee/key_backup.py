"""Backups of room keys, encrypted by their owner: versions, and the sessions in them. They rest with their owner.

spec: client-server-api/#server-side-key-backups
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from homeserver.protocol.errors import InvalidParam, NotFound, TooLarge, WrongRoomKeysVersion
from homeserver.storage import key_backup as stored
from homeserver.storage.key_backup import Session as Session

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Caller
    from homeserver.storage.engine import Transaction
    from homeserver.storage.key_backup import Contents, Version

MAX_AUTH_DATA = 64 * 1024
MAX_SESSION_DATA = 64 * 1024
"""Bytes of ``auth_data`` and of one session's ``session_data``."""


def encoded(value: dict[str, Any], most: int) -> bytes:
    """A JSON object as it is stored. Raises TooLarge."""
    blob = orjson.dumps(value)
    if len(blob) > most:
        raise TooLarge(f"That is more than {most} bytes")
    return blob


# versions -----------------------------------------------------------------------------------


async def create(caller: Caller, algorithm: str, auth_data: dict[str, Any]) -> str:
    """Make a new backup, the current one from now on; returns its version.

    spec: client-server-api/#post_matrixclientv3room_keysversion
    """
    blob = encoded(auth_data, MAX_AUTH_DATA)
    return str(await caller.node.write(stored.create, caller.user_nid, algorithm, blob))


async def show(caller: Caller, version: str | None) -> dict[str, Any]:
    """A backup, or the current one. Raises NotFound.

    spec: client-server-api/#get_matrixclientv3room_keysversionversion
    """
    found, contents = await caller.node.read(_show, caller.user_nid, version)
    return {
        "algorithm": found.algorithm,
        "auth_data": orjson.Fragment(found.auth_data),
        "version": str(found.version),
        **_contents(contents),
    }


def _contents(contents: Contents) -> dict[str, Any]:
    return {"count": contents.sessions, "etag": str(contents.etag)}


async def _show(tx: Transaction, user_nid: int, version: str | None) -> tuple[Version, Contents]:
    if version is None:
        found = await stored.newest(tx, user_nid)
        if found is None:
            raise NotFound("No current backup version")
    else:
        found = await _find(tx, user_nid, version)
    return found, await stored.contents(tx, user_nid, found.version)


async def _find(tx: Transaction, user_nid: int, version: str) -> Version:
    """A backup that was not deleted. Raises NotFound."""
    number = _number(version)
    found = None if number is None else await stored.find(tx, user_nid, number)
    if found is None or found.deleted:
        raise NotFound("Unknown backup version")
    return found


def _number(version: str) -> int | None:
    """The number that a version is; None for what was never one."""
    if version.isascii() and version.isdigit() and len(version) < 18 and str(int(version)) == version:
        return int(version)
    return None


async def change(caller: Caller, version: str, algorithm: str, auth_data: dict[str, Any]) -> None:
    """Replace the ``auth_data`` of a backup. Raises NotFound, InvalidParam for another algorithm.

    spec: client-server-api/#put_matrixclientv3room_keysversionversion
    """
    await caller.node.write(_change, caller.user_nid, version, algorithm, encoded(auth_data, MAX_AUTH_DATA))


async def _change(tx: Transaction, user_nid: int, version: str, algorithm: str, auth_data: bytes) -> None:
    found = await _find(tx, user_nid, version)
    if found.algorithm != algorithm:
        raise InvalidParam("Algorithm does not match")
    await stored.set_auth_data(tx, user_nid, found.version, auth_data)


async def delete(caller: Caller, version: str) -> None:
    """Delete a backup with all that is in it; one that was deleted before is deleted. Raises NotFound.

    spec: client-server-api/#delete_matrixclientv3room_keysversionversion
    """
    await caller.node.write(_delete, caller.user_nid, version)


async def _delete(tx: Transaction, user_nid: int, version: str) -> None:
    number = _number(version)
    found = None if number is None else await stored.find(tx, user_nid, number)
    if found is None:
        raise NotFound("Unknown backup version")
    stored.delete(tx, user_nid, found.version)


# sessions -----------------------------------------------------------------------------------


async def put(caller: Caller, version: str, sessions: Sequence[Session]) -> dict[str, Any]:
    """Store sessions in the current backup; of those that are there the better keys stay. Returns count and etag.

    Raises NotFound without a backup, WrongRoomKeysVersion when ``version`` is not the current one.

    spec: client-server-api/#put_matrixclientv3room_keyskeys
    """
    return _contents(await caller.node.write(_put, caller.user_nid, version, sessions))


async def _put(tx: Transaction, user_nid: int, version: str, sessions: Sequence[Session]) -> Contents:
    current = await stored.newest(tx, user_nid)
    if current is None:
        raise NotFound("Unknown backup version")
    if str(current.version) != version:
        raise WrongRoomKeysVersion("Wrong backup version", current_version=str(current.version))
    if await stored.put(tx, user_nid, current.version, sessions):
        stored.bump(tx, user_nid, current.version)
    return await stored.contents(tx, user_nid, current.version)


async def sessions(caller: Caller, version: str, room_id: str | None = None) -> dict[str, dict[str, Any]]:
    """The sessions of a backup, or of one room in it: session to key data by room id. Raises NotFound.

    spec: client-server-api/#get_matrixclientv3room_keyskeys
    """
    found: dict[str, dict[str, Any]] = {}
    for session in await caller.node.read(_sessions, caller.user_nid, version, room_id, None):
        found.setdefault(session.room_id, {})[session.session_id] = _shown(session)
    return found


async def session(caller: Caller, version: str, room_id: str, session_id: str) -> dict[str, Any]:
    """The key data of one session. Raises NotFound.

    spec: client-server-api/#get_matrixclientv3room_keyskeysroomidsessionid
    """
    found = await caller.node.read(_sessions, caller.user_nid, version, room_id, session_id)
    if not found:
        raise NotFound("Key not found")
    return _shown(found[0])


async def _sessions(
    tx: Transaction, user_nid: int, version: str, room_id: str | None, session_id: str | None
) -> list[Session]:
    found = await _find(tx, user_nid, version)
    return await stored.sessions(tx, user_nid, found.version, room_id, session_id)


def _shown(session: Session) -> dict[str, Any]:
    return {
        "first_message_index": session.first_message_index,
        "forwarded_count": session.forwarded_count,
        "is_verified": session.is_verified,
        "session_data": orjson.Fragment(session.session_data),
    }


async def delete_sessions(
    caller: Caller, version: str, room_id: str | None = None, session_id: str | None = None
) -> dict[str, Any]:
    """Delete the sessions of a backup, of one room in it, or one of them. Returns count and etag. Raises NotFound.

    spec: client-server-api/#delete_matrixclientv3room_keyskeys
    """
    return _contents(await caller.node.write(_delete_sessions, caller.user_nid, version, room_id, session_id))


async def _delete_sessions(
    tx: Transaction, user_nid: int, version: str, room_id: str | None, session_id: str | None
) -> Contents:
    found = await _find(tx, user_nid, version)
    if await stored.delete_sessions(tx, user_nid, found.version, room_id, session_id):
        stored.bump(tx, user_nid, found.version)
    return await stored.contents(tx, user_nid, found.version)

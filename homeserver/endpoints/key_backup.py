"""Backups of room keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from homeserver.e2ee import key_backup
from homeserver.e2ee.key_backup import Session
from homeserver.protocol import identifiers
from homeserver.protocol.errors import BadJson, InvalidParam
from homeserver.protocol.versions import MAX_INTEGER
from homeserver.web import reading
from homeserver.web.limits import Limit
from homeserver.web.routes import Auth, route

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.web.messages import Request

MAX_SESSION_ID = 255


# versions -----------------------------------------------------------------------------------


@route(
    "POST",
    "/_matrix/client/v3/room_keys/version",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#post_matrixclientv3room_keysversion",
)
async def create_version(_: Server, request: Request) -> dict[str, Any]:
    """Make a new backup."""
    body = request.json()
    algorithm = reading.text(body, "algorithm", required=True)
    auth_data = reading.mapping(body, "auth_data", required=True)
    return {"version": await key_backup.create(request.caller, algorithm, auth_data)}


@route(
    "GET",
    "/_matrix/client/v3/room_keys/version",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#get_matrixclientv3room_keysversion",
)
async def current_version(_: Server, request: Request) -> dict[str, Any]:
    """The current backup."""
    return await key_backup.show(request.caller, None)


@route(
    "GET",
    "/_matrix/client/v3/room_keys/version/{version}",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#get_matrixclientv3room_keysversionversion",
)
async def version(_: Server, request: Request) -> dict[str, Any]:
    """One backup."""
    return await key_backup.show(request.caller, request.args["version"])


@route(
    "PUT",
    "/_matrix/client/v3/room_keys/version/{version}",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#put_matrixclientv3room_keysversionversion",
)
async def change_version(_: Server, request: Request) -> dict[str, Any]:
    """Replace what the keys of a backup are encrypted by."""
    body = request.json()
    algorithm = reading.text(body, "algorithm", required=True)
    auth_data = reading.mapping(body, "auth_data", required=True)
    named = reading.text(body, "version")
    if named is not None and named != request.args["version"]:
        raise InvalidParam("The version in the body is not the one in the address")
    await key_backup.change(request.caller, request.args["version"], algorithm, auth_data)
    return {}


@route(
    "DELETE",
    "/_matrix/client/v3/room_keys/version/{version}",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#delete_matrixclientv3room_keysversionversion",
)
async def delete_version(_: Server, request: Request) -> dict[str, Any]:
    """Delete a backup."""
    await key_backup.delete(request.caller, request.args["version"])
    return {}


# sessions: reading what is put --------------------------------------------------------------


def _session(room_id: str, session_id: str, key: dict[str, Any]) -> Session:
    if not room_id.startswith("!") or not identifiers.fits(room_id) or "\0" in room_id:
        raise InvalidParam("That is no room ID")
    if not session_id or len(session_id) > MAX_SESSION_ID or "\0" in session_id:
        raise InvalidParam("That is no ID of a session")
    return Session(
        room_id,
        session_id,
        reading.integer(key, "first_message_index", required=True, low=0, high=MAX_INTEGER),
        reading.integer(key, "forwarded_count", required=True, low=0, high=MAX_INTEGER),
        reading.boolean(key, "is_verified", required=True),
        key_backup.encoded(reading.mapping(key, "session_data", required=True), key_backup.MAX_SESSION_DATA),
    )


def _room_sessions(room_id: str, body: dict[str, Any]) -> list[Session]:
    sessions = reading.mapping(body, "sessions", required=True)
    if not all(isinstance(key, dict) for key in sessions.values()):
        raise BadJson("'sessions' must be an object of objects")
    return [_session(room_id, session_id, key) for session_id, key in sessions.items()]


# all rooms ----------------------------------------------------------------------------------


@route(
    "PUT",
    "/_matrix/client/v3/room_keys/keys",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#put_matrixclientv3room_keyskeys",
)
async def put_keys(_: Server, request: Request) -> dict[str, Any]:
    """Store keys of many rooms."""
    chosen = request.query.require("version")
    rooms = reading.mapping(request.json(), "rooms", required=True)
    if not all(isinstance(room, dict) for room in rooms.values()):
        raise BadJson("'rooms' must be an object of objects")
    sessions = [session for room_id, room in rooms.items() for session in _room_sessions(room_id, room)]
    return await key_backup.put(request.caller, chosen, sessions)


@route(
    "GET",
    "/_matrix/client/v3/room_keys/keys",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#get_matrixclientv3room_keyskeys",
)
async def keys(_: Server, request: Request) -> dict[str, Any]:
    """All keys of a backup."""
    found = await key_backup.sessions(request.caller, request.query.require("version"))
    return {"rooms": {room_id: {"sessions": sessions} for room_id, sessions in found.items()}}


@route(
    "DELETE",
    "/_matrix/client/v3/room_keys/keys",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#delete_matrixclientv3room_keyskeys",
)
async def delete_keys(_: Server, request: Request) -> dict[str, Any]:
    """Delete all keys of a backup."""
    return await key_backup.delete_sessions(request.caller, request.query.require("version"))


# one room -----------------------------------------------------------------------------------


@route(
    "PUT",
    "/_matrix/client/v3/room_keys/keys/{roomId}",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#put_matrixclientv3room_keyskeysroomid",
)
async def put_room_keys(_: Server, request: Request) -> dict[str, Any]:
    """Store keys of one room."""
    chosen = request.query.require("version")
    return await key_backup.put(request.caller, chosen, _room_sessions(request.args["roomId"], request.json()))


@route(
    "GET",
    "/_matrix/client/v3/room_keys/keys/{roomId}",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#get_matrixclientv3room_keyskeysroomid",
)
async def room_keys(_: Server, request: Request) -> dict[str, Any]:
    """The keys of one room."""
    room_id = request.args["roomId"]
    found = await key_backup.sessions(request.caller, request.query.require("version"), room_id)
    return {"sessions": found.get(room_id, {})}


@route(
    "DELETE",
    "/_matrix/client/v3/room_keys/keys/{roomId}",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#delete_matrixclientv3room_keyskeysroomid",
)
async def delete_room_keys(_: Server, request: Request) -> dict[str, Any]:
    """Delete the keys of one room."""
    chosen = request.query.require("version")
    return await key_backup.delete_sessions(request.caller, chosen, request.args["roomId"])


# one session --------------------------------------------------------------------------------


@route(
    "PUT",
    "/_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#put_matrixclientv3room_keyskeysroomidsessionid",
)
async def put_session(_: Server, request: Request) -> dict[str, Any]:
    """Store one key."""
    chosen, args = request.query.require("version"), request.args
    return await key_backup.put(request.caller, chosen, [_session(args["roomId"], args["sessionId"], request.json())])


@route(
    "GET",
    "/_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#get_matrixclientv3room_keyskeysroomidsessionid",
)
async def session(_: Server, request: Request) -> dict[str, Any]:
    """One key."""
    args = request.args
    return await key_backup.session(request.caller, request.query.require("version"), args["roomId"], args["sessionId"])


@route(
    "DELETE",
    "/_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}",
    auth=Auth.USER,
    limit=Limit.KEYS,
    also=["unstable"],
    spec="client-server-api/#delete_matrixclientv3room_keyskeysroomidsessionid",
)
async def delete_session(_: Server, request: Request) -> dict[str, Any]:
    """Delete one key."""
    chosen, args = request.query.require("version"), request.args
    return await key_backup.delete_sessions(request.caller, chosen, args["roomId"], args["sessionId"])

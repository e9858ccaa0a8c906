"""What a user may take away: everything that is theirs on their node, as they or their clients have put it there.

What only proves to the server who they are (hashes of passwords and tokens, sessions of browsers) stays, and so does
what is on its way. Messages are in the rooms, encrypted: clients export those with the keys. Files are named, and
fetched like any file.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import orjson

from homeserver.protocol.signing import encode_base64
from homeserver.storage import belongings, moves, pins
from homeserver.storage.belongings import BELONGINGS

if TYPE_CHECKING:
    from homeserver.context import Caller, Server
    from homeserver.storage.engine import Param, Transaction

TAKEN: Final = (
    *("accounts", "devices", "threepids", "upstream_identities", "profiles", "presence", "account_data", "push_rules"),
    *("pushers", "filters", "thread_subscriptions", "forgotten_rooms", "private_receipts", "receipts", "reports"),
    *("device_keys", "cross_signing_keys", "user_signatures", "backup_versions", "backup_sessions"),
    *("media", "consents", "delayed_events", "move_receipts", "roles", "admin_log"),
)
"""The tables that are taken away."""
SECRET: Final = frozenset({("accounts", "password_hash")})


async def of_user(server: Server, caller: Caller) -> dict[str, Any]:
    """All that is the caller's on their node, table by table. Raises NodeUnavailable."""
    tables, rooms, pin = await caller.node.read(_read, caller.user_nid)
    return {
        "user_id": caller.user_id,
        "exported_ts": server.clock.now_ms(),
        "node": caller.node.name,
        "jurisdiction": caller.node.jurisdiction,
        "pin": pin,
        "rooms": rooms,
        "files": [f"mxc://{server.name}/{row['media_id']}" for row in tables["media"]],
        "tables": tables,
    }


async def _read(
    tx: Transaction, user_nid: int
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]], dict[str, Any] | None]:
    tables = {}
    for name in TAKEN:
        belonging = BELONGINGS[name]
        rows = await belongings.all_of(tx, belonging, user_nid)
        tables[name] = [
            {
                column: _plain(value)
                for column, value in belongings.values_of(belonging, row).items()
                if (name, column) not in SECRET
            }
            for row in rows
        ]
    held = await moves.rooms_of(tx, user_nid)
    rooms = [{"room_id": each.room_id, "membership": each.membership, "version": each.version} for each in held]
    pin = await pins.find(tx, user_nid)
    return tables, rooms, None if pin is None else pin._asdict()


def _plain(value: Param) -> Any:
    """A value as JSON: what is stored as JSON as it is, other bytes in Base64."""
    if not isinstance(value, bytes):
        return value
    with suppress(ValueError):
        return orjson.loads(value)
    return encode_base64(value)

"""What moving a user would come to: rows and bytes, the rooms that could not come along, and whether it can be done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from homeserver.protocol.errors import Conflict, NotFound
from homeserver.residency.moves import rooms_ahead
from homeserver.storage import accounts, application_services, belongings
from homeserver.storage import moves as stored
from homeserver.storage.belongings import CARRIED

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.residency.moves.journal import Wish
    from homeserver.residency.moves.rooms_ahead import Shared
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found. ``tables``: rows and bytes by table; ``files``: their number and bytes; ``obstacles``: what
    must be done first, in sentences."""

    user_id: str
    source: Node
    target: Node
    tables: dict[str, tuple[int, int]]
    files: tuple[int, int]
    rooms: list[Shared]
    obstacles: list[str] = field(default_factory=list)

    @property
    def blocked(self) -> list[Shared]:
        """The rooms that could not come along."""
        return [each for each in self.rooms if each.missing is not None]

    def shown(self) -> dict[str, Any]:
        """As it is told."""
        return {
            "user_id": self.user_id,
            "from": self.source.name,
            "to": self.target.name,
            "tables": {name: {"rows": rows, "bytes": size} for name, (rows, size) in self.tables.items()},
            "files": {"number": self.files[0], "bytes": self.files[1]},
            "rooms": len(self.rooms),
            "rooms_blocked": [{"room_id": each.room_id, "missing": each.missing} for each in self.blocked],
            "obstacles": self.obstacles,
        }


async def examine(server: Server, user_id: str, target: Node) -> Examined:
    """Find out what moving a user to ``target`` would come to. Raises NotFound, Conflict, NodeUnavailable."""
    source = await server.nodes.of_user(user_id)
    account = None if source is None else await source.read(accounts.find, user_id)
    if source is None or account is None:
        raise NotFound(f"There is no user {user_id}")
    if source is target:
        raise Conflict(f"{user_id} rests on {target.name} already")
    obstacles = []
    if await source.read(application_services.has_made, account.user_nid):
        obstacles.append(f"{user_id} belongs to an application service, whose users rest where the service is told to")
    if target.name in server.policy.leaving:
        obstacles.append(f"{target.name} is about to go, and takes nobody")
    if not target.engine.health().up:
        obstacles.append(f"{target.name} is down: {target.engine.health().reason}; `domicile check` says more")
    tables, files = await source.read(_sizes, account.user_nid)
    rooms = await rooms_ahead.shared(server, source, target, user_id, account.user_nid)
    return Examined(user_id, source, target, tables, files, rooms, obstacles)


async def _sizes(tx: Transaction, user_nid: int) -> tuple[dict[str, tuple[int, int]], tuple[int, int]]:
    found = {}
    for belonging in CARRIED:
        after: Any = ()
        rows = size = 0
        while True:
            part, after = await belongings.page(tx, belonging, user_nid, after, rows)
            rows += len(part)
            size += sum(len(row.key) + len(row.content) for row in part)
            if len(part) < belongings.PAGE:
                break
        if rows:
            found[belonging.table] = (rows, size)
    return found, await stored.media_of(tx, user_nid)


def check(found: Examined, wish: Wish) -> None:
    """Raise Conflict for a move that cannot be begun."""
    if found.obstacles:
        raise Conflict("; ".join(found.obstacles))
    if found.blocked and not wish.leave_rooms:
        rooms = "; ".join(f"{each.room_id} ({each.missing})" for each in found.blocked)
        raise Conflict(
            f"{len(found.blocked)} rooms may not span {found.target.name}: {rooms}. Change the policy, or have"
            " the user leave them with --leave-rooms"
        )

"""Finding users by their name or user id, among those whom the caller may know of.

Only what the caller's own node holds is searched: names do not cross a border for it.

spec: client-server-api/#user-directory
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from homeserver.accounts import ignored
from homeserver.protocol.client_format import content_of
from homeserver.protocol.identifiers import localpart_of
from homeserver.storage import user_directory

if TYPE_CHECKING:
    from homeserver.context import Caller

MOST: Final = 100
"""Users of one answer."""

LOOKED_AT: Final = 2000
"""Members that are ranked for one answer."""

LONGEST_TERM: Final = 256


class Person(NamedTuple):
    """A user as the answer shows them."""

    user_id: str
    display_name: str | None
    avatar_url: str | None

    def shown(self) -> dict[str, str]:
        """As JSON."""
        return {name: value for name, value in self._asdict().items() if value is not None}


async def users(caller: Caller, term: str, limit: int) -> tuple[list[Person], bool]:
    """Up to ``limit`` users, those who fit best first; and whether there are more.

    spec: client-server-api/#post_matrixclientv3user_directorysearch
    """
    wanted = term.strip().lower()
    if not wanted or len(wanted) > LONGEST_TERM or "\0" in wanted or limit == 0:
        return [], False
    found = await caller.node.read(user_directory.search, caller.user_nid, wanted, LOOKED_AT)
    hidden = await ignored.of_user(caller.node, caller.user_nid)
    best: dict[str, tuple[tuple[int, bool], Person]] = {}
    for user_id, member in found:
        if user_id in hidden:
            continue
        person = _person(user_id, orjson.loads(content_of(member)))
        rank = (_rank(person, wanted), person.display_name is None)
        if user_id not in best or rank < best[user_id][0]:
            best[user_id] = (rank, person)
    ordered = sorted(best.values(), key=lambda each: (each[0], each[1].user_id))
    most = min(limit, MOST)
    return [person for _, person in ordered[:most]], len(ordered) > most or len(found) == LOOKED_AT


def _person(user_id: str, content: dict[str, Any]) -> Person:
    name, avatar = content.get("displayname"), content.get("avatar_url")
    return Person(
        user_id,
        name if isinstance(name, str) and name else None,
        avatar if isinstance(avatar, str) and avatar.startswith("mxc://") else None,
    )


def _rank(person: Person, wanted: str) -> int:
    """How well a user fits; 0 is best."""
    name = (person.display_name or "").lower()
    names = (person.user_id.lower(), localpart_of(person.user_id).lower(), name)
    if wanted in names:
        return 0
    if any(each.startswith(wanted) for each in names) or person.user_id.lower().startswith(f"@{wanted}"):
        return 1
    return 2 if f" {wanted}" in name else 3

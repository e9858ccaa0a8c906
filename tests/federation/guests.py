"""Users of one server who get into a room of another without asking it: their member events are given to it as if they
had come by a transaction. For tests of what a server may read.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from federation import remote
from homeserver.protocol import auth_rules, events
from homeserver.protocol.events import Event
from homeserver.rooms import references, state
from homeserver.rooms.persist import commit
from homeserver.rooms.receive import take_in
from homeserver.rooms.send import Draft, _Core
from tests.deployment import User
from tests.network import Network
from tests.rooms.play import Play, ciphertext

FEDERATION = "/_matrix/federation/v1"
MOST = 50 * 2**20


async def made(
    network: Network,
    host: Play,
    room_id: str,
    guest: User,
    kind: str,
    content: dict[str, Any],
    state_key: str | None = None,
    *,
    node: str = "tehran",
) -> Event:
    """An event of a user of another server, at the tip of the room as a node of the host has it."""
    place = host.node(node)
    room = await state.get(place, room_id)
    author = network.plays[guest.user_id.partition(":")[2]].server
    draft = Draft(kind, guest.user_id, content, state_key)
    keys = auth_rules.auth_types_for(room.rules, _Core(draft))
    cited = [entry.event_id for entry in (room.head.state.get(key) for key in keys) if entry is not None]
    await references.load(place, room, [*cited, *room.head.tips])
    return events.build(
        room.rules,
        type=kind,
        sender=guest.user_id,
        room_id=room_id,
        content=content,
        state_key=state_key,
        prev_events=list(room.head.tips),
        auth_events=cited,
        depth=room.head.depth + 1,
        origin_server_ts=network.clock.now_ms(),
        reference_hashes=references.hashes(place, room, [*cited, *room.head.tips]),
        event_id=references.new_event_id(room.rules, author.name),
        server_name=author.name,
        key=author.identity.key,
    )


async def given(host: Play, room_id: str, event: Event, *, node: str = "tehran") -> str:
    """Have a node of the host take in an event; returns its id."""
    assert await take_in(host.server, host.node(node), room_id, event) is not None
    await commit(host.server, host.node(node), [])  # done when all that was submitted before it is
    return event.event_id


async def member(network: Network, host: Play, room_id: str, guest: User, membership: str) -> str:
    """Let a user of another server join or leave a room of the host; returns the event id."""
    content = {"membership": membership}
    return await given(
        host, room_id, await made(network, host, room_id, guest, "m.room.member", content, guest.user_id)
    )


async def invitation(network: Network, host: Play, room_id: str, inviter: User, guest: User) -> str:
    """Let a user of the host invite one of another server, which is not asked; returns the event id."""
    content = {"membership": "invite"}
    return await given(
        host, room_id, await made(network, host, room_id, inviter, "m.room.member", content, guest.user_id)
    )


async def message(network: Network, host: Play, room_id: str, guest: User, text: str) -> str:
    """Let a user of another server send a message to a room of the host; returns the event id."""
    return await given(host, room_id, await made(network, host, room_id, guest, "m.room.encrypted", ciphertext(text)))


async def asks(
    source: Play, destination: str, method: str, path: str, content: dict[str, Any] | None = None, **query: object
) -> dict[str, Any]:
    """What a server answers another one. ``query`` values may be lists. Raises RemoteRefusal."""
    pairs = [(name, each) for name, value in query.items() for each in (value if isinstance(value, list) else [value])]
    target = FEDERATION + path
    if pairs:
        target += "?" + "&".join(f"{name}={quote(str(value), safe='')}" for name, value in pairs)
    return await remote.ask(source.server, destination, method, target, content, most=MOST)


async def refusal(
    source: Play, destination: str, method: str, path: str, content: dict[str, Any] | None = None, **query: object
) -> tuple[int, str]:
    """Status and errcode with which a server refuses to answer another one."""
    try:
        answer = await asks(source, destination, method, path, content, **query)
    except remote.RemoteRefusal as refused:
        return refused.status, refused.errcode
    raise AssertionError(f"it answered {answer}")

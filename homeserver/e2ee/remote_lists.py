"""Copies of the device lists of users of other servers: on each node that shares a room with them, kept up by the word
that their server sends, and asked for anew when some of it was missed.

A copy is shown only while it is known to be what its server says: one that is stale, or of a user with whom no room was
shared without a gap, is as good as none.

spec: server-server-api/#device-management
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from homeserver.e2ee import remote_keys, shown_keys
from homeserver.e2ee.asking import Asking, Question
from homeserver.e2ee.shown_keys import Remembered
from homeserver.protocol.errors import BadJson, FlowDenied, InvalidParam, NodeUnavailable, ServerUnreachable
from homeserver.protocol.identifiers import domain_of, is_device_id, is_user_id
from homeserver.storage import device_keys as stored
from homeserver.storage import key_audiences, key_copies, remote_device_lists, streams, users
from homeserver.storage.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.e2ee.failures import Failures
    from homeserver.storage.device_keys import UserKeys
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

MOST_REFRESHES = 1000
"""Lists that wait to be asked for anew; what is beyond stays stale until somebody wants it."""
ATTEMPTS = 3
"""How often a list is asked for when it changes while it is asked for."""
PAUSE = 2.0
"""Seconds between these, so that a flood of news is not answered by one of questions."""
PROVED_AFTER = 30.0
PROVED_AT_LAST = 24 * 3600.0
"""Seconds before a list is asked for again for its proof alone, at first and in the end."""
LISTS_AT_ONCE = 200
"""Stale lists that the job looks at together."""
MOST_PREVIOUS = 100
LARGEST_ID = 2**53

log = structlog.get_logger("e2ee.remote_lists")


# asked for ----------------------------------------------------------------------------------


async def of_users(
    server: Server, own: Node, user_ids: Collection[str], seconds: float, missing: Failures
) -> dict[str, UserKeys]:
    """The keys of users of other servers of whom the node has no copy, from their servers, within so many seconds.

    Copies are kept of those with whom a resident shares a room. Servers that gave no answer are noted in ``missing``.
    """
    under_way = own.memory(Asking).refreshing
    waiting = [user_id for user_id in user_ids if user_id in under_way]
    found: dict[str, UserKeys] = {}
    if waiting:
        began = server.clock.monotonic()
        await asyncio.wait({under_way[user_id] for user_id in waiting}, timeout=seconds)
        seconds = max(seconds - (server.clock.monotonic() - began), 0.0)
        found = await own.read(stored.of_users, waiting)
    rest = [user_id for user_id in user_ids if user_id not in found]
    if not rest:
        return found
    as_of = own.position
    sharing = await own.read(key_copies.sharing_with_residents, rest)
    by_server: dict[str, list[str]] = {}
    for user_id in rest:
        by_server.setdefault(domain_of(user_id), []).append(user_id)
    parts = await asyncio.gather(
        *(_ask(server, own, name, part, as_of, sharing, seconds, missing) for name, part in by_server.items())
    )
    for part in parts:
        found.update(part)
    return found


async def _ask(
    server: Server,
    own: Node,
    destination: str,
    user_ids: Sequence[str],
    as_of: int,
    sharing: Mapping[str, int],
    seconds: float,
    missing: Failures,
) -> dict[str, UserKeys]:
    memory, question, found = own.memory(Asking), Question(user_ids), {}
    memory.questions.add(question)
    try:
        with missing.of(destination):
            async with asyncio.timeout(seconds), memory.servers:
                found = await server.remote.query_keys(server, own, destination, user_ids, seconds)
        kept = {sharing[user_id]: (user_id, found[user_id]) for user_id in found if user_id in sharing}
        if kept:
            await own.advance(_keep, server, own, as_of, None, kept, question)
    finally:
        memory.questions.discard(question)
    return found


async def _keep(
    tx: Transaction,
    server: Server,
    node: Node,
    as_of: int,
    stream_id: int | None,
    lists: Mapping[int, tuple[str, UserKeys]],
    question: Question,
) -> None:
    """Keep what was answered, but for users of whom there has been news since the question.

    News comes by transactions of this node too: what overtakes us in here finds our rows. Where news was missed, who
    shares a room with the user is told of what is other than it was.
    """
    before = await remote_device_lists.untold(tx, list(lists))
    for user_nid, (user_id, keys) in lists.items():
        if user_id not in question.overtaken:
            remote_device_lists.replace(tx, user_nid, as_of, stream_id, keys)
            if user_nid in before and not _is_same(before[user_nid], keys):
                await _announce(tx, server, node, user_nid)
    tx.after_commit(node.memory(Remembered).forget_copies)


def _is_same(before: UserKeys, now: UserKeys) -> bool:
    """Whether two lists of keys say the same to others."""
    devices = [{device_id: device.keys for device_id, device in keys.devices.items()} for keys in (before, now)]
    signing = [
        {usage: key for usage, key in keys.signing.items() if usage != stored.USER_SIGNING} for keys in (before, now)
    ]
    return devices[0] == devices[1] and signing[0] == signing[1]


# told ---------------------------------------------------------------------------------------


class Update(NamedTuple):
    """What a server says of one device of a user: an ``m.device_list_update``, checked. ``keys``: None when the device
    is gone, or has none that could be used."""

    user_id: str
    device_id: str
    stream_id: int
    prev_ids: frozenset[int]
    keys: bytes | None


def read_update(content: Mapping[str, Any], *, strict: bool) -> Update:
    """An ``m.device_list_update``. Raises BadJson, InvalidParam. ``strict`` as in `remote_keys.of_user`.

    That its user is one of the server that sent it is for the caller to check.

    spec: server-server-api/#definition-mdevice_list_update
    """
    user_id, device_id, stream_id = (content.get(name) for name in ("user_id", "device_id", "stream_id"))
    if not isinstance(user_id, str) or not is_user_id(user_id):
        raise InvalidParam("'user_id' must be a user ID")
    if not isinstance(device_id, str) or not is_device_id(device_id):
        raise InvalidParam("'device_id' must be a device ID")
    previous = content.get("prev_id")
    if not _is_id(stream_id) or not isinstance(previous or [], list) or not all(map(_is_id, previous or [])):
        raise BadJson("'stream_id' must be an integer, and 'prev_id' an array of integers")
    gone = content.get("deleted") is True
    keys = None if gone else remote_keys.device(content.get("keys"), user_id, device_id, strict=strict)
    assert isinstance(stream_id, int)
    return Update(user_id, device_id, stream_id, frozenset((previous or [])[:MOST_PREVIOUS]), keys)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_ID


async def _heed(server: Server, node: Node, user_id: str, take: Callable[[Transaction], Awaitable[bool]]) -> None:
    """Take in news of a user's keys, and ask for them if that is what it comes to.

    A node that is down, or fails, believes no copy until it has asked for them anew. Raises NodeUnavailable when even
    that could not be noted: the news has to come again.
    """
    node.memory(Asking).overtake(user_id)
    try:
        to_be_asked = await node.advance(take)
    except NodeUnavailable:
        await shown_keys.miss(server, node)
        return
    except Exception:
        await shown_keys.miss(server, node)
        raise
    if to_be_asked:
        node.memory(Asking).overtake(user_id)  # what began to be asked since may have been kept before the news was
        begin_refresh(server, node, user_id)


async def apply_update(server: Server, node: Node, update: Update) -> None:
    """Bring the node's copy of a list up to date, or find that something was missed: then it is asked for anew.

    Residents who share a room with the user are told that their keys changed. Raises NodeUnavailable when the node is
    down and that could not be noted either.
    """
    await _heed(server, node, update.user_id, lambda tx: _apply(tx, server, node, update))


async def _apply(tx: Transaction, server: Server, node: Node, update: Update) -> bool:
    """True when the list has to be asked for."""
    user_nid = await users.nid(tx, update.user_id)
    held = None if user_nid is None else await remote_device_lists.find(tx, user_nid)
    if user_nid is None or (held is not None and not held.stale and held.stream_id == update.stream_id):
        return False
    in_order = (
        held is not None and not held.stale and held.stream_id is not None and update.prev_ids == {held.stream_id}
    )
    if in_order:
        remote_device_lists.advance(tx, user_nid, update.stream_id, update.device_id, update.keys)
    elif held is not None:
        remote_device_lists.mark_stale(tx, user_nid)
    return await _announce(tx, server, node, user_nid) and held is not None and not in_order


async def apply_signing_keys(server: Server, node: Node, user_id: str, master: object, self_signing: object) -> None:
    """An ``m.signing_key_update``: a user's cross-signing keys are these now, as far as they are given and in order.

    Raises as `apply_update` does. spec: server-server-api/#definition-msigning_key_update
    """
    keys = remote_keys.signing(user_id, master, self_signing)
    await _heed(server, node, user_id, lambda tx: _apply_signing_keys(tx, server, node, user_id, keys))


async def _apply_signing_keys(
    tx: Transaction, server: Server, node: Node, user_id: str, keys: Mapping[str, bytes]
) -> bool:
    user_nid = await users.nid(tx, user_id)
    held = None if user_nid is None else await remote_device_lists.find(tx, user_nid)
    if user_nid is None:
        return False
    whole = stored.MASTER in keys and stored.SELF_SIGNING in keys
    if held is not None and whole:
        stored.put_signing(tx, user_nid, keys)
        key_copies.drop_proof(tx, user_nid)
    elif held is not None:
        remote_device_lists.mark_stale(tx, user_nid)
    return await _announce(tx, server, node, user_nid) and held is not None and not whole


async def mark_stale(server: Server, node: Node, user_id: str) -> None:
    """Something about a user's devices was missed: their list is asked for anew. Raises as `apply_update` does."""
    await _heed(server, node, user_id, lambda tx: _mark_stale(tx, server, node, user_id))


async def _mark_stale(tx: Transaction, server: Server, node: Node, user_id: str) -> bool:
    user_nid = await users.nid(tx, user_id)
    if user_nid is None or await remote_device_lists.find(tx, user_nid) is None:
        return False
    remote_device_lists.mark_stale(tx, user_nid)
    return await _announce(tx, server, node, user_nid)


async def _announce(tx: Transaction, server: Server, node: Node, user_nid: int) -> bool:
    """Note that a user's keys changed, and tell the residents who share rooms with them; False when there are none."""
    tx.after_commit(node.memory(Remembered).forget_copies)
    residents = (await key_audiences.of_user(tx, user_nid)).residents
    if not residents:
        key_copies.drop_copy(tx, user_nid)
        return False
    pos = await streams.allocate(tx)
    key_audiences.note_change(tx, user_nid, pos)

    def announce() -> None:
        node.announce(pos, [(Stream.DEVICE_LISTS, [user_nid])])
        server.wake_residents(node, residents)

    tx.after_commit(announce)
    return True


# asked for anew -----------------------------------------------------------------------------


def begin_refresh(server: Server, node: Node, user_id: str) -> asyncio.Task[bool] | None:
    """Begin to ask for a stale list, unless that is under way; None when too many are."""
    refreshing = node.memory(Asking).refreshing
    task = refreshing.get(user_id)
    if task is not None and not task.done():
        return task
    if task is None and len(refreshing) >= MOST_REFRESHES:
        return None

    def forget(ended: asyncio.Task[bool]) -> None:
        if refreshing.get(user_id) is ended:
            del refreshing[user_id]

    task = refreshing[user_id] = asyncio.get_running_loop().create_task(_refresh(server, node, user_id))
    task.add_done_callback(forget)
    return task


def prove_again(server: Server, node: Node, user_id: str) -> None:
    """Ask for a list of whose copy there is no proof, of a server that has a key log: less and less often as long as
    none comes, and nobody waits for it."""
    asked, now = node.memory(Asking).proved, server.clock.monotonic()
    until, pause = asked.get(user_id) or (now, PROVED_AFTER)
    if now >= until:
        asked[user_id] = now + pause, min(2 * pause, PROVED_AT_LAST)
        begin_refresh(server, node, user_id)


async def refresh(server: Server, node: Node, user_id: str) -> bool:
    """Ask for the whole list of a user of another server, once for all who wait; whether the node has it now."""
    task = begin_refresh(server, node, user_id)
    return task is not None and await asyncio.shield(task)


async def _refresh(server: Server, node: Node, user_id: str) -> bool:
    memory = node.memory(Asking)
    try:
        for _ in range(ATTEMPTS):
            question = Question([user_id])
            memory.questions.add(question)
            try:
                async with memory.refreshes:
                    known = await _ask_list(server, node, user_id, question)
            finally:
                memory.questions.discard(question)
            if not question.overtaken:
                return known
            await server.clock.sleep(PAUSE)
    except (FlowDenied, ServerUnreachable, NodeUnavailable) as refusal:
        log.debug("a device list stays stale", server=domain_of(user_id), reason=refusal.message)
    except Exception:
        log.exception("asking for a device list failed", server=domain_of(user_id))
    return False


async def _ask_list(server: Server, node: Node, user_id: str, question: Question) -> bool:
    as_of = node.position
    sharing = await node.read(key_copies.sharing_with_residents, [user_id])
    if user_id not in sharing:
        return False
    stream_id, keys = await server.remote.device_list(server, node, user_id)
    kept = {sharing[user_id]: (user_id, keys)}
    await node.advance(_keep, server, node, as_of, stream_id, kept, question)
    return True


async def refresh_stale(server: Server) -> None:
    """Ask for all lists that are stale, also from before a crash, on all nodes that are up. A job."""
    for node in server.nodes:
        try:
            await shown_keys.catch_up(server, node)
            await _refresh_stale(server, node)
        except NodeUnavailable:
            continue


async def _refresh_stale(server: Server, node: Node) -> None:
    after, silent = 0, set[str]()
    while waiting := await node.read(remote_device_lists.stale_lists, after, LISTS_AT_ONCE):
        after = waiting[-1][0]
        by_server: dict[str, list[str]] = {}
        for _, user_id in waiting:
            if domain_of(user_id) not in silent:
                by_server.setdefault(domain_of(user_id), []).append(user_id)
        answers = await asyncio.gather(*(_refresh_of(server, node, part) for part in by_server.values()))
        silent.update(name for name, answered in zip(by_server, answers, strict=True) if not answered)


async def _refresh_of(server: Server, node: Node, user_ids: Sequence[str]) -> bool:
    """Ask a server for the lists of its users; False when it gives one of them not, and is asked for no more."""
    for user_id in user_ids:
        if not await refresh(server, node, user_id):
            return False
    return True

"""Having an invitation signed by the server of the invited, before it is committed and shown to anybody. A server that
is too old for the route of today is asked by the one before it.

spec: server-server-api/#inviting-to-a-room
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from config.residency import DataClass
from federation import server_keys
from federation.handshake import BadAnswer
from federation.joining import merged
from federation.remote import RemoteRefusal, ask_for
from homeserver.protocol.errors import (
    Forbidden,
    IncompatibleRoomVersion,
    InvalidSignature,
    InviteBlocked,
    LimitExceeded,
    NotFound,
    ServerUnreachable,
)
from homeserver.protocol.identifiers import domain_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from homeserver.context import Server
    from homeserver.protocol.events import Event
    from homeserver.storage.nodes import Node

MOST_BYTES: Final = 256 * 1024
SECONDS: Final = 20.0
"""How long another server may think about an invitation, while a user waits."""
OLD_VERSIONS: Final = frozenset(("1", "2"))
"""Rooms of which a server may be that knows the older route only."""


async def invite(server: Server, node: Node, event: Event, preview: Sequence[bytes]) -> Event:
    """See `context.Remote.invite`."""
    destination = domain_of(event.state_key or "")
    try:
        answer = await _ask(server, node, destination, event, preview)
    except RemoteRefusal as refusal:
        raise _told(destination, refusal) from None
    try:
        if answer.get("event") is None:
            raise BadAnswer("no event came back")
        signed = merged(event.rules, event, answer["event"])
        await _check_signature(server, signed, destination)
    except BadAnswer:
        raise ServerUnreachable(f"{destination} gave an answer that cannot be used") from None
    return signed


async def _ask(server: Server, node: Node, destination: str, event: Event, preview: Sequence[bytes]) -> dict[str, Any]:
    """Ask by the route of today and, where a server may be too old for that, by the one before it.

    Raises FlowDenied, ServerUnreachable, RemoteRefusal.
    """
    shown = b",".join(preview)
    whole = b'{"event":%s,"invite_room_state":[%s],"room_version":%s}' % (
        event.pdu_bytes(),
        shown,
        orjson.dumps(event.rules.version),
    )
    try:
        return await _put(server, node, destination, "v2", event, whole)
    except RemoteRefusal as refusal:
        if event.rules.version not in OLD_VERSIONS or not _is_too_old(refusal):
            raise
        unknown = refusal
    older = b'%s,"unsigned":{"invite_room_state":[%s]}}' % (event.pdu_bytes()[:-1], shown)  # still in canonical order
    try:
        return await _put(server, node, destination, "v1", event, older)
    except RemoteRefusal as refusal:
        raise (unknown if _is_too_old(refusal) else refusal) from None


async def _put(server: Server, node: Node, destination: str, version: str, event: Event, body: bytes) -> dict[str, Any]:
    path = f"invite/{quote(event.room_id, safe='')}/{quote(event.event_id, safe='')}"
    return await ask_for(
        server,
        node,
        DataClass.EVENTS,
        destination,
        "PUT",
        f"/_matrix/federation/{version}/{path}",
        body,
        most=MOST_BYTES,
        seconds=SECONDS,
        paired=version == "v1",
    )


def _is_too_old(refusal: RemoteRefusal) -> bool:
    """Whether a refusal may be that of a server which does not know the route, and not one of the invitation.

    spec: server-server-api/#put_matrixfederationv2inviteroomideventid
    """
    return refusal.status in (400, 404, 405) and refusal.errcode in ("", "M_UNRECOGNIZED", "M_UNKNOWN")


async def _check_signature(server: Server, event: Event, signer: str) -> None:
    key_ids = list(event.signatures.get(signer, {}))
    moment = event.origin_server_ts if event.rules.key_validity_enforced else 0
    keys = await server_keys.verify_keys(server, signer, key_ids, moment)
    try:
        event.verify(signer, keys)
    except InvalidSignature:
        raise BadAnswer("the invitation is not signed by the server of the invited") from None


def _told(
    destination: str, refusal: RemoteRefusal
) -> Forbidden | InviteBlocked | IncompatibleRoomVersion | NotFound | LimitExceeded | ServerUnreachable:
    """What the inviting user is told. spec: server-server-api/#put_matrixfederationv2inviteroomideventid"""
    if refusal.status == 429:
        return LimitExceeded(60_000)
    if refusal.errcode == InviteBlocked.errcode:
        return InviteBlocked("That user takes no invitations")
    if refusal.errcode == IncompatibleRoomVersion.errcode:
        return IncompatibleRoomVersion(f"{destination} does not support the version of this room")
    if refusal.status == 403:
        return Forbidden(f"{destination} does not let its users be invited to this room")
    if refusal.status == 404:
        return NotFound(f"{destination} knows no such user")
    return ServerUnreachable(f"{destination} could not answer")

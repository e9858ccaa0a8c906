"""The transaction that a server is sent: which items go into it, and its bytes. Values in, values out.

Events and EDUs are spliced into it as the bytes that they are.

spec: server-server-api/#transactions
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import orjson

from config.residency import DataClass
from homeserver.protocol import canonical
from homeserver.rooms.outgoing import OutgoingPdu
from homeserver.storage.peers import OutgoingEdu, OutgoingReceipt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from homeserver.rooms.outgoing import Fleeting, Item

MOST_PDUS: Final = 50
MOST_EDUS: Final = 100


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a server is sent at once: ``body`` is canonical JSON."""

    txn_id: str
    body: bytes
    events: int
    edus: int


def portion(items: Iterable[Item], most: int | None = None) -> list[Item]:
    """The first items that fit into one transaction, of which there are to be ``most``."""
    chosen: list[Item] = []
    pdus = edus = 0
    for item in items:
        is_pdu = isinstance(item, OutgoingPdu)
        pdus, edus = pdus + is_pdu, edus + (not is_pdu)
        if pdus > MOST_PDUS or edus > MOST_EDUS or (most is not None and len(chosen) >= most):
            break
        chosen.append(item)
    return chosen


def class_of(item: Item) -> DataClass:
    """What the policy is asked about an item."""
    if isinstance(item, OutgoingPdu):
        return DataClass.EVENTS
    return DataClass.RECEIPTS if isinstance(item, OutgoingReceipt) else DataClass(item.data_class)


def transaction(
    origin: str, now_ms: int, seed: str, items: Sequence[Item], fleeting: Sequence[Fleeting]
) -> Transaction:
    """A transaction by this server; ``seed`` tells transactions of the same contents apart.

    spec: server-server-api/#put_matrixfederationv1sendtxnid
    """
    pdus = [item.encoded() for item in items if isinstance(item, OutgoingPdu)]
    edus = [_edu(item.kind, item.content) for item in items if isinstance(item, OutgoingEdu)]
    edus += [_edu("m.receipt", content) for content in _receipts(items)]
    room = MOST_EDUS - len(edus)
    edus += [_edu(edu.kind, edu.content) for edu in fleeting[:room]]
    digest = blake2b(seed.encode(), digest_size=15)
    for part in (*pdus, b"", *edus):
        digest.update(len(part).to_bytes(4, "big") + part)
    body = b'{"edus":[%b],"origin":%b,"origin_server_ts":%d,"pdus":[%b]}' % (
        b",".join(edus),
        orjson.dumps(origin),
        now_ms,
        b",".join(pdus),
    )
    return Transaction(urlsafe_b64encode(digest.digest()).decode(), body, len(pdus), len(edus))


def _edu(kind: str, content: bytes) -> bytes:
    return b'{"content":%b,"edu_type":%b}' % (content, orjson.dumps(kind))


def _receipts(items: Iterable[Item]) -> list[bytes]:
    """The contents of m.receipt EDUs. One has room for one receipt by each user in a room: further ones (a threaded and
    an unthreaded one, say) go into another.

    spec: server-server-api/#receipts
    """
    contents: list[dict[str, dict[str, dict[str, Any]]]] = []
    for item in items:
        if not isinstance(item, OutgoingReceipt):
            continue
        told: dict[str, Any] = {"ts": item.ts}
        if item.thread_id:
            told["thread_id"] = item.thread_id
        for content in contents:
            users = content.setdefault(item.room_id, {}).setdefault("m.read", {})
            if item.user_id not in users:
                break
        else:
            users = {}
            contents.append({item.room_id: {"m.read": users}})
        users[item.user_id] = {"data": told, "event_ids": [item.event_id]}
    return [canonical.encode(content) for content in contents]

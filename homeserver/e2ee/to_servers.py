"""What other servers are told of keys, and the messages to devices of their users: the contents of EDUs.

Each is written in the transaction that makes it true, on the node of the user whom it is about (storage/peers.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from config.residency import DataClass
from homeserver.protocol import canonical
from homeserver.protocol.errors import TooLarge
from homeserver.protocol.identifiers import domain_of, is_user_id
from homeserver.protocol.signing import encode_base64_url
from homeserver.residency import gate
from homeserver.rooms.outgoing import feed_edus
from homeserver.storage import peers
from homeserver.storage.device_keys import MASTER, SELF_SIGNING
from homeserver.storage.peers import NewEdu

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from homeserver.context import Server
    from homeserver.storage.device_keys import UserKeys
    from homeserver.storage.engine import Transaction
    from homeserver.storage.nodes import Node

MAX_EDU: Final = 64 * 1024
"""Bytes of the content of an EDU, as far as a single message does not need more."""

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of one message."""

Contents = dict[str, dict[str, bytes]]
"""Canonical JSON by user id and device id (or ``*``)."""


def write(tx: Transaction, node: Node, first: int, edus: Sequence[NewEdu]) -> None:
    """Queue EDUs at the positions from ``first`` on, and have them sent after the commit."""
    if edus:
        peers.put_edus(tx, first, edus)
        tx.after_commit(lambda: feed_edus(node, first, edus))


def allowed(server: Server, node: Node, data_class: DataClass, servers: Iterable[str]) -> list[str]:
    """Those of some servers to which data of a class may go."""
    if not server.settings.federation.enabled:
        return []
    place = server.policy.now.jurisdiction_of_server
    return [name for name in sorted(servers) if gate.may_in_time(server, data_class, node.jurisdiction, place(name))]


# messages to devices ------------------------------------------------------------------------


def by_server(server: Server, messages: Mapping[str, Mapping[str, Any]]) -> dict[str, Contents]:
    """The messages to users of other servers, by server. Raises TooLarge."""
    found: dict[str, Contents] = {}
    for user_id, devices in messages.items():
        if server.nodes.is_local(user_id) or not is_user_id(user_id):
            continue
        encoded = {device_id: canonical.encode(content, strict=False) for device_id, content in devices.items()}
        if any(len(content) > MAX_MESSAGE for content in encoded.values()):
            raise TooLarge(f"A message to a device has at most {MAX_MESSAGE} bytes")
        found.setdefault(domain_of(user_id), {})[user_id] = encoded
    return found


def direct_to_device(sender: str, event_type: str, key: bytes, outgoing: Mapping[str, Contents]) -> list[NewEdu]:
    """The m.direct_to_device EDUs of a request, which ``key`` tells from all others.

    spec: server-server-api/#definition-mdirect_to_device
    """
    edus = []
    for destination, contents in outgoing.items():
        for number, part in enumerate(_parts(contents)):
            message_id = f"{encode_base64_url(key)}.{number}"
            content = {
                "message_id": message_id,
                "messages": {user_id: _fragments(devices) for user_id, devices in part.items()},
                "sender": sender,
                "type": event_type,
            }
            body = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
            edus.append(NewEdu(destination, sender, DataClass.MAILBOX.value, "m.direct_to_device", body))
    return edus


def _parts(contents: Contents) -> Iterator[Contents]:
    """Messages in portions that one EDU has room for."""
    part: Contents = {}
    size = 0
    for user_id, devices in contents.items():
        for device_id, content in devices.items():
            if part and size + len(content) > MAX_EDU:
                yield part
                part, size = {}, 0
            part.setdefault(user_id, {})[device_id] = content
            size += len(content) + len(user_id) + len(device_id) + 8
    if part:
        yield part


def _fragments(encoded: Mapping[str, bytes]) -> dict[str, orjson.Fragment]:
    return {name: orjson.Fragment(content) for name, content in encoded.items()}


# keys ---------------------------------------------------------------------------------------


def device_list_updates(
    servers: Collection[str],
    user_id: str,
    keys: UserKeys,
    device_ids: Sequence[str],
    first: int,
    before: int | None,
) -> list[NewEdu]:
    """That devices of a user changed, or are gone, as the updates ``first``, ``first + 1``, … of their list; the one
    before them was ``before``. What they are called stays at home.

    spec: server-server-api/#definition-mdevice_list_update
    """
    edus = []
    for stream_id, device_id in enumerate(device_ids, first):
        content: dict[str, Any] = {"device_id": device_id, "stream_id": stream_id, "user_id": user_id}
        content["prev_id"] = [] if before is None else [before]
        before = stream_id
        device = keys.devices.get(device_id)
        if device is None:
            content["deleted"] = True
        else:
            content["keys"] = orjson.Fragment(device.keys)
        edus += _to_each(servers, user_id, "m.device_list_update", content)
    return edus


def signing_key_update(servers: Collection[str], user_id: str, keys: UserKeys) -> list[NewEdu]:
    """A user's cross-signing keys, as far as others are shown them.

    spec: server-server-api/#definition-msigning_key_update
    """
    content: dict[str, Any] = {"user_id": user_id}
    for usage, name in ((MASTER, "master_key"), (SELF_SIGNING, "self_signing_key")):
        if usage in keys.signing:
            content[name] = orjson.Fragment(keys.signing[usage])
    return _to_each(servers, user_id, "m.signing_key_update", content)


def _to_each(servers: Collection[str], user_id: str, kind: str, content: Mapping[str, Any]) -> list[NewEdu]:
    body = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return [NewEdu(name, user_id, DataClass.KEYS.value, kind, body) for name in servers]

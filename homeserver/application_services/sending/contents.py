"""What a transaction for an application service says: JSON, spliced from the bytes of events. Values in, values out.

spec: application-service-api/#pushing-events
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from homeserver.rooms.receipts import READ, READ_PRIVATE, UNTHREADED
from homeserver.rooms.showing import array, show_stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from config.application_services import ApplicationService
    from homeserver.e2ee.one_time_keys import Counts
    from homeserver.storage.application_services import Letter, ToldEvent, ToldReceipt


@dataclass(slots=True)
class Contents:
    """What a service is told at once. ``counts``: what devices have left, by user and device id.

    ``changed`` and ``left``: users whose keys to fetch anew, and those who share no room with the service any more.
    """

    events: list[bytes] = field(default_factory=list)
    ephemeral: list[bytes] = field(default_factory=list)
    to_device: list[bytes] = field(default_factory=list)
    counts: dict[str, dict[str, Counts]] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.events or self.ephemeral or self.to_device or self.counts or self.changed or self.left)

    def body(self, service: ApplicationService) -> bytes:
        """The JSON of the transaction.

        What bridges with encryption need has names of proposals that are not part of the specification yet (MSC2409,
        MSC3202); ephemeral events are given under such a name to services that ask for them by it only.
        """
        parts = [b'{"events":', array(self.events)]
        if service.receive_ephemeral:
            ephemeral = array(self.ephemeral)
            name = b"de.sorunome.msc2409.ephemeral" if service.old_names else b"ephemeral"
            parts += [b',"%b":' % name, ephemeral]
            parts += [b',"de.sorunome.msc2409.to_device":', array(self.to_device)]
        if service.wants_keys:
            lists = {"changed": sorted(self.changed), "left": sorted(self.left)}
            parts += [b',"org.matrix.msc3202.device_lists":', orjson.dumps(lists)]
            if self.counts:
                left = _by_device(self.counts, lambda counts: counts.one_time_keys)
                unused = _by_device(self.counts, lambda counts: counts.unused_fallback)
                parts += [b',"org.matrix.msc3202.device_one_time_keys_count":', orjson.dumps(left)]
                # COMPAT(Synapse, 1.50): bridges that were written against it know the count by this name
                parts += [b',"org.matrix.msc3202.device_one_time_key_counts":', orjson.dumps(left)]
                parts += [b',"org.matrix.msc3202.device_unused_fallback_key_types":', orjson.dumps(unused)]
        return b"".join((*parts, b"}"))


def _by_device(counts: Mapping[str, Mapping[str, Counts]], part: Any) -> dict[str, dict[str, Any]]:
    return {
        user_id: {device_id: part(left) for device_id, left in devices.items()} for user_id, devices in counts.items()
    }


def event(told: ToldEvent, now_ms: int) -> bytes:
    """An event as services read it: as clients do, with its room; an invitation with what may be seen of the room."""
    shown = show_stored(told.event, now_ms, room_id=orjson.dumps(told.room_id))
    if told.preview is None:
        return shown
    return shown[:-2] + b',"invite_room_state":' + bytes(told.preview) + b"}}"


def letter(told: Letter) -> bytes:
    """A message to a device, which says to which. It is a JSON object that is not empty."""
    to = orjson.dumps({"to_user_id": told.user_id, "to_device_id": told.device_id})
    return to[:-1] + b"," + bytes(told.message)[1:]


def receipts(told: Iterable[ToldReceipt]) -> list[bytes]:
    """m.receipt events, each with its room. One has room for one receipt of a kind by each user on an event: further
    ones (a threaded and an unthreaded one, say) go into another.

    spec: application-service-api/#pushing-ephemeral-data
    """
    events: list[tuple[str, dict[str, dict[str, dict[str, Any]]]]] = []
    for each in told:
        said: dict[str, Any] = {"ts": each.ts}
        if each.thread_id != UNTHREADED:
            said["thread_id"] = each.thread_id
        kind = READ_PRIVATE if each.private else READ
        for room_id, content in events:
            if room_id == each.room_id:
                users = content.setdefault(each.event_id, {}).setdefault(kind, {})
                if each.user_id not in users:
                    users[each.user_id] = said
                    break
        else:
            events.append((each.room_id, {each.event_id: {kind: {each.user_id: said}}}))
    return [orjson.dumps({"type": "m.receipt", "room_id": room_id, "content": content}) for room_id, content in events]


def typing(room_id: str, user_ids: Iterable[str]) -> bytes:
    """An m.typing event with its room."""
    return orjson.dumps({"type": "m.typing", "room_id": room_id, "content": {"user_ids": sorted(user_ids)}})


def presence(user_id: str, content: Mapping[str, Any]) -> bytes:
    """An m.presence event."""
    return orjson.dumps({"type": "m.presence", "sender": user_id, "content": dict(content)})

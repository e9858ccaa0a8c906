"""How the parcels of this package are applied (see rooms/replicas.py)."""

from __future__ import annotations

from collections.abc import Mapping

from config.residency import DataClass
from homeserver.e2ee.publication import KEYS, apply_keys
from homeserver.e2ee.to_device import TO_DEVICE, apply_messages
from homeserver.rooms.replicas import ParcelKind

KEY_PARCELS: Mapping[str, ParcelKind] = {
    KEYS: ParcelKind(DataClass.KEYS, apply_keys),
    TO_DEVICE: ParcelKind(DataClass.MAILBOX, apply_messages),
}

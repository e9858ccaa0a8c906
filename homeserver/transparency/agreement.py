"""Which of a resident's keys, as a database has them, the key log speaks of, and which of these others are shown.

Whoever writes into the tables of keys by hand writes no leaf: such keys are shown to nobody but the user, who should
know of them. Keys that changed as they should are in the log since the same transaction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import orjson

from homeserver.protocol.key_log import NO_KEYS, Leaf, Manifest, NoLeaf, Reason, digest

if TYPE_CHECKING:
    from homeserver.storage.device_keys import UserKeys


def manifest_of(keys: UserKeys) -> Manifest:
    """The digests of keys as they are stored."""
    return Manifest.of({device_id: device.keys for device_id, device in keys.devices.items()}, keys.signing)


def agreed(keys: UserKeys) -> Manifest | None:
    """What the log says of a resident; nothing when what is stored of that is not what the last leaf is a digest of.
    None for who is not in the log yet, or has come from another node just now.

    Of a copy from another node: what the proof says that is kept with it, which fitted when it came."""
    if keys.copied:
        carried = None if keys.remote else keys.proof
        return None if carried is None else Manifest.read(orjson.loads(carried.said)["keys"].encode())
    if keys.manifest is None:
        return None
    if keys.leaf is None:
        return Manifest.read(keys.manifest)
    try:
        last = Leaf.read(keys.leaf)
    except NoLeaf:
        return Manifest.read(NO_KEYS)
    fits = last.reason is Reason.LEFT or last.digest == digest(keys.manifest)
    return Manifest.read(keys.manifest if fits else NO_KEYS)


def logged(keys: UserKeys) -> UserKeys:
    """Those of somebody's keys that the log speaks of."""
    known = agreed(keys)
    if known is None:
        return keys
    found = manifest_of(keys)
    if found == known:
        return keys
    devices = {name: each for name, each in keys.devices.items() if found.devices[name] == known.devices.get(name)}
    signing = {usage: key for usage, key in keys.signing.items() if found.signing[usage] == known.signing.get(usage)}
    if (len(devices), len(signing)) == (len(keys.devices), len(keys.signing)):
        return keys
    return replace(keys, devices=devices, signing=signing)


def for_others(keys: UserKeys) -> UserKeys:
    """Keys as everybody but their owner is shown them: none that the log does not speak of, no device that has been
    left unsigned for too long, and none at all while their identity is contested."""
    known = logged(keys)
    if keys.contested:
        return replace(known, devices={})
    if any(device.withheld for device in known.devices.values()):
        shown = {name: device for name, device in known.devices.items() if not device.withheld}
        return replace(known, devices=shown)
    return known

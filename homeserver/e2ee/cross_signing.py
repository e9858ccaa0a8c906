"""Cross-signing: the keys by which users sign their devices and each other, and the signatures.

Signatures by a user-signing key are shown to nobody but their maker, and rest with the maker.

spec: client-server-api/#cross-signing
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from homeserver.e2ee import contested, device_keys, key_format, notices, publication, unsigned
from homeserver.e2ee.failures import Failures
from homeserver.e2ee.key_format import SigningKey, core
from homeserver.e2ee.uploads import joined, own_signatures
from homeserver.protocol.errors import (
    Forbidden,
    InvalidSignature,
    MissingParam,
    NotFound,
    Refusal,
)
from homeserver.protocol.key_log import Reason
from homeserver.protocol.signing import verify_json
from homeserver.storage import device_keys as stored
from homeserver.storage import unsigned_devices
from homeserver.storage.device_keys import MASTER, SELF_SIGNING, USER_SIGNING, Signature, UserKeys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from homeserver.context import Caller, Server
    from homeserver.protocol.signing import VerifyKey
    from homeserver.storage.engine import Transaction

FIELDS = {"master_key": MASTER, "self_signing_key": SELF_SIGNING, "user_signing_key": USER_SIGNING}
"""The properties of an upload and the usages that they stand for."""

MAX_SIGNATURES = 10_000
"""Objects that one request may bring signatures of."""

Signed = dict[str, Any]
"""A key with signatures."""


class AuthenticationNeeded(Exception):
    """Keys are about to be replaced: their owner has to confirm that."""


async def upload(server: Server, caller: Caller, keys: Mapping[str, Signed], *, confirmed: bool) -> None:
    """Publish cross-signing keys by usage.

    Raises AuthenticationNeeded unless ``confirmed``, when there is a master key already and the keys are others;
    MissingParam without any master key, InvalidParam, BadJson, InvalidSignature, Forbidden when a public key is the
    id of a device.

    spec: client-server-api/#post_matrixclientv3keysdevice_signingupload
    """
    checked = {usage: key_format.signing_key(key, usage, caller.user_id) for usage, key in keys.items()}
    await caller.node.advance(_upload, server, caller, checked, confirmed)


async def _upload(
    tx: Transaction, server: Server, caller: Caller, keys: Mapping[str, SigningKey], confirmed: bool
) -> None:
    mine = await _of_caller(tx, caller)
    held = {usage: orjson.loads(key) for usage, key in mine.signing.items()}
    if MASTER not in keys and MASTER not in held:
        raise MissingParam("There is no master key")
    if keys and all(usage in held and core(held[usage]) == core(key.key) for usage, key in keys.items()):
        return  # nothing new: an answer was lost, and the client repeats itself
    master = keys[MASTER].public if MASTER in keys else key_format.public_key(held[MASTER])
    for usage, key in keys.items():
        if usage != MASTER:
            key_format.check_signed(key, caller.user_id, master)
    names = {key_format.name_of(key.public) for key in keys.values()}
    if names and await stored.device_ids(tx, caller.user_nid, names):
        raise Forbidden("The public key is the ID of a device: key ID in use")
    if MASTER in held and not confirmed:
        raise AuthenticationNeeded
    blobs = {
        usage: key_format.encoded(
            {**key.key, "signatures": own_signatures(key.key, caller.user_id)}, key_format.MAX_SIGNING_KEY
        )
        for usage, key in keys.items()
    }
    stored.put_signing(tx, caller.user_nid, blobs)
    if USER_SIGNING in keys:
        stored.drop_signatures(tx, caller.user_nid)
    if keys:
        reset = MASTER in held and MASTER in keys and core(held[MASTER]) != core(keys[MASTER].key)
        reason = Reason.IDENTITY_RESET if reset else Reason.CROSS_SIGNING
        if SELF_SIGNING in keys:
            await unsigned.note_identity(tx, server, caller.user_id, caller.user_nid)
        shown = contested.reset(tx, server, caller, mine, keys[MASTER].key) if reset else ()
        changed = publication.Changed((), bool({MASTER, SELF_SIGNING} & keys.keys()), reason, shown)
        await publication.publish(tx, server, caller.node, caller.user_id, caller.user_nid, changed)
        if reset or MASTER not in held:  # from now on the devices that these have not signed are withheld
            await notices.tell(tx, server, caller.node, caller.user_id, reason, but=caller.device_id)


async def _of_caller(tx: Transaction, caller: Caller) -> UserKeys:
    return (await stored.of_users(tx, [caller.user_id])).get(caller.user_id, UserKeys())


# signatures ---------------------------------------------------------------------------------


async def add_signatures(
    server: Server, caller: Caller, signed: Mapping[str, Mapping[str, Signed]]
) -> dict[str, dict[str, Any]]:
    """Publish signatures of the caller under their own devices, their master key, and other users' master keys.

    ``signed``: signed objects by user id and key id. Returns why some were not taken: errors, by the same ids.

    spec: client-server-api/#post_matrixclientv3keyssignaturesupload
    """
    others = {user_id: keys for user_id, keys in signed.items() if user_id != caller.user_id}
    targets = await device_keys.find(server, caller, list(others), Failures(server)) if others else {}
    return await caller.node.advance(_add_signatures, server, caller, signed, targets)


async def _add_signatures(
    tx: Transaction,
    server: Server,
    caller: Caller,
    signed: Mapping[str, Mapping[str, Signed]],
    targets: Mapping[str, UserKeys],
) -> dict[str, dict[str, Any]]:
    mine = await _of_caller(tx, caller)
    failures: dict[str, dict[str, Any]] = {}
    own: list[str] = []
    under_others: list[Signature] = []
    for user_id, keys in signed.items():
        for key_id, key in keys.items():
            try:
                if user_id == caller.user_id:
                    own += [key_id] if _sign_own(tx, caller, mine, key_id, key) else []
                else:
                    under_others += _sign_other(caller, mine, user_id, targets.get(user_id), key_id, key)
            except Refusal as error:
                failures.setdefault(user_id, {})[key_id] = error.body()
    if own or under_others:
        devices = [key_id for key_id in own if key_id in mine.devices]
        unsigned_devices.settle(tx, caller.user_nid, devices)
        shown = contested.signed(tx, caller, mine) if len(devices) < len(own) else ()
        changed = publication.Changed(devices, signing=len(devices) < len(own), shown=shown)
        pos = await publication.publish(tx, server, caller.node, caller.user_id, caller.user_nid, changed)
        stored.put_signatures(tx, caller.user_nid, pos, under_others)
    return failures


def _sign_own(tx: Transaction, caller: Caller, mine: UserKeys, key_id: str, key: Signed) -> bool:
    """Take over signatures under a device of the caller, or their master key; False when there is nothing new."""
    master = orjson.loads(mine.signing[MASTER]) if MASTER in mine.signing else None
    if key_id in mine.devices:
        held = orjson.loads(mine.devices[key_id].keys)
        if SELF_SIGNING not in mine.signing:
            raise InvalidSignature("There is no self-signing key")
        signers = _by_id(key_format.public_key(orjson.loads(mine.signing[SELF_SIGNING])))
        most = key_format.MAX_DEVICE_KEYS
    elif master is not None and key_id == key_format.name_of(key_format.public_key(master)):
        held, signers, most = master, device_keys.device_verify_keys(mine), key_format.MAX_SIGNING_KEY
    else:
        raise NotFound("There is no such key")
    new = _verified(caller.user_id, held, key, signers)
    if not new:
        return False
    held["signatures"] = joined(key_format.signatures_in(held), {caller.user_id: new})
    blob = key_format.encoded(held, most)
    if key_id in mine.devices:
        mine.devices[key_id] = mine.devices[key_id]._replace(keys=blob)
        stored.put_device(tx, caller.user_nid, key_id, blob)
    else:
        mine.signing[MASTER] = blob
        stored.put_signing(tx, caller.user_nid, {MASTER: blob})
    return True


def _sign_other(
    caller: Caller, mine: UserKeys, user_id: str, target: UserKeys | None, key_id: str, key: Signed
) -> list[Signature]:
    """Signatures by the caller's user-signing key under another user's master key."""
    if target is None or MASTER not in target.signing:
        raise NotFound("There is no such key")
    held = orjson.loads(target.signing[MASTER])
    master = key_format.public_key(held)
    if key_id != key_format.name_of(master):
        raise NotFound("There is no such key")
    if USER_SIGNING not in mine.signing:
        raise InvalidSignature("There is no user-signing key")
    signers = _by_id(key_format.public_key(orjson.loads(mine.signing[USER_SIGNING])))
    new = _verified(caller.user_id, held, key, signers)
    return [Signature(user_id, master.key_id, by, text) for by, text in new.items()]


def _by_id(key: VerifyKey) -> dict[str, VerifyKey]:
    return {key.key_id: key}


def _verified(signer: str, held: Signed, key: Signed, signers: Mapping[str, VerifyKey]) -> dict[str, str]:
    """The new signatures of ``signer`` in ``key``, each verified.

    Raises InvalidSignature if the object is another than the one here, if there is no signature, or one of an unknown
    key, or one that is not valid.
    """
    if core(key) != core(held):
        raise InvalidSignature("What is signed is not the key that is here")
    known = key_format.signatures_in(held).get(signer, {})
    made = key_format.signatures_in(key).get(signer, {})
    if not made:
        raise InvalidSignature("There is no signature of yours")
    new = {key_id: text for key_id, text in made.items() if known.get(key_id) != text}
    unknown = [key_id for key_id in new if key_id not in signers]
    if unknown:
        raise InvalidSignature(f"{unknown[0]} is not a key that may sign this")
    if new:
        verify_json({**core(key), "signatures": {signer: new}}, signer, signers)
    return new

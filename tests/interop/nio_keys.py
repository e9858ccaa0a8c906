"""Cross-signing and key backup for the matrix-nio client, which has neither: what the specification says, by hand.

Each private cross-signing key is a `vodozemac.Account`, because that is an Ed25519 key which signs and can be saved.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any

import nio
import vodozemac
from nio.crypto.sessions import InboundGroupSession
from unpaddedbase64 import encode_base64

MEGOLM = "m.megolm.v1.aes-sha2"
BACKUP = "m.megolm_backup.v1.curve25519-aes-sha2"
_PICKLE_KEY = bytes(32)


def _canonical(signed: dict[str, Any]) -> bytes:
    bare = {key: value for key, value in signed.items() if key not in {"signatures", "unsigned"}}
    canonical: str = nio.Api.to_canonical_json(bare)
    return canonical.encode()


def _public(key: vodozemac.Account) -> str:
    return key.ed25519_key.to_base64()


def _signed(content: dict[str, Any], user: str, key: vodozemac.Account) -> dict[str, Any]:
    signature = {user: {f"ed25519:{_public(key)}": key.sign(_canonical(content)).to_base64()}}
    return {**content, "signatures": signature}


def is_signed_by(content: dict[str, Any], user: str, public: str) -> bool:
    """Whether `user`'s Ed25519 key `public` (unpadded base64) signed `content`."""
    signature = content.get("signatures", {}).get(user, {}).get(f"ed25519:{public}")
    if signature is None:
        return False
    key = vodozemac.Ed25519PublicKey.from_base64(public)
    try:
        key.verify_signature(_canonical(content), vodozemac.Ed25519Signature.from_base64(signature))
    except vodozemac.SignatureException:
        return False
    return True


@dataclass(frozen=True)
class CrossSigning:
    """A user's private cross-signing keys. spec: client-server-api/#cross-signing"""

    user: str
    master: vodozemac.Account
    self_signing: vodozemac.Account
    user_signing: vodozemac.Account

    @classmethod
    def new(cls, user: str) -> "CrossSigning":
        """Fresh keys."""
        return cls(user, vodozemac.Account(), vodozemac.Account(), vodozemac.Account())

    @property
    def master_key(self) -> str:
        """The public master key, unpadded base64."""
        return _public(self.master)

    def _key(self, usage: str, key: vodozemac.Account) -> dict[str, Any]:
        public = _public(key)
        content = {"user_id": self.user, "usage": [usage], "keys": {f"ed25519:{public}": public}}
        return content if usage == "master" else _signed(content, self.user, self.master)

    def upload(self) -> dict[str, Any]:
        """The body of ``/keys/device_signing/upload``."""
        return {
            "master_key": self._key("master", self.master),
            "self_signing_key": self._key("self_signing", self.self_signing),
            "user_signing_key": self._key("user_signing", self.user_signing),
        }

    def sign_device(self, device: dict[str, Any]) -> dict[str, Any]:
        """The body of ``/keys/signatures/upload`` that says that `device` is the user's."""
        bare = {key: value for key, value in device.items() if key not in {"signatures", "unsigned"}}
        return {self.user: {bare["device_id"]: _signed(bare, self.user, self.self_signing)}}

    def save(self) -> list[str]:
        """Something that `load` understands."""
        return [key.pickle(_PICKLE_KEY) for key in (self.master, self.self_signing, self.user_signing)]

    @classmethod
    def load(cls, user: str, saved: list[str]) -> "CrossSigning":
        """The keys that were saved."""
        return cls(user, *(vodozemac.Account.from_pickle(key, _PICKLE_KEY) for key in saved))


def trust(user: str, answer: dict[str, Any]) -> dict[str, Any] | None:
    """What ``/keys/query`` says about a user: master key, and for each device whether its owner signed it.

    None when the user has no cross-signing keys, or keys that do not vouch for each other.
    """
    master = answer.get("master_keys", {}).get(user)
    self_signing = answer.get("self_signing_keys", {}).get(user)
    if master is None or self_signing is None:
        return None
    (master_public,) = master["keys"].values()
    (self_signing_public,) = self_signing["keys"].values()
    if not is_signed_by(self_signing, user, master_public):
        return None
    devices = {
        device_id: {
            "name": device.get("unsigned", {}).get("device_display_name"),
            "signed_by_owner": is_signed_by(device, user, self_signing_public),
        }
        for device_id, device in answer.get("device_keys", {}).get(user, {}).items()
    }
    return {"master_key": master_public, "devices": devices}


def backup_of(session: InboundGroupSession, public: vodozemac.Curve25519PublicKey) -> dict[str, Any]:
    """A room key as it is kept in a backup.

    spec: client-server-api/#backup-algorithm-mmegolm_backupv1curve25519-aes-sha2
    """
    content = {
        "algorithm": MEGOLM,
        "forwarding_curve25519_key_chain": list(session.forwarding_chain),
        "sender_claimed_keys": {"ed25519": session.ed25519},
        "sender_key": session.sender_key,
        "session_key": session.export_session(session.first_known_index),
    }
    sealed = vodozemac.PkEncryption.from_key(public).encrypt(json.dumps(content).encode())
    return {
        "first_message_index": session.first_known_index,
        "forwarded_count": len(session.forwarding_chain),
        "is_verified": True,
        "session_data": {
            "ciphertext": encode_base64(sealed.ciphertext),
            "mac": encode_base64(sealed.mac),
            "ephemeral": encode_base64(sealed.ephemeral_key),
        },
    }


def restored(room: str, backup: dict[str, Any], secret: vodozemac.Curve25519SecretKey) -> InboundGroupSession:
    """The room key that `backup_of` kept, opened with the backup's private key."""
    data = backup["session_data"]
    sealed = vodozemac.Message.from_base64(data["ciphertext"], data["mac"], data["ephemeral"])
    content = json.loads(vodozemac.PkDecryption.from_key(secret).decrypt(sealed))
    return InboundGroupSession.import_session(
        content["session_key"],
        content["sender_claimed_keys"]["ed25519"],
        content["sender_key"],
        room,
        content["forwarding_curve25519_key_chain"],
    )


def recovery_key(cross_signing: CrossSigning, secret: vodozemac.Curve25519SecretKey) -> str:
    """All that a new device of the user needs, in one string for the user to keep."""
    kept = {"cross_signing": cross_signing.save(), "backup": secret.to_base64()}
    return base64.b64encode(json.dumps(kept).encode()).decode()


def opened(user: str, recovery: str) -> tuple[CrossSigning, vodozemac.Curve25519SecretKey]:
    """What `recovery_key` holds."""
    kept = json.loads(base64.b64decode(recovery))
    secret = vodozemac.Curve25519SecretKey.from_base64(kept["backup"])
    return CrossSigning.load(user, kept["cross_signing"]), secret

"""Ed25519 signatures over canonical JSON, and the two hashes of an event.

Signing never changes its argument: it returns a copy with the signature added. Verifying raises InvalidSignature and
otherwise returns nothing, so that no result can be forgotten.

spec: appendices/#signing-json, server-server-api/#signing-events
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from typing import TYPE_CHECKING, Any, Final

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey as _NaclSigningKey
from nacl.signing import VerifyKey as _NaclVerifyKey
from signedjson import key as key_files

from homeserver.protocol import canonical
from homeserver.protocol.errors import BadJson, InvalidSignature
from homeserver.protocol.redaction import redact
from homeserver.protocol.versions import EventIdFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from homeserver.protocol.versions import RoomRules

ALGORITHM: Final = "ed25519"
_NOT_SIGNED: Final = frozenset(("signatures", "unsigned"))
_NOT_HASHED: Final = frozenset(("hashes", "signatures", "unsigned"))
_URL_SAFE_TO_STANDARD: Final = str.maketrans("-_", "+/")
_SIGNATURE_BYTES: Final = 64


# -- base64


def encode_base64(raw: bytes) -> str:
    """Unpadded Base64. spec: appendices/#unpadded-base64"""
    return base64.b64encode(raw).rstrip(b"=").decode("ascii")


def encode_base64_url(raw: bytes) -> str:
    """URL-safe unpadded Base64. spec: appendices/#url-safe-unpadded-base64"""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode_base64(text: str) -> bytes:
    """Decode Base64 of either alphabet, with or without padding. Raises BadJson for anything else in it.

    spec: appendices/#unpadded-base64
    """
    digits = text.rstrip("=").translate(_URL_SAFE_TO_STANDARD)
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadJson("That is not Base64") from None


# -- keys


class VerifyKey:
    """A public key under its signing key identifier (``ed25519:…``)."""

    __slots__ = ("_key", "key_id", "raw")

    def __init__(self, key_id: str, raw: bytes) -> None:
        """``raw`` is 32 bytes. Raises BadJson for another length or algorithm."""
        if not key_id.startswith(f"{ALGORITHM}:"):
            raise BadJson("That is not an ed25519 key")
        try:
            self._key = _NaclVerifyKey(raw)
        except ValueError:
            raise BadJson("An ed25519 key has 32 bytes") from None
        self.key_id = key_id
        self.raw = raw

    @classmethod
    def from_base64(cls, key_id: str, text: str) -> VerifyKey:
        """A key as it stands in JSON. Raises BadJson."""
        return cls(key_id, decode_base64(text))

    @property
    def base64(self) -> str:
        """The key as it stands in JSON."""
        return encode_base64(self.raw)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether ``signature`` (64 bytes) is of exactly this message by this key."""
        if len(signature) != _SIGNATURE_BYTES:
            return False
        try:
            self._key.verify(message, signature)
        except BadSignatureError:
            return False
        return True


class SigningKey:
    """A private key under its signing key identifier. Its representation never shows the secret."""

    __slots__ = ("_key", "key_id", "verify_key")

    def __init__(self, version: str, seed: bytes) -> None:
        """``version`` is the part of the key id after ``ed25519:``, ``seed`` 32 secret bytes."""
        self._key = _NaclSigningKey(seed)
        self.key_id = f"{ALGORITHM}:{version}"
        self.verify_key = VerifyKey(self.key_id, bytes(self._key.verify_key))

    def __repr__(self) -> str:
        return f"<SigningKey {self.key_id}>"

    @classmethod
    def generate(cls, version: str) -> SigningKey:
        """A new random key."""
        return cls(version, bytes(_NaclSigningKey.generate()))

    def sign(self, message: bytes) -> str:
        """The signature of a message in unpadded Base64."""
        return encode_base64(self._key.sign(message).signature)


def read_keys(text: str) -> list[SigningKey]:
    """The private keys of a key file: lines of ``ed25519 VERSION SEED``, as the field writes them.

    Raises ValueError for a line that is none.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                keys += key_files.read_signing_keys([line])
            except ValueError:  # its own text may quote the secret
                raise ValueError(f"line {number} of the key file is not: ed25519 VERSION SEED") from None
    return [SigningKey(key.version, key.encode()) for key in keys]


def write_keys(keys: Iterable[SigningKey]) -> str:
    """The text of a key file. It is the secret of the server: to be written readable by its owner only."""
    stream = io.StringIO()
    key_files.write_signing_keys(
        stream,
        [
            key_files.decode_signing_key_base64(ALGORITHM, key.key_id.partition(":")[2], encode_base64(bytes(key._key)))
            for key in keys
        ],
    )
    return stream.getvalue()


# -- JSON objects


def sign_json(signed: Mapping[str, Any], signer: str, key: SigningKey) -> dict[str, Any]:
    """A copy of a JSON object with a signature of ``signer`` added; ``unsigned`` and other signatures stay.

    Raises BadJson if it has no canonical form. spec: appendices/#signing-details
    """
    return _with_signature(signed, signer, key.key_id, key.sign(_signed_bytes(signed)))


def verify_json(signed: Mapping[str, Any], signer: str, keys: Mapping[str, VerifyKey]) -> None:
    """Raise InvalidSignature unless ``signer`` signed this JSON object.

    ``keys`` are the usable keys of the signer by key id. Signatures under other ids are skipped; at least one must be
    left, and all that are left must be valid. spec: appendices/#checking-for-a-signature
    """
    try:
        message = _signed_bytes(signed)
    except BadJson:
        raise InvalidSignature("What is signed is not canonical JSON") from None
    _verify(signed, message, signer, keys)


def signing_key_ids(signed: Mapping[str, Any], signer: str) -> list[str]:
    """The ids of the keys of our algorithm under which ``signer`` signed; none if malformed. Proves nothing."""
    return [key_id for key_id in _signatures_of(signed, signer) if key_id.startswith(f"{ALGORITHM}:")]


def _signed_bytes(signed: Mapping[str, Any]) -> bytes:
    return canonical.encode({key: value for key, value in signed.items() if key not in _NOT_SIGNED})


def _with_signature(signed: Mapping[str, Any], signer: str, key_id: str, signature: str) -> dict[str, Any]:
    signatures = dict(signed.get("signatures", {}))
    signatures[signer] = {**signatures.get(signer, {}), key_id: signature}
    return {**signed, "signatures": signatures}


def _signatures_of(signed: Mapping[str, Any], signer: str) -> dict[str, Any]:
    signatures = signed.get("signatures")
    mine = signatures.get(signer) if isinstance(signatures, dict) else None
    return mine if isinstance(mine, dict) else {}


def _verify(signed: Mapping[str, Any], message: bytes, signer: str, keys: Mapping[str, VerifyKey]) -> None:
    known = [(keys[key_id], text) for key_id, text in _signatures_of(signed, signer).items() if key_id in keys]
    if not known:
        raise InvalidSignature(f"There is no signature of {signer} under a known key")
    for key, text in known:
        if not key.verifies(message, _signature(text)):
            raise InvalidSignature(f"The signature of {signer} under {key.key_id} is not valid")


def _signature(text: object) -> bytes:
    """The bytes of a signature; none, which no key verifies, if it is malformed."""
    try:
        return decode_base64(text) if isinstance(text, str) else b""
    except BadJson:
        return b""


# -- events


def event_signed_bytes(rules: RoomRules, pdu: Mapping[str, Any]) -> bytes:
    """What the signatures of an event cover, and its reference hash too: the redacted event, canonical.

    spec: server-server-api/#adding-hashes-and-signatures-to-outgoing-events
    """
    redacted = redact(rules, pdu)
    redacted.pop("signatures", None)
    return canonical.encode(redacted, strict=rules.strict_canonical_json)


def reference_hash(rules: RoomRules, pdu: Mapping[str, Any]) -> bytes:
    """spec: server-server-api/#calculating-the-reference-hash-for-an-event"""
    return hashlib.sha256(event_signed_bytes(rules, pdu)).digest()


def content_hash(rules: RoomRules, pdu: Mapping[str, Any]) -> bytes:
    """spec: server-server-api/#calculating-the-content-hash-for-an-event"""
    hashed = {key: value for key, value in pdu.items() if key not in _NOT_HASHED}
    return hashlib.sha256(canonical.encode(hashed, strict=rules.strict_canonical_json)).digest()


def content_hash_matches(rules: RoomRules, pdu: Mapping[str, Any]) -> bool:
    """Whether ``hashes.sha256`` is the content hash; if not, what we were given is (or must be made) redacted.

    spec: server-server-api/#validating-hashes-and-signatures-on-received-events
    """
    try:
        return decode_base64(pdu["hashes"]["sha256"]) == content_hash(rules, pdu)
    except BadJson:
        return False


def event_id_of_hash(rules: RoomRules, digest: bytes) -> str:
    """The event id that a reference hash makes. spec: rooms/v4/#event-ids"""
    if rules.event_id_format is EventIdFormat.HASH:
        return "$" + encode_base64(digest)
    if rules.event_id_format is EventIdFormat.URL_SAFE_HASH:
        return "$" + encode_base64_url(digest)
    raise ValueError("the event ids of this room version are not hashes")


def sign_event(rules: RoomRules, pdu: Mapping[str, Any], signer: str, key: SigningKey) -> dict[str, Any]:
    """A copy of an event in federation format with content hash and a signature added.

    An event that has ``hashes`` keeps them (a second signature). Raises BadJson.
    """
    hashed = pdu if pdu.get("hashes") else {**pdu, "hashes": {"sha256": encode_base64(content_hash(rules, pdu))}}
    return _with_signature(hashed, signer, key.key_id, key.sign(event_signed_bytes(rules, hashed)))


def verify_event(rules: RoomRules, pdu: Mapping[str, Any], server_name: str, keys: Mapping[str, VerifyKey]) -> None:
    """Raise InvalidSignature unless ``server_name`` signed this event, whole or redacted.

    ``keys`` are those of its keys, by key id, that may be used for this ``origin_server_ts``; see `verify_json`.
    The content hash is another matter. spec: server-server-api/#validating-hashes-and-signatures-on-received-events
    """
    _verify(pdu, event_signed_bytes(rules, pdu), server_name, keys)


def verify_bytes(
    message: bytes, signatures: Mapping[str, Any], server_name: str, keys: Mapping[str, VerifyKey]
) -> None:
    """`verify_event` for an event whose signed bytes are at hand; ``signatures`` are those of the event."""
    _verify({"signatures": signatures}, message, server_name, keys)

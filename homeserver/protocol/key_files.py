"""Private keys of people who act for a deployment or watch it, as they stand in a file: one key, one line.

``ed25519 VERSION SEED`` signs, ``x25519 SECRET`` opens what was sealed to it; both secrets are 32 bytes in unpadded
Base64. What goes into a policy is the public half, in unpadded Base64.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from nacl.public import PrivateKey

from homeserver.protocol.errors import BadJson
from homeserver.protocol.signing import SigningKey, decode_base64, encode_base64, read_keys, write_keys


class Kind(StrEnum):
    """What a key is for: signing, or opening what was sealed to it."""

    ED25519 = "ed25519"
    X25519 = "x25519"


class MadeKey(NamedTuple):
    """A new key: the text of its file, which is secret, and its public half."""

    text: str
    public: str


def make(kind: Kind) -> MadeKey:
    """A new random key."""
    if kind is Kind.ED25519:
        signing = SigningKey.generate("1")
        return MadeKey(write_keys([signing]), signing.verify_key.base64)
    opening = PrivateKey.generate()
    text = f"{Kind.X25519} {encode_base64(bytes(opening))}\n"
    return MadeKey(text, encode_base64(bytes(opening.public_key)))


def signing_key(text: str) -> SigningKey:
    """The key of a file that signs. Raises ValueError, which does not quote the file."""
    if text.split()[:1] == [Kind.X25519.value]:
        raise ValueError("this is a key that opens what was sealed; one that signs is needed (--kind ed25519)")
    keys = read_keys(text)
    if len(keys) != 1:
        raise ValueError(f"the file holds {len(keys)} keys, and one is needed")
    return keys[0]


def opening_key(text: str) -> PrivateKey:
    """The key of a file that opens what was sealed to it. Raises ValueError, which does not quote the file."""
    words = text.split()
    if words[:1] == [Kind.ED25519.value]:
        raise ValueError("this is a key that signs; one that opens what was sealed is needed (--kind x25519)")
    if len(words) != 2 or words[0] != Kind.X25519:
        raise ValueError("the key file is not: x25519 SECRET")
    try:
        return PrivateKey(decode_base64(words[1]))
    except (BadJson, TypeError, ValueError):
        raise ValueError("the secret in the key file is not 32 bytes in Base64") from None

"""A verifiable random function (RFC 9381, ECVRF-EDWARDS25519-SHA512-TAI): a keyed hash that can be shown to be right.

For each key and message there is one output, which nobody can compute or check without the key or a proof by its
holder; and there is no proof of another one. So a log can name people by outputs: who has no proof learns nothing,
and nobody can be in it under two names.
"""

from __future__ import annotations

from hashlib import sha512
from typing import Final

from nacl import bindings as sodium
from nacl.exceptions import CryptoError

PROOF_BYTES: Final = 80
KEY_BYTES: Final = 32

_SUITE: Final = b"\x03"
_ENCODE, _CHALLENGE, _OUTPUT = b"\x01", b"\x02", b"\x03"
_BACK: Final = b"\x00"
_CHALLENGE_BYTES: Final = 16
_ZEROS: Final = bytes(32)


class InvalidVrfProof(ValueError):
    """This proves no output of the function for this key and message."""


class VrfKey:
    """A secret key of the function. Its representation never shows the secret."""

    __slots__ = ("_nonce_key", "_scalar", "public")

    def __init__(self, seed: bytes) -> None:
        """``seed`` is 32 secret bytes, that serve nothing else. ``public`` is the key that proofs are checked by."""
        if len(seed) != KEY_BYTES:
            raise ValueError(f"the secret of a verifiable random function has {KEY_BYTES} bytes")
        hashed = sha512(seed).digest()
        clamped = bytes([hashed[0] & 248, *hashed[1:31], hashed[31] & 127 | 64])
        self._scalar = sodium.crypto_core_ed25519_scalar_reduce(clamped + _ZEROS)
        self._nonce_key = hashed[32:]
        self.public = sodium.crypto_scalarmult_ed25519_base_noclamp(self._scalar)

    def __repr__(self) -> str:
        return f"<VrfKey {self.public.hex()}>"

    def output(self, message: bytes) -> bytes:
        """The output for a message, 64 bytes: quicker than proving it."""
        return output_of(sodium.crypto_scalarmult_ed25519_noclamp(self._scalar, _point_of(self.public, message)))

    def prove(self, message: bytes) -> bytes:
        """The proof of the output for a message, 80 bytes. The same each time."""
        point = _point_of(self.public, message)
        gamma = sodium.crypto_scalarmult_ed25519_noclamp(self._scalar, point)
        nonce = sodium.crypto_core_ed25519_scalar_reduce(sha512(self._nonce_key + point).digest())
        challenge = _challenge(
            self.public,
            point,
            gamma,
            sodium.crypto_scalarmult_ed25519_base_noclamp(nonce),
            sodium.crypto_scalarmult_ed25519_noclamp(nonce, point),
        )
        product = sodium.crypto_core_ed25519_scalar_mul(_wide(challenge), self._scalar)
        return gamma + challenge + sodium.crypto_core_ed25519_scalar_add(nonce, product)


def output(public: bytes, message: bytes, proof: bytes) -> bytes:
    """The output for a message, 64 bytes, as proved. Raises InvalidVrfProof."""
    if len(proof) != PROOF_BYTES or len(public) != KEY_BYTES:
        raise InvalidVrfProof(f"A proof has {PROOF_BYTES} bytes, and a key {KEY_BYTES}")
    gamma, challenge, scalar = proof[:32], proof[32:48], proof[48:]
    if sodium.crypto_core_ed25519_scalar_reduce(scalar + _ZEROS) != scalar:
        raise InvalidVrfProof("A number in the proof is too large")
    try:
        point = _point_of(public, message)
        found = _challenge(
            public,
            point,
            gamma,
            sodium.crypto_core_ed25519_sub(
                sodium.crypto_scalarmult_ed25519_base_noclamp(scalar),
                sodium.crypto_scalarmult_ed25519_noclamp(_wide(challenge), public),
            ),
            sodium.crypto_core_ed25519_sub(
                sodium.crypto_scalarmult_ed25519_noclamp(scalar, point),
                sodium.crypto_scalarmult_ed25519_noclamp(_wide(challenge), gamma),
            ),
        )
    except CryptoError:  # what is no point of the group
        raise InvalidVrfProof("The proof, or the key, is no point of the curve's group") from None
    if found != challenge:
        raise InvalidVrfProof("The proof is not by this key for this message")
    return output_of(proof)


def output_of(proof: bytes) -> bytes:
    """The output that a proof is of, by whoever made the proof."""
    return sha512(_SUITE + _OUTPUT + _times_eight(proof[:32]) + _BACK).digest()


def _point_of(salt: bytes, message: bytes) -> bytes:
    """A point of the group for a message: the first try that is on the curve at all."""
    for attempt in range(256):
        candidate = sha512(_SUITE + _ENCODE + salt + message + bytes([attempt]) + _BACK).digest()[:32]
        try:
            return _times_eight(candidate)
        except CryptoError:
            continue
    raise AssertionError("256 hashes in a row are off the curve")


def _times_eight(point: bytes) -> bytes:
    for _ in range(3):
        point = sodium.crypto_core_ed25519_add(point, point)
    return point


def _challenge(*points: bytes) -> bytes:
    return sha512(_SUITE + _CHALLENGE + b"".join(points) + _BACK).digest()[:_CHALLENGE_BYTES]


def _wide(challenge: bytes) -> bytes:
    return challenge + bytes(32 - _CHALLENGE_BYTES)

"""Archives that leave the machine: sealed to a public key, so that whoever carries them cannot read them.

A sealed file is a line of text, the key of a secretstream (XChaCha20-Poly1305) sealed to an X25519 public key, the
header of that stream, and its chunks. The last chunk is marked as such: what was cut off does not open.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Final, Protocol

from nacl import bindings as sodium
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

if TYPE_CHECKING:
    from typing import BinaryIO

MAGIC: Final = b"domicile sealed archive 1\n"
CHUNK: Final = 256 * 1024
_OVERHEAD: Final = sodium.crypto_secretstream_xchacha20poly1305_ABYTES
_HEADER: Final = sodium.crypto_secretstream_xchacha20poly1305_HEADERBYTES
_SEALED_KEY: Final = sodium.crypto_secretstream_xchacha20poly1305_KEYBYTES + sodium.crypto_box_SEALBYTES
_MESSAGE: Final = sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_FINAL: Final = sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL


class Damaged(Exception):
    """An archive is not what was written; the text says what is wrong."""


class Out(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> int:
        """Take bytes."""
        ...

    def finish(self) -> None:
        """Write what is still held."""
        ...


class In(Protocol):
    """What an archive is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""
        ...


class Plain:
    """Nothing is sealed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes, /) -> int:
        """See `Out`."""
        return self._file.write(data)

    def finish(self) -> None:
        """See `Out`."""


class Sealing:
    """Seals what is written to it."""

    def __init__(self, file: BinaryIO, key: PublicKey) -> None:
        self._file = file
        self._held = bytearray()
        secret = sodium.crypto_secretstream_xchacha20poly1305_keygen()
        self._state = sodium.crypto_secretstream_xchacha20poly1305_state()
        header = sodium.crypto_secretstream_xchacha20poly1305_init_push(self._state, secret)
        file.write(MAGIC + SealedBox(key).encrypt(secret) + header)

    def write(self, data: bytes, /) -> int:
        """See `Out`."""
        self._held += data
        while len(self._held) > CHUNK:
            self._push(bytes(self._held[:CHUNK]), _MESSAGE)
            del self._held[:CHUNK]
        return len(data)

    def finish(self) -> None:
        """See `Out`."""
        self._push(bytes(self._held), _FINAL)

    def _push(self, chunk: bytes, tag: int) -> None:
        self._file.write(sodium.crypto_secretstream_xchacha20poly1305_push(self._state, chunk, None, tag))


class Opening:
    """Opens what `Sealing` has sealed. Raises Damaged."""

    def __init__(self, file: BinaryIO, key: PrivateKey) -> None:
        self._file = file
        self._held = bytearray()
        self._ended = False
        head = file.read(_SEALED_KEY + _HEADER)
        if len(head) < _SEALED_KEY + _HEADER:
            raise Damaged("it is cut off")
        try:
            secret = SealedBox(key).decrypt(head[:_SEALED_KEY])
        except CryptoError:
            raise Damaged("it was sealed to another key") from None
        self._state = sodium.crypto_secretstream_xchacha20poly1305_state()
        sodium.crypto_secretstream_xchacha20poly1305_init_pull(self._state, head[_SEALED_KEY:], secret)

    def read(self, size: int = -1, /) -> bytes:
        """See `In`."""
        while not self._ended and (size < 0 or len(self._held) < size):
            self._pull()
        taken = len(self._held) if size < 0 else size
        found = bytes(self._held[:taken])
        del self._held[:taken]
        return found

    def _pull(self) -> None:
        sealed = self._file.read(CHUNK + _OVERHEAD)
        if not sealed:
            raise Damaged("it is cut off")
        try:
            chunk, tag = sodium.crypto_secretstream_xchacha20poly1305_pull(self._state, sealed)
        except (CryptoError, ValueError, RuntimeError):
            raise Damaged("it has been changed, or cut off") from None
        self._held += chunk
        self._ended = tag == _FINAL
        if self._ended and self._file.read(1):
            raise Damaged("something follows its end")


def make_key() -> tuple[str, str]:
    """A new pair of keys: the private one, and the public one, in base64."""
    key = PrivateKey.generate()
    return b64encode(bytes(key)).decode(), b64encode(bytes(key.public_key)).decode()


def public_key(text: str) -> PublicKey:
    """Read a public key. Raises ValueError."""
    return PublicKey(_key_bytes(text))


def private_key(text: str) -> PrivateKey:
    """Read a private key. Raises ValueError."""
    return PrivateKey(_key_bytes(text))


def _key_bytes(text: str) -> bytes:
    try:
        found = b64decode(text.strip(), validate=True)
    except ValueError:
        raise ValueError("that is no key in base64") from None
    if len(found) != 32:
        raise ValueError("a key has 32 bytes, in base64")
    return found

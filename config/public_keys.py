"""Public keys of people, as they stand in a configuration file: one, or several by their owners' names."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import CryptoError
from nacl.public import PublicKey, SealedBox

from config.kinds import Kind, Spot, Text, Unfit, quoted

_PRIME = 2**255 - 19


def _is_key(text: str) -> bool:
    """Whether this is 32 bytes in the one spelling that unpadded Base64 has for them."""
    try:
        raw = base64.b64decode(text + "=", validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(raw) == 32 and base64.b64encode(raw).decode() == text + "="


def _can_be_sealed_to(text: str) -> bool:
    """Whether libsodium seals to the key: there are a few that everybody could open. And whether this is the one form
    of it: with the highest bit, which nobody looks at, it would count as another, and one person hold two shares."""
    raw = base64.b64decode(text + "=")
    try:
        SealedBox(PublicKey(raw)).encrypt(b"")
    except (ValueError, CryptoError):
        return False
    return int.from_bytes(raw, "little") < _PRIME


def _can_be_signed_by(text: str) -> bool:
    """Whether there is a private half to the key: of some points every signature would do, for others there is none."""
    return bool(crypto_core_ed25519_is_valid_point(base64.b64decode(text + "=")))


def _can_be_read(text: str) -> bool:
    """Whether a name has nothing but what can be seen, and the joiners of Persian and Indian scripts."""
    return all(each.isprintable() or each in "\u200c\u200d" for each in text)


def _key(algorithm: str, accepts: Callable[[str], bool]) -> Text:
    return Text(f"an {algorithm} public key in unpadded Base64", r"[A-Za-z0-9+/]{43}", accepts=accepts)


ED25519 = _key("ed25519", lambda text: _is_key(text) and _can_be_signed_by(text))
X25519 = _key("x25519", lambda text: _is_key(text) and _can_be_sealed_to(text))
NAME = Text("a name without white space", r"\S{1,64}", accepts=_can_be_read)


@dataclass(frozen=True)
class KeysByName(Kind):
    """Public keys of one kind by the names of their owners: ``{ parisa = "…" }``; no name and no key twice."""

    of: Text
    stand_in = {}  # noqa: RUF012 -- never written to

    @property
    def wanted(self) -> str:
        return f"a table of names, each with {self.of.wanted}"

    def read(self, raw: Any, spot: Spot) -> dict[str, str]:
        if not isinstance(raw, dict):
            raise self.unfit(raw)
        owners: dict[str, str] = {}
        for name, text in raw.items():
            here = spot.child(name)
            try:
                NAME.read(name, here)
                key = self.of.read(text, here)
            except Unfit as fault:
                here.fault(str(fault))
                continue
            if key in owners:
                here.fault(f"is the key of {owners[key]} too: each has their own")
            owners.setdefault(key, name)
        return {name: key for key, name in owners.items()}

    def write(self, value: Mapping[str, str]) -> str:
        entries = [f"{_toml_key(name)} = {quoted(key)}" for name, key in value.items()]
        return f"{{ {', '.join(entries)} }}" if entries else "{}"


def _toml_key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else quoted(name)

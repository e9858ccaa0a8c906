"""Looking for addresses and names of programs in bytes, in whatever form somebody may have written them."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path


def in_base64(text: bytes) -> Iterator[bytes]:
    """What of a text shows in Base64, wherever in what is encoded it begins."""
    for before in range(3):
        encoded = b64encode(bytes(before) + text)
        yield encoded[(before * 4 + 2) // 3 :][: (len(text) * 4) // 3 - 3]


def forms(text: str) -> dict[str, bytes]:
    """Forms of a word; unkeyed digests are among them, for an address is soon found by trying all."""
    raw = text.encode()
    found = {"text": raw, "hex": raw.hex().encode(), "utf-16": text.encode("utf-16-le"), "reversed": raw[::-1]}
    found |= {f"base64 {n}": each for n, each in enumerate(in_base64(raw))}
    for name in ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s"):
        digest = hashlib.new(name, raw).digest()
        found |= {name: digest[:8], f"{name} in hex": digest[:8].hex().encode()}
    return found


def forms_of_address(address: str) -> dict[str, bytes]:
    """Forms of a word that is an address. IPv4 packed is four bytes, which are anywhere by chance: see `found_in`."""
    parsed = ipaddress.ip_address(address)
    found = forms(address) | {f"{name} of all": each for name, each in forms(parsed.exploded).items()}
    if isinstance(parsed, ipaddress.IPv6Address):
        network = parsed.packed[:8]
        found |= {"packed": parsed.packed, "network": network, "network in hex": network.hex().encode()}
        found |= {f"packed in base64 {n}": each for n, each in enumerate(in_base64(parsed.packed))}
    else:
        mapped = ipaddress.IPv6Address(f"::ffff:{address}")
        found |= {"mapped": mapped.packed, "number": b"%d" % int(parsed)}
    return found


def found_in(content: bytes, addresses: Iterable[str], words: Iterable[str]) -> list[str]:
    """What of these is in some bytes, and in which form."""
    addresses = list(addresses)
    small = content.lower()
    found = []
    for text, known in [(each, forms_of_address(each)) for each in addresses] + [(each, forms(each)) for each in words]:
        found += [f"{text} as {name}" for name, raw in known.items() if raw in content]
        found += [f"{text} in any letters"] if text.lower().encode() in small else []
    packed = [ipaddress.ip_address(each).packed for each in addresses if "." in each]
    short = {"packed": packed, "packed from behind": [raw[::-1] for raw in packed]}
    short["packed, in hex"] = [raw.hex().encode() for raw in packed]
    for name, raws in short.items():  # one is there by chance, several are not
        if len(raws) > 2 and sum(raw in small or raw in content for raw in raws) > 2:
            found.append(f"IPv4 addresses, {name}")
    return found


def found_below(folder: Path, addresses: Iterable[str], words: Iterable[str]) -> list[str]:
    """What of these is in any file."""
    addresses, words = list(addresses), list(words)
    found = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a server may be at work there
            if path.is_file() and not path.is_symlink():
                found += [
                    f"{path.relative_to(folder)}: {each}" for each in found_in(path.read_bytes(), addresses, words)
                ]
    return found

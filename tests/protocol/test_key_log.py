"""Leaves of a key log: what they say, in the one way that it is written, and what their digest is of."""

from __future__ import annotations

from hashlib import sha256

import orjson
import pytest

from homeserver.protocol.key_log import NO_KEYS, Leaf, Manifest, NoLeaf, Reason, digest, tag_of
from homeserver.protocol.signing import encode_base64

LEAF = Leaf(b"t" * 32, b"d" * 32, 7, Reason.DEVICE_KEYS, 1_790_000_000)


def test_a_leaf_is_written() -> None:
    assert LEAF.write() == (
        b'{"digest":"ZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGRkZGQ","previous":7,"reason":"device_keys",'
        b'"time":1790000000,"user":"dHR0dHR0dHR0dHR0dHR0dHR0dHR0dHR0dHR0dHR0dHQ"}'
    )
    first = Leaf(b"t" * 32, b"d" * 32, None, Reason.FOUND, 0)
    assert [Leaf.read(each.write()) for each in (LEAF, first)] == [LEAF, first]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        LEAF.write()[:-1],
        LEAF.write() + b" ",
        LEAF.write().replace(b":7", b": 7"),
        LEAF.write().replace(b":7", b":7.0"),
        LEAF.write().replace(b":7", b":-7"),
        LEAF.write().replace(b":7", b":true"),
        LEAF.write().replace(b":7", b':"7"'),
        LEAF.write().replace(b"1790000000", b"null"),
        LEAF.write().replace(b"device_keys", b"because"),
        LEAF.write().replace(b"ZGRk", b"", 1),
        LEAF.write().replace(b"}", b',"z":1}'),
    ],
)
def test_what_is_no_leaf(raw: bytes) -> None:
    with pytest.raises(NoLeaf):
        Leaf.read(raw)


def manifest(devices: dict[str, bytes], signing: dict[str, bytes]) -> bytes:
    """What a leaf would have a digest of."""
    return Manifest.of(devices, signing).write()


def test_a_manifest_is_of_the_keys_and_not_of_who_signed_them() -> None:
    device = {"user_id": "@a:x", "device_id": "D", "algorithms": [], "keys": {"ed25519:D": "k"}}
    signed = {**device, "signatures": {"@a:x": {"ed25519:D": "s"}}, "unsigned": {"device_display_name": "phone"}}
    plain = manifest({"D": orjson.dumps(device)}, {"master": b'{"keys":{"b":1,"a":2}}'})
    assert Manifest.read(plain).write() == plain
    assert manifest({"D": orjson.dumps(signed)}, {"master": b'{"keys":{"a":2,"b":1},"signatures":{}}'}) == plain
    other = {**device, "keys": {"ed25519:D": "other"}}
    assert manifest({"D": orjson.dumps(other)}, {"master": b'{"keys":{"b":1,"a":2}}'}) != plain
    hashed = encode_base64(sha256(b'{"keys":{"a":2,"b":1}}').digest())
    assert orjson.loads(plain)["signing"] == {"master": hashed}
    assert digest(plain) == sha256(plain).digest()
    assert NO_KEYS == b'{"devices":{},"signing":{}}'


def test_the_order_of_devices_does_not_matter() -> None:
    keys = {"A": b'{"k":1}', "B": b'{"k":2}'}
    assert manifest(keys, {}) == manifest(dict(reversed(keys.items())), {})
    assert tag_of(b"x" * 64) == sha256(b"x" * 64).digest()

"""What looks for addresses finds them in every form, where they were planted."""

from __future__ import annotations

import hashlib
import ipaddress
import random
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path

import pytest

from tests.sealing.traces import found_below, found_in

FOUR = ["203.0.113.77", "198.51.100.201", "192.0.2.113", "203.0.113.191"]
SIX = "2001:db8:5ca1:ab1e:7f3a:91c2:4d5e:6f70"
AGENT = "Pomegranate/7.3 (a telephone)"

PLANTS = {
    "text": b'{"ip": "203.0.113.77"}',
    "in text of utf-16": '"203.0.113.77"'.encode("utf-16-le"),
    "program": AGENT.encode(),
    "program in small letters": AGENT.lower().encode(),
    "base64": b64encode(b'{"ip": "203.0.113.77"}'),
    "base64 one further": b64encode(b'{"ip":"203.0.113.77"}'),
    "base64 two further": b64encode(b'{"ip":: "203.0.113.77"}'),
    "program in base64": urlsafe_b64encode(b"a" + AGENT.encode()),
    "packed": b"".join(b"x" + ipaddress.ip_address(each).packed for each in FOUR),
    "packed from behind": b"".join(b"x" + ipaddress.ip_address(each).packed[::-1] for each in FOUR),
    "hex": b"".join(b"address=" + ipaddress.ip_address(each).packed.hex().upper().encode() for each in FOUR),
    "number": b"%d" % int(ipaddress.ip_address("203.0.113.77")),
    "IPv6": SIX.encode(),
    "IPv6 packed": b"x" + ipaddress.ip_address(SIX).packed,
    "IPv6 packed, in base64": b64encode(b"x" + ipaddress.ip_address(SIX).packed),
    "network": ipaddress.ip_address(SIX).packed[:8] + b"yyy",
    "digest": hashlib.sha256(b"203.0.113.77").hexdigest().encode(),
    "half a digest": hashlib.blake2b(b"203.0.113.77").digest()[:8],
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_plant_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "node.db-wal").write_bytes(b"SQLite" + PLANTS[name] + bytes(100))
    found = found_below(tmp_path, [*FOUR, SIX], [AGENT])
    assert found
    assert all(each.startswith("folder/node.db-wal: ") for each in found)


def test_chance_is_no_plant() -> None:
    assert found_in(random.Random(5).randbytes(2**20), [*FOUR, SIX], [AGENT]) == []

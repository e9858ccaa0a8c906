"""What is told of somebody's keys, and what a monitor reads: each single thing that does not fit is a reason to believe
none of it, whoever has signed it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace

import pytest

from homeserver.monitor import following
from homeserver.monitor.following import Contradiction, Followed
from homeserver.protocol import key_proofs, merkle, tiles
from homeserver.protocol.key_log import Manifest
from homeserver.protocol.key_proofs import NotProved, Told
from homeserver.protocol.merkle import Frontier, Subtree, leaf_hash
from homeserver.protocol.tiles import ENTRIES, Tile
from homeserver.protocol.vrf import VrfKey
from tests.transparency.handmade import ALICE, BOB, LEAVES, NAMES, ORIGIN, Made, lines, manifest, opening, tag

BASE = "/_domicile/v1/key-log/tehran"


def told(index: int = 3, whose: str = ALICE, keys: bytes = manifest("PHONE", "LAPTOP")) -> Told:
    """What is said of a leaf of the log that was made by hand, whose it may be or not."""
    hashes: dict[Subtree, bytes] = {}
    tree = Frontier()
    for raw in LEAVES:
        tree, whole = tree.append(leaf_hash(raw))
        hashes |= dict(whole)
    proof = merkle.assembled(merkle.inclusion_parts(index, len(LEAVES)), hashes)
    made = Made()
    said = {
        "leaf": LEAVES[index].decode(),
        "keys": keys.decode(),
        "opening": opening(whose),
        "checkpoint": made.signed(),
        "key": made.known_key,
    }
    return Told(ORIGIN, said, index, tuple(b64encode(each).decode().rstrip("=") for each in proof), ())


SHOWN = Manifest.read(manifest("PHONE", "LAPTOP"))


def test_what_is_so_is_believed() -> None:
    assert key_proofs.check(told(), ALICE, SHOWN).head.size == len(LEAVES)
    assert key_proofs.check(told(1, BOB, manifest("PHONE")), BOB, Manifest.read(manifest("PHONE")))


@pytest.mark.parametrize(
    ("said", "shown", "why"),
    [
        (told(1, ALICE, manifest("PHONE")), Manifest.read(manifest("PHONE")), "the leaf is about somebody else"),
        (told(whose=BOB), SHOWN, "the proof does not hold"),
        (told(keys=manifest("PHONE")), Manifest.read(manifest("PHONE")), "the digests are not those of the leaf"),
        (told(), Manifest.read(manifest("PHONE")), "the keys are not those of the log"),
        (told(2), SHOWN, "no leaf of a key log"),
        (replace(told(), index=1), SHOWN, "the proof does not hold"),
        (replace(told(), inclusion=()), SHOWN, "the proof does not hold"),
        (replace(told(), origin=ORIGIN + ".2"), SHOWN, "the checkpoint is of"),
    ],
)
def test_what_is_not_is_not(said: Told, shown: Manifest, why: str) -> None:
    with pytest.raises(NotProved, match=why):
        key_proofs.check(said, ALICE, shown)


def fetching(made: Made) -> Callable[[str, int], bytes]:
    """Gives what the log serves."""
    whole = tiles.path(Tile(ENTRIES, 0, len(made.leaves)))
    pages = {f"{BASE}/checkpoint": made.signed().encode(), f"{BASE}/{whole}": tiles.bundled(made.leaves)}
    return lambda path, _: pages[path]


def read_on(made: Made, before: Followed | None = None) -> Followed:
    """Read a log from where it was read before."""
    before = before or Followed(Made().known_key, b64encode(NAMES.public).decode())
    return following.advance(before, BASE, fetching(made), tag(ALICE))


def test_a_log_that_goes_on_is_read_on() -> None:
    first = read_on(Made(leaves=LEAVES[:3]))
    seen = read_on(Made(), first)
    assert [each.place for each in seen.mine] == [0, 3]


def test_a_log_that_names_people_by_another_key_is_not() -> None:
    """Changes under the new name would not be seen under the old one."""
    first = read_on(Made(leaves=LEAVES[:3]))
    other = b64encode(VrfKey(b"\x01" * 32).public).decode()
    with pytest.raises(Contradiction, match="the key by which users are named has changed"):
        read_on(Made(lines=[f"vrf {other}", *lines()[1:]]), first)
    with pytest.raises(Contradiction, match="the key by which users are named has changed"):
        read_on(Made(lines=lines()[1:]), first)

"""A key log that is made by hand, of which anything can be changed, and what the script says of it."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from homeserver.protocol import checkpoints, key_log, signed_notes, tiles
from homeserver.protocol.checkpoints import Checkpoint, Head
from homeserver.protocol.key_log import Kind, Leaf, Manifest, Reason, Statement
from homeserver.protocol.merkle import Frontier, leaf_hash
from homeserver.protocol.signed_notes import COSIGNATURE
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.tiles import ENTRIES, WIDTH, Tile
from homeserver.protocol.vrf import VrfKey
from tests.transparency.verifying import run

ORIGIN = "example.org/_domicile/v1/key-log/tehran"
ALICE, BOB = "@alice:example.org", "@bob:example.org"
NAMES = VrfKey(bytes(32))
KEY, OTHER_KEY, SWISS, GERMAN = (SigningKey.generate(name) for name in ("log", "other", "ch", "de"))
WITNESSES = [("CH", "w.ch", SWISS), ("DE", "w.de", GERMAN)]
DEVICES = {name: {"device_id": name, "keys": {"ed25519": name * 3}} for name in ("PHONE", "LAPTOP")}
MASTER = {"usage": ["master"], "keys": {"ed25519:m": "m"}}


def tag(user_id: str) -> bytes:
    return key_log.tag_of(NAMES.output(user_id.encode()))


def opening(user_id: str) -> str:
    return b64encode(NAMES.prove(user_id.encode())).decode()


def manifest(*devices: str) -> bytes:
    keys = {name: orjson.dumps(DEVICES[name]) for name in devices}
    return Manifest.of(keys, {"master": orjson.dumps(MASTER)}).write()


def leaf(user_id: str, *devices: str, previous: int | None = None, time: int) -> bytes:
    return Leaf(tag(user_id), key_log.digest(manifest(*devices)), previous, Reason.DEVICE_KEYS, time).write()


LEAVES = [
    leaf(ALICE, "PHONE", time=1000),
    leaf(BOB, "PHONE", time=1001),
    Statement(Kind.REGISTER, 1, "ab" * 32, 1001).write(),
    leaf(ALICE, "PHONE", "LAPTOP", previous=0, time=1002),
]


def lines(stated: int = 1, digest: str = "ab" * 32) -> list[str]:
    """What a checkpoint says behind the root."""
    register = bytes.fromhex(digest) if stated else sha256().digest()
    return [f"vrf {b64encode(NAMES.public).decode()}", f"register {stated} {b64encode(register).decode()}"]


@dataclass
class Made:
    """A log as it is served, signed and witnessed; by what it is asked; and what is shown of Alice. ``note`` and
    ``tile`` change what is served, and ``answer`` what is shown."""

    leaves: list[bytes] = field(default_factory=lambda: list(LEAVES))
    origin: str = ORIGIN
    lines: list[str] = field(default_factory=lines)
    key: SigningKey = KEY
    known_key: str = signed_notes.public_key(ORIGIN, KEY).write()
    note: Callable[[str], str] = str
    tile: Callable[[bytes], bytes] = bytes
    opening: str = opening(ALICE)
    answer: Callable[[dict[str, Any]], object] = bool
    since: bytes = b""

    def signed(self) -> str:
        tree = Frontier()
        for raw in self.leaves:
            tree, _ = tree.append(leaf_hash(raw))
        text = Checkpoint(self.origin, Head(tree.size, tree.root()), tuple(self.lines))
        note = checkpoints.signed(text, self.key)
        witnessed = note.with_signatures([checkpoints.cosigned(note, name, key, 2000) for _, name, key in WITNESSES])
        return self.note(witnessed.write().decode())

    def shown(self) -> dict[str, Any]:
        told = {"index": 3, "keys": manifest("PHONE", "LAPTOP").decode()}
        answer: dict[str, Any] = {
            "org.domicile.key_log": {ORIGIN: {"users": {ALICE: told}}},
            "device_keys": {ALICE: {name: {**keys, "unsigned": {"name": name}} for name, keys in DEVICES.items()}},
            "master_keys": {ALICE: {**MASTER, "signatures": {ALICE: {"ed25519:PHONE": "x"}}}},
            "self_signing_keys": {},
        }
        self.answer(answer)
        return answer

    def verified(self, folder: Path) -> tuple[int, str]:
        folder.mkdir(exist_ok=True)
        (folder / "checkpoint").write_bytes(self.signed().encode())
        for place in range(-(-len(self.leaves) // WIDTH)):
            part = self.leaves[place * WIDTH : (place + 1) * WIDTH]
            path = folder / tiles.path(Tile(ENTRIES, place, len(part)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.tile(tiles.bundled(part)))
        (folder / "keys.json").write_bytes(orjson.dumps(self.shown()))
        (folder / "older").write_bytes(self.since or self.signed().encode())
        named = [f"{group}={signed_notes.public_key(name, key, COSIGNATURE).write()}" for group, name, key in WITNESSES]
        asked = [str(folder), "--key", self.known_key, "--quorum", "2", "--user", ALICE, "--opening", self.opening]
        asked += ["--keys", str(folder / "keys.json"), "--since", str(folder / "older")]
        return run(*asked, *[word for each in named for word in ("--witness", each)])


def flipped(raw: bytes, place: int) -> bytes:
    """With another bit."""
    return raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :]


def without(signer: str) -> Callable[[str], str]:
    """A note without a signature."""
    return lambda note: "".join(line for line in note.splitlines(True) if not line.startswith(f"— {signer} "))


def signature(signer: str, change: Callable[[bytes], bytes]) -> Callable[[str], str]:
    """A note with other bytes as a signature."""

    def changed(note: str) -> str:
        (line,) = [each for each in note.splitlines() if each.startswith(f"— {signer} ")]
        made = b64encode(change(b64decode(line.rpartition(" ")[2]))).decode()
        return note.replace(line, f"— {signer} {made}")

    return changed


def of_another_checkpoint(signer: str) -> Callable[[str], str]:
    """A note under what somebody has signed of an older one."""
    (line,) = [each for each in Made(leaves=LEAVES[:3]).signed().splitlines() if each.startswith(f"— {signer} ")]
    return lambda note: without(signer)(note) + line + "\n"


def told(**others: object) -> Callable[[dict[str, Any]], object]:
    """An answer that tells something else of Alice's leaf."""
    return lambda answer: answer["org.domicile.key_log"][ORIGIN]["users"][ALICE].update(others)


def shown(sort: str, **others: object) -> Callable[[dict[str, Any]], object]:
    """An answer that shows other keys of Alice."""
    return lambda answer: answer[sort].setdefault(ALICE, {}).update(others)


def but_last(**others: Any) -> list[bytes]:
    """The leaves, the last of which says something else."""
    return [*LEAVES[:3], replace(Leaf.read(LEAVES[3]), **others).write()]


def respelled(before: str, after: str) -> Callable[[str], str]:
    """A note that its log has signed with something written in another way."""

    def changed(note: str) -> str:
        text = note.rpartition("\n\n")[0].replace(before, after) + "\n"
        return f"{text}\n{signed_notes.sign(text, ORIGIN, KEY).write()}"

    return changed


def opening_respelled(user_id: str) -> str:
    """The same proof of a name with another number of the same class: there is to be one proof only."""
    order = 2**252 + 27742317777372353535851937790883648493
    proof = NAMES.prove(user_id.encode())
    return b64encode(proof[:48] + (int.from_bytes(proof[48:], "little") + order).to_bytes(32, "little")).decode()

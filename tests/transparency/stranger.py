"""A stranger: holds what anybody may have of a log, and believes nothing but that."""

from __future__ import annotations

from base64 import b64decode, b64encode
from hashlib import sha256
from typing import Any

import orjson

from homeserver.protocol import canonical, checkpoints, key_log, merkle, signed_notes, tiles, vrf
from homeserver.protocol.checkpoints import Checkpoint, Head
from homeserver.protocol.key_log import Kind, Leaf, Statement
from homeserver.protocol.merkle import HASH_BYTES, Frontier, leaf_hash
from homeserver.protocol.signed_notes import NamedKey
from homeserver.protocol.signing import encode_base64
from homeserver.protocol.tiles import ENTRIES, Tile
from tests.deployment import Deployment

LOGS = "/_domicile/v1/key-log"
FIELD = "org.domicile.key_log"


class Unproved(Exception):
    """What was told does not prove that the keys are those of the log."""


class Stranger:
    """Reads the log of a node."""

    def __init__(self, deployment: Deployment, node: str = "tehran", label: str = "") -> None:
        self.deployment = deployment
        self.node = node
        self.label = label or node

    async def about(self) -> dict[str, Any]:
        """What the deployment says of the log."""
        answer = await self.deployment.asked("GET", LOGS)
        return dict(next(each for each in answer.json["logs"] if each["node"] == self.node))

    async def raw(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """What is served under the address of the log: status, bytes, headers."""
        answer = await self.deployment.site.call("GET", f"{LOGS}/{self.label}/{path}", address="192.0.2.1")
        assert isinstance(answer.body, bytes)
        return answer.status, answer.body, dict(answer.headers)

    async def got(self, path: str) -> bytes:
        """What is served there."""
        status, body, _ = await self.raw(path)
        assert status == 200, body
        return body

    async def checkpoint(self) -> Checkpoint:
        """The newest one, signed by the log."""
        return await self.believed(await self.got("checkpoint"))

    async def believed(self, note: bytes) -> Checkpoint:
        """What a checkpoint says, if the log has signed it."""
        about = await self.about()
        found = checkpoints.opened(signed_notes.read(note), NamedKey.read(about["key"]))
        assert found.extension("vrf") == about["vrf"]
        return found

    async def entries(self, size: int) -> list[bytes]:
        """All leaves of the log of that size."""
        found: list[bytes] = []
        for place in range(-(-size // 256)):
            raw = await self.got(tiles.path(Tile(ENTRIES, place, min(256, size - 256 * place))))
            while raw:
                length = int.from_bytes(raw[:2], "big")
                found.append(raw[2 : 2 + length])
                raw = raw[2 + length :]
        assert len(found) == size
        return found

    async def leaves(self) -> list[Leaf]:
        """All leaves about keys; see `read`."""
        return [leaf for leaf in await self.read() if isinstance(leaf, Leaf)]

    async def statements(self, kind: Kind) -> list[Statement]:
        """All of a kind; see `read`."""
        return [leaf for leaf in await self.read() if isinstance(leaf, Statement) and leaf.kind is kind]

    async def read(self) -> list[Leaf | Statement]:
        """All leaves, which have the root that was signed, as the tiles of hashes have, too; none is earlier than the
        one before it, and the checkpoint says how many disclosures they state."""
        made = await self.checkpoint()
        head = made.head
        entries = await self.entries(head.size)
        tree = Frontier()
        for entry in entries:
            tree, _ = tree.append(leaf_hash(entry))
        assert (tree.size, tree.root()) == head
        await self._compare(entries, head)
        leaves = [key_log.read(entry) for entry in entries]
        assert [leaf.time for leaf in leaves] == sorted(leaf.time for leaf in leaves)
        entered = [leaf for leaf in leaves if isinstance(leaf, Statement) and leaf.kind is Kind.REGISTER]
        assert [entry.number for entry in entered] == list(range(1, len(entered) + 1))
        hashed = bytes.fromhex(entered[-1].digest) if entered else sha256().digest()
        assert made.extension("register") == f"{len(entered)} {b64encode(hashed).decode()}"
        return leaves

    async def _compare(self, entries: list[bytes], head: Head) -> None:
        hashes = b"".join(leaf_hash(entry) for entry in entries)
        level = 0
        while hashes:
            row = b""
            for place in range(-(-len(hashes) // (256 * HASH_BYTES))):
                part = hashes[place * 256 * HASH_BYTES : (place + 1) * 256 * HASH_BYTES]
                width = len(part) // HASH_BYTES
                assert await self.got(tiles.path(Tile(level, place, width))) == part
                if width == 256:
                    row += tiles.root_within(part, tiles.Within(level, place, 0, 256))
            hashes, level = row, level + 1
        assert head.size < 256**level or not head.size

    async def check(self, answer: dict[str, Any], user_id: str) -> tuple[Leaf, Head]:
        """That an answer with somebody's keys proves them; returns their leaf and the head of the log it is in.

        Raises Unproved.
        """
        about = await self.about()
        told = answer.get(FIELD, {}).get(about["origin"])
        if told is None or user_id not in told["users"]:
            raise Unproved("nothing is told")
        mine = told["users"][user_id]
        signed = await self.believed(mine.get("checkpoint", told.get("checkpoint")).encode())
        if "inclusion" not in mine:
            raise Unproved("it is not in the tree")
        raw = mine["leaf"].encode()
        proof = [b64decode(each) for each in mine["inclusion"]]
        merkle.check_inclusion(mine["index"], signed.head.size, leaf_hash(raw), proof, signed.head.root)
        leaf = Leaf.read(raw)
        output = vrf.output(b64decode(about["vrf"]), user_id.encode(), b64decode(mine["opening"]))
        if key_log.tag_of(output) != leaf.tag:
            raise Unproved("the leaf is about somebody else")
        if sha256(mine["keys"].encode()).digest() != leaf.digest:
            raise Unproved("the digests are not those of the leaf")
        self._check_keys(answer, user_id, orjson.loads(mine["keys"]), set(mine.get("withheld", ())))
        return leaf, signed.head

    def _check_keys(self, answer: dict[str, Any], user_id: str, digests: dict[str, Any], withheld: set[str]) -> None:
        """All that is shown is in the log; and all that is in the log is shown, or said to be withheld."""
        devices = {name: _digest(keys) for name, keys in answer["device_keys"].get(user_id, {}).items()}
        missing = digests["devices"].keys() - devices.keys()
        if not devices.items() <= digests["devices"].items() or not missing <= withheld:
            raise Unproved("the devices are not those of the log")
        for usage in ("master", "self_signing"):
            key = answer[f"{usage}_keys"].get(user_id)
            if (None if key is None else _digest(key)) != digests["signing"].get(usage):
                raise Unproved("the cross-signing keys are not those of the log")


def _digest(key: dict[str, Any]) -> str:
    plain = {name: value for name, value in key.items() if name not in ("signatures", "unsigned")}
    return encode_base64(sha256(canonical.encode(plain)).digest())

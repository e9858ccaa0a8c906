"""What a deployment serves of its key logs, at a moment: to be read, or to be forged by who has its keys."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from homeserver.context import Server
from homeserver.protocol import checkpoints, signed_notes, tiles
from homeserver.protocol.checkpoints import Head
from homeserver.protocol.merkle import Frontier, leaf_hash
from homeserver.protocol.signing import SigningKey
from homeserver.protocol.tiles import ENTRIES, WIDTH, Tile
from homeserver.transparency import heads
from tests.deployment import Deployment
from tests.transparency.stranger import LOGS, Stranger


class Pages:
    """Pages by path."""

    def __init__(self, server: Server, about: dict[str, Any]) -> None:
        self.server = server
        self.about = about
        self.logs: dict[str, list[bytes]] = {}
        self.pages: dict[str, bytes] = {}

    def fetch(self, path: str, most: int) -> bytes:
        """As a monitor asks."""
        found = self.pages[path]
        assert len(found) <= most
        return found

    def said(self, node: str = "tehran") -> dict[str, Any]:
        """What is said of a log."""
        return dict(next(each for each in self.about["logs"] if each["node"] == node))

    def checkpoint(self, node: str = "tehran") -> bytes:
        """The checkpoint of a log."""
        return self.pages[urlsplit(self.said(node)["url"]).path + "/checkpoint"]

    def put(self, node: str, note: bytes, entries: Sequence[bytes]) -> None:
        """Serve a log."""
        base = urlsplit(self.said(node)["url"]).path
        self.logs[node] = list(entries)
        self.pages[LOGS] = orjson.dumps(self.about)
        self.pages[f"{base}/checkpoint"] = note
        for place in range(-(-len(entries) // WIDTH)):
            part = entries[place * WIDTH : (place + 1) * WIDTH]
            self.pages[f"{base}/{tiles.path(Tile(ENTRIES, place, len(part)))}"] = tiles.bundled(part)

    def forge(self, entries: Sequence[bytes], node: str = "tehran", *, head: Head | None = None) -> None:
        """Serve other leaves, signed as the log signs."""
        tree = Frontier()
        for entry in entries:
            tree, _ = tree.append(leaf_hash(entry))
        made = heads.signed(self.server, self.said(node)["origin"], self.server.nodes[node], _head(tree, head))
        self.put(node, made.write(), entries)

    def cosign(self, name: str, key: SigningKey, node: str = "tehran") -> str:
        """Have a witness sign the checkpoint of a log; returns its key."""
        note = signed_notes.read(self.checkpoint(node))
        signed = note.with_signatures([checkpoints.cosigned(note, name, key, 1_800_000_000)])
        self.put(node, signed.write(), self.logs[node])
        return signed_notes.public_key(name, key, signed_notes.COSIGNATURE).write()

    def save(self, folder: Path, node: str = "tehran") -> Path:
        """Write the files of a log, as whoever downloads them has them."""
        base = urlsplit(self.said(node)["url"]).path
        for path, page in self.pages.items():
            if path.startswith(f"{base}/"):
                target = folder / path.removeprefix(f"{base}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(page)
        return folder


def _head(tree: Frontier, head: Head | None) -> Head:
    return Head(tree.size, tree.root()) if head is None else head


async def served(deployment: Deployment) -> Pages:
    """What the deployment serves now."""
    found = Pages(deployment.server, (await deployment.asked("GET", LOGS)).json)
    for log in found.about["logs"]:
        label = log["origin"].rpartition("/")[2]
        stranger = Stranger(deployment, log["node"], label)
        note = await stranger.got("checkpoint")
        size = checkpoints.read(signed_notes.read(note).text).head.size
        found.put(log["node"], note, await stranger.entries(size))
    return found


def base64(raw: bytes) -> str:
    """As openings are written."""
    return b64encode(raw).decode()

"""The key logs as anybody may read them (C2SP tlog-tiles): nothing of a log that its checkpoint does not reach."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from homeserver.protocol import tiles
from homeserver.protocol.errors import LogSetBack, NodeUnavailable, NotFound
from homeserver.protocol.merkle import HASH_BYTES
from homeserver.storage import key_log, log_heads
from homeserver.storage.key_log import TileName
from homeserver.transparency import alarms, heads, names, signatures, stating, witnessing
from homeserver.transparency.heads import KeyLog
from homeserver.transparency.proving import Remembered

if TYPE_CHECKING:
    from homeserver.context import Server
    from homeserver.protocol.tiles import Tile
    from homeserver.storage.nodes import Node
    from homeserver.transparency.heads import Shown


async def overview(server: Server) -> dict[str, Any]:
    """All logs of the deployment, and what they are believed by; and those that do not go on, and how far they were."""
    ended = await server.nodes.directory.engine.read(log_heads.ended)
    logs = []
    for node in server.nodes:
        key = await heads.public_key(server, node)
        about: dict[str, Any] = {
            "origin": key.name,
            "node": node.name,
            "jurisdiction": node.jurisdiction,
            "url": address_of(server, node),
            "key": key.write(),
            "vrf": b64encode(names.key_of(server).public).decode(),
        }
        try:
            about["witnessing"] = await signatures.of_log(server, node)
        except NodeUnavailable:
            about["witnessing"] = None
        logs.append(about)
    return {
        "logs": logs,
        "witness": {"key": witnessing.public_key(server).write(), "url": witnessing.url_of(server)},
        "alarms": await alarms.shown(server),
        "alarm_faults": await stating.faults(server),
        "ended": [
            {
                "origin": heads.origin_of(server, each.node, each.generation),
                "size": each.head.size,
                "root": b64encode(each.head.root).decode(),
                "time": each.ended_ts // 1000,
                "reason": each.reason,
            }
            for each in ended
        ],
    }


def address_of(server: Server, node: Node) -> str:
    """Where the log of a node is read, if somebody has asked for its key before."""
    base = f"{(server.settings.public_base_url or '').rstrip('/')}/_domicile/v1/key-log"
    return f"{base}/{heads.label(node.name, node.memory(KeyLog).generation or 1)}"


async def status(server: Server, node: Node) -> dict[str, Any]:
    """How far the log of a node is, for an operator: what was shown of it, and what is wrong."""
    size, fault, signed = None, None, None
    try:
        shown = await heads.current(server, node)
        size, memory = None if shown is None else shown.head.size, node.memory(KeyLog)
        fault = memory.fault or memory.damage
        signed = await signatures.of_log(server, node)
    except NodeUnavailable:
        fault = "the node is down"
    return {
        "origin": (await heads.public_key(server, node)).name,
        "node": node.name,
        "size": size,
        "fault": fault,
        "witnessing": signed,
    }


async def log_of(server: Server, label: str) -> Node:
    """The node whose log is asked for. Raises NotFound, also for one that does not go on."""
    name = label.partition(".")[0]
    found = next((node for node in server.nodes if node.name == name), None)
    if found is None or heads.label(name, await heads.generation(server, found)) != label:
        raise NotFound("There is no such log")
    return found


async def checkpoint(server: Server, node: Node) -> bytes:
    """The newest checkpoint. Raises NotFound while there is none, LogSetBack, NodeUnavailable."""
    shown = await _shown(server, node)
    return (heads.best(server, node.memory(KeyLog)) or shown).note


async def tile(server: Server, node: Node, wanted: Tile) -> bytes:
    """A tile of hashes, or of entries. Raises NotFound, LogSetBack, NodeUnavailable."""
    if wanted.end > (await _shown(server, node)).head.size:
        raise NotFound("The log does not reach as far")
    if wanted.level == tiles.ENTRIES:
        start = wanted.place * tiles.WIDTH
        return tiles.bundled(await node.read(key_log.leaves, start, start + wanted.width))
    name = TileName(wanted.level, wanted.place)
    hashes = (await node.read(key_log.tiles, [name]))[name]
    return hashes[: wanted.width * HASH_BYTES]


async def _shown(server: Server, node: Node) -> Shown:
    await heads.current(server, node)
    if node.memory(KeyLog).fault is not None:
        raise LogSetBack(node.name)
    shown = heads.told(server, node.memory(KeyLog))
    if shown is None:
        raise NotFound("The log has no checkpoint yet")
    return shown


def show(server: Server) -> None:
    """Have `/metrics` show how far the logs are, and which have been set back."""
    gauge = server.telemetry.gauge

    def sizes() -> dict[tuple[str, ...], float]:
        shown = {node.name: node.memory(KeyLog).shown for node in server.nodes}
        return {(name,): float(each.head.size) for name, each in shown.items() if each is not None}

    def faults() -> dict[tuple[str, ...], float]:
        return {(node.name,): float(node.memory(KeyLog).fault is not None) for node in server.nodes}

    def damages() -> dict[tuple[str, ...], float]:
        return {(node.name,): float(node.memory(KeyLog).damage is not None) for node in server.nodes}

    def lacking() -> dict[tuple[str, ...], float]:
        now, since = server.clock.now_ms(), {node.name: node.memory(KeyLog).lacking_since_ts for node in server.nodes}
        return {(name,): 0.0 if ts is None else max(0, now - ts) / 1000 for name, ts in since.items()}

    def alarming() -> dict[tuple[str, ...], float]:
        return {(): float(server.nodes.directory.memory(alarms.Standing).open)}

    def misfits() -> dict[tuple[str, ...], float]:
        return {(node.name,): float(len(node.memory(Remembered).misfits)) for node in server.nodes}

    words = "Users of a node whose keys are not those of the key log: somebody has written in the database by hand."
    gauge("domicile_key_log_misfits", words, misfits, ["node"])
    words = "Seconds for which the newest checkpoint of a node's key log has lacked a quorum of witnesses."
    gauge("domicile_key_log_without_quorum_seconds", words, lacking, ["node"])
    gauge("domicile_key_log_alarms", "Alarms about key logs that nobody has ended.", alarming)
    gauge("domicile_key_log_leaves", "Leaves of a node's key log that are signed and shown.", sizes, ["node"])
    words = "Whether a node's key log stands still, for what is stored of it does not fit together."
    gauge("domicile_key_log_damaged", words, damages, ["node"])
    words = "Whether a node's key log is older than what was shown of it, or another, so that nothing of it is served."
    gauge("domicile_key_log_set_back", words, faults, ["node"])

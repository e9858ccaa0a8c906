"""Bundles of evidence: what a deployment claims about where data rests, for strangers to check with nothing else.

A bundle is canonical JSON: parts, and a head that names the SHA-256 of each part in order and is signed by the
residency key and the keys by which other servers know the deployment. What a node says of itself it signs itself.
"""

from __future__ import annotations

import hashlib
import tomllib
from typing import TYPE_CHECKING, Any, Final

from homeserver.protocol import canonical, merkle
from homeserver.protocol.signing import sign_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from homeserver.protocol.signing import SigningKey

KIND: Final = "org.domicile.residency_evidence"
"""What the signatures of a head are for."""
NODE: Final = "org.domicile.node_evidence"
"""What a node's signature under what it says of itself is for."""
FORMAT: Final = 1


def bundle(head: Mapping[str, Any], parts: Mapping[str, Any], keys: Sequence[tuple[str, SigningKey]]) -> bytes:
    """A bundle as it is handed out. ``head``: what it says besides; ``keys``: signers and their keys.

    Raises BadJson for what has no canonical form.
    """
    signed: dict[str, Any] = {
        "type": KIND,
        "format": FORMAT,
        **head,
        "parts": [{"name": name, "sha256": digest(part)} for name, part in parts.items()],
    }
    for signer, key in keys:
        signed = sign_json(signed, signer, key)
    listed = [{"name": name, "content": part} for name, part in parts.items()]
    return canonical.encode({"head": signed, "parts": listed}) + b"\n"


def digest(part: object) -> str:
    """SHA-256 of the canonical form of a part, in hexadecimal."""
    return hashlib.sha256(canonical.encode(part)).hexdigest()


def extract(text: str) -> dict[str, Any]:
    """What a stranger may see of the text of a policy: places, peers, flows, and who has to approve of changes; nothing
    of databases, of pin rules, in which tokens may stand, or of disclosure."""
    said = tomllib.loads(text)
    return {
        "jurisdictions": sorted(said.get("jurisdictions", {})),
        "nodes": {name: node["jurisdiction"] for name, node in said.get("nodes", {}).items()},
        **{name: said.get(name, []) for name in ("peers", "flows")},
        "changes": said.get("changes", {}),
    }


# the tree of a node's residents, whole (see `merkle`) ----------------------------------------


def root(hashes: Sequence[bytes]) -> bytes:
    """The root over hashes of leaves, in their order."""
    tree = merkle.Frontier()
    for each in hashes:
        tree, _ = tree.append(each)
    return tree.root()


def path(hashes: Sequence[bytes], index: int) -> list[tuple[str, bytes]]:
    """The hashes that lead from one leaf to the root, and on which side each stands: ``left`` or ``right``.

    Raises ValueError when there is no such leaf.
    """
    found = []
    for group in merkle.inclusion_parts(index, len(hashes)):
        start, last = group[0].place << group[0].level, group[-1]
        found.append(("left" if start < index else "right", root(hashes[start : last.place + 1 << last.level])))
    return found

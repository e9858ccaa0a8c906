"""What ``[witnesses.NAME]`` and ``[witnessing]`` of ``residency.toml`` may say: who signs the key logs beside us."""

import base64
import binascii
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from config.forms import CODE, WEB_ADDRESS
from config.kinds import Integer, Text
from config.problems import Fault
from config.tables import Name, Setting

COSIGNATURE = 4
"""The kind of key with which a witness signs (C2SP tlog-cosignature)."""

WITNESS_NAME = Text("a witness's name, of small letters, digits, - and _", r"[a-z0-9][a-z0-9_-]{0,62}")


def _is_key(text: str) -> bool:
    """Whether this is a witness's public key: name, key id and key, of which the id is that of the other two."""
    name, *rest = text.split("+", 2)
    if len(rest) != 2:
        return False
    try:
        typed = base64.b64decode(rest[1], validate=True)
    except (binascii.Error, ValueError):
        return False
    key_id = hashlib.sha256(name.encode() + b"\n" + typed).digest()[:4].hex()
    return len(typed) == 33 and typed[0] == COSIGNATURE and rest[0] == key_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Somebody else's server that signs each key log's checkpoints, if they go on from what it has signed before.

    Another Domicile shows its key and address under `/_domicile/v1/key-log`, and is told of ours by
    `domicile log witness add`. Any witness that speaks C2SP `tlog-witness` will do. Nodes of the same deployment are
    none: they have one operator.
    """

    name: Annotated[str, Name()] = ""
    key: Annotated[
        str,
        Setting(
            Text(
                "a witness's public key (name+id+key) for cosignatures", r"[^\s+]+\+[0-9a-f]{8}\+\S+", accepts=_is_key
            ),
            "Its public key, as it shows it.",
            "matrix.example.net/_domicile/v1/witness+781780cc+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X",
        ),
    ]
    url: Annotated[
        str,
        Setting(
            WEB_ADDRESS,
            "Where it is asked, without `/add-checkpoint`.",
            "https://matrix.example.net/_domicile/v1/witness",
        ),
    ]
    jurisdiction: Annotated[str, Setting(CODE, "Where it is. Witnesses in one jurisdiction count as one group.", "CH")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessing:
    """How many must have signed. A log goes on without, and says since when."""

    quorum: Annotated[
        int,
        Setting(
            Integer(0, 100),
            "In how many jurisdictions a witness must have signed a checkpoint, for it to be the one that is shown.",
        ),
    ] = 0


ALONE = Witnessing()


def faults(witnesses: Mapping[str, Witness], witnessing: Witnessing) -> Iterator[Fault]:
    """Mistakes that show between several keys."""
    groups = {witness.jurisdiction for witness in witnesses.values()}
    if witnessing.quorum > len(groups):
        there = f"in {', '.join(sorted(groups))}" if groups else "nowhere"
        yield Fault(("witnessing", "quorum"), f"there are witnesses only {there}: they would never be enough")
    for word in ("key", "url"):
        first: dict[str, str] = {}
        for name, witness in witnesses.items():
            value = getattr(witness, word)
            if value and value in first:
                yield Fault(("witnesses", name, word), f"is that of witnesses.{first[value]} too")
            first.setdefault(value, name)

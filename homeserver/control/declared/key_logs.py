"""The key logs: how far they are, who signs them, what is wrong with them; and logs of others that are witnessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from homeserver.control.declarations import (
    FLAG,
    NUMBER,
    TEXT,
    Declared,
    Schema,
    listed,
    made_of,
    maybe,
    need,
)
from homeserver.control.declared.accounts import OPERATORS
from homeserver.protocol.roles import Role

_WITNESSING: Final[Schema] = made_of(
    quorum=NUMBER,
    without_quorum_since=maybe(NUMBER),
    missing=listed(TEXT),
    cosigned_size=maybe(NUMBER),
    witnesses=listed(
        made_of(
            name=TEXT,
            jurisdiction=TEXT,
            key=TEXT,
            size=maybe(NUMBER),
            cosigned_at=maybe(NUMBER),
            fault=maybe(TEXT),
            fault_since=maybe(NUMBER),
        )
    ),
)
_ALARM: Final[Schema] = made_of(
    number=NUMBER,
    time=NUMBER,
    kind={"enum": ["two_histories", "set_back", "lost"]},
    side={"enum": ["log", "witness"]},
    origin=TEXT,
    key=TEXT,
    held=TEXT,
    shown=TEXT,
    other=TEXT,
    proof=listed(TEXT),
    witness=TEXT,
    ends=NUMBER,
    reason=TEXT,
    previous=TEXT,
    sha256=TEXT,
    ended=maybe(made_of(number=NUMBER, time=NUMBER, reason=TEXT)),
)

DECLARED: Final[Mapping[str, Declared]] = {
    "log-status": Declared(
        says="How far the key logs are, who has signed them, and what is wrong with them",
        roles=frozenset(Role),
        changes=False,
        door=("GET", "/key-logs"),
        answer=made_of(
            logs=listed(
                made_of(origin=TEXT, node=TEXT, size=maybe(NUMBER), fault=maybe(TEXT), witnessing=maybe(_WITNESSING))
            ),
            alarms=listed(_ALARM),
            contradictions=listed(made_of(origin=TEXT, what=TEXT, seen_ts=NUMBER, one=TEXT, other=TEXT)),
            alarm_faults=listed(TEXT),
        ),
    ),
    "log-begin-anew": Declared(
        says="End the key log of a node that cannot go on, and begin another under another name",
        roles=OPERATORS,
        changes=True,
        why="It has to be decided by whoever put the node back, at the machine",
        arguments=(need("node", "The node."), need("reason", "Why; shown to everybody.")),
        answer=made_of(origin=TEXT),
    ),
    "log-alarms": Declared(
        says="All alarms about logs that there ever were, and what is wrong with their chain",
        roles=frozenset(Role),
        changes=False,
        door=("GET", "/key-logs/alarms"),
        answer=made_of(alarms=listed(_ALARM), faults=listed(TEXT)),
    ),
    "log-alarm-end": Declared(
        says="Say what became of an alarm about a log that is witnessed here, or of one that is gone",
        roles=OPERATORS,
        changes=True,
        why="It has to be decided by whoever answers for the witness, at the machine",
        arguments=(need("number", "The alarm.", NUMBER), need("reason", "Why; shown to everybody.")),
        answer=made_of(origin=TEXT),
    ),
    "log-witness-list": Declared(
        says="The logs of others that are or were witnessed here, and how far",
        roles=frozenset(Role),
        changes=False,
        door=("GET", "/key-logs/witnessed"),
        answer=made_of(
            key=TEXT,
            url=TEXT,
            logs=listed(
                made_of(
                    origin=TEXT,
                    key=TEXT,
                    size=NUMBER,
                    root=TEXT,
                    cosigned_at=maybe(NUMBER),
                    witnessed=FLAG,
                    refused_since=maybe(NUMBER),
                    refusal=maybe(TEXT),
                    unexplained=NUMBER,
                )
            ),
        ),
    ),
    "log-witness-add": Declared(
        says="Witness the key log of somebody else",
        roles=OPERATORS,
        changes=True,
        why="Whose logs are witnessed is agreed between operators, at the machine",
        arguments=(
            need("log", "What the log is called, or where it is served."),
            need("key", "The public key of the log."),
        ),
        answer=made_of(origin=TEXT),
    ),
    "log-witness-remove": Declared(
        says="Witness a log no more; what was signed, and alarms about it, stay",
        roles=OPERATORS,
        changes=True,
        why="Whose logs are witnessed is agreed between operators, at the machine",
        arguments=(need("origin", "What the log is called."),),
        answer=made_of(),
    ),
}

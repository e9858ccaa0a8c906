"""Moving users between nodes, and what rests and goes where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from homeserver.control.declarations import (
    FLAG,
    NUMBER,
    TEXT,
    Declared,
    Kept,
    Schema,
    by_name,
    listed,
    made_of,
    maybe,
    need,
    one_of,
    take,
)
from homeserver.control.declared.accounts import DOWN, LOOKING, USER
from homeserver.protocol.roles import Role

MOVERS: Final = frozenset({Role.OPERATOR, Role.RESIDENCY_EDITOR})

_ENDS: Final[Mapping[str, Schema]] = {"user_id": TEXT, "from": TEXT, "to": TEXT}
_MOVE: Final[Schema] = made_of(
    move_id=TEXT,
    **_ENDS,
    state={"enum": ["validated", "copying", "catching-up", "switching", "erasing", "done"]},
    halted=maybe({"enum": ["stopped", "failed"]}),
    reason=maybe(TEXT),
)
_PLACE: Final[Schema] = made_of(node=TEXT, jurisdiction=TEXT)

DECLARED: Final[Mapping[str, Declared]] = {
    "residency-move": Declared(
        says="Begin to move a user, with all that is theirs, to another node; or say what it would come to",
        roles=MOVERS,
        changes=True,
        looks_if="dry_run",
        door=("POST", "/residency/moves"),
        arguments=(
            USER,
            need("to", "The node where all their data is to rest."),
            take("dry_run", "Say what it would come to, and do nothing.", FLAG),
            take("leave_rooms", "Let the user leave the rooms that may not span the node.", FLAG),
            take("window", "Switch only between these times of the day, in UTC, such as 01:00-05:00."),
        ),
        answer=one_of(
            made_of(move_id=TEXT, **_ENDS),
            made_of(
                **_ENDS,
                tables=by_name(made_of(rows=NUMBER, bytes=NUMBER)),
                files=made_of(number=NUMBER, bytes=NUMBER),
                rooms=NUMBER,
                rooms_blocked=listed(made_of(room_id=TEXT, missing=maybe(TEXT))),
                obstacles=listed(TEXT),
            ),
        ),
    ),
    "residency-move-room": Declared(
        says="Have a node order a room in which it has members; or say what keeps it from that",
        roles=MOVERS,
        changes=True,
        looks_if="dry_run",
        door=("POST", "/residency/moves/rooms"),
        arguments=(
            need("room", "The room ID.", kept=Kept.DIGEST),
            need("to", "The node that is to order it."),
            take("dry_run", "Say what keeps it from that, and do nothing.", FLAG),
        ),
        answer=made_of({"obstacles": listed(TEXT)}, room_id=TEXT, from_=TEXT, to=TEXT),
    ),
    "residency-move-status": Declared(
        says="How far moves are: of one user, or all that have not come to their end",
        roles=LOOKING | MOVERS,
        changes=False,
        door=("GET", "/residency/moves"),
        arguments=(take("user", "A localpart or a user id of this server.", kept=Kept.PERSON),),
        answer=made_of(moves=listed(_MOVE), nodes_down=DOWN),
    ),
    "residency-move-stop": Declared(
        says="Stop the move of a user, who stays where they are until it is resumed",
        roles=MOVERS,
        changes=True,
        door=("POST", "/residency/moves/{userId}/stop"),
        arguments=(USER, take("forget", "There is nothing to resume then.", FLAG)),
        answer=made_of(user_id=TEXT),
    ),
    "residency-move-resume": Declared(
        says="Go on with a move that was stopped, or has failed",
        roles=MOVERS,
        changes=True,
        door=("POST", "/residency/moves/{userId}/resume"),
        arguments=(USER,),
        answer=made_of(user_id=TEXT),
    ),
    "residency-receipts": Declared(
        says="What the nodes have signed of a user's moves",
        roles=LOOKING,
        changes=False,
        door=("GET", "/users/{userId}/receipts"),
        arguments=(USER,),
        answer=made_of(
            server_name=TEXT,
            key_id=TEXT,
            key=TEXT,
            receipts=listed(TEXT),
            contents=listed(
                made_of(
                    type=TEXT,
                    server_name=TEXT,
                    move_id=TEXT,
                    user_id=TEXT,
                    from_=_PLACE,
                    to=_PLACE,
                    begun_ts=NUMBER,
                    switched_ts=NUMBER,
                    ended_ts=NUMBER,
                    copied=by_name(made_of(rows=NUMBER, sha256=TEXT)),
                    files=NUMBER,
                    erased=made_of(files=NUMBER, rooms=NUMBER),
                    previous=maybe(TEXT),
                    keys=listed({"type": "object"}),
                    signatures={"type": "object"},
                )
            ),
        ),
    ),
    "residency-audit": Declared(
        says="Read every node, or one, and list what rests where it may not",
        roles=LOOKING,
        changes=False,
        door=("GET", "/residency/audit"),
        arguments=(take("node", "Only this node."),),
        answer=made_of(
            ts=NUMBER,
            nodes=listed(TEXT),
            nodes_down=DOWN,
            violations=NUMBER,
            findings=listed(
                made_of(
                    node=TEXT,
                    where=TEXT,
                    fault=TEXT,
                    rows=NUMBER,
                    user_id=maybe(TEXT),
                    violation=FLAG,
                    file=maybe(TEXT),
                )
            ),
            backups=listed(made_of(file=TEXT, node=TEXT, time=NUMBER)),
        ),
    ),
    "residency-evidence": Declared(
        says="Signed evidence of what rests where, which strangers can check offline",
        roles=LOOKING,
        changes=False,
        door=("GET", "/residency/evidence"),
        arguments=(
            take("node", "Only of this node."),
            take("user", "Of the node of this user, with what concerns them.", kept=Kept.PERSON),
            take("texts", "With the texts of the policies.", FLAG),
        ),
        answer=made_of(bundle=TEXT, nodes=listed(TEXT), nodes_down=DOWN, violations=NUMBER, key=TEXT),
    ),
    "residency-traffic": Declared(
        says="Bytes that went from one jurisdiction to another since the server was started",
        roles=frozenset(Role),
        changes=False,
        door=("GET", "/residency/traffic"),
        answer=made_of(traffic=listed(made_of(from_=TEXT, to=TEXT, bytes=NUMBER))),
    ),
}
